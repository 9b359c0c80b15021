"""The settings of a conflict study. No torch here: the command line reads its help from this file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings, LedgerSettings
from crosstune.foundation.settings.options import at_least
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.worlds import EMBEDDED
from crosstune.interference.conflict.settings import ProbeSettings
from crosstune.merging.stage.settings import StageRepairSettings
from crosstune.studies.frame.settings import SeededSettings, require

_TOY_TASKS = (
    TaskSettings(name="en", source="toy:latin-svo", rows=800),
    TaskSettings(name="bn", source="toy:bengali-sov-0.3", rows=800),
    TaskSettings(name="ar", source="toy:arabic-vso-0.3", rows=800),
)


@dataclass(frozen=True)
class ConflictSettings(SeededSettings):
    """Fine-tune a model through tasks one after another, and account for what each does to the others."""

    output: str = "runs/conflict"
    """The run folder. A run that was stopped, or is given more seeds, goes on in it."""
    model: str = EMBEDDED
    """A folder with a Hugging Face model, a hub id, or `embedded`: a tiny model pretrained here on first use."""
    tasks: tuple[TaskSettings, ...] = _TOY_TASKS
    """The tasks."""
    stages: tuple[str, ...] = ()
    """Names of the tasks in the order they are learned; empty: every task once, as listed."""
    references: tuple[str, ...] = ()
    """Tasks whose loss is followed throughout; empty: all."""
    seeds: tuple[int, ...] = (0, 42, 123, 456, 789)
    """One cell each. A seed changes the order of training rows, dropout and new adapters; never the rows."""
    samples: int | None = None
    """At most so many training rows a task; none takes all."""
    test_share: float = 0.2
    """Share of the rows held out, by group across all tasks."""
    data_seed: int = 0
    """Changes which rows are held out and which are reference rows; the same for all seeds."""
    windows: bool = False
    """Whether rows longer than `training.length` are cut into windows instead of being cut off."""
    precision: Literal["float32", "model"] = "float32"
    """Arithmetic of ledger and probe: `model` saves a float32 copy of half-precision weights, and closes worse."""
    evaluation_rows: int = 200
    """Rows a task and side that retention is measured on after every stage."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """One stage of training."""
    blocks: BlockSettings = field(default_factory=BlockSettings)
    """Reference rows of ledger and rollback (length and seed follow `training.length` and `data_seed`)."""
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    """The forgetting ledger."""
    probe: ProbeSettings | None = field(default_factory=lambda: ProbeSettings(every=5))
    """The conflict probe (length, seed and precision as above); none leaves it out."""
    rollback: Literal["component", "layer", "site", "none"] = "component"
    """What is put back to the start of a stage, one at a time, at its end."""
    repair: StageRepairSettings | None = None
    """Repairs the model at the end of every stage but the first, on training rows of the tasks learned so far (length,
    windows, seed and precision as above); the next stage goes on from the repaired model."""

    COMMON: ClassVar = (
        *("output", "model", "tasks", "stages", "seeds", "device"),
        *("training.learning_rate", "training.steps", "training.batch_rows", "training.length"),
    )
    FOLLOWS: ClassVar = {
        "blocks": {"length": "training.length", "window": "windows", "seed": "data_seed"}
    }

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        super().__post_init__()
        names = self.task_names
        require(len(names) >= 2, "tasks", "must be at least two", len(names))
        for argument in ("stages", "references"):
            unknown = [name for name in getattr(self, argument) if name not in names]
            known = f"must name tasks ({', '.join(names)})"
            require(not unknown, argument, known, ", ".join(unknown))
        again = sorted({name for name in self.stages if self.stages.count(name) > 1})
        require(not again, "stages", "must name each task once", f"{', '.join(again)} again")
        require(
            self.samples is None or self.samples >= self.training.batch_rows,
            "samples",
            f"must be at least training.batch_rows ({self.training.batch_rows})",
            self.samples,
        )
        at_least("evaluation_rows", self.evaluation_rows, 2)
        stopping = self.training.early_stopping
        require(
            stopping is None or not stopping.restore_best,
            "training.early_stopping.restore_best",
            "must be false: the ledger accounts for the path to a stage's last step, not for a jump back",
            "true",
        )
        if self.repair is not None:
            self._check_repair(self.repair)

    def _check_repair(self, repair: StageRepairSettings) -> None:
        if self.training.lora is not None:
            raise SettingsError(
                "repair",
                law="must be left out where adapters are trained: from the second stage on an adapter is no longer "
                "fresh, and between two products B A of moving factors lies no adapter of the same rank",
                found=f"`training.lora` of rank {self.training.lora.rank}",
                remedy="Leave `training.lora` out, or repair the saved adapters with `crosstune run repair`.",
            )
        limited = set(repair.max_loss)
        require(
            not limited or limited == set(self.stage_tasks),
            "repair.max_loss",
            f"must name every task that is learned ({', '.join(self.stage_tasks)}), or none",
            ", ".join(repair.max_loss),
        )

    @property
    def stage_tasks(self) -> tuple[str, ...]:
        """The tasks in the order they are learned."""
        return self.stages or self.task_names

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The names of the stages: their number and their task."""
        return tuple(f"{number}-{task}" for number, task in enumerate(self.stage_tasks, start=1))

    @property
    def reference_tasks(self) -> tuple[str, ...]:
        """The tasks whose loss is followed."""
        return self.references or self.task_names

    def gradient_settings(self) -> GradientSettings:
        """How the ledger evaluates losses and gradients."""
        return GradientSettings(self.precision, self.training.evaluation_tokens)

    def probe_settings(self, stage: str) -> ProbeSettings | None:
        """The probe of one stage, with the length, windows, seed and precision of the whole study.

        Returns:
            Its settings, or None where there is no probe.
        """
        if self.probe is None:
            return None
        return replace(
            self.probe,
            length=self.training.length,
            window_rows=self.windows,
            seed=self.data_seed,
            stage=stage,
            precision=self.precision,
        )

    def repair_settings(self, number: int) -> StageRepairSettings | None:
        """The repair of one stage, with the length, windows, seed and precision of the whole study.

        Returns:
            Its settings, or None where there is nothing to repair: before a task was learned, or at all.
        """
        if self.repair is None or number == 0:
            return None
        so_far = self.stage_tasks[: number + 1]
        limits = {task: most for task, most in self.repair.max_loss.items() if task in so_far}
        return replace(
            self.repair,
            max_loss=limits,
            length=self.training.length,
            windows=self.windows,
            seed=self.data_seed,
            precision=self.precision,
            stage=self.stage_names[number],
        )


def learned_in(stage: str) -> str:
    """The task of a stage, by the stage's name."""
    return stage.split("-", 1)[1]
