"""The student-aware router: a gate per token over what the teacher offers, top-k of .4 capacity + .3 gap + .3 importance.

Four entries of the ledger look at one gate. All is on the clock of optimizer steps, and no number depends on the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.distillation.curriculum import Curriculum, Schedule
from crosstune.distillation.offers import ExpertOffers, LayerOffers, routers
from crosstune.distillation.terms.attention import check_maps, map_nats
from crosstune.distillation.terms.pilot import Pilot, predicting
from crosstune.foundation.models import Anatomy
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import Needs, Seen
from crosstune.foundation.training.terms import Unit

SHARES = (0.4, 0.3, 0.3)
"""Of capacity, gap and importance in the gate over a mixture's experts."""
DENSE_SHARES = (0.6, 0.4)
"""Of capacity and gap over a dense teacher's layers: it has no gate of its own."""
MOST = 4
"""Offers that the gate holds at the end of training, or all where there are fewer."""
NOISE = 0.1
"""Standard deviation of what is added to the capacity's logits."""


class Gate(NamedTuple):
    """The gate at N scored tokens, over E offers."""

    whole: Tensor
    """Before the largest are taken, [N, E]; each token's sums to 1, differentiable through the capacity."""
    chosen: Tensor
    """The largest, [N, k]."""
    weights: Tensor
    """Theirs, which sum to 1, [N, k]."""
    guess: Tensor
    """The projected student, in the offers' units, [N, H]."""


@dataclass(frozen=True)
class RoutingEntry:
    """One entry of the router in the ledger."""

    schedule: Schedule
    needs: Needs
    unit: Unit = "tokens"

    @property
    def name(self) -> str:
        """As the curriculum calls it."""
        return self.schedule.entry

    def weight(self, step: int) -> float:
        """Alpha · ramp."""
        return self.schedule(step)


class StudentAwareRouter(nn.Module):
    """Per token a gate over a mixture's experts, or a dense teacher's layers, that asks what the student can take.

    whole = .4 softmax(C s + noise) + .3 softmax(−Σ_d gap²) + .3 (the teacher's own gate), of a dense teacher .6 and .4 of the first
    two; s is the student's last state over its root mean square, gap the distance of P s from each offer, without gradient. The k
    largest are scaled to sum 1; k goes from 1 to `MOST` in equal parts of all steps. C and P begin at 0. Noise is drawn for each
    row and step, the same in every split and in evaluations.

    * ``routing.feature_matching``: Σ_d (P s − gated offer)², of which the offer has no gradient; 1 = predicting the mean of what the
      teacher's own gate (of a dense teacher: one layer) gives.
    * ``routing.attention_alignment``: KL(teacher's map ‖ student's last), heads averaged, nats; of the mixture's layer, or Σ gate · KL
      over a dense teacher's chosen layers: there C is drawn to layers that look where the student looks. 0 = the same maps.
    * ``routing.expert_importance``: KL(teacher's own gate ‖ whole), nats; chance is where the student knows nothing. Absent of a
      dense teacher.
    * ``routing.load_balancing``: E Σ_e f_e whole_e − 1, with the shares f of offers among the chosen in the optimizer step before
      over all processes (uniform in the first), so that it is linear in tokens; 0 = either is uniform.

    Unit: tokens, each entry summed over scored ones.
    Source: Shazeer et al. 2017, *Outrageously Large Neural Networks*, ICLR, arXiv 1701.06538, eq. 4 and 5 (noisy top-k; noise of
        constant size, the largest scaled and not taken anew by softmax); Fedus, Zoph and Shazeer 2022, *Switch Transformers*,
        JMLR 23, arXiv 2101.03961, eq. 4 (load balance; there f is of the same batch). The three parts of the gate are of no paper.

    Args:
        curriculum: Gives the weight of each entry.
        steps: Optimizer steps of the whole training.
        student: Only its shape is read.
        teacher: The second model of the terms.
        pilot: Made of this teacher.
        seed: Of the noise.

    Raises:
        UnsupportedError: The student trains its attention with dropout.
    """

    loads: Tensor
    """f: the share of each offer among the chosen in the optimizer step before, [E]."""

    def __init__(
        self,
        curriculum: Curriculum,
        steps: int,
        student: nn.Module,
        teacher: nn.Module,
        pilot: Pilot,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        shape, mixture = Anatomy.of(student), bool(routers(teacher))
        check_maps(student)
        self.offers = ExpertOffers(teacher, pilot) if mixture else LayerOffers(pilot)
        self.shares: Sequence[float] = SHARES if mixture else DENSE_SHARES
        self.site, self.steps, self.seed = shape.num_layers, steps, seed
        self.capacity = _at_zero(shape.hidden_size, self.offers.count)
        self.projection = _at_zero(shape.hidden_size, pilot.width)
        self.register_buffer("loads", torch.full((self.offers.count,), 1.0 / self.offers.count))
        needs = Needs(states={self.site}, second=self.offers.needs)
        maps = Needs(maps={self.site - 1}, second=Needs(maps=frozenset(self.offers.blocks)))
        wanted = {
            "feature_matching": needs,
            "attention_alignment": needs | maps,
            "expert_importance": needs,
            "load_balancing": needs,
        }
        if not mixture:
            del wanted["expert_importance"]
        self.entries = tuple(
            RoutingEntry(Schedule(f"routing.{name}", curriculum, steps), some)
            for name, some in wanted.items()
        )
        schedules = {entry.name: entry.schedule.settings for entry in self.entries}
        own = {"layer": self.offers.blocks[-1], "seed": seed, **pilot.settings}
        self.settings: Mapping[str, Any] = {**own, "schedules": schedules}

    @property
    def chances(self) -> dict[str, float]:
        """Nats of ``expert_importance``, mean over the pilot, where capacity and gap are uniform."""
        if not isinstance(self.offers, ExpertOffers):
            return {}
        own = self.offers.gates
        guess = SHARES[2] * own + (1.0 - SHARES[2]) / self.offers.count
        return {"routing.expert_importance": float(_nats(own, guess).mean())}

    def active(self, step: int) -> int:
        """How many offers the gate holds at an optimizer step, counted from 0."""
        most = min(MOST, self.offers.count)
        return min(1 + most * step // self.steps, most)

    def fused(
        self, seen: Seen, factors: Mapping[str, float]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The weighted sum of the entries that have a factor, and each one's sum over scored tokens."""
        where = predicting(seen.batch["labels"])
        with torch.no_grad():
            self.offers.look(seen.second, where)
        gate = self.gate(seen, where)
        count = self.offers.count
        self.counted = gate.chosen.flatten().bincount(minlength=count).double()
        sums = {
            name: getattr(self, name.removeprefix("routing."))(gate, seen, where).sum(
                dtype=torch.float64
            )
            for name in factors
        }
        share = torch.stack([factors[name] * value for name, value in sums.items()]).sum()
        return share, {name: value.detach() for name, value in sums.items()}

    def gate(self, seen: Seen, where: Tensor) -> Gate:
        """The gate of one micro-batch, after `offers` has looked at it."""
        states = seen.states[self.site][where].float()
        features = functional.rms_norm(states, states.shape[-1:])
        guess = self.projection(features)
        with torch.no_grad():
            gaps = [(guess - offer).square().sum(dim=-1) for offer in self.offers.each()]
            gap = (-torch.stack(gaps, dim=1)).softmax(dim=-1)
        capacity = (self.capacity(features) + self._noise(seen, where)).softmax(dim=-1)
        parts = [
            capacity,
            gap,
            *([self.offers.own] if isinstance(self.offers, ExpertOffers) else []),
        ]
        whole = torch.stack([s * part for s, part in zip(self.shares, parts, strict=True)]).sum(0)
        largest, chosen = whole.topk(self.active(seen.step), dim=-1)
        return Gate(whole, chosen, largest / largest.sum(dim=-1, keepdim=True), guess)

    def _noise(self, seen: Seen, where: Tensor) -> Tensor:
        """For each row and step its own, token by token; [N, E]."""
        real = seen.batch["attention_mask"].bool().cpu()
        drawn = torch.zeros(*real.shape, self.offers.count)
        for at, row in enumerate(seen.batch["row_ids"]):
            generator = Seeds(self.seed).numpy("routing", row, seen.step)
            shape = int(real[at].sum()), self.offers.count
            drawn[at, real[at]] = torch.from_numpy(generator.standard_normal(shape)).float()
        return NOISE * drawn.to(where.device)[where]

    def feature_matching(self, gate: Gate, seen: Seen, where: Tensor) -> Tensor:
        """Σ_d (P s − gated offer)², [N]."""
        with torch.no_grad():
            target = self.offers.gated(gate.chosen, gate.weights)
        return (gate.guess - target).square().sum(dim=-1)

    def attention_alignment(self, gate: Gate, seen: Seen, where: Tensor) -> Tensor:
        """KL of attention maps, weighed by the gate where each offer has one, [N]."""
        guess, found = seen.maps[self.site - 1], seen.second.maps
        nats = torch.stack([map_nats(found[at], guess, where) for at in self.offers.blocks], dim=1)
        if nats.shape[1] == 1:
            return nats[:, 0]
        return (gate.weights * nats.gather(1, gate.chosen)).sum(dim=-1)

    def expert_importance(self, gate: Gate, seen: Seen, where: Tensor) -> Tensor:
        """KL(teacher's own gate ‖ whole), [N]."""
        return _nats(cast(ExpertOffers, self.offers).own, gate.whole)

    def load_balancing(self, gate: Gate, seen: Seen, where: Tensor) -> Tensor:
        """E Σ_e f_e whole_e − 1, [N]."""
        return self.offers.count * (gate.whole @ self.loads) - 1.0

    def observe(self, seen: Seen) -> Tensor:
        """How often each offer was chosen in the micro-batch that `fused` has just seen, [E]."""
        return self.counted

    def renew(self, total: Tensor) -> None:
        """Take over the loads of the optimizer step that has ended."""
        self.loads.copy_(total / total.sum())


def _at_zero(narrow: int, wide: int) -> nn.Linear:
    """A linear map without bias, float32, that begins at 0."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, narrow, wide, bias=False)
    layer.weight = nn.Parameter(torch.zeros(wide, narrow))
    return layer


def _nats(target: Tensor, guess: Tensor) -> Tensor:
    """KL(target ‖ guess) over the last axis; what the target leaves out adds nothing."""
    least = torch.finfo(guess.dtype).tiny
    return (target * (target.clamp(min=least) / guess.clamp(min=least)).log()).sum(dim=-1)
