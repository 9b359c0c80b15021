"""Accounts of forgetting: what was booked, chord by chord and site by site, in nats per token.

Signs: a positive entry means the loss rose through that site (forgotten), a negative one that it fell (learned).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from crosstune.foundation.gradients.blocks import Block
from crosstune.foundation.models import Site
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.interference.ledger.quadrature import Booking


@dataclass(frozen=True)
class Reference:
    """One side of one task, as the blocks it is measured on.

    Attributes:
        task: The task's name.
        side: `train` (a rise is lost retention) or `test` (a rise is lost capability).
        blocks: The blocks.
    """

    task: str
    side: str
    blocks: tuple[Block, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Task and side."""
        return self.task, self.side

    def __str__(self) -> str:
        return f"{self.task} ({self.side} rows)"


@dataclass(frozen=True)
class Segment:
    """One chord of one account; losses and their changes in nats per token.

    Attributes:
        start_step: The optimizer step at which the chord starts.
        stop_step: The optimizer step at which it ends.
        loss_start: Loss at its start.
        loss_stop: Loss at its end.
        booked: The sum of its entries.
        tolerance: The largest residual that counts as closed.
        panels: Simpson panels.
        evaluations: Gradient evaluations of the reference.
        seconds: Wall-clock time.
    """

    start_step: int
    stop_step: int
    loss_start: float
    loss_stop: float
    booked: float
    tolerance: float
    panels: int
    evaluations: int
    seconds: float

    @property
    def measured(self) -> float:
        """The measured change of the loss."""
        return self.loss_stop - self.loss_start

    @property
    def residual(self) -> float:
        """Booked minus measured."""
        return self.booked - self.measured


class Book:
    """The running account of one reference; it grows by one chord at a time.

    Args:
        sites: The places through which it can change, down to heads where attention is cut by head.
    """

    def __init__(self, reference: Reference, sites: Sequence[Site]) -> None:
        blocks = reference.blocks
        self.reference = reference
        self.sites = tuple(sites)
        whole = [site.whole for site in self.sites]
        self.components = tuple(sorted(set(whole), key=lambda site: site.depth_order))
        """The sites with their heads together."""
        self._component_of = torch.tensor([self.components.index(site) for site in whole])
        self.segments: list[Segment] = []
        self.path: list[Tensor] = []
        """[S] float64 for each segment: the entries of the mean block, in nats per token."""
        self.entries = torch.zeros(len(blocks), len(sites), dtype=torch.float64)
        self.change = torch.zeros(len(blocks), dtype=torch.float64)

    def add(
        self, booking: Booking, steps: tuple[int, int], evaluations: int, seconds: float
    ) -> None:
        """Book one chord.

        Args:
            booking: Its account, in nats divided by the task's expected tokens per block.
        """
        # Every block is divided by the mean tokens of a block, so the mean over blocks is per token.
        start = booking.loss.mean().item()
        self.segments.append(
            Segment(
                start_step=steps[0],
                stop_step=steps[1],
                loss_start=start,
                loss_stop=start + booking.change.mean().item(),
                booked=booking.entries.sum(dim=1).mean().item(),
                tolerance=booking.allowed,
                panels=booking.panels,
                evaluations=evaluations,
                seconds=seconds,
            )
        )
        self.path.append(booking.entries.mean(dim=0))
        self.entries += booking.entries
        self.change += booking.change

    def path_by_component(self) -> list[Tensor]:
        """The entries of each segment, [C] float64, heads added up."""
        return [self._by_component(entries) for entries in self.path]

    def _by_component(self, entries: Tensor) -> Tensor:
        """Entries of sites [..., S], added up to those of components [..., C]."""
        sums = entries.new_zeros(*entries.shape[:-1], len(self.components))
        return sums.index_add_(-1, self._component_of, entries)

    def tensors(self) -> dict[str, Tensor]:
        """What of the account is numbers, for a checkpoint."""
        empty = torch.zeros(0, len(self.sites), dtype=torch.float64)
        path = torch.stack(self.path) if self.path else empty
        return {"path": path, "entries": self.entries.clone(), "change": self.change.clone()}

    def facts(self) -> list[dict[str, float]]:
        """What of the account is one record a chord, for a checkpoint."""
        return [asdict(segment) for segment in self.segments]

    def restore(self, tensors: Mapping[str, Tensor], facts: Sequence[Mapping[str, float]]) -> None:
        """Go on from a checkpoint."""
        self.path = list(tensors["path"])
        self.entries = tensors["entries"].clone()
        self.change = tensors["change"].clone()
        self.segments = [Segment(**fact) for fact in facts]  # type: ignore[arg-type]

    def close(self, level: float) -> TaskAccount:
        """The account as it stands.

        Returns:
            Totals, components and heads with jackknife intervals over the blocks.
        """
        (change,) = self._with_intervals(self.change[:, None], level)
        by_component = self._with_intervals(self._by_component(self.entries), level)
        by_site = self._with_intervals(self.entries, level)
        blocks = {_block(site) for site in self.sites if site != site.whole}
        return TaskAccount(
            reference=self.reference,
            segments=tuple(self.segments),
            entries=tuple(map(Entry, self.components, *zip(*by_component, strict=True))),
            heads=tuple(
                Entry(site, *row)
                for site, row in zip(self.sites, by_site, strict=True)
                if _block(site) in blocks
            ),
            change=change,
        )

    def _with_intervals(self, values: Tensor, level: float) -> list[tuple[float, float, float]]:
        """Sums over blocks [K, N], as one value per token with its interval for each of N."""
        counts = torch.tensor([block.tokens for block in self.reference.blocks]).double()[:, None]
        interval = ratio_jackknife(values * self.reference.blocks[0].expected_tokens, counts, level)
        columns = (interval.value, interval.low, interval.high)
        return list(zip(*(column.tolist() for column in columns), strict=True))


def _block(site: Site) -> tuple[int | None, str]:
    """The projection of a layer that a site is of, whatever its head and LoRA factor."""
    return site.layer, site.component


@dataclass(frozen=True)
class Entry:
    """What one site added to a loss, in nats per token, with its interval over blocks."""

    site: Site
    nats: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskAccount:
    """The closed account of one side of one task.

    Attributes:
        reference: Whose loss it is.
        segments: Its chords.
        entries: What each component added.
        heads: The same of attention's projections, head by head; empty where the ledger was not told to.
            What belongs to no head (a bias of the output, a LoRA factor) stands beside them, so that the entries of
            a projection add up to its component's.
        change: The measured change with its interval, in nats per token.
    """

    reference: Reference
    segments: tuple[Segment, ...]
    entries: tuple[Entry, ...]
    heads: tuple[Entry, ...]
    change: tuple[float, float, float]

    @property
    def measured(self) -> float:
        """The measured change of the loss over all chords, nats per token."""
        return sum(segment.measured for segment in self.segments)

    @property
    def booked(self) -> float:
        """The sum of all entries, nats per token."""
        return sum(entry.nats for entry in self.entries)

    @property
    def residual(self) -> float:
        """Booked minus measured."""
        return self.booked - self.measured

    @property
    def tolerance(self) -> float:
        """The sum of the chords' tolerances."""
        return sum(segment.tolerance for segment in self.segments)

    @property
    def evaluations(self) -> int:
        """Gradient evaluations of the reference."""
        return sum(segment.evaluations for segment in self.segments)

    def share(self, entry: Entry) -> float:
        """An entry's part of the measured change; NaN where the loss did not move.

        Returns:
            The signed share; the shares of all entries add up to 1 within the residual.
        """
        return entry.nats / self.measured if self.measured else float("nan")

    def __str__(self) -> str:
        if not self.segments:
            return f"{self.reference}: no chord was walked yet."
        verb = "lost" if self.measured > 0 else "gained"
        _, low, high = self.change
        steps = self.segments[-1].stop_step - self.segments[0].start_step
        top = sorted(self.entries, key=lambda entry: -abs(entry.nats))[:3]
        largest = ", ".join(f"{entry.site} {entry.nats:+.4g}" for entry in top)
        return (
            f"{self.reference} {verb} {abs(self.measured):.4g} nats per token (change {low:+.4g} to "
            f"{high:+.4g} over {len(self.reference.blocks)} blocks) in {steps} steps; its {len(self.entries)} "
            f"components add up to {self.booked:+.4g}; residual {self.residual:+.2g} (tolerance "
            f"{self.tolerance:.2g}) over {len(self.segments)} chords and {self.evaluations} gradient "
            f"evaluations. Largest: {largest}."
        )


@dataclass(frozen=True)
class Account:
    """The closed accounts of one stage; its text says in words what was lost and that it adds up.

    Attributes:
        stage: The stage's name.
        every: Optimizer steps of a chord.
        tasks: One account for each side of each task.
    """

    stage: str
    every: int
    tasks: tuple[TaskAccount, ...]

    def of(self, task: str, side: str = "train") -> TaskAccount:
        """The account of one side of one task.

        Args:
            task: The task's name.
            side: `train` or `test`.

        Returns:
            That account.

        Raises:
            KeyError: The ledger does not keep it.
        """
        for account in self.tasks:
            if account.reference.key == (task, side):
                return account
        raise KeyError((task, side))

    def __str__(self) -> str:
        return "\n".join(
            [f"Stage {self.stage!r}, chords of {self.every} steps.", *map(str, self.tasks)]
        )
