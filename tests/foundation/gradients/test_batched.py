"""Many blocks at once have the gradients of a pass for each, in every family; what cannot go together goes alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.interference import driven, known_sources, tiny
from torch.utils.checkpoint import checkpoint

from crosstune.foundation.data import Row
from crosstune.foundation.gradients import batched
from crosstune.foundation.gradients.batched import Stack, block_gradients
from crosstune.foundation.gradients.blocks import Block, make_blocks
from crosstune.foundation.gradients.gradients import block_gradient, evaluating, trainable_names
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.worlds import FAMILIES, random_model
from crosstune.interference import ForgettingLedger

TOGETHER, ALONE = GradientSettings(), GradientSettings(stack_bytes=0)
SENTENCES = [row.text for row in tiny.rows("en", 40)]
# Windows of long rows: blocks of two to eight pieces.
UNEQUAL = [Row(str(n), " ".join(SENTENCES[n : n + 1 + n % 4])) for n in range(20)]


def unequal_blocks(tokenizer: Any, count: int = 5) -> tuple[Block, ...]:
    return make_blocks("en", UNEQUAL, tokenizer, BlockSettings(count, 2, 10, window=True))


def stacks_of(
    model: Any, blocks: tuple[Block, ...], settings: GradientSettings = TOGETHER
) -> list[Stack]:
    with evaluating(model, settings):
        names = trainable_names(model)
        return list(block_gradients(model, blocks, range(len(blocks)), names, settings))


ROUNDING = 1e-5
"""float32: 6e-8 · √(1e3 sums behind a gradient), and terms that cancel to a fifth."""


def assert_equals_the_loop(
    model: Any, blocks: tuple[Block, ...], tolerance: float = ROUNDING
) -> None:
    stacks = stacks_of(model, blocks)
    assert [len(stack.places) for stack in stacks] == [len(blocks)]
    assert_same_as_alone(model, blocks, stacks, tolerance)


def assert_same_as_alone(
    model: Any, blocks: tuple[Block, ...], stacks: list[Stack], tolerance: float = ROUNDING
) -> None:
    names = trainable_names(model)
    assert sorted(place for stack in stacks for place in stack.places) == [*range(len(blocks))]
    for stack in stacks:
        for index, place in enumerate(stack.places):
            with evaluating(model, TOGETHER):
                alone = block_gradient(model, blocks[place], names, TOGETHER)
            assert stack.nats[index] == pytest.approx(alone.nats, rel=ROUNDING)
            assert list(stack.gradient(index)) and set(stack.gradients) == set(names)
            for name, value in alone.gradient.items():
                found = stack.gradients[name][index]
                assert found.dtype == value.dtype
                assert (found - value).norm() <= tolerance * value.norm() + 1e-9, name


def drawn(model: Any) -> Any:
    """Every parameter, biases and norms included, is drawn at random."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


ATTENTION = {"gpt2": ["c_attn"], "gpt_neox": ["query_key_value"], "phi3": ["qkv_proj"]}
CASES = [*((family, False) for family in FAMILIES), ("llama", True), ("gpt2", True)]


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_every_family_with_and_without_lora(family: str, tied: bool, tmp_path: Path) -> None:
    folder = random_model(family, tmp_path / family, tie_word_embeddings=tied)
    model, tokenizer = drawn(load_model(folder)), load_tokenizer(folder)
    blocks = make_blocks("en", UNEQUAL, tokenizer, BlockSettings(3, 2, 12))
    assert_equals_the_loop(model, blocks)
    config = LoraConfig(
        r=2,
        target_modules=ATTENTION.get(family, ["q_proj", "v_proj"]),
        fan_in_fan_out=family == "gpt2",
    )
    assert_equals_the_loop(drawn(get_peft_model(model, config)), blocks)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "mixtral"])
def test_in_float64_the_sums_are_the_same_to_its_own_rounding(family: str, tmp_path: Path) -> None:
    folder = random_model(family, tmp_path / family)
    model, tokenizer = load_model(folder).double(), load_tokenizer(folder)
    if family == "mixtral":
        model.set_experts_implementation("eager")
    blocks = make_blocks("en", UNEQUAL, tokenizer, BlockSettings(3, 2, 12))
    assert_equals_the_loop(drawn(model), blocks, 1e-12)  # 1.1e-16 · 1e3 sums, ten times


def test_blocks_of_unequal_size() -> None:
    blocks = unequal_blocks(tiny.tokenizer())
    assert len({len(block.rows) for block in blocks}) > 1
    assert_equals_the_loop(tiny.llama(), blocks)


def test_a_parameter_that_the_loss_does_not_reach_has_exactly_zero_gradients() -> None:
    model = tiny.llama()
    model.register_parameter("idle", torch.nn.Parameter(torch.ones(3)))
    (stack,) = stacks_of(model, unequal_blocks(tiny.tokenizer()))
    assert torch.equal(stack.gradients["idle"], torch.zeros(5, 3))


def test_half_precision_weights_are_evaluated_as_float32() -> None:
    model = tiny.llama(tied=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    assert_equals_the_loop(model, unequal_blocks(tiny.tokenizer()))


@pytest.mark.parametrize("budget", [1, 60, 200])
def test_passes_stay_within_the_budget_of_tokens(budget: int) -> None:
    model, blocks = tiny.llama(), unequal_blocks(tiny.tokenizer())
    stacks = stacks_of(model, blocks, GradientSettings(batch_tokens=budget))
    for stack in stacks:
        rows = max(len(blocks[place].rows) for place in stack.places)
        width = max(len(row.input_ids) for place in stack.places for row in blocks[place].rows)
        assert len(stack.places) == 1 or len(stack.places) * rows * width <= budget
    assert_same_as_alone(model, blocks, stacks)


def test_stacks_stay_within_the_budget_of_bytes() -> None:
    model, blocks = tiny.llama(), unequal_blocks(tiny.tokenizer())
    two = 2 * 4 * sum(parameter.numel() for parameter in model.parameters())
    sizes = [len(s.places) for s in stacks_of(model, blocks, GradientSettings(stack_bytes=two))]
    assert sizes == [2, 2, 1]
    assert [len(s.places) for s in stacks_of(model, blocks, ALONE)] == [1] * 5


def test_blocks_of_much_work_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "CPU_WORK", 0)
    assert len(stacks_of(tiny.llama(), unequal_blocks(tiny.tokenizer()))) == 5


def checkpointing() -> Any:
    model = tiny.llama()
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    return model.train()


def dora() -> Any:
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=True)
    return drawn(get_peft_model(tiny.llama(), config))


def borrowing() -> Any:
    """A model whose head also reads the last norm's weight."""
    model = tiny.llama()
    norm, head = model.model.norm, model.lm_head
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * norm.weight,))
    return model


@pytest.mark.parametrize("make", [checkpointing, dora, borrowing])
def test_what_cannot_go_together_goes_alone(make: Any) -> None:
    model, blocks = make(), unequal_blocks(tiny.tokenizer())
    stacks = stacks_of(model, blocks)
    assert len(stacks) == len(blocks)
    assert_same_as_alone(model, blocks, stacks)


def rows_of(ledger: ForgettingLedger) -> list[dict[str, Any]]:
    tables = (ledger.path(), ledger.segments(), ledger.sites())
    return [row for table in tables for row in table.rows()]


@pytest.mark.parametrize("make", [tiny.llama, tiny.lora])
def test_the_ledger_keeps_the_same_account(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    together = rows_of(driven.followed(make(), driven.ledger(every=3), last=6))
    monkeypatch.setattr(batched, "CPU_WORK", 0)
    alone = rows_of(driven.followed(make(), driven.ledger(every=3), last=6))
    for mine, theirs in zip(together, alone, strict=True):
        for name in mine.keys() - {"seconds", "residual"}:
            value = theirs[name]
            if isinstance(value, float):
                value = pytest.approx(value, rel=ROUNDING, abs=1e-6, nan_ok=True)  # of nats of 0.1
            assert mine[name] == value, name


@pytest.mark.parametrize("start", [0, 100], ids=["shared rows", "other rows"])
def test_the_probe_keeps_the_same_sums(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24, start=start)}
    model = tiny.llama()
    together = known_sources.comparison(model, tasks).sums(model)["current"]["en", "bn"]
    monkeypatch.setattr(batched, "CPU_WORK", 0)
    alone = known_sources.comparison(model, tasks).sums(model)["current"]["en", "bn"]
    assert len(together.masked) == (8 if start == 0 else 0)
    for name in ("own_a", "within_a", "across_a", "own_b", "within_b", "across_b", "masked"):
        mine, theirs = getattr(together, name), getattr(alone, name)
        atol = 1e-6 * float(theirs.norm())  # products of gradients that point elsewhere
        torch.testing.assert_close(mine, theirs, rtol=ROUNDING, atol=atol, msg=name)


def test_a_part_of_a_stack() -> None:
    stack = Stack((3, 0, 2), {"w": torch.arange(6.0).view(3, 2)}, (1.0, 2.0, 3.0))
    part = stack.only([0, 3, 9])
    assert (part.places, part.nats) == ((3, 0), (1.0, 2.0))
    assert torch.equal(part.gradients["w"], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert stack.only([0, 2, 3]) is stack and stack.only([7]).places == ()
