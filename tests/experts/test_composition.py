"""Ways to put experts together, against weights that are added up by hand and distributions that are mixed in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.experts.test_mixture import folder, fresh, rows_of, three  # noqa: F401
from torch import Tensor

from crosstune.experts.composition import compose
from crosstune.experts.gated import GatedLinear
from crosstune.experts.mixture import ExpertMixture
from crosstune.foundation.data import UNSCORED, Encoded, collate
from crosstune.foundation.errors import SettingsError, TrainingError
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.evaluation.scoring import batches_of
from crosstune.foundation.models import load_model, model_inputs

TWO = ("numbers", "shapes")


def both(mixture: ExpertMixture) -> list[Encoded]:
    return rows_of(mixture, "numbers", seed=5)[:6] + rows_of(mixture, "shapes", seed=5)[:6]


def added_up(mixture: ExpertMixture, place: Path, share: float) -> torch.nn.Module:
    """The base model with the share of both updates in its weights."""
    model = load_model(place)
    with torch.no_grad():
        for name, module in mixture.get_base_model().named_modules():
            if isinstance(module, GatedLinear):
                for skill in TWO:
                    update = module.get_delta_weight(mixture.bank.expert(skill).adapter)
                    model.get_submodule(name).weight += share * update
    return model


def label_nats(probabilities: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """−log of the next label's probability, summed over rows."""
    labels = batch["labels"][:, 1:]
    own = probabilities[:, :-1].gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    return -(own.log() * (labels != UNSCORED)).sum(dim=1)


def test_sums_are_those_of_weights_that_are_added_up(three, folder: Path) -> None:  # noqa: F811
    rows = both(three)
    found = compose(three, rows, TWO)
    for way, share in (("sum", 1.0), ("mean", 0.5)):
        by_hand = score_rows(added_up(three, folder, share), rows, pad_id=0).nats_per_token
        loss = found.loss(way)
        assert float(loss.value) == pytest.approx(by_hand.value, rel=1e-5)
        assert float(loss.low) == pytest.approx(by_hand.low, rel=1e-4)
    with three.answering("shapes"):
        alone = score_rows(three, rows, pad_id=0).loss
    assert float(found.loss("shapes").value) == pytest.approx(alone, rel=1e-6)
    assert float(found.loss("router").value) == pytest.approx(
        score_rows(three, rows, pad_id=0).loss
    )


def test_distributions_are_mixed_in_full(three) -> None:  # noqa: F811
    rows = both(three)
    rows = [rows[at] for at in next(batches_of(rows, 4096))]
    batch, found = collate(rows, 0), compose(three, rows, TWO)
    (features,) = (found for found, _ in three.routing.features(rows))
    gates = three.router.gates(features)
    own = []
    with torch.no_grad():
        for names in ((), ("numbers",), ("shapes",)):  # as the router's skills stand
            with three.answering(*names):
                own.append(three(**model_inputs(batch)).logits.double().softmax(-1))
    half = label_nats((own[1] + own[2]) / 2, batch)
    gated = label_nats(sum(p * gates[..., [at]] for at, p in enumerate(own)), batch)
    torch.testing.assert_close(found.nats["logits"], half, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.nats["gated logits"], gated, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(half, gated, rtol=1e-3)


def test_differences_are_paired_by_rows(three) -> None:  # noqa: F811
    found = compose(three, both(three), TWO)
    paired = found.loss("sum", against="numbers")
    assert float(paired.value) == pytest.approx(
        float(found.loss("sum").value - found.loss("numbers").value)
    )
    same = found.loss("sum", against="sum")
    assert (float(same.low), float(same.high)) == (0.0, 0.0)


def test_the_mixture_is_left_as_it_was(three) -> None:  # noqa: F811
    rows = both(three)
    before = score_rows(three, rows, pad_id=0).nats
    hooks = [len(module._forward_pre_hooks) for module in three.modules()]
    compose(three, rows, TWO)
    assert torch.equal(score_rows(three, rows, pad_id=0).nats, before)
    assert [len(module._forward_pre_hooks) for module in three.modules()] == hooks


def test_who_is_unknown_or_learning_is_refused(folder: Path, three) -> None:  # noqa: F811
    with pytest.raises(SettingsError, match="must be an expert of the mixture"):
        compose(three, both(three), ("numbers", "cooking"))
    young = fresh(folder)
    young.spawn("numbers", rank=2)
    with pytest.raises(TrainingError):
        compose(young, both(young), ("numbers",))
