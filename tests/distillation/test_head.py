"""The fused head is dense float64: sums, gradients, scale, cap and bias; for any chunk and precision, and no more is computed than is asked for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import peft
import pytest
import torch
import transformers
from tests.distillation.test_divergences import oracle
from tests.foundation.models.decoders import CONFIGS, ROWS, decoder, with_lora
from tests.foundation.training import tiny
from torch import Tensor
from torch.nn import functional

from crosstune.distillation import head as room
from crosstune.distillation.divergences import Divergence, Likeliest, buckets
from crosstune.distillation.head import Head, Side, check_head, head_sums
from crosstune.foundation.errors import ModelError, UnsupportedError
from crosstune.foundation.models.streams import looking

FACTORS = {"ce": 0.3, "kd": 0.7}
N, V = 11, 30


def side(
    seed: int, width: int = 6, size: int = V, dtype: torch.dtype = torch.float32, **of: Any
) -> Side:
    draws = torch.Generator().manual_seed(seed)
    make = [torch.randn(n, generator=draws) for n in ((N, width), (size, width), (size,))]
    hidden, weight, bias = (value.to(dtype).requires_grad_() for value in make)
    return Side(hidden, Head(weight, bias, **of))


def leaves(some: Side) -> list[Tensor]:
    return [some.hidden, some.head.weight, some.head.bias]


LABELS = torch.arange(N) * 7 % V


def dense(student: Side, teacher: Side, chosen: Divergence, T: float) -> dict[str, Tensor]:
    """The sums with all logits in float64."""

    def logits(one: Side) -> Tensor:
        y = (
            one.hidden.double() @ one.head.weight.double().T + one.head.bias.double()
        ) * one.head.scale
        return y if one.head.softcap is None else one.head.softcap * (y / one.head.softcap).tanh()

    z, y = logits(student), logits(teacher).detach()
    cut = chosen.vocabulary
    kd = oracle(chosen.kind, chosen.beta, z[:, :cut], y[:, :cut], T, chosen.top_k)
    return {"ce": functional.cross_entropy(z, LABELS, reduction="sum"), "kd": kd.sum()}


CASES: Mapping[str, tuple[dict[str, Any], dict[str, Any], Divergence, float]] = {
    "plain": ({}, {}, Divergence(), 1.0),
    "warm": ({}, {}, Divergence("jsd"), 2.0),
    "few tokens": ({}, {}, Divergence("reverse", top_k=4), 1.0),
    "capped": ({"softcap": 2.0}, {"softcap": 5.0, "scale": 2.0}, Divergence(), 2.0),
    "scaled": ({"scale": 0.25, "softcap": 1.0}, {}, Divergence(), 1.0),
    "padded teacher": ({}, {"size": 33}, Divergence(vocabulary=V), 1.0),
    "padded student": ({}, {"size": 26}, Divergence(vocabulary=25), 1.0),
}


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 2 * V * 4, 2**27])
@pytest.mark.parametrize("case", CASES)
def test_sums_and_gradients_are_dense_in_float64_for_any_chunk(case: str, chunk_bytes: int) -> None:
    own, other, chosen, T = CASES[case]
    student, teacher = side(1, **own), side(2, width=9, **other)
    share, sums = head_sums(
        student, LABELS, FACTORS, teacher, chosen, temperature=T, chunk_bytes=chunk_bytes
    )
    expected = dense(student, teacher, chosen, T)
    for name, value in expected.items():
        torch.testing.assert_close(sums[name], value.detach(), rtol=1e-5, atol=1e-5)
        assert not sums[name].requires_grad
    whole = sum(FACTORS[name] * value for name, value in expected.items())
    torch.testing.assert_close(share.detach(), whole.detach(), rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(3 * share, leaves(student))
    for own_grad, theirs in zip(
        found, torch.autograd.grad(3 * whole, leaves(student)), strict=True
    ):
        torch.testing.assert_close(own_grad, theirs, rtol=1e-4, atol=1e-5)
    assert all(value.grad is None for value in leaves(teacher))


@pytest.mark.parametrize("chunk_bytes", [1, 8 * V * 4, 2**27])
def test_a_teachers_likeliest_tokens_serve_in_any_chunk(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_CPU_NUMBERS", 3 * V)  # three rows a block
    student, logs = side(1, dtype=torch.float64), side(2, V).hidden.detach().log_softmax(-1)
    ids = logs.topk(4).indices
    given = {"teacher": Likeliest(ids, buckets(logs, ids)[0]), "chunk_bytes": chunk_bytes}
    share, sums = head_sums(student, LABELS, FACTORS, **given)
    z = student.hidden @ student.head.weight.T + student.head.bias
    kd = oracle("forward", 0.5, z, logs, 1.0, 4, own=0).sum()
    torch.testing.assert_close(sums["kd"], kd.detach(), rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(share, student.hidden)
    nudge = 1e-5 * side(3).hidden.detach()
    moved = (student._replace(hidden=student.hidden.detach() + by) for by in (nudge, -nudge))
    up, down = (head_sums(one, LABELS, FACTORS, **given)[0] for one in moved)
    torch.testing.assert_close((slope * nudge).sum(), (up - down) / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", FACTORS)
def test_an_entry_without_a_factor_is_as_if_it_were_not_there(name: str) -> None:
    student, teacher = side(1), side(2)
    both = head_sums(student, LABELS, FACTORS, teacher)[1]
    share, sums = head_sums(student, LABELS, {name: 2.0}, teacher if name == "kd" else None)
    assert [*sums] == [name]
    assert torch.equal(share, 2 * sums[name])
    torch.testing.assert_close(sums[name], both[name])
    expected = dense(student, teacher, Divergence(), 1.0)[name]
    pair = (torch.autograd.grad(x, student.head.weight)[0] for x in (share, 2 * expected))
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


def test_half_precision_is_added_up_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CPU_NUMBERS", 7 * 6)  # weights are upcast seven rows at a time
    student, teacher = (side(seed, dtype=torch.bfloat16) for seed in (1, 2))
    share, sums = head_sums(student, LABELS, FACTORS, teacher, chunk_bytes=3 * 2 * V * 4)
    expected = dense(student, teacher, Divergence(), 1.0)
    for name, value in expected.items():
        torch.testing.assert_close(sums[name], value.detach(), rtol=1e-5, atol=1e-5)
    whole = sum(FACTORS[name] * value for name, value in expected.items())
    found = torch.autograd.grad(share, leaves(student))
    for own, theirs in zip(found, torch.autograd.grad(whole, leaves(student)), strict=True):
        assert own.dtype == torch.bfloat16
        torch.testing.assert_close(own, theirs, rtol=1e-2, atol=1e-4)


def test_the_zero_point_and_the_shift_at_which_it_lies() -> None:
    student = side(1)
    near = Side(student.hidden.detach() + 0.3 * side(2).hidden.detach(), student.head)
    shifted = [
        head_sums(student, LABELS, {"kd": 1.0}, near._replace(hidden=near.hidden.roll(by, 0)))[1]
        for by in (-1, 0, 1)
    ]
    before, here, after = (sums["kd"].item() for sums in shifted)
    assert here < 0.1 * min(before, after)
    share, sums = head_sums(student, LABELS, {"kd": 1.0}, student)
    assert sums["kd"].item() == 0.0
    assert not any(grad.any() for grad in torch.autograd.grad(share, leaves(student)))


def test_a_kept_graph_gives_its_gradients_twice() -> None:
    student, teacher = side(1), side(2)
    share, _ = head_sums(student, LABELS, FACTORS, teacher)
    first = torch.autograd.grad(5 * share, leaves(student), retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(share, leaves(student)), strict=True):
        torch.testing.assert_close(one, 5 * other)


def test_only_what_is_wanted_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = side(1), side(2)
    seen: list[list[bool]] = []
    real = room._add_products

    def watch(grads: Any, *rest: Any) -> None:
        seen.append([grad is not None for grad in grads])
        real(grads, *rest)

    monkeypatch.setattr(room, "_add_products", watch)
    student.head.weight.requires_grad_(False)
    share, _ = head_sums(student, LABELS, FACTORS, teacher)
    share.backward()
    assert student.hidden.grad is not None
    student.head.weight.requires_grad_()
    head_sums(student._replace(hidden=student.hidden.detach()), LABELS, FACTORS, teacher)
    with torch.no_grad():
        share = head_sums(student, LABELS, FACTORS, teacher)[0]
    assert not share.requires_grad
    assert seen == [[True, False, True], [False, True, True]]


def test_no_scored_token_gives_zero_and_zero_gradients() -> None:
    student, teacher = (one._replace(hidden=one.hidden[:0]) for one in (side(1), side(2)))
    share, sums = head_sums(student, LABELS[:0], FACTORS, teacher)
    assert share.item() == sums["ce"].item() == sums["kd"].item() == 0.0
    (grad,) = torch.autograd.grad(share, student.head.weight)
    assert not grad.any()


SHAPE = CONFIGS["llama"][1]
SCALED = {
    "gemma2": lambda: decoder("gemma2", final_logit_softcapping=2.0),
    "tied": lambda: decoder("llama", tie_word_embeddings=True),
    "gpt_neox": lambda: decoder("gpt_neox"),
    "cohere": lambda: other("CohereConfig"),
    "granite": lambda: other("GraniteConfig", logits_scaling=8.0),
    "phi (with a bias)": lambda: other("PhiConfig"),
    "peft": lambda: with_lora(decoder("llama"), target_modules="all-linear"),
    "peft, whole head": lambda: with_lora(
        decoder("llama"), target_modules=["q_proj"], modules_to_save=["lm_head"]
    ),
    "bfloat16": lambda: decoder("gemma2", final_logit_softcapping=2.0).bfloat16(),
}


def other(kind: str, **options: Any) -> Any:
    """A model whose family the decoders do not have."""
    config = getattr(transformers, kind)(**{**SHAPE, **options})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.3)
    return model


@pytest.mark.parametrize("name", SCALED)
def test_a_models_own_logits_are_its_heads(name: str) -> None:
    model = SCALED[name]()
    check_head(model)
    states: list[Tensor] = []
    with torch.no_grad(), looking(model.get_output_embeddings(), states.append):
        expected = model(ROWS).logits.float()
        head, flat = Head.of(model), states[0].flatten(0, 1)
        found = head.finish(head.project(flat, torch.empty(len(flat), 40))).view_as(expected)
    tolerance = 0.05 if name == "bfloat16" else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_the_copy_of_a_head_that_peft_trains_is_the_one_that_learns() -> None:
    model = with_lora(decoder("llama"), target_modules=["q_proj"], modules_to_save=["lm_head"])
    name = "base_model.model.lm_head.modules_to_save.default.weight"
    assert Head.of(model).weight is dict(model.named_parameters())[name]
    with model.disable_adapter():
        original = "base_model.model.lm_head.original_module.weight"
        assert Head.of(model).weight is dict(model.named_parameters())[original]


def test_a_head_that_is_more_is_refused() -> None:
    adapted = peft.get_peft_model(
        copy.deepcopy(tiny.model()), peft.LoraConfig(target_modules=["lm_head"])
    )
    with pytest.raises(UnsupportedError, match="plain linear layer; found peft.tuners.lora"):
        check_head(adapted)
    # multiplies by what Granite divides by
    with pytest.raises(UnsupportedError, match="`model` must make its logits by a linear head"):
        check_head(other("HyperCLOVAXConfig", logits_scaling=3.0))
    with pytest.raises(ModelError, match="must have a language-model head; found Linear"):
        check_head(torch.nn.Linear(2, 2))
