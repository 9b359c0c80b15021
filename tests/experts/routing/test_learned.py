"""A learned router: births change nothing and learn at once, gates are causal, capacity is counted by hand, what is saved is what was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.experts.test_mixture import batch_of, close, folder, fresh, logits, rows_of, texts  # noqa: F401
from torch import Tensor

from crosstune.experts.bank.log import Event
from crosstune.experts.mixture import ExpertMixture
from crosstune.experts.routing.learned import LearnedRouter, schedule, within_capacity
from crosstune.experts.routing.prefix import largest
from crosstune.experts.settings import RouterSettings
from crosstune.foundation.data import collate, pack
from crosstune.foundation.errors import (
    MeasurementError,
    ModelError,
    SettingsError,
    TrainingError,
    UnsupportedError,
)
from crosstune.foundation.models import load_model, load_tokenizer, model_inputs
from crosstune.foundation.training import StageData, TrainingSettings, train_stage

BIRTHS = (("a", None, 4), ("b", "a", 4), ("c", "b", 6), ("d", None, 2))


def stir(mixture: ExpertMixture) -> None:
    """What learns has learned something."""
    draw = torch.Generator().manual_seed(len(mixture.bank.events))
    for name, value in mixture.named_parameters():
        if value.requires_grad:
            spread = 0.3 if name.startswith("router") else 0.05
            value.data += spread * torch.randn(value.shape, generator=draw)


def grown(folder: Path, births: Any = BIRTHS, **options: Any) -> ExpertMixture:  # noqa: F811
    """A mixture in which skills were born and are known; their embeddings are left out."""
    mixture = fresh(folder, router=RouterSettings(kind="learned", **options)).eval()
    for name, parent, rank in births:
        mixture.spawn(name, parent=parent, rank=rank)
        stir(mixture)
        mixture.bank.record(Event("register", name))
        mixture.requires_grad_(False)
    return mixture


def gates(mixture: ExpertMixture, batch: dict[str, Tensor]) -> Tensor:
    """Of all blocks, [L, B, T, K]."""
    logits(mixture, batch)
    return torch.stack([routed.gates for routed in mixture.routing.seen.values()])


@pytest.mark.parametrize("reads", ["state", "prefix"])
def test_births_change_no_output_and_the_newcomer_learns_at_once(folder: Path, reads: str) -> None:  # noqa: F811
    mixture = grown(folder, (), reads=reads)
    batch = batch_of(mixture, "animals")
    for name, parent, rank in BIRTHS:
        before = logits(mixture, batch)
        mixture.spawn(name, parent=parent, rank=rank)
        found = mixture(**model_inputs(batch)).logits
        assert float((found.detach() - before).abs().max()) <= 1e-6 * float(before.abs().max())
        parts = gates(mixture, batch)
        at = mixture.router.names.index(parent or "base")
        torch.testing.assert_close(parts[..., at], parts[..., -1])
        found.square().mean().backward()
        learning = {n: p.grad for n, p in mixture.named_parameters() if p.requires_grad}
        assert len(learning) == len(mixture.parameters_of(name)) + len(mixture.router.names)
        expected = [n for n in learning if ".lora_B." in n or parent is not None]
        assert all(bool(learning[n].any()) for n in expected)
        mixture.zero_grad()
        stir(mixture)
        assert not torch.allclose(logits(mixture, batch), before, atol=1e-4)
        mixture.bank.record(Event("register", name))
        mixture.requires_grad_(False)


def test_a_birth_splits_a_gate_at_any_temperature() -> None:
    router, features = LearnedRouter(range(1), 8, "state"), torch.randn(2, 5, 9)
    for name, parent in (("a", None), ("b", "a"), ("c", "b")):
        before = router.logits(0, features, 3.0).softmax(-1)
        at = router.names.index(parent or "base")
        router.split(name, f"xp_{name}", parent)
        found = router.logits(0, features, 3.0).softmax(-1)
        torch.testing.assert_close(found[..., -1], before[..., at] / 2)
        torch.testing.assert_close(found[..., at], before[..., at] / 2)
        router.rows[f"xp_{name}"].data += torch.randn(1, 9)


def test_the_gate_of_one_expert_learns_only_if_it_is_not_scaled_up() -> None:
    router = LearnedRouter(range(1), 8, "state")
    router.split("a", "xp_a")
    router.requires_grad_(True)
    features = router.read(torch.randn(2, 5, 17))
    for renormalise in (False, True):
        router.zero_grad()
        found = largest(router.logits(0, features).softmax(-1), 1, renormalise=renormalise)
        (found * torch.randn(found.shape)).sum().backward()
        assert bool(router.rows["xp_a"].grad.abs().max() > 1e-6) != renormalise


@pytest.mark.parametrize(("reads", "top"), [("state", None), ("prefix", None), ("prefix", 2)])
def test_no_later_token_padding_batch_or_packing_changes_a_gate(
    folder: Path,  # noqa: F811
    reads: Any,
    top: int | None,
) -> None:
    mixture = grown(folder, reads=reads, top=top)
    rows = rows_of(mixture, "shapes", seed=1)[:4]
    left, right = (gates(mixture, collate(rows, 0, side=side)) for side in ("left", "right"))
    packs = collate(pack(rows, 200), 0)
    packed, whole = gates(mixture, packs)[:, 0], logits(mixture, packs)[0]
    starts = [*(packs["position_ids"][0] == 0).nonzero()[:, 0].tolist(), len(whole)]
    found = dict(zip(packs["input_ids"][0].tensor_split(starts[1:-1]), starts, strict=False))
    for at, row in enumerate(rows):
        size, batch = len(row.input_ids), collate([row], 0)
        alone = gates(mixture, batch)[:, 0]
        assert len({round(float(gate), 4) for gate in alone[0, :, 0]}) > 2  # they do differ
        close(right[:, at, :size], alone)
        close(left[:, at, -size:], alone)
        start = next(s for ids, s in found.items() if ids.tolist() == row.input_ids)
        close(packed[:, start : start + size], alone)
        close(whole[start : start + size], logits(mixture, batch)[0])
        batch["input_ids"][:, 6:] = batch["input_ids"][:, 6:].flip(1)
        close(gates(mixture, batch)[:, 0, :6], alone[:, :6])


@pytest.mark.parametrize("reads", ["state", "prefix"])
def test_a_cache_changes_nothing(folder: Path, reads: str) -> None:  # noqa: F811
    mixture = grown(folder, reads=reads)
    batch = collate(rows_of(mixture, "numbers", seed=2)[:3], 0, side="left")
    inputs = {key: batch[key][:, :-2] for key in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    cached = mixture.generate(**inputs, **options, use_cache=True)
    assert torch.equal(cached, mixture.generate(**inputs, **options, use_cache=False))
    ids = batch["input_ids"][-1:]
    with torch.no_grad():
        whole, first = mixture(ids).logits, mixture(ids[:, :5], use_cache=True)
        rest = mixture(ids[:, 5:], past_key_values=first.past_key_values)
    close(rest.logits, whole[:, 5:])


def test_checkpointing_of_activations_changes_no_gradient(folder: Path) -> None:  # noqa: F811
    found = []
    for how in (None, False, True):
        mixture = grown(folder)
        mixture.spawn("e", parent="a", rank=4)
        if how is not None:
            mixture.get_base_model().activation_checkpointing_enable({"use_reentrant": how})
        batch = batch_of(mixture, "numbers")
        if how:
            with pytest.raises(UnsupportedError, match="must not be reentrant"):
                mixture.train()(**model_inputs(batch))
            break
        mixture.train()(**model_inputs(batch)).logits.square().mean().backward()
        found.append({n: p.grad for n, p in mixture.named_parameters() if p.requires_grad})
    assert len(found[0]) > 5
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


def test_what_is_saved_is_what_was_and_no_adapter_holds_the_router(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    mixture = grown(folder, top=2)
    mixture.spawn("shapes", rank=3)
    mixture.register("shapes", texts("shapes", 48))
    mixture.register("base", texts("animals", 48))
    assert not any(value.requires_grad for value in mixture.parameters())
    mixture.save(tmp_path / "saved")
    for expert in mixture.bank.experts.values():
        file = tmp_path / "saved" / "experts" / expert.adapter / "adapter_model.safetensors"
        assert all(".lora_A." in key or ".lora_B." in key for key in load_file(file))
    again = ExpertMixture.load(
        tmp_path / "saved", load_model(folder), load_tokenizer(folder)
    ).eval()
    batch = batch_of(mixture, "shapes")
    assert torch.equal(logits(again, batch), logits(mixture, batch))
    assert again.router.names == ("base", "a", "b", "c", "d", "shapes")
    assert list(again.library) == ["shapes", "base"]
    with again.answering("shapes"), mixture.answering("shapes"):
        assert torch.equal(logits(again, batch), logits(mixture, batch))


def test_without_a_skill_the_others_share_its_gate(folder: Path) -> None:  # noqa: F811
    mixture = grown(folder, (("a", None, 4), ("b", None, 4)))
    batch = batch_of(mixture, "numbers")
    before = gates(mixture, batch)
    mixture.router.forget("a")
    assert mixture.router.names == ("base", "b")
    kept = before[0][..., [0, 2]]
    close(gates(mixture, batch)[0], kept / kept.sum(-1, keepdim=True))


def test_maturity_is_a_function_of_the_step() -> None:
    chosen = RouterSettings(kind="learned", top=1, immature=4, temperature=3.0)
    found = [schedule(chosen, step) for step in range(7)]
    assert found == [
        (None, 3.0), (None, 2.5), (None, 2.0), (None, 1.5), (2, 1.0), (2, 1.0), (1, 1.0),
    ]  # fmt: skip
    assert schedule(chosen, None) == (1, 1.0)
    assert schedule(RouterSettings(top=3, immature=4), 5) == (3, 1.0)
    assert schedule(RouterSettings(immature=0), 0) == schedule(RouterSettings(), 99) == (None, 1.0)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.75, 1.0])
def test_capacity_is_first_come_first_served_within_a_sequence(share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    chosen = torch.rand(3, 40, 2, generator=draw) < 0.5
    positions = torch.arange(40).repeat(3, 1)
    positions[1, 13:] -= 13  # two sequences
    positions[2] -= 7
    positions[2, :7] = 0  # padding on the left
    stays = within_capacity(chosen, positions, share)
    for row in range(3):
        for expert in range(2):
            answered = 0
            for at in range(40):
                t = int(positions[row, at]) + 1
                answered = 0 if t == 1 else answered
                own = bool(chosen[row, at, expert]) and answered < math.ceil(round(share * t, 6))
                answered += own
                assert bool(stays[row, at, expert]) == own
    early = within_capacity(chosen[:, :20], positions[:, :20], share)
    assert torch.equal(early, stays[:, :20])


def test_the_dropped_share_is_kept_and_nothing_is_dropped_when_nothing_learns(folder: Path) -> None:  # noqa: F811
    mixture = grown(folder, capacity=0.5)
    batch = batch_of(mixture, "numbers", count=1)
    free = gates(mixture.train(), batch)
    mixture.spawn("e", rank=2)
    held = gates(mixture, batch)
    share = 1 - float((held[0] > 0).sum()) / held[0].numel()
    assert mixture.router.dropped[0] == pytest.approx(share)
    assert 0.3 < share < 0.6 and bool((free > 0).all())
    assert bool((gates(mixture.eval(), batch) > 0).all())


def test_capacity_is_a_multiple_of_an_experts_even_share(folder: Path) -> None:  # noqa: F811
    """Where one of six answers a token, one of the first six tokens and two of twelve."""
    mixture = grown(folder, capacity=1.0, top=1, immature=0)
    mixture.spawn("e", rank=2)
    batch = batch_of(mixture, "numbers", count=1)
    free, held = gates(mixture, batch) > 0, gates(mixture.train(), batch) > 0
    most = torch.tensor([math.ceil((at + 1) / 6) for at in range(free.shape[2])])
    assert bool((free.cumsum(2) > most[:, None]).any())
    assert bool((held.cumsum(2) <= most[:, None]).all()) and bool(held.any())


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(SettingsError, match="`renormalise` must be off where one expert answers"):
        RouterSettings(kind="learned", top=1, renormalise=True)
    with pytest.raises(SettingsError, match="`top` must be from 1 to the number of skills, 2"):
        largest(torch.rand(4, 2), 3)
    mixture = grown(folder)
    with pytest.raises(ModelError, match="`router` must have rows of"):
        LearnedRouter(range(2), 7, "state").load(mixture.router.tensors())
    with pytest.raises(SettingsError, match="`rank` must be at least 6"):
        mixture.spawn("e", parent="c", rank=4)
    with pytest.raises(SettingsError, match="`parent` must come without alpha and targets"):
        mixture.spawn("e", parent="c", alpha=3.0)
    with pytest.raises(SettingsError, match="must be an expert of the mixture"):
        mixture.spawn("e", parent="z")
    mixture.spawn("e", rank=2)
    for value in mixture.router.parameters():
        value.requires_grad_(False)
    data, watch = StageData(rows_of(mixture, "numbers"), 0), [mixture.callback()]
    chosen = TrainingSettings(steps=1, batch_rows=2)
    with pytest.raises(TrainingError, match="`optimizer` must hold the router"):
        train_stage(mixture, data, chosen, output_folder=tmp_path, callbacks=watch)
    mixture.router.rows["xp_a"].data[0] = math.nan
    with pytest.raises(MeasurementError, match="`gates` must be finite"):
        logits(mixture, batch_of(mixture, "numbers"))


def test_experts_above_a_site_have_routers_there(folder: Path) -> None:  # noqa: F811
    mixture = fresh(folder, router=RouterSettings(kind="learned"), site=1).eval()
    mixture.spawn("a", rank=2)
    logits(mixture, batch_of(mixture, "numbers"))
    layers = mixture.config.num_hidden_layers
    assert [*mixture.routing.seen] == [*range(1, layers)]
    assert mixture.router.rows["xp_a"].shape[0] == layers - 1
