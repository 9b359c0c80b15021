"""After birth: growing and merging keep the function, what is frozen stays, and who goes was never there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.experts.test_mixture import WORDS, batch_of, close, fresh, logits, rows_of, texts
from torch import Tensor, nn

from crosstune.experts.gated import pairs
from crosstune.experts.lifecycle import nearest, pad_optimizer
from crosstune.experts.mixture import ExpertMixture
from crosstune.experts.settings import RouterSettings
from crosstune.foundation.errors import SettingsError, TrainingError
from crosstune.foundation.models import load_model, model_inputs
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.foundation.worlds import random_model

SKILLS = {"numbers": 3, "shapes": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model("llama", tmp_path_factory.mktemp("models") / "llama")


def drawn(mixture: ExpertMixture, name: str, seed: int = 0) -> None:
    draws = torch.Generator().manual_seed(seed)
    for value in mixture.parameters_of(name):
        value.data = 0.2 * torch.randn(value.shape, generator=draws)


def several(folder: Path, skills: dict[str, int] = SKILLS, **options: Any) -> ExpertMixture:
    """The model itself for animals, and experts with drawn factors."""
    mixture = fresh(folder)
    mixture.replay.quota = 4
    mixture.register("base", texts("animals", 48))
    for at, (name, rank) in enumerate(skills.items()):
        mixture.spawn(name, rank=rank, **options)
        drawn(mixture, name, at)
        mixture.register(name, texts(name if name in WORDS else "animals", 48, seed=7))
    return mixture.eval()


def test_an_expert_learns_again_until_it_is_registered(folder: Path) -> None:
    mixture = several(folder)
    batch = batch_of(mixture, "animals")
    with mixture.answering("numbers"):
        alone = logits(mixture, batch)
    mixture.unfreeze("numbers", {"p": 0.2, "gain": float("nan")})
    assert torch.equal(logits(mixture, batch), alone)
    learning = {p for p in mixture.parameters() if p.requires_grad}
    assert learning == set(mixture.parameters_of("numbers"))
    tokens = mixture.router.tensors()["skills.1.tokens.numbers"]
    known, again = mixture.library["numbers"], fresh(folder)
    again.register("base", texts("numbers", 48, seed=9))
    mixture.register("numbers", texts("numbers", 48, seed=9), figures={"gain": 0.5})
    assert mixture.router.tensors()["skills.1.tokens.numbers"] > 1.5 * tokens
    moved = mixture.library["numbers"]  # half of the way to its new rows, as spread as before
    torch.testing.assert_close(moved.mean(0), (known.mean(0) + again.library["base"].mean(0)) / 2)
    torch.testing.assert_close(moved.std(0), known.std(0))
    assert not any(p.requires_grad for p in mixture.parameters())
    assert [event.figures for event in mixture.bank.events[-2:]] == [{"p": 0.2}, {"gain": 0.5}]


def test_frozen_projections_move_no_more(folder: Path) -> None:
    mixture = fresh(folder)
    mixture.spawn("numbers", rank=2)
    drawn(mixture, "numbers")
    own = dict(mixture.model.named_parameters())
    optimizer = torch.optim.SGD(mixture.parameters_of("numbers"), lr=0.1, momentum=0.9)
    mixture(**model_inputs(batch_of(mixture, "animals"))).logits.square().mean().backward()
    before = {name: value.clone() for name, value in own.items()}
    mixture.freeze("numbers", ["q_proj"])
    mixture.freeze("numbers", ["up_proj", "down_proj"])
    optimizer.step()  # with the gradients of before
    moved = {name.split(".")[-4] for name in own if not torch.equal(own[name], before[name])}
    assert moved == {"k_proj", "v_proj", "o_proj", "gate_proj"}
    mixture.register("numbers", texts("numbers", 48))
    mixture.unfreeze("numbers")
    assert all(p.requires_grad for p in mixture.parameters_of("numbers"))


def test_a_trainer_takes_an_expert_of_which_a_part_learns(folder: Path, tmp_path: Path) -> None:
    mixture = fresh(folder)
    own = mixture.spawn("numbers", rank=2, targets=["q_proj", "k_proj"])
    data = StageData(rows_of(mixture, "numbers"), 0)
    chosen = TrainingSettings(steps=2, batch_rows=4, learning_rate=1e-2)

    def train(name: str) -> None:
        callbacks = [mixture.callback()]
        train_stage(mixture, data, chosen, output_folder=tmp_path / name, callbacks=callbacks)

    mixture.freeze("numbers", ["q_proj"])
    train("part")
    assert [bool(b.weight.any()) for _, _, b in pairs(mixture.model, own.adapter)] == [
        False,
        True,
    ] * 2
    mixture.freeze("numbers", ["k_proj"])
    mixture.model.lm_head.weight.requires_grad_(True)
    with pytest.raises(TrainingError, match="`optimizer` must hold the factors"):
        train("none")


def test_growing_keeps_the_function_and_what_is_new_learns(folder: Path, tmp_path: Path) -> None:
    mixture = several(folder)
    mixture.unfreeze("numbers")
    batch = batch_of(mixture, "numbers")
    before, old = logits(mixture, batch), mixture.bank.expert("numbers")
    grown = mixture.grow("numbers")
    expert = mixture.bank.expert("numbers")
    assert (expert.rank, expert.alpha / expert.rank) == (6, old.alpha / old.rank)
    assert float((logits(mixture, batch) - before).abs().max()) <= 1e-6
    assert list(grown.values()) == mixture.parameters_of("numbers")
    mixture(**model_inputs(batch)).logits.square().mean().backward()
    for before_, value in grown.items():
        if value.shape[1] == 6:  # B
            assert value.grad[:, 3:].abs().sum() > 0.0 == value[:, 3:].abs().sum()
            assert torch.equal(value[:, :3], before_)
        else:  # drawn as PEFT draws, not as wide as what is there
            assert 0.0 < float(value.detach()[3:].abs().max()) <= value.shape[1] ** -0.5
    mixture.grow("numbers", rank=7)
    drawn(mixture, "numbers", seed=3)
    mixture.register("numbers", texts("numbers", 48))
    after = logits(mixture, batch)
    place = mixture.save(tmp_path / "saved")
    again = ExpertMixture.load(place, load_model(folder), mixture.tokenizer).eval()
    assert torch.equal(logits(again, batch), after)
    vanilla = PeftModel.from_pretrained(load_model(folder), place / "experts" / "xp_numbers").eval()
    with mixture.answering("numbers"):
        assert torch.equal(logits(vanilla, batch), logits(mixture, batch))


@pytest.mark.parametrize(
    "make",
    [
        lambda values: torch.optim.Adam(values, lr=0.1),
        lambda values: torch.optim.SGD(values, lr=0.1, momentum=0.9),
    ],
)
def test_a_padded_optimizer_goes_on_as_if_it_had_held_all(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
) -> None:
    """The twin holds the large parameter from the start, and its new part has no gradient at first."""
    draws = torch.Generator().manual_seed(0)
    target, begin = torch.randn(2, 4, 5, generator=draws)
    begin[:, 3:] = 0.0
    small, large, other = (
        nn.Parameter(value.clone()) for value in (begin[:, :3], begin, begin.mT.contiguous())
    )
    ours, twin = make([small, other]), make([large])

    def step(optimizer: torch.optim.Optimizer, value: nn.Parameter, width: int) -> None:
        optimizer.zero_grad()
        (value[:, :width] - target[:, :width]).square().sum().backward()
        if value is large:
            value.grad[:, width:] = 0.0
        optimizer.step()

    for _ in range(3):
        step(ours, small, 3)
        step(twin, large, 3)
    grown = nn.Parameter(torch.cat([small.detach(), begin[:, 3:]], dim=1))
    pad_optimizer(ours, {small: grown})
    for _ in range(3):
        step(ours, grown, 5)
        step(twin, large, 5)
    assert torch.equal(grown, large)
    assert torch.equal(other, begin.mT)
    assert ours.state.keys() == {grown}


def test_merged_side_by_side_is_the_mean_by_usage(folder: Path) -> None:
    """To what the mixture computes with the gates held at the shares."""
    mixture = several(folder)
    batch = batch_of(mixture, "numbers")
    shape = (*batch["input_ids"].shape, 2)
    inputs = model_inputs(batch)
    held = torch.tensor([0.25, 0.75]).expand(shape)
    adapters = [mixture.bank.expert(name).adapter for name in SKILLS]

    def steady(*_: Any) -> None:
        for gates in mixture.routing.gates.values():
            gates.answer(adapters, held)

    handle = mixture.get_base_model().model.layers[0].register_forward_pre_hook(steady)
    with torch.no_grad():
        expected = mixture(**inputs).logits
    handle.remove()
    sums = mixture.router.tensors()
    merged = mixture.merge({"numbers": 0.1, "shapes": 0.3}, "both", figures={"cosine": 0.9})
    assert (merged.rank, merged.alpha) == (8, 8.0)
    with mixture.answering("both"):
        close(logits(mixture, batch), expected)
    assert mixture.router.names == ("base", "both") == tuple(mixture.tuning)
    joint = mixture.router.tensors()["skills.1.xx.both"]
    assert torch.equal(joint, sums["skills.1.xx.numbers"] + sums["skills.2.xx.shapes"])
    assert len(mixture.library["both"]) == len(set(texts("numbers", 48, 7))) + len(
        set(texts("shapes", 48, 7))
    )
    assert len(mixture.replay.rows["both"]) == 4
    assert mixture.assess(texts("shapes", 48, seed=3)).nearest == "both"


def test_a_merge_at_full_rank_is_the_merge_side_by_side(folder: Path) -> None:
    batch, found = None, {}
    for rank in (None, 8, 3):
        mixture = several(folder)
        batch = batch or batch_of(mixture, "shapes")
        mixture.merge(dict.fromkeys(SKILLS, 0.0), "both", rank=rank)  # nobody used them: alike
        with mixture.answering("both"):
            found[rank] = logits(mixture, batch)
    close(found[8], found[None])
    assert not torch.allclose(found[3], found[None], atol=1e-3)


def test_the_nearest_update_is_that_of_the_whole_matrix() -> None:
    """Eckart and Young, by the SVD of the full product."""
    draws = torch.Generator().manual_seed(1)
    narrow, wide = torch.randn(6, 9, generator=draws), torch.randn(4, 6, generator=draws)
    u, s, v = torch.linalg.svd((wide @ narrow).double(), full_matrices=False)
    for rank in (1, 3, 4, 6):
        a, b = nearest(narrow, wide, rank)
        assert (a.shape, b.shape) == ((rank, 9), (4, rank))
        expected = (u[:, :rank] * s[:rank]) @ v[:rank]
        torch.testing.assert_close((b @ a).double(), expected, rtol=1e-5, atol=1e-5)


def gates(mixture: ExpertMixture, batch: dict[str, Tensor]) -> Tensor:
    logits(mixture, batch)
    return mixture.routing.gates[0].values


def test_who_is_evicted_was_never_met(folder: Path) -> None:
    mixture = several(folder, {"numbers": 3, "other": 2, "shapes": 5})
    batch = batch_of(mixture, "numbers")
    with mixture.answering("shapes"):
        alone = logits(mixture, batch)
    mixture.evict("other", {"usage": 0.01})
    never = several(folder)
    drawn(never, "shapes", 2)
    assert torch.equal(gates(mixture, batch), gates(never, batch))
    assert torch.equal(logits(mixture, batch), logits(never, batch))
    assert mixture.router.tensors().keys() == never.router.tensors().keys()
    assert mixture.replay.rows == never.replay.rows
    for rows in (texts("numbers", 48, seed=4), texts("shapes", 48, seed=4)):
        assert mixture.assess(rows) == never.assess(rows)
    with mixture.answering("shapes"):
        assert torch.equal(logits(mixture, batch), alone)
    with pytest.raises(SettingsError, match="gone ones included"):
        mixture.spawn("Other")


@pytest.mark.parametrize("again", [False, True])
def test_who_diverged_while_it_learned_may_be_evicted(folder: Path, again: bool) -> None:
    mixture = fresh(folder, router=RouterSettings(kind="learned"))
    for name in SKILLS:
        mixture.spawn(name, rank=2)
        drawn(mixture, name)
        mixture.register(name, texts(name if name in WORDS else "animals", 48))
    mixture.spawn("late", rank=2)
    if again:
        mixture.register("late", texts("animals", 48, seed=3))
        mixture.unfreeze("late")
    batch = batch_of(mixture, "numbers")
    before = logits(mixture, batch)
    for value in (*mixture.parameters_of("late"), *mixture.router.rows.values()):
        value.data = torch.full_like(value, math.nan)
    with pytest.raises(TrainingError, match="must have finite factors.* Evict it"):
        mixture.register("late", texts("animals", 48))
    mixture.evict("late")
    assert mixture.bank.learning is None
    assert mixture.router.names == ("base", *SKILLS)
    after = logits(mixture, batch)
    if again:  # all that it had learned before is gone too, and others have its gate
        assert after.isfinite().all()
    else:
        close(after, before)
    mixture.spawn("next", rank=2)


def test_when_all_have_gone_the_model_is_left(folder: Path) -> None:
    mixture = several(folder, {"numbers": 3})
    batch = batch_of(mixture, "numbers")
    with mixture.answering():
        alone = logits(mixture, batch)
    mixture.evict("numbers")
    assert torch.equal(logits(mixture, batch), alone)
    assert {type(m).__name__ for m in mixture.modules()}.isdisjoint({"GatedLinear", "PeftModel"})
    mixture.spawn("shapes", rank=2)
    assert torch.equal(logits(mixture, batch), alone)
    drawn(mixture, "shapes")
    assert not torch.equal(logits(mixture, batch), alone)


def test_what_cannot_become_of_an_expert_is_refused(folder: Path) -> None:
    mixture = several(folder)
    with pytest.raises(SettingsError, match="`name` must be an expert of the mixture"):
        mixture.unfreeze("base")
    with pytest.raises(
        TrainingError, match="`grow` must come when 'numbers' is learning; found no"
    ):
        mixture.grow("numbers")
    for usage in ({"numbers": 1.0}, {"numbers": 1.0, "shapes": float("nan")}, {}):
        with pytest.raises(SettingsError, match="`usage` must be finite, from 0 up, of two"):
            mixture.merge(usage, "both")
    with pytest.raises(SettingsError, match="`usage` must be finite, from 0 up, of two"):
        mixture.merge({"numbers": 1.0, "shapes": -0.1}, "both")
    with pytest.raises(SettingsError, match="`rank` must be at least 1"):
        mixture.merge(dict.fromkeys(SKILLS, 1.0), "both", rank=0)
    with pytest.raises(SettingsError, match="be no other expert's"):
        mixture.merge(dict.fromkeys(SKILLS, 1.0), "numbers")
    mixture.spawn("narrow", rank=2, targets=["q_proj"])
    for forbidden, name in (("evict", "numbers"), ("unfreeze", "narrow")):
        with pytest.raises(TrainingError, match=f"`{forbidden}` must come when no expert is learn"):
            getattr(mixture, forbidden)(name)
    with pytest.raises(TrainingError, match="`freeze` must come when 'numbers' is learning"):
        mixture.freeze("numbers", ["q_proj"])
    with pytest.raises(SettingsError, match="`targets` must be .*'q_proj'; found 'k_proj'"):
        mixture.freeze("narrow", ["k_proj"])
    with pytest.raises(SettingsError, match="`rank` must be at least 3"):
        mixture.grow("narrow", rank=2)
    mixture.register("narrow", texts("animals", 48))
    with pytest.raises(SettingsError, match="the same targets; found .*'q_proj'"):
        mixture.merge({"numbers": 1.0, "narrow": 1.0}, "both")
