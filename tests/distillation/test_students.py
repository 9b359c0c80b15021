"""A student is its teacher with something left out: bit for bit where it is copied, by hooks on the teacher elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.foundation.models.decoders import CONFIGS, MIXTURES, ROWS, decoder, with_lora
from torch import Tensor, nn

from crosstune.distillation.students import Pieces, build, student_from
from crosstune.distillation.terms import pilot
from crosstune.foundation.data import UNSCORED, Encoded, as_rows, encode
from crosstune.foundation.errors import (
    CrosstuneError,
    ModelError,
    SettingsError,
    UnknownFamilyError,
    UnsupportedError,
)
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.models import Stream, load_model, load_tokenizer, weights_fingerprint
from crosstune.foundation.worlds import random_model

NARROWED = ("llama", "llama_biased", "mistral", "qwen2", "qwen3", "phi3", *MIXTURES)
DOWNS = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h"}


def rows(count: int = 9) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(3, 40, (4 + at % 5,), generator=generator) for at in range(count)]
    texts = [ids.tolist() for ids in drawn]
    return [
        Encoded(str(at), ids, [UNSCORED, *ids[1:]], len(ids) - 1, len(ids), False, unit=str(at))
        for at, ids in enumerate(texts)
    ]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ROWS).logits
    return found


def blocks(model: Any) -> tuple[Any, ...]:
    return Stream.of(model).entries[:-1]


def close(found: Tensor, expected: Tensor) -> None:
    """Equal to rounding, at the scale of the largest."""
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]) -> Iterator[None]:
    """Inside, what modules give is replaced by a function of their input and output."""
    with ExitStack() as stack:
        for module, function in hooks:

            def hook(_: Any, args: Any, output: Tensor, function: Any = function) -> Tensor:
                found: Tensor = function(args[0], output)
                return found

            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def masked(modules: dict[nn.Module, Tensor]) -> Iterator[None]:
    """Inside, modules are given 0 for all features but some."""
    with ExitStack() as stack:
        for module, kept in modules.items():

            def hook(_: Any, args: Any, kept: Tensor = kept) -> Any:
                mask = torch.zeros(args[0].shape[-1])
                mask[kept] = 1.0
                return args[0] * mask

            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


@pytest.mark.parametrize("family", CONFIGS)
def test_whole_it_is_the_teacher_bit_for_bit(family: str) -> None:
    teacher = decoder(family, tie_word_embeddings=family != "llama")
    teacher.generation_config.max_new_tokens = 7
    state = torch.get_rng_state()
    found = student_from(teacher)
    assert found.model.generation_config.max_new_tokens == 7
    assert torch.equal(torch.get_rng_state(), state)
    assert type(found.model) is type(teacher)
    assert torch.equal(logits(found.model), logits(teacher))
    assert weights_fingerprint(found.model) == weights_fingerprint(teacher)
    assert {*found.origin} == {name for name, _ in teacher.named_parameters()}
    assert {*found.origin.values()} == {"copied"}
    assert not found.harm.is_measured
    own = {p.untyped_storage().data_ptr() for p in teacher.parameters()}
    assert not own & {p.untyped_storage().data_ptr() for p in found.model.parameters()}


def test_it_has_the_teachers_dtype_and_asks_for_gradients_where_a_frozen_teacher_does_not() -> None:
    teacher = decoder("llama").to(torch.bfloat16).requires_grad_(False)
    found = student_from(teacher, layers=(0, 2)).model
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize("family", CONFIGS)
def test_named_layers_are_the_teacher_with_the_others_passed_by(family: str) -> None:
    teacher = decoder(family)
    student = student_from(teacher, layers=(0, 2)).model
    assert student.config.num_hidden_layers == 2
    with hooked([(blocks(teacher)[1], lambda given, _: given)]):
        assert torch.equal(logits(student), logits(teacher))


@pytest.mark.parametrize("family", NARROWED)
def test_turning_the_stream_changes_nothing_and_slicing_is_projecting_every_write(
    family: str,
) -> None:
    # An epsilon that matters, and a tied head, must both be thought of.
    teacher = decoder(family, rms_norm_eps=0.5, tie_word_embeddings=True)
    generator = torch.Generator().manual_seed(3)
    turn = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=generator))[0]
    turned, origin = build(teacher, Pieces((0, 1, 2), directions=turn))
    close(logits(turned), logits(teacher))
    assert not turned.config.tie_word_embeddings
    norms = [name for name, how in origin.items() if how == "folded"]
    assert len(norms) == 2 * 3 + 1
    assert all(bool((turned.get_parameter(name) == 1).all()) for name in norms)

    narrow, _ = build(teacher, Pieces((0, 1, 2), directions=turn[:, :12]))
    assert narrow.config.hidden_size == 12
    held = (turn[:, :12] @ turn[:, :12].T).float()
    writers = [teacher.get_input_embeddings()]
    writers += [part for block in blocks(teacher) for part in (block.self_attn.o_proj, block.mlp)]
    with hooked([(writer, lambda _, output: output @ held) for writer in writers]):
        expected = logits(teacher)
    assert not torch.allclose(expected, logits(teacher), rtol=1e-2)
    close(logits(narrow), expected)


@pytest.mark.parametrize("family", ["llama", "llama_biased", "qwen3", "phi3", "gemma2", "mixtral"])
def test_fewer_heads_are_the_teacher_with_the_others_silent(family: str) -> None:
    teacher = decoder(family)
    found = student_from(teacher, layers=(0, 2), heads=2, rows=rows())
    assert (found.model.config.num_attention_heads, found.model.config.num_key_value_heads) == (
        2,
        1,
    )
    size = blocks(teacher)[0].self_attn.head_dim
    kept = {}
    for layer, heads in zip((0, 2), found.pieces.heads or (), strict=True):
        assert heads.tolist() in ([0, 1], [2, 3])  # both query heads of a key-value head
        features = torch.cat([torch.arange(size) + head * size for head in heads.tolist()])
        kept[blocks(teacher)[layer].self_attn.o_proj] = features
    with masked(kept), hooked([(blocks(teacher)[1], lambda given, _: given)]):
        close(logits(found.model), logits(teacher))


@pytest.mark.parametrize("family", ["llama_biased", "phi3", "gemma3_text", "gpt2", "gpt_neox"])
def test_fewer_neurons_are_the_teacher_with_the_others_silent(family: str) -> None:
    teacher = decoder(family)
    found = student_from(teacher, neurons=9, rows=rows())
    downs = [block.get_submodule(DOWNS.get(family, "mlp.down_proj")) for block in blocks(teacher)]
    with masked(dict(zip(downs, found.pieces.neurons or (), strict=True))):
        close(logits(found.model), logits(teacher))


def test_what_writes_nothing_and_directions_that_hold_nothing_are_what_is_left_out() -> None:
    teacher, living = decoder("llama"), [0, 3, 4, 7, 11]
    generator = torch.Generator().manual_seed(1)
    plane = torch.linalg.qr(torch.randn(16, 6, generator=generator))[0]
    with torch.no_grad():
        teacher.model.embed_tokens.weight.copy_(teacher.model.embed_tokens.weight @ plane @ plane.T)
        for block in blocks(teacher):
            silent = torch.ones(24)
            silent[living] = 0
            block.mlp.down_proj.weight *= 1 - silent
            block.self_attn.o_proj.weight[:, :8] = 0
            for writer in (block.mlp.down_proj, block.self_attn.o_proj):
                writer.weight.copy_(plane @ plane.T @ writer.weight)
    found = student_from(teacher, width=6, heads=2, neurons=5, rows=rows())
    assert [heads.tolist() for heads in found.pieces.heads or ()] == [[2, 3]] * 3
    assert [neurons.tolist() for neurons in found.pieces.neurons or ()] == [living] * 3
    assert found.harm.value == pytest.approx(0, abs=1e-5)
    close(logits(found.model), logits(teacher))


def test_layers_are_left_out_where_it_costs_least_and_every_trial_is_noted() -> None:
    teacher, some = decoder("qwen2_moe", num_hidden_layers=4), rows()
    before = weights_fingerprint(teacher), blocks(teacher)
    found = student_from(teacher, layers=2, rows=some)
    assert (weights_fingerprint(teacher), blocks(teacher)) == before
    judging = [row for at, row in enumerate(some) if at % 4 == 0]
    choosing = [row for row in some if row not in judging]
    models = {kept: build(teacher, Pieces(kept))[0] for kept in found.search}
    costs = {kept: score_rows(models[kept], choosing, pad_id=0).loss for kept in models}
    assert costs == pytest.approx(found.search)
    first, *rest = costs
    assert first == (0, 1, 2, 3)
    assert [len(kept) for kept in rest] == [3] * 4 + [2] * 3
    best = min(rest[:4], key=costs.__getitem__)
    assert all({*kept} < {*best} for kept in rest[4:])
    assert found.pieces.layers == min(rest[4:], key=costs.__getitem__)
    own, whole = (
        score_rows(models[kept], judging, pad_id=0).loss for kept in (found.pieces.layers, first)
    )
    assert found.harm.value == pytest.approx(own - whole, abs=1e-6)
    assert found.harm.n == len(judging)
    assert found.harm.low < found.harm.value < found.harm.high


@pytest.mark.parametrize("family", ["qwen3", "qwen2_moe", "phi3", "gemma3_text", "gpt2"])
def test_an_ordinary_model_comes_out_with_the_same_bits_each_time(
    family: str, tmp_path: Path
) -> None:
    teacher = decoder(family, tie_word_embeddings=True)
    asked: dict[str, Any] = {"layers": 2, "neurons": 9}
    if family in NARROWED:
        asked = {"layers": (1, 2), "width": 8, "heads": 2}
    first, again = (student_from(teacher, **asked, rows=rows()) for _ in range(2))
    assert weights_fingerprint(first.model) == weights_fingerprint(again.model)
    first.model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(teacher)
    loaded.set_attn_implementation("eager")
    assert torch.equal(logits(loaded), logits(first.model))


def test_what_is_chosen_in_fewer_layers_is_chosen_where_only_they_are() -> None:
    teacher = decoder("qwen3")
    asked = {"width": 12, "heads": 2, "neurons": 9, "rows": rows()}
    at_once = student_from(teacher, layers=(0, 2), **asked).model
    in_turn = student_from(student_from(teacher, layers=(0, 2)).model, **asked).model
    assert weights_fingerprint(at_once) == weights_fingerprint(in_turn)


def test_padding_chooses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = decoder("llama")
    padded = student_from(teacher, width=12, rows=rows()).model
    monkeypatch.setattr(pilot, "_BATCH_TOKENS", 1)
    close(logits(student_from(teacher, width=12, rows=rows()).model), logits(padded))


def test_a_step_moves_every_parameter_of_the_student_and_none_of_the_teacher() -> None:
    teacher = decoder("llama_biased")
    before = weights_fingerprint(teacher)
    model = student_from(teacher, layers=2, width=12, heads=2, neurons=9, rows=rows()).model
    was = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.train()(ROWS, labels=ROWS).loss.backward()
    torch.optim.Adam(model.parameters()).step()
    assert all(not torch.equal(p, was[name]) for name, p in model.named_parameters())
    assert weights_fingerprint(teacher) == before


def test_texts_are_rows_that_the_tokenizer_encodes(tmp_path: Path) -> None:
    folder = random_model("llama", tmp_path / "model")
    teacher, tokenizer = load_model(folder), load_tokenizer(folder)
    texts = ["ka mo ti", "so na", "mo mo ka ra"]
    found = student_from(teacher, layers=1, rows=texts, tokenizer=tokenizer)
    encoded = encode(as_rows(texts, "rows"), tokenizer, 64)
    assert found.search == student_from(teacher, layers=1, rows=encoded).search
    with pytest.raises(SettingsError, match="`tokenizer` must be given"):
        student_from(teacher, layers=1, rows=texts)


BAD: dict[str, tuple[dict[str, Any], type[CrosstuneError], str]] = {
    "no layers": ({"layers": 0}, SettingsError, "`layers` must be 1 to 3"),
    "too many layers": ({"layers": 4}, SettingsError, "`layers` must be 1 to 3"),
    "none named": ({"layers": ()}, SettingsError, "at least one"),
    "a layer twice": ({"layers": (0, 0, 2)}, SettingsError, "must be different ones of 0 to 2"),
    "out of range": ({"layers": (0, 3)}, SettingsError, "must be different ones of 0 to 2"),
    "out of order": ({"layers": (2, 0)}, SettingsError, "in their order"),
    "wider": ({"width": 17}, SettingsError, "`width` must be 1 to 16"),
    "no width": ({"width": 0}, SettingsError, "`width` must be 1 to 16"),
    "half a group": ({"heads": 3}, SettingsError, "`heads` must be 2 to 4, in steps of 2"),
    "more neurons": ({"neurons": 25}, SettingsError, "`neurons` must be 1 to 24"),
    "no rows": ({"layers": 2}, SettingsError, "`rows` must be given where anything"),
    "one row": ({"width": 8, "rows": rows(1)}, SettingsError, "at least two different ones"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_refused_in_words(what: str) -> None:
    asked, kind, words = BAD[what]
    with pytest.raises(kind, match=words):
        student_from(decoder("llama"), **asked)


@pytest.mark.parametrize(
    ("family", "asked"),
    [
        ("gemma2", {"width": 8}),
        ("gpt_neox", {"width": 8}),
        ("gpt2", {"heads": 2}),
        ("mixtral", {"neurons": 8}),
    ],
)
def test_what_a_family_does_not_allow_is_refused_by_its_name(
    family: str, asked: dict[str, int]
) -> None:
    with pytest.raises(UnsupportedError, match=f"in the family {family}"):
        student_from(decoder(family), **asked, rows=rows())


def test_a_mixture_is_as_wide_as_its_grouped_products_allow() -> None:
    with pytest.raises(SettingsError, match="`width` must be 8 to 16, in steps of 8"):
        student_from(decoder("mixtral"), width=12, rows=rows())
    assert student_from(decoder("mixtral"), width=8, rows=rows()).harm.is_measured


def test_attention_scaled_by_depth_keeps_its_layers() -> None:
    teacher = decoder("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UnsupportedError, match="must all stay where attention is scaled"):
        student_from(teacher, layers=(0, 2))


def test_a_teacher_that_is_not_whole_or_not_known_is_refused() -> None:
    with pytest.raises(ModelError, match="must be without adapters"):
        student_from(with_lora(decoder("llama")), layers=(0,))
    quantised = decoder("llama")
    quantised.is_quantized = True
    with pytest.raises(UnsupportedError, match="quantised weights"):
        student_from(quantised, layers=(0,))
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    opt = transformers.OPTForCausalLM(transformers.OPTConfig(**sizes, word_embed_proj_dim=16))
    with pytest.raises(UnknownFamilyError, match="'opt'"):
        student_from(opt)


def test_principal_directions_of_a_real_model_cost_less_than_its_first_dimensions(
    shared: Path,
) -> None:
    folder = shared / "models" / "stories260K"
    teacher, tokenizer = load_model(folder), load_tokenizer(folder)
    lines = (shared / "data/english/tinystories_heldout.jsonl").read_text().splitlines()[:8]
    texts = [json.loads(line)["text"] for line in lines]
    some = encode(as_rows(texts, "rows"), tokenizer, 128)
    chosen = student_from(teacher, width=48, rows=some).model
    first, _ = build(teacher, Pieces(tuple(range(5)), directions=torch.eye(64)[:, :48].double()))
    own, other = (score_rows(model, some, pad_id=0).nats_per_token for model in (chosen, first))
    assert own.high < other.low
