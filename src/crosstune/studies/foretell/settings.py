"""Everything a foretell study can be told. No torch here: the command line reads its help from this file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings, LedgerSettings
from crosstune.foundation.settings.options import at_least, left_to
from crosstune.foundation.storage import safe_name
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.worlds import EMBEDDED

_OF_MEASUREMENT = {"length": "training.length", "seed": "data_seed"}
_OF_BLOCKS = {"length": "training.length", "seed": "data_seed"}
_OF_LEDGER = {"stage": "learn"}
_TOY_TASKS = (
    TaskSettings(name="en", source="toy:latin-svo", rows=800),
    TaskSettings(name="bn", source="toy:bengali-sov-0.3", rows=800),
)


def _measurement() -> CircuitSettings:
    return CircuitSettings(variants=("directional", "signed", "symmetric", "ewc"))


def _ledger() -> LedgerSettings:
    return LedgerSettings(by_head=True)


@dataclass(frozen=True)
class ForetellSettings:
    """Score every head before a task is learned, learn it, and see whether the scores foretold what was forgotten."""

    output: str = "runs/foretell"
    """The run folder. A run that was stopped, or is given more seeds, goes on in it."""
    before: str = EMBEDDED
    """The model that knows the old task: a folder, a hub id, or `embedded`: a tiny one that knows the first toy language."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Type of the weights in memory; `auto` keeps that of the files."""
    device: str = "auto"
    """`cpu`, `cuda`, …; `auto` takes an accelerator where there is one. CUDA_VISIBLE_DEVICES chooses among several."""
    tasks: tuple[TaskSettings, ...] = _TOY_TASKS
    """Two tasks: the old one, which may be forgotten, and the new one, which is learned."""
    learn: str = ""
    """The task that is learned; empty: the last one."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One scout and one training each. A seed changes the order of rows and dropout, never the rows."""
    test_share: float = 0.4
    """Share of the rows, by group, that no score sees; what is forgotten of them is held against the scores."""
    data_seed: int = 0
    """Changes which rows are scored, learned and kept apart; the same for all seeds."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How the new task is learned; the whole model, since a LoRA factor A belongs to no single head."""
    measurement: CircuitSettings = field(default_factory=_measurement)
    """Which scores, on how many rows of each task (length and seed follow `training` and `data_seed`)."""
    states: int = 4
    """States that scores are averaged over: the one before, and those of a scout, a throw-away copy that learns a little."""
    apart: int = 1
    """Optimizer steps of the scout from one of these states to the next, at the full learning rate."""
    ledger: LedgerSettings = field(default_factory=_ledger)
    """The forgetting ledger, cut by head."""
    blocks: BlockSettings = field(default_factory=lambda: BlockSettings(rows_per_block=2))
    """Reference rows of the ledger, on each side (length and seed follow `training` and `data_seed`)."""
    permutations: int = 2000
    """Permutations of heads (and of rows) that a correlation is held against."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        names = [task.name for task in self.tasks]
        for at, name in enumerate(names):
            safe_name(name, f"tasks[{at}].name")  # it becomes a part of paths
        _require(
            len(set(names)) == len(names) == 2, "tasks", "must be two of different names", names
        )
        known = f"must name one of them ({', '.join(names)})"
        _require(not self.learn or self.learn in names, "learn", known, self.learn)
        left_to(_OF_BLOCKS, "blocks", self.blocks)
        left_to(_OF_LEDGER, "ledger", self.ledger)
        left_to(_OF_MEASUREMENT, "measurement", self.measurement)
        _require(len(self.seeds) >= 1, "seeds", "must be at least one", "none")
        _require(len(set(self.seeds)) == len(self.seeds), "seeds", "must differ", self.seeds)
        _require(min(self.seeds) >= 0, "seeds", "must not be negative", min(self.seeds))
        _require(0 < self.test_share < 1, "test_share", "must lie between 0 and 1", self.test_share)
        for name, least in (("states", 1), ("apart", 1), ("permutations", 199)):
            at_least(name, getattr(self, name), least)
        self._check_heads()

    def _check_heads(self) -> None:
        """The account can be cut by head, and a score averaged over A says something of A."""
        _require(
            self.training.lora is None,
            "training.lora",
            "must be none: what moves in a LoRA factor A belongs to all heads of a projection at once",
            self.training.lora,
        )
        _require(self.ledger.by_head, "ledger.by_head", "must be true: heads are compared", "false")
        _require(
            not self.measurement.blind,
            "measurement.averages",
            "must be pooled or true: averaged over A under A's own Fisher a directional score says nothing of A",
            self.measurement.averages,
        )
        stopping = self.training.early_stopping
        _require(
            stopping is None or not stopping.restore_best,
            "training.early_stopping.restore_best",
            "must be false: the ledger accounts for the path to the last step, not for a jump back",
            "true",
        )

    @property
    def new_task(self) -> str:
        """The task that is learned."""
        return self.learn or self.tasks[-1].name

    @property
    def old_task(self) -> str:
        """The task that may be forgotten."""
        return next(task.name for task in self.tasks if task.name != self.new_task)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """The names of the cells, one a seed."""
        return tuple(f"seed-{seed}" for seed in self.seeds)

    def scout_settings(self) -> TrainingSettings | None:
        """How the scout learns: as the training does, at the full learning rate; None where the state before is enough."""
        if self.states == 1:
            return None
        return replace(
            self.training,
            steps=(self.states - 1) * self.apart,
            schedule="constant",
            warmup=0,
            evaluate_every=0,
            checkpoint_every=0,
            early_stopping=None,
            report_to=(),
        )

    def circuit_settings(self) -> CircuitSettings:
        """The measurement, of the training's length, with the seed of the whole study."""
        return replace(self.measurement, length=self.training.length, seed=self.data_seed)

    def block_settings(self) -> BlockSettings:
        """Reference blocks of the ledger, likewise."""
        return replace(self.blocks, length=self.training.length, seed=self.data_seed)

    def ledger_settings(self) -> LedgerSettings:
        """The ledger, named after the task that is learned."""
        return replace(self.ledger, stage=self.new_task)

    def gradient_settings(self) -> GradientSettings:
        """How the ledger evaluates losses and gradients: as the scores are."""
        return self.measurement.gradient_settings()

    def same_numbers(self) -> ForetellSettings:
        """The settings without what changes no number of a cell: place, which seeds are run, and how cells are judged."""
        return replace(self, output="", seeds=(0,), permutations=2000)


def _require(holds: bool, argument: str, law: str, found: object) -> None:
    if not holds:
        raise SettingsError(
            argument, law=law, found=found, remedy="Change it in the settings file or command."
        )
