"""Terms of a training loss: what each asks one forward pass for, and the sum it makes of it. ``loss = Σ weight · sum / count``."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import or_
from typing import Any, Literal, Protocol, TypeGuard, cast, runtime_checkable

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.evaluation.scoring import labels_nats

Unit = Literal["tokens", "rows", "microbatch"]
UNITS: tuple[Unit, ...] = ("tokens", "rows", "microbatch")


@dataclass(frozen=True)
class Needs:
    """What a term asks one forward pass for; what no active term asks for is not computed."""

    logits: bool = False
    """[B, T, V]; without it the head does not run."""
    last_hidden_state: bool = False
    """What goes into the head, [B, T, H]: for a term that runs a head of its own."""
    states: Collection[int] = frozenset()
    """Sites of the residual stream (see ``Stream``), each [B, T, H]."""
    maps: Collection[int] = frozenset()
    """Layers whose attention probabilities are wanted, each [B, heads, T, T]."""
    second: Needs | None = None
    """The same of the frozen second model."""

    def __post_init__(self) -> None:
        """Any collection of sites and layers will do."""
        for name in ("states", "maps"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))

    def __or__(self, other: Needs) -> Needs:
        second = (
            self.second | other.second
            if self.second and other.second
            else self.second or other.second
        )
        return Needs(
            self.logits or other.logits,
            self.last_hidden_state or other.last_hidden_state,
            {*self.states, *other.states},
            {*self.maps, *other.maps},
            second,
        )

    def __bool__(self) -> bool:
        return self != Needs()


class Seen:
    """What one forward pass over a micro-batch let be seen; what was not asked for is an error.

    Values are as the model computed them: upcast what a loss is made of.
    """

    model: nn.Module
    """The model that is trained, or the second one; what it keeps of its own pass, such as gates, may be read from it."""
    batch: Mapping[str, Any]
    """What the trainer's `collate` made of the rows, and their ids, `row_ids`."""
    step: int
    """The optimizer step (counted from 0) that this loss is of; on held-out rows the last one taken."""
    logits: Tensor
    """Scores of the next tokens, [B, T, V]."""
    last_hidden_state: Tensor
    """What goes into the head, [B, T, H]."""
    states: Mapping[int, Tensor]
    """States of the residual stream by site, each [B, T, H]."""
    maps: Mapping[int, Tensor]
    """Attention probabilities by layer, each [B, heads, T, T]."""
    second: Seen
    """The same of the second model, without gradient."""

    def __init__(self, **found: Any) -> None:
        vars(self).update(found)

    def __getattr__(self, name: str) -> Any:
        if name not in Needs.__dataclass_fields__:
            raise AttributeError(name)
        raise SettingsError(
            "needs",
            law="must name all that a term looks at",
            found=f"seen.{name}, which no active term asked for",
            remedy=f"Give the term needs = Needs({name}=...).",
        )


class Entry(Protocol):
    """One entry of the loss ledger: a name, what its sum is divided by, its weight, and what it looks at."""

    @property
    def name(self) -> str:
        """What the log and the tables call it."""

    @property
    def unit(self) -> Unit:
        """What the sum is divided by, over the whole optimizer step: scored tokens, rows, or micro-batches.

        A sum over micro-batches is for what does not depend on rows, such as a penalty on parameters.
        """

    @property
    def needs(self) -> Needs:
        """What it asks the pass for."""

    def weight(self, step: int) -> float:
        """The factor at a step (counted from 0): a pure function of it. At 0 the entry is absent."""


@runtime_checkable
class Term(Entry, Protocol):
    """One part of the loss: a sum and the unit it is a sum over, never a mean.

    A term with parameters is an ``nn.Module``: they are trained, clipped and kept in checkpoints with the model's, and
    are not part of the model that is saved. A frozen model belongs into `Terms.second_model`, or out of torch's sight:
    as part of the module it would train, and be put in training mode.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON values that must be the same for a stage to be resumed; of a model it holds, the `weights_fingerprint`."""

    def sums(self, seen: Seen) -> Tensor:
        """The differentiable sum over one micro-batch, a scalar of at least float32; never under autocast."""


@runtime_checkable
class Group(Protocol):
    """Entries that one computation gives together, as a fused head does, which needs the factors before it runs."""

    @property
    def entries(self) -> Sequence[Entry]:
        """Its entries in the ledger."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """As a term's."""

    def fused(
        self, seen: Seen, factors: Mapping[str, float]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The differentiable Σ factor · sum of a micro-batch, and the detached sums; of the entries that have a factor."""


class Windowed(Protocol):
    """A term that also needs a statistic of a whole optimizer step: it gets that of the step before.

    In-window statistics would make the loss depend on how a step is split. The term must be an ``nn.Module`` that keeps
    the statistic in a persistent buffer, which checkpoints hold.
    """

    def observe(self, seen: Seen) -> Tensor:
        """What this micro-batch adds to the statistic, detached, of one shape."""

    def renew(self, total: Tensor) -> None:
        """Take over what all micro-batches and processes of the step that has ended added up to."""


@dataclass(frozen=True)
class NextToken:
    """Cross entropy of the next token, in nats: ``token_nats``, summed."""

    name: str = "next_token"
    unit: Unit = "tokens"
    needs: Needs = Needs(logits=True)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def weight(self, step: int) -> float:
        """The factor is always 1."""
        return 1.0

    def sums(self, seen: Seen) -> Tensor:
        """Nats of the micro-batch's scored tokens, added in float64."""
        return labels_nats(seen.logits, seen.batch["labels"]).sum(dtype=torch.float64)


NEXT_TOKEN: Sequence[Term | Group] = (NextToken(),)


@dataclass(frozen=True)
class Terms:
    """What a stage minimises: the weighted sum of its terms."""

    members: Sequence[Term | Group] = NEXT_TOKEN
    """Terms and groups of terms."""
    second_model: nn.Module | None = None
    """A frozen model that reads the same batches, such as a teacher; it is put in eval mode and never trained or saved."""

    def __post_init__(self) -> None:
        """Refuse what cannot be booked."""
        strange = [repr(term) for term in self.members if not isinstance(term, Term | Group)]
        law = "must be terms or groups: with settings, and sums or fused"
        self._refuse(strange, law, "Give objects such as NextToken().")
        lost = [repr(t) for t in self.members if is_windowed(t) and not isinstance(t, nn.Module)]
        law = "must be an nn.Module where a statistic is kept for the next step"
        self._refuse(lost, law, "Keep it in a persistent buffer.")
        names = [entry.name for entry in self.entries]
        twice = {f"{name} more than once" for name in names if names.count(name) > 1}
        law = "must be at least one, each with its own name"
        self._refuse(
            twice if names else ["none"], law, "The ledger books by name: rename or remove."
        )
        wrong = [
            f"{entry.name} in {entry.unit!r}" for entry in self.entries if entry.unit not in UNITS
        ]
        law = f"must have a unit that is counted: {', '.join(UNITS)}"
        self._refuse(wrong, law, "Sum over tokens or rows, and let the ledger divide.")
        looks = any(entry.needs.second for entry in self.entries)
        law = "must be given where a term looks at it"
        words = law, "none", "Give Terms(members, second_model=teacher)."
        hold(self.second_model is not None or not looks, SettingsError, "second_model", words)

    def _refuse(self, found: Iterable[str], law: str, remedy: str) -> None:
        if found := sorted(found):
            raise SettingsError("terms", law=law, found=", ".join(found), remedy=remedy)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The entries of an optimizer step in the ledger, in order."""
        return tuple(entry for term in self.members for entry in entries_of(term))

    def needs(self, names: Container[str]) -> Needs:
        """What the entries of these names ask for together."""
        return reduce(or_, (entry.needs for entry in self.entries if entry.name in names))


def is_group(term: Term | Group) -> TypeGuard[Group]:
    """Whether it has several entries (an instance check of a protocol takes longer than a small term)."""
    return hasattr(term, "fused")


def is_windowed(term: object) -> TypeGuard[Windowed]:
    """Whether it asks for a statistic of the step before."""
    return hasattr(term, "renew")


def entries_of(term: Term | Group) -> Sequence[Entry]:
    """A group's entries; a term is its own."""
    return term.entries if is_group(term) else (cast(Term, term),)
