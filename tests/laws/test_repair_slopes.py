"""Law: the slopes of an evaluation are the derivatives of its losses, per task and fold, for every granularity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.foundation.models import decoders
from tests.interference import tiny
from tests.merging import pairs, tuned
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mixtral.modeling_mixtral import MixtralRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm

from crosstune.foundation.data import UNSCORED, collate
from crosstune.merging.groups import coordinates
from crosstune.merging.optimise.archive import pull_back
from crosstune.merging.session import Session

STEP = 3e-4  # of a difference of fourth order: what it leaves out is STEP**4 = 1e-14 times a fifth derivative
CLOSE = 5e-6  # float64: 1e3 nats * 2.2e-16 / STEP = 1e-9, and what STEP leaves out, 1e-8 where curved most, times 500
OF_SEVERAL = tuple(name for name in tuned.EVERY if name != "singular")


@pytest.fixture(autouse=True)
def without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, attention and routing round to float32 inside, which leaves differences four digits; here they do not."""

    def norm(self: Any, hidden: Tensor) -> Tensor:
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden * torch.rsqrt(variance + self.variance_epsilon)

    rounding = torch.nn.functional.softmax

    def softmax(scores: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
        return rounding(
            scores, dim=dim, dtype=torch.promote_types(scores.dtype, dtype or scores.dtype)
        )

    for kind in (LlamaRMSNorm, Phi3RMSNorm, MixtralRMSNorm):
        monkeypatch.setattr(kind, "forward", norm)
    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def double(session_of: Callable[..., tuple[Any, Any]] = tuned.pair) -> tuple[Any, Any]:
    """A pair in float64, in which differences of losses are exact to ten digits."""
    before, after = session_of()
    return before.double(), after.double()


def opened(before: Any, after: Any, **options: Any) -> Session:
    between = options.pop("between", ())
    options.setdefault("granularity", OF_SEVERAL if between else tuned.EVERY)
    return tuned.session(tuned.opened(before, after, between=between), **options)


def middle(session: Session) -> np.ndarray:
    """Somewhere inside the space."""
    return np.random.default_rng(0).uniform(0.2, 0.9, session.space.shape)


def log_probabilities(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1].double().log_softmax(-1)


def nats(session: Session, values: np.ndarray) -> Tensor:
    """The summed nats [K, F] of every task and fold, by the shortest way."""
    session.space.place(torch.from_numpy(values))
    found = torch.zeros(len(session.roles.tasks), session.settings.folds, dtype=torch.float64)
    for item in session.evaluator.items:
        batch = collate(item.rows, 0)
        targets = batch["labels"][:, 1:]
        told = log_probabilities(session.ends.model, batch)
        chosen = told.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        place = torch.zeros_like(found)
        place[item.task, item.fold] = 1.0
        found = found - place * chosen[targets != UNSCORED].sum()
    return found


def divergence(session: Session) -> Callable[[Session, np.ndarray], Tensor]:
    """KL from the teacher of each task, by the shortest way."""
    said: dict[tuple[float, int], Tensor] = {}
    batches = [collate(item.rows, 0) for item in session.evaluator.items]
    for end in (0.0, 1.0):
        session.space.place(torch.full(session.space.shape, end, dtype=torch.float64))
        for at, batch in enumerate(batches):
            said[end, at] = log_probabilities(session.ends.model, batch).detach()

    def told(session: Session, values: np.ndarray) -> Tensor:
        session.space.place(torch.from_numpy(values))
        found = torch.zeros(2, session.settings.folds, dtype=torch.float64)
        learned = session.roles.places(session.roles.learned)
        for at, item in enumerate(session.evaluator.items):
            teacher = said[float(item.task in learned), at]
            student = log_probabilities(session.ends.model, batches[at])
            scored = batches[at]["labels"][:, 1:] != UNSCORED
            apart = (teacher.exp() * (teacher - student)).sum(-1)[scored].sum()
            found[item.task, item.fold] += apart.detach()
        return found

    return told


def differences(
    session: Session,
    values: np.ndarray,
    direction: np.ndarray,
    loss: Callable[[Session, np.ndarray], Tensor] = nats,
) -> np.ndarray:
    with torch.no_grad():
        far, near = (
            loss(session, values + way * STEP * direction)
            - loss(session, values - way * STEP * direction)
            for way in (2, 1)
        )
    return ((8 * near - far) / (12 * STEP)).numpy()


def assert_derivative(
    session: Session, loss: Callable[[Session, np.ndarray], Tensor] = nats
) -> None:
    """Every granularity along a random direction of its own, at a place inside the space."""
    ends = session.space.shape[0]
    values = middle(session)
    slopes = session.evaluator(values).slopes
    assert np.abs(slopes).max() > 0.1
    names = [name for name in tuned.EVERY if ends == 1 or name != "singular"]
    for name in names:
        axes = coordinates(name, session.groups, session.layers)
        along = np.random.default_rng(1).normal(size=(ends, axes.count))
        along /= np.abs(along @ axes.matrix.T).max()
        found = ((slopes @ axes.matrix) * along).sum((-2, -1))
        truth = differences(session, values, along @ axes.matrix.T, loss)
        margin = CLOSE * np.abs(slopes).max()
        np.testing.assert_allclose(found, truth, rtol=CLOSE, atol=margin, err_msg=name)


def test_every_granularity_of_a_full_model() -> None:
    assert_derivative(opened(*double()))


def test_a_tied_embedding() -> None:
    before = tiny.llama(seed=1, tied=True).double().eval()
    assert_derivative(opened(before, pairs.moved(before)))


@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox", "mixtral"])
def test_families_that_fuse_or_turn_their_matrices(family: str) -> None:
    # All experts for every token: a step that changes a token's expert has no derivative.
    every = {"num_experts_per_tok": 3} if family == "mixtral" else {}
    before = decoders.decoder(family, seed=0, **every).double()
    before.set_experts_implementation("eager")  # the fast one has no float64
    after = pairs.moved(before)
    assert_derivative(opened(before, after))


def test_an_adapter() -> None:
    assert_derivative(opened(*double(tuned.adapted)))


def test_two_adapters_in_one() -> None:
    """Both change every module, so that the factors of one are moved down and those of the other up."""
    shape = {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"}
    before, after = (pairs.adapted(pairs.base(), seed=seed, **shape).double() for seed in (1, 2))
    assert_derivative(opened(before, after))


def test_a_soup() -> None:
    before, after = double()
    assert_derivative(opened(before, after, between=[pairs.moved(before, seed=9)]))


def test_divergence_from_the_checkpoints() -> None:
    session = opened(*double(), target="checkpoints", learned=("bn",))
    assert_derivative(session, divergence(session))


def test_every_single_group_by_differences() -> None:
    session = opened(*double(), granularity=("embedding_rows", "head"))
    values = middle(session)
    slopes = session.evaluator(values).slopes
    for at in range(len(session.groups)):
        along = np.zeros(session.space.shape)
        along[0, at] = 1.0
        truth = differences(session, values, along)
        np.testing.assert_allclose(
            slopes[:, :, 0, at], truth, rtol=CLOSE, atol=CLOSE * np.abs(slopes).max()
        )


@pytest.mark.parametrize("ends", [1, 2])
def test_every_group_is_the_inner_product_of_the_whole_gradient_with_its_change(ends: int) -> None:
    """The slow oracle: all gradients at once by autograd, cut into parts afterwards."""
    before, after = double()
    between = [pairs.moved(before, seed=9)] if ends == 2 else []
    session = opened(before, after, between=between, granularity=("tensor", "head"))
    values = middle(session)
    slopes = session.evaluator(values).slopes
    losses = nats(session, values)
    known = dict(session.ends.model.named_parameters())
    for task in range(2):
        for fold in range(2):
            gradient = torch.autograd.grad(
                losses[task, fold], [known[name] for name in session.ends.names], retain_graph=True
            )
            named = dict(zip(session.ends.names, gradient, strict=True))
            inner = np.zeros(session.space.shape)
            for end, model in enumerate((*between, after)):
                moved, start = dict(model.named_parameters()), dict(before.named_parameters())
                for at, group in enumerate(session.groups):
                    name = group.part.parameter
                    change = group.elements.take((moved[name] - start[name]).detach())
                    inner[end, at] = (group.elements.take(named[name]) * change).sum().item()
            truth = pull_back(values, inner)
            np.testing.assert_allclose(
                slopes[task, fold], truth, rtol=CLOSE, atol=CLOSE * np.abs(slopes).max()
            )
