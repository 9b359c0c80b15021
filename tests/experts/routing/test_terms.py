"""The terms of a learned router: closed forms, sums over scored tokens alone, no split of a step changes them, resumed = uninterrupted."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.experts.routing.test_learned import gates, grown, stir
from tests.experts.test_mixture import batch_of, folder, logits, rows_of  # noqa: F401
from torch.nn.functional import kl_div
from transformers import Trainer, TrainerCallback, TrainingArguments

from crosstune.experts.mixture import ExpertMixture
from crosstune.experts.routing.passes import Routed
from crosstune.experts.routing.terms import gate_values, router_terms
from crosstune.foundation.data import collate
from crosstune.foundation.errors import SettingsError, UnsupportedError
from crosstune.foundation.training import NextToken, StageData, TrainingSettings, train_stage
from crosstune.foundation.training.loss import LossModule

ALL = {
    "routing": 1.0, "balance": 0.3, "entropy": -0.1, "z": 0.2, "keep": 0.4, "distillation": 0.5,
}  # fmt: skip
BIRTHS = (("a", None, 2), ("b", "a", 3))


def test_closed_forms() -> None:
    """By hand, for gates .5 .3 .2 with f = .7 .2 .1 and scores that sum to e² in the exponent."""
    scores = torch.tensor([[[0.5, 0.3, 0.2]]]).log() + 2.0
    routed = Routed(torch.empty(0), scores, scores.softmax(-1))
    old = torch.tensor([[[0.8, 0.2]]]).log() + 5.0
    router: Any = SimpleNamespace(
        usage=torch.tensor([[0.7, 0.2, 0.1]]),
        sites=range(4, 5),
        logits=lambda at, features, before: old,
    )
    expected = {
        "routing": -math.log(0.3),
        "balance": 3 * (0.7 * 0.5 + 0.2 * 0.3 + 0.1 * 0.2),
        "entropy": -sum(p * math.log(p) for p in (0.5, 0.3, 0.2)),
        "z": 4.0,
        "keep": 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.3),
    }
    for name, value in expected.items():
        found = gate_values(name, router, 4, routed, torch.tensor([1]))
        assert found.shape == (1, 1)
        assert found.item() == pytest.approx(value, rel=1e-5)


def learning(folder: Path, **options: Any) -> ExpertMixture:  # noqa: F811
    """A third skill is being learned, and the router has moved since its birth."""
    mixture = grown(folder, BIRTHS, **options)
    mixture.spawn("c", rank=2)
    return mixture


def sums(mixture: ExpertMixture, rows: Any, skills: Any, side: str = "right") -> dict[str, float]:
    module = LossModule(mixture, router_terms(mixture, skills))
    factors = dict.fromkeys(("next_token", *ALL), 1.0)
    batch = {**collate(rows, 0, side=side), "row_ids": [row.row_id for row in rows]}
    found = module(batch, factors, 0)
    assert all(found.learns.values())
    return {name: value.item() for name, value in found.sums.items()}


def test_sums_are_over_scored_tokens_whatever_the_padding_and_the_batch(folder: Path) -> None:  # noqa: F811
    mixture = learning(folder, **ALL)
    stir(mixture)
    rows = [*rows_of(mixture, "numbers")[:2], *rows_of(mixture, "shapes")[:2]]
    skills = {rows[0].row_id: "base", rows[3].row_id: "b"}
    whole = sums(mixture, rows, skills)
    assert sums(mixture, rows, skills, side="left") == pytest.approx(whole, rel=1e-5, abs=5e-6)
    single = [sums(mixture, [row], skills) for row in rows]
    assert {n: sum(one[n] for one in single) for n in whole} == pytest.approx(
        whole, rel=1e-5, abs=5e-6
    )
    right = 0.0
    for row, own in zip(rows, ("base", "c", "c", "b"), strict=True):
        of_row = gates(mixture, collate([row], 0))[:, 0, :-1, mixture.router.names.index(own)]
        right -= float(of_row.log().mean(dim=0).sum())  # the last token predicts nothing
    assert whole["routing"] == pytest.approx(right, rel=1e-5)
    assert single[1]["keep"] == single[1]["distillation"] == 0.0  # not replayed


def test_what_was_before_is_the_mixture_before_the_birth(folder: Path) -> None:  # noqa: F811
    mixture = grown(folder, BIRTHS)
    mixture.routing.settings = grown(folder, (), **ALL).routing.settings
    before = copy.deepcopy(mixture)
    mixture.spawn("c", rank=2)
    row = rows_of(mixture, "numbers")[0]
    at_birth = sums(mixture, [row], {row.row_id: "base"})
    batch = collate([row], 0)
    shared = gates(before, batch)[:, 0, :-1, 0].mean(dim=0).sum() * math.log(2)  # half a gate went
    assert at_birth["keep"] == pytest.approx(float(shared), rel=1e-4)
    assert at_birth["distillation"] == pytest.approx(0.0, abs=1e-5)
    stir(mixture)
    old, new = (logits(some, batch)[0, :-1].log_softmax(-1) for some in (before, mixture))
    expected = kl_div(new, old, reduction="sum", log_target=True)
    moved = sums(mixture, [row], {row.row_id: "base"})
    assert moved["distillation"] == pytest.approx(float(expected), rel=1e-4)
    assert moved["keep"] != pytest.approx(at_birth["keep"], rel=1e-2)


def test_the_second_pass_leaves_the_first_to_the_backward_pass(folder: Path) -> None:  # noqa: F811
    """Checkpointed blocks read their gates again."""
    found = []
    for checkpointed in (False, True):
        mixture = learning(folder, **ALL)
        stir(mixture)
        if checkpointed:
            mixture.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        rows = rows_of(mixture, "numbers")[:3]
        module = LossModule(mixture.train(), router_terms(mixture, {rows[0].row_id: "a"}))
        batch = {**collate(rows, 0), "row_ids": [row.row_id for row in rows]}
        module(batch, {"next_token": 1.0, **ALL}, 0).loss.backward()
        found.append({n: p.grad for n, p in mixture.named_parameters() if p.requires_grad})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)


def stage(mixture: ExpertMixture, place: Path, *more: TrainerCallback, **options: Any) -> Any:
    rows = [*rows_of(mixture, "numbers"), *rows_of(mixture, "shapes")]
    skills = {row.row_id: "a" for row in rows if row.row_id.startswith("shapes")}
    chosen = TrainingSettings(**{"steps": 4, "batch_rows": 8, "learning_rate": 1e-2, **options})
    return train_stage(
        mixture,
        StageData(rows, 0),
        chosen,
        output_folder=place,
        callbacks=[mixture.callback(), *more],
        terms=router_terms(mixture, skills),
    )


def test_no_accumulation_changes_a_loss_or_a_gradient(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    found = []
    for accumulation in (1, 2, 4):
        mixture = learning(folder, **ALL)
        done = stage(mixture, tmp_path / str(accumulation), steps=2, accumulation=accumulation)
        norms = [line["grad_norm"] for line in done.history if "grad_norm" in line]
        found.append([*norms, *(row["raw"] for row in done.ledger.rows())])
        assert not torch.allclose(mixture.router.usage, torch.full((), 0.25))
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-4, abs=1e-6)


class Killed(Exception):
    """The power is gone."""


class Kill(TrainerCallback):
    """Takes the power away in the fourth step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise Killed


def test_a_killed_stage_goes_on_as_if_nothing_had_been(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Across the step at which two experts answer instead of all, and with usage of the step before."""
    options: dict[str, Any] = {**ALL, "top": 1, "immature": 2, "temperature": 2.0}
    whole = learning(folder, **options)
    stage(whole, tmp_path / "whole", checkpoint_every=2)
    assert whole.routing.step == 3
    killed = learning(folder, **options)
    with pytest.raises(Killed):
        stage(killed, tmp_path / "killed", Kill(), checkpoint_every=2)
    again = learning(folder, **options)
    assert stage(again, tmp_path / "killed", checkpoint_every=2).resumed_from == 2
    now = dict(again.state_dict())
    assert "router.rows.xp_c" in now
    for name, value in whole.state_dict().items():
        assert torch.equal(now[name], value), name


def test_in_another_trainer_the_loss_holds_them(folder: Path) -> None:  # noqa: F811
    chosen = {**ALL, "distillation": 0.0}
    mixture = learning(folder, **chosen)
    stir(mixture)
    batch = batch_of(mixture, "numbers", count=3)
    rows = rows_of(mixture, "numbers", seed=1)[:3]
    own = mixture.router.names.index("a")
    plain = mixture(**batch).loss
    for count, per in ((None, int((batch["labels"][:, 1:] != -100).sum())), (17, 17)):
        mixture.train()
        mixture.router.counted = 0.0
        skills = torch.tensor([own, 3, 3])
        alone = mixture(**batch, num_items_in_batch=count, skills=skills).loss
        mixture.eval()
        base = mixture(**batch, num_items_in_batch=count).loss
        with_terms = LossModule(mixture, router_terms(mixture, {rows[0].row_id: "a"}))
        ids = {"row_ids": ["numbers0", *(row.row_id for row in rows[1:])]}
        micro = with_terms({**batch, **ids}, {"next_token": 1.0, **chosen}, 0)
        added = sum(chosen[n] * s.item() for n, s in micro.sums.items() if n != "next_token")
        assert (alone - base).item() == pytest.approx(added / per, rel=1e-4)
    assert mixture(**batch).loss == plain  # in eval mode the loss is the model's
    usage = gates(mixture, batch)[:, :, :-1][:, (batch["labels"][:, 1:] != -100)].mean(dim=1)
    mixture.callback().on_step_end(None, None, None)
    torch.testing.assert_close(mixture.router.usage, usage, rtol=1e-4, atol=1e-6)


def test_a_trainer_of_transformers_trains_the_router(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    found = []
    for accumulation in (1, 2):
        mixture = learning(folder, routing=1.0, balance=0.5)
        arguments = TrainingArguments(
            str(tmp_path), max_steps=2, save_strategy="no", report_to="none", use_cpu=True, optim="sgd",
            disable_tqdm=True, learning_rate=1e-1, per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation, lr_scheduler_type="constant",
            max_grad_norm=0.0,
        )  # fmt: skip
        Trainer(
            mixture,
            arguments,
            train_dataset=rows_of(mixture, "numbers")[:8],
            data_collator=lambda rows: collate(rows, 0),
            callbacks=[mixture.callback()],
        ).train()
        assert mixture.routing.step == 1
        found.append({name: value.clone() for name, value in mixture.router.state_dict().items()})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)
    assert bool(found[0]["rows.xp_c"].any())


def test_what_cannot_be_is_refused(folder: Path) -> None:  # noqa: F811
    mixture = learning(folder, **ALL)
    with pytest.raises(SettingsError, match="`skills` must be skills of the router.*found .'z'."):
        router_terms(mixture, {"row": "z"})
    batch = batch_of(mixture, "numbers")
    with pytest.raises(UnsupportedError, match="`distillation` must be left to train_stage"):
        mixture.train()(**batch)
    packed = {**batch, "position_ids": torch.zeros_like(batch["labels"]), "row_ids": [""] * 4}
    module = LossModule(mixture, router_terms(mixture, {"row": "a"}))
    with pytest.raises(
        UnsupportedError, match="`packing` must be left out where rows are replayed"
    ):
        module(packed, {"routing": 1.0}, 0)


def test_without_weights_or_a_learned_router_there_are_no_terms(folder: Path) -> None:  # noqa: F811
    assert [*router_terms(learning(folder, routing=0.0), {}).members] == [NextToken()]
    mixture = learning(folder)
    mixture.router = None
    assert [*router_terms(mixture, {}).members] == [NextToken()]
