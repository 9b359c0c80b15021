"""Accounts of forgetting: what each site contributed to a loss change, segment by segment, in nats per token.

Signs: a positive contribution means the loss rose through that site (forgotten), a negative one that it fell (learned).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from crosstune.foundation.gradients.blocks import Block
from crosstune.foundation.models import Site
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.interference.ledger.quadrature import SegmentContributions


@dataclass(frozen=True)
class Reference:
    """One side of one task, as blocks: of `train` rows a rise is lost retention, of `test` rows lost capability."""

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
    """One segment of one account, as in the table `forgetting_segments`; losses and their changes in nats per token."""

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


class RunningAccount:
    """The account of one reference while training goes on; sites go down to heads where attention is cut by head."""

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
        """[S] float64 for each segment: the contributions to the mean block, in nats per token."""
        self.entries = torch.zeros(len(blocks), len(sites), dtype=torch.float64)
        self.change = torch.zeros(len(blocks), dtype=torch.float64)

    def add(
        self, found: SegmentContributions, steps: tuple[int, int], evaluations: int, seconds: float
    ) -> None:
        """Add one segment."""
        # The nats of every block are divided by the mean tokens of a block, so the mean over blocks is per token.
        start = found.loss.mean().item()
        self.segments.append(
            Segment(
                start_step=steps[0],
                stop_step=steps[1],
                loss_start=start,
                loss_stop=start + found.change.mean().item(),
                booked=found.entries.sum(dim=1).mean().item(),
                tolerance=found.allowed,
                panels=found.panels,
                evaluations=evaluations,
                seconds=seconds,
            )
        )
        self.path.append(found.entries.mean(dim=0))
        self.entries += found.entries
        self.change += found.change

    def path_by_component(self) -> list[Tensor]:
        """The contributions of each segment, [C] float64, heads added up."""
        return [self._by_component(entries) for entries in self.path]

    def _by_component(self, entries: Tensor) -> Tensor:
        """Contributions of sites [..., S], added up to those of components [..., C]."""
        sums = entries.new_zeros(*entries.shape[:-1], len(self.components))
        return sums.index_add_(-1, self._component_of, entries)

    def tensors(self) -> dict[str, Tensor]:
        """The sums of the account, for a checkpoint."""
        empty = torch.zeros(0, len(self.sites), dtype=torch.float64)
        path = torch.stack(self.path) if self.path else empty
        return {"path": path, "entries": self.entries.clone(), "change": self.change.clone()}

    def facts(self) -> list[dict[str, float]]:
        """The segments of the account, for a checkpoint."""
        return [asdict(segment) for segment in self.segments]

    def restore(self, tensors: Mapping[str, Tensor], facts: Sequence[Mapping[str, float]]) -> None:
        """Go on from a checkpoint."""
        self.path = list(tensors["path"])
        self.entries = tensors["entries"].clone()
        self.change = tensors["change"].clone()
        self.segments = [Segment(**fact) for fact in facts]  # type: ignore[arg-type]

    def close(self, level: float) -> TaskAccount:
        """The account as it stands: total, components and heads with jackknife intervals over the blocks."""
        (change,) = self._with_intervals(self.change[:, None], level)
        by_component = self._with_intervals(self._by_component(self.entries), level)
        by_site = self._with_intervals(self.entries, level)
        blocks = {_block(site) for site in self.sites if site != site.whole}
        return TaskAccount(
            reference=self.reference,
            segments=tuple(self.segments),
            entries=tuple(map(Contribution, self.components, *zip(*by_component, strict=True))),
            heads=tuple(
                Contribution(site, *row)
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
class Contribution:
    """What one site contributed to a loss change, in nats per token, with its interval over blocks."""

    site: Site
    nats: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskAccount:
    """The closed account of one side of one task.

    Attributes:
        reference: Whose loss it is.
        segments: Its segments.
        entries: The contribution of each component.
        heads: The contributions of attention's heads, with `LedgerSettings.by_head`. What belongs to no head (a bias of
            the output, a LoRA factor) stands beside them, so that they add up to their component's.
        change: The measured change with its interval, in nats per token.
    """

    reference: Reference
    segments: tuple[Segment, ...]
    entries: tuple[Contribution, ...]
    heads: tuple[Contribution, ...]
    change: tuple[float, float, float]

    @property
    def measured(self) -> float:
        """The measured change of the loss, nats per token."""
        return sum(segment.measured for segment in self.segments)

    @property
    def booked(self) -> float:
        """The sum of all contributions, nats per token."""
        return sum(entry.nats for entry in self.entries)

    @property
    def residual(self) -> float:
        """Booked minus measured."""
        return self.booked - self.measured

    @property
    def tolerance(self) -> float:
        """The sum of the segments' tolerances."""
        return sum(segment.tolerance for segment in self.segments)

    @property
    def evaluations(self) -> int:
        """Gradient evaluations of the reference."""
        return sum(segment.evaluations for segment in self.segments)

    def share(self, entry: Contribution) -> float:
        """A contribution's signed share of the measured change; NaN where the loss did not move."""
        return entry.nats / self.measured if self.measured else float("nan")

    def __str__(self) -> str:
        if not self.segments:
            return f"{self.reference}: no segment was integrated yet."
        verb = "lost" if self.measured > 0 else "gained"
        steps = self.segments[-1].stop_step - self.segments[0].start_step
        top = sorted(self.entries, key=lambda entry: -abs(entry.nats))[:3]
        largest = ", ".join(f"{entry.site} {entry.nats:+.4g}" for entry in top)
        return (
            f"{self.reference} {verb} {abs(self.measured):.4g} nats per token (change {Estimate(*self.change)} "
            f"over {len(self.reference.blocks)} blocks) in {steps} steps; its {len(self.entries)} "
            f"components add up to {self.booked:+.4g}; residual {self.residual:+.2g} (tolerance "
            f"{self.tolerance:.2g}) over {len(self.segments)} segments and {self.evaluations} gradient "
            f"evaluations. Largest: {largest}."
        )


@dataclass(frozen=True)
class Account:
    """The accounts of all tasks over one stage, in segments of `every` optimizer steps; its text says what was lost."""

    stage: str
    every: int
    tasks: tuple[TaskAccount, ...]

    def of(self, task: str, side: str = "train") -> TaskAccount:
        """The account of one side of one task: its `train` or its `test` rows."""
        for account in self.tasks:
            if account.reference.key == (task, side):
                return account
        raise KeyError((task, side))

    def __str__(self) -> str:
        return "\n".join(
            [f"Stage {self.stage!r}, segments of {self.every} steps.", *map(str, self.tasks)]
        )
