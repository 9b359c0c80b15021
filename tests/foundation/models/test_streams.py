"""Stream: reading stops early, written states are transformers' hidden states, gradients flow into them and past them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import CONFIGS, ROWS, decoder
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError, UnknownFamilyError, UnsupportedError
from crosstune.foundation.models import Stream, model_inputs, positions

BATCH = {"input_ids": ROWS, "attention_mask": torch.ones_like(ROWS)}
FEW = ["llama", "gpt2", "gpt_neox", "gemma3_text"]


def drawn(stream: Stream, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*ROWS.shape, stream.width, generator=generator)


def hidden(stream: Stream) -> tuple[Tensor, ...]:
    """Transformers' hidden states, the last one before the final norm."""
    with stream.watch([stream.num_layers]) as seen:
        told = stream.model(**model_inputs(BATCH), output_hidden_states=True).hidden_states
    return (*told[:-1], seen[stream.num_layers])


@pytest.mark.parametrize("name", CONFIGS)
def test_written_values_are_the_hidden_states(name: str) -> None:
    stream = Stream.of(decoder(name))
    values, before = drawn(stream), hidden(stream)
    for site in range(stream.num_layers + 1):
        with stream.write(site, values):
            found = hidden(stream)
            assert torch.equal(stream.read(BATCH, [site])[site], values)
        assert torch.equal(found[site], values)
        for below in range(site):
            assert torch.equal(found[below], before[below])
        for above in range(site + 1, stream.num_layers + 1):
            assert not torch.equal(found[above], before[above])


@pytest.mark.parametrize("name", FEW)
def test_a_mask_replaces_and_a_share_blends(name: str) -> None:
    stream = Stream.of(decoder(name))
    values, mask = drawn(stream), ROWS % 2 == 0
    share = torch.linspace(0.0, 1.0, ROWS.numel()).view_as(ROWS)
    for site, before in enumerate(hidden(stream)):
        with stream.write(site, values, mask):
            found = hidden(stream)[site]
        assert torch.equal(found[mask], values[mask])
        assert torch.equal(found[~mask], before[~mask])
        with stream.write(site, values, share):
            blend = hidden(stream)[site]
        expected = (1 - share[..., None]) * before + share[..., None] * values
        torch.testing.assert_close(blend, expected)
        with stream.write(site, values[:1, :1]):
            assert torch.equal(hidden(stream)[site], values[:1, :1].expand_as(before))


def by_hand(stream: Stream, site: int, values: Tensor, share: float) -> None:
    """What a write does, built into the model for good, at the other end of the stream: inside the module it goes into."""
    entry = stream.entries[site]
    forward = entry.forward

    def blended(states: Tensor, *args: Any, **keywords: Any) -> Any:
        return forward((1 - share) * states + share * values, *args, **keywords)

    entry.forward = blended


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("site", [0, 1, 3])
@pytest.mark.parametrize("name", FEW)
def test_gradients_flow_into_and_past_what_is_written(
    name: str, site: int, recomputed: bool
) -> None:
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    stream = Stream.of(decoder(name, **no_dropout if name == "gpt2" else {}))
    model: Any = stream.model
    values = drawn(stream).requires_grad_()
    if recomputed:
        model.train()
        model.activation_checkpointing_enable({"use_reentrant": False})
    with stream.write(site, values, torch.full(ROWS.shape, 0.3)):
        written = model(**model_inputs(BATCH)).logits.square().sum()
    wanted = [values, *model.parameters()]
    found = torch.autograd.grad(written, wanted, allow_unused=True)  # the context has ended

    model.eval()
    by_hand(stream, site, values, 0.3)
    expected = torch.autograd.grad(model(**model_inputs(BATCH)).logits.square().sum(), wanted)
    for gradient, other in zip(found, expected, strict=True):
        # float32: a thousand roundings of 6e-8 in what the largest entry is made of.
        atol = 1e-4 * other.abs().max().item()
        torch.testing.assert_close(gradient, other, rtol=0, atol=atol)


def test_what_is_replaced_passes_no_gradient_down() -> None:
    stream = Stream.of(decoder("llama"))
    with stream.write(2, drawn(stream)):
        sum_of = stream.model(**model_inputs(BATCH)).logits.sum()
    below, above = (next(stream.entries[at].parameters()) for at in (1, 2))
    gradients = torch.autograd.grad(sum_of, [below, above], allow_unused=True)
    assert gradients[0] is None and gradients[1] is not None


@pytest.mark.parametrize("highest", [0, 2, 3])
def test_reading_stops_after_the_highest_site(highest: int) -> None:
    stream = Stream.of(decoder("llama"))
    model: Any = stream.model
    calls: list[nn.Module] = []
    for module in (*stream.entries, model.lm_head):
        module.forward = counted(module.forward, module, calls)
    stream.read(BATCH, [0, highest])
    assert calls == list(stream.entries[:highest])


def counted(forward: Any, module: nn.Module, calls: list[nn.Module]) -> Any:
    def run(*args: Any, **keywords: Any) -> Any:
        calls.append(module)
        return forward(*args, **keywords)

    return run


@pytest.mark.parametrize("site", [0, 2])
def test_no_hook_is_left_after_an_error(site: int) -> None:
    stream = Stream.of(decoder("llama"))
    stream.read(BATCH, [site])
    with pytest.raises(ZeroDivisionError), stream.write(site, drawn(stream)), stream.watch([site]):
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in stream.model.modules())


@pytest.mark.parametrize("site", [-1, 4])
def test_a_site_out_of_range_is_refused(site: int) -> None:
    stream = Stream.of(decoder("llama"))
    for use in (
        lambda: stream.read(BATCH, [0, site]),
        lambda: enter(stream.write(site, drawn(stream))),
    ):
        with pytest.raises(ModelError, match=r"site.*0 to 3"):
            use()


@pytest.mark.parametrize(
    ("values", "where", "law"),
    [
        (torch.zeros(2, 8, 15), None, r"values.*width of 16"),
        (torch.zeros(2, 7, 16), None, r"values.*\(2, 8, 16\)"),
        (torch.zeros(16), torch.ones(2, 7), r"where.*\(2, 8\)"),
        (torch.zeros(16), torch.ones(2, 8, 1), r"where.*\(2, 8\)"),
    ],
)
def test_what_does_not_fit_the_stream_is_refused(values: Tensor, where: Any, law: str) -> None:
    stream = Stream.of(decoder("llama"))
    with pytest.raises(ModelError, match=law), stream.write(1, values, where):
        stream.model(**model_inputs(BATCH))


def test_an_unmapped_family_has_no_stream() -> None:
    model = decoder("llama")
    model.config.model_type = "mystery"
    with pytest.raises(UnknownFamilyError, match="mystery"):
        Stream.of(model)


def enter(context: Any) -> None:
    with context:
        pass


def test_positions_count_from_the_first_real_token() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_a_watch_keeps_what_the_first_forward_pass_brings() -> None:
    stream = Stream.of(decoder("llama"))
    first = stream.read(BATCH, [1])[1]
    with stream.watch([1]) as seen:
        stream.model(**model_inputs(BATCH))
        stream.model(input_ids=ROWS.flip(0))
    assert torch.equal(seen[1], first)


def test_reading_a_model_that_trains_sees_no_dropout_and_leaves_no_trace() -> None:
    model = decoder("gpt2").train()
    random = torch.get_rng_state()
    states = Stream.of(model).read(BATCH, [2])[2]
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert not states.requires_grad
    assert torch.equal(states, Stream.of(model.eval()).read(BATCH, [2])[2])


@pytest.mark.parametrize("share", [None, torch.full(ROWS.shape, 0.25)])
def test_float32_values_are_written_into_a_half_precision_model(share: Tensor | None) -> None:
    stream = Stream.of(decoder("llama").bfloat16())
    with stream.write(1, drawn(stream), share), stream.watch([1]) as seen:
        stream.model(**model_inputs(BATCH))
    assert seen[1].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["module", "call"])
def test_a_compiled_model_is_refused(kind: str) -> None:
    """It calls no hook that is set after its first call."""
    model = decoder("llama")
    if kind == "call":
        model.compile(backend="eager")
    compiled = torch.compile(model, backend="eager") if kind == "module" else model
    with pytest.raises(UnsupportedError, match="must not be compiled"):
        Stream.of(compiled)
