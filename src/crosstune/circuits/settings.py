"""Settings of a circuit measurement: which scores, normalised by whose Fisher, damped how, within what memory. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.foundation.settings.options import at_least

BLOCKS = ("q", "k", "v", "o")
"""The four projections of attention; a head owns output rows of Q, K and V and input columns of O."""
VARIANTS = ("directional", "signed", "symmetric", "ewc", "kfac")
"""What is scored for a pair of samples, see `scoring.variants` for the formulas."""
FISHERS = ("task_a", "pooled", "held_out", "leave_one_out", "true")
"""Whose squared gradients normalise a score, see `scoring.fisher`."""
DAMPINGS = ("add", "floor", "conditional")
"""How a small diagonal entry is kept from dividing, see `scoring.fisher`."""
_OWN_FISHER = ("ewc", "kfac")  # variants that take task A's, whatever is chosen for the others


@dataclass(frozen=True, order=True)
class Form:
    """One score of pairs of samples: a variant under a Fisher.

    Attributes:
        variant: One of `VARIANTS`.
        fisher: One of `FISHERS`; `ewc` multiplies by it, `kfac` is a Fisher of its own and takes task A's.
    """

    variant: str
    fisher: str

    def __str__(self) -> str:
        return f"{self.variant}/{self.fisher}"


@dataclass(frozen=True)
class CircuitSettings:
    """How head-resolved interference between two tasks is measured."""

    variants: tuple[str, ...] = ("directional", "signed", "symmetric")
    """Scores of every pair of samples: directional, signed, symmetric, ewc, kfac."""
    fisher: str | None = None
    """Whose Fisher normalises pair scores: task_a, pooled, held_out, leave_one_out, true. None takes task A's for the
    directional score and the pooled one for those that must share it (signed, symmetric)."""
    averages: str = "pooled"
    """Whose Fisher normalises averages over task A. Under `task_a` (and nearly so under `held_out` and `leave_one_out`) the
    average of the directional score says nothing about A: it is ‖g_j‖₁."""
    blocks: tuple[str, ...] = BLOCKS
    """Which projections: q, k, v, o."""
    layers: tuple[int, ...] | None = None
    """Only these layers; None for all."""
    heads: tuple[int, ...] | None = None
    """Only these query heads (and the key-value heads that serve them); None for all."""
    damping: Literal["add", "floor", "conditional"] = "add"
    """How small Fisher entries are kept from dividing: `add` λ to all, `floor` all at λ, or λ only where F < 10 ε."""
    damping_share: float = 0.1
    """λ as a share of the median Fisher entry of the head's slice."""
    epsilon: float = 1e-12
    """Floor under every Fisher entry, absolute."""
    rows: int = 64
    """Samples of each task; chosen by what they say and the seed."""
    min_samples: int = 10
    """Fewest samples of task A that may estimate a Fisher."""
    length: int = 128
    """Tokens kept of a row; at most the model's context."""
    budget_gib: float = 2.0
    """Most memory for tiles and for factors that are kept; what does not fit is spilled to disk or done in parts."""
    precision: Literal["float32", "model"] = "float32"
    """Arithmetic of the model: half-precision weights as float32, or as they are. Tiles are float32 always."""
    computation_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tiles are computed; `auto` takes the model's device."""
    tf32: bool = True
    """Whether matrix products on CUDA may round their factors to TF32."""
    batch_tokens: int = 4096
    """Padded tokens of one forward pass; changes speed and memory, never a figure."""
    seed: int = 0
    """Changes which rows are chosen and the labels that the true Fisher samples."""
    level: float = 0.95
    """Level of the intervals."""

    def __post_init__(self) -> None:
        for argument in ("variants", "blocks", "layers", "heads"):
            _check_several(argument, getattr(self, argument))
        for argument, values, known in (
            ("variants", self.variants, VARIANTS),
            ("blocks", self.blocks, BLOCKS),
            ("averages", (self.averages,), FISHERS),
            ("fisher", () if self.fisher is None else (self.fisher,), FISHERS),
            ("damping", (self.damping,), DAMPINGS),
            ("computation_device", (self.computation_device,), ("auto", "cpu", "cuda")),
        ):
            for value in values:
                _require(value in known, argument, f"must be of {', '.join(known)}", repr(value))
        for argument in ("damping_share", "epsilon"):
            value = getattr(self, argument)
            _require(math.isfinite(value) and value >= 0, argument, "must be finite and ≥ 0", value)
        at_least("rows", self.rows, 1)
        at_least("min_samples", self.min_samples, 1)
        at_least("length", self.length, 2)
        _require(self.budget_gib > 0, "budget_gib", "must be above 0", self.budget_gib)
        _require(0 < self.level < 1, "level", "must lie between 0 and 1", self.level)
        _require(
            self.fisher in (None, "task_a") or not set(_OWN_FISHER).issuperset(self.variants),
            "fisher",
            "must be left out where every variant takes task A's: ewc and kfac",
            repr(self.fisher),
        )
        self.gradient_settings()

    @property
    def forms(self) -> tuple[Form, ...]:
        """The pair scores, in the order of `variants`."""
        return tuple(Form(variant, self._fisher_of(variant)) for variant in self.variants)

    @property
    def average_forms(self) -> tuple[Form, ...]:
        """The same variants as they are averaged: under `averages`, but for those that bring a Fisher of their own."""
        return tuple(
            Form(variant, "task_a" if variant in _OWN_FISHER else self.averages)
            for variant in self.variants
        )

    def _fisher_of(self, variant: str) -> str:
        if variant in _OWN_FISHER:
            return "task_a"
        return self.fisher or ("task_a" if variant == "directional" else "pooled")

    @property
    def blind(self) -> bool:
        """Whether averages of the directional score over task A were asked for under a Fisher that makes them independent of A."""
        return "directional" in self.variants and self.averages in (
            "task_a",
            "held_out",
            "leave_one_out",
        )

    @property
    def fishers(self) -> tuple[str, ...]:
        """Every Fisher that a form asks for, once."""
        return tuple(dict.fromkeys(form.fisher for form in (*self.forms, *self.average_forms)))

    def gradient_settings(self) -> GradientSettings:
        """How the model is evaluated."""
        return GradientSettings(self.precision, self.batch_tokens)

    def check_places(self, num_layers: int, num_heads: int) -> None:
        """Raise a SettingsError unless a model of this size has the layers and heads that are asked for."""
        for argument, places, count in (
            ("layers", self.layers, num_layers),
            ("heads", self.heads, num_heads),
        ):
            beyond = [place for place in places or () if place >= count]
            if beyond:
                raise SettingsError(
                    argument,
                    law=f"must be 0 to {count - 1} for this model",
                    found=", ".join(map(str, beyond)),
                    remedy="See Anatomy.of(model).describe().",
                )


def _check_several(argument: str, values: object) -> None:
    if values is None:
        return
    _require(
        isinstance(values, list | tuple), argument, "must be several in brackets", repr(values)
    )
    assert isinstance(values, list | tuple)
    _require(bool(values), argument, "must hold at least one", "none")
    _require(len(set(values)) == len(values), argument, "must not repeat", values)
    if argument in ("layers", "heads"):
        whole = all(isinstance(value, int) and value >= 0 for value in values)
        _require(whole, argument, "must be whole numbers of at least 0", values)


def _require(holds: bool, argument: str, law: str, found: object) -> None:
    if not holds:
        raise SettingsError(argument, law=law, found=found, remedy="See CircuitSettings.")
