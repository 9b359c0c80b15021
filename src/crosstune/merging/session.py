"""A repair at work: the endpoints, the validation rows, what was learned and forgotten, and the evaluator between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.models import Anatomy, Part
from crosstune.foundation.storage import fingerprint
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.evaluations import Evaluator, Target, Teachers, make_items, text_nats
from crosstune.merging.groups import (
    Directions,
    ParameterGroup,
    leading,
    parameter_groups,
    row_classes,
    wide,
)
from crosstune.merging.interpolation import InterpolationSpace
from crosstune.merging.scoring import losses_at_ends
from crosstune.merging.settings import RepairSettings

Listener = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Watch:
    """Where evaluations are stored, and who hears of them.

    Attributes:
        folder: Every evaluation is stored here, so that a killed search goes on where it was; None stores none.
        listener: A callback with what is done, how many evaluations were made, and how many there will be at most.
    """

    folder: Path | None = None
    listener: Listener | None = None

    def tell(self, doing: str, done: int, total: int) -> None:
        """Call the listener, if there is one."""
        if self.listener is not None:
            self.listener(doing, done, total)


@dataclass(frozen=True)
class Roles:
    """Which tasks the fine-tune taught and which it cost.

    Attributes:
        learned: Those whose learning is to be kept.
        forgotten: Those whose loss rose.
        before: Nats per token of each task at `before`, on validation rows.
        after: Likewise at `after`.
    """

    tasks: tuple[str, ...]
    learned: tuple[str, ...]
    forgotten: tuple[str, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]

    def places(self, names: Sequence[str]) -> tuple[int, ...]:
        """The places of some tasks among all."""
        return tuple(self.tasks.index(name) for name in names)


@dataclass
class Session:
    """What a search works on; `layers` is the model's number of blocks, `sizes` each group's ‖Δθ‖² [J, P]."""

    ends: Endpoints
    roles: Roles
    settings: RepairSettings
    space: InterpolationSpace
    evaluator: Evaluator
    groups: tuple[ParameterGroup, ...]
    layers: int
    sizes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = self.space.measure().numpy()


def find_roles(
    ends: Endpoints, rows: Mapping[str, Sequence[Encoded]], settings: RepairSettings
) -> Roles:
    """Which tasks were learned (those that are named, if any are) and which forgotten, by their losses at both endpoints."""
    for argument, names in (("learned", settings.learned), ("max_loss", tuple(settings.max_loss))):
        unknown = [name for name in names if name not in rows]
        if unknown:
            raise SettingsError(
                argument,
                law=f"must name tasks of `keep` ({', '.join(rows)})",
                found=", ".join(unknown),
                remedy="Use the names under which the rows are given.",
            )
    if set(settings.learned) == set(rows):
        raise SettingsError(
            "learned",
            law="must leave a task of `keep` that may have been forgotten",
            found=f"all of them: {', '.join(settings.learned)}",
            remedy="Name only what the fine-tune taught, or leave it out.",
        )
    before, after = losses_at_ends(ends, rows, settings)
    learned = settings.learned or tuple(name for name in rows if after[name] < before[name])
    rose = tuple(name for name in rows if name not in learned and after[name] > before[name])
    forgotten = tuple(n for n in rows if n not in learned) if settings.learned else rose
    return Roles(tuple(rows), learned, forgotten, before, after)


def open_session(
    ends: Endpoints,
    rows: Mapping[str, Sequence[Encoded]],
    roles: Roles,
    settings: RepairSettings,
    watch: Watch,
) -> Session:
    """The session of checkpoints that differ, whose roles are known."""
    anatomy = Anatomy.of(ends.model)
    directions = _directions(ends, anatomy, settings)
    classes = _classes(ends, rows, roles) if "embedding_rows" in settings.methods else {}
    groups = parameter_groups(
        anatomy,
        ends.names,
        rows=classes,
        directions={part: found.count for part, found in directions.items()},
        heads=settings.by_head,
    )
    space = InterpolationSpace(ends, groups, rows=classes, directions=directions)
    items = make_items(list(rows.values()), settings.folds, settings.batch_tokens, settings.seed)
    target: Target = text_nats
    if settings.target == "checkpoints":
        target = Teachers(
            ends,
            items,
            roles.places(roles.learned),
            settings=settings.gradient_settings(),
            most=settings.teacher_bytes,
        )
    identity = {
        "parents": [parent.fingerprint for parent in ends.parents],
        "rows": fingerprint(
            [
                [item.task, item.fold, [[row.input_ids, row.labels] for row in item.rows]]
                for item in items
            ]
        ),
        "groups": fingerprint([str(group) for group in groups]),
        "target": settings.target,
        "learned": list(roles.learned),
        "folds": [settings.folds, settings.seed, settings.batch_tokens, settings.precision],
    }
    evaluator = Evaluator(
        space, items, settings.gradient_settings(), identity, folder=watch.folder, target=target
    )
    return Session(ends, roles, settings, space, evaluator, groups, anatomy.num_layers)


def _directions(
    ends: Endpoints, anatomy: Anatomy, settings: RepairSettings
) -> dict[Part, Directions]:
    if "singular" not in settings.methods:
        return {}
    if ends.count > 1:
        raise SettingsError(
            "granularity",
            law="must not be `singular` between more than two checkpoints: each change has its own directions",
            found=f"{ends.count + 1} checkpoints",
            remedy="Leave `between` out, or use `component`.",
        )
    device = next(ends.model.parameters()).device
    found = {}
    for name in ends.names:
        after, before = (wide(ends.tensor(end, name).to(device)) for end in (1, 0))
        for part in anatomy.parts_of(name):
            made = leading(part, after - before, settings.directions)
            if made is not None:
                found[part] = made
    return found


def _classes(
    ends: Endpoints, rows: Mapping[str, Sequence[Encoded]], roles: Roles
) -> dict[str, torch.Tensor]:
    def used(names: Sequence[str]) -> set[int]:
        return {token for name in names for row in rows[name] for token in row.input_ids}

    size = ends.model.get_input_embeddings().weight.shape[0]
    return row_classes(used(roles.learned), used(roles.forgotten), size)
