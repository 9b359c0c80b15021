"""The settings of a repair study. No torch here: the command line reads its help from this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings, LedgerSettings
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.worlds import EMBEDDED
from crosstune.merging.settings import RepairSettings
from crosstune.studies.frame.settings import SeededSettings, require

PAIR = "pair"
_TOY_TASKS = (
    TaskSettings(name="en", source="toy:latin-svo", rows=800),
    TaskSettings(name="bn", source="toy:bengali-sov-0.3", rows=800),
)


@dataclass(frozen=True)
class RepairStudySettings(SeededSettings):
    """Give back what a fine-tune forgot: search the weights between the model before and the model after."""

    output: str = "runs/repair"
    """The run folder. A run that was stopped, or is given more seeds, goes on in it."""
    before: str = EMBEDDED
    """The model before: a folder, a hub id, a folder with a LoRA adapter, or `embedded`: a tiny one made here."""
    after: str | None = None
    """The model or adapter after; none: it is made here, by fine-tuning `before` on the task `learn`."""
    between: tuple[str, ...] = ()
    """Checkpoints on the way from `before` to a given `after`, in order; each gets coefficients of its own."""
    tasks: tuple[TaskSettings, ...] = _TOY_TASKS
    """The tasks to keep: what the fine-tune taught and what it may have cost."""
    learn: str = ""
    """The task that a fine-tune made here learns; empty: the last one."""
    seeds: tuple[int, ...] = (0,)
    """One fine-tune and repair each; a given `after` is one repair. A seed never changes the rows."""
    test_share: float = 0.4
    """Share of the rows, by group, that a fine-tune made here never learns; they become validation and test rows."""
    data_seed: int = 0
    """Changes which rows are for training, validation and test; the same for all seeds."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """The fine-tune that is made here; not used where `after` is given."""
    repair: RepairSettings = field(default_factory=RepairSettings)
    """The repair (device and seed follow `device` and `data_seed`); its `windows` holds for training rows too."""
    ledger: LedgerSettings | None = field(default_factory=LedgerSettings)
    """The forgetting ledger of a fine-tune made here, on the validation rows; none leaves it out."""
    blocks: BlockSettings = field(default_factory=lambda: BlockSettings(rows_per_block=1))
    """Reference rows of the ledger (length, windows and seed follow `repair` and `data_seed`)."""
    rollback: Literal["component", "none"] = "component"
    """Whether each component is put back alone, to compare with what the repair took back."""

    COMMON: ClassVar = (
        *("output", "before", "after", "tasks", "seeds", "device"),
        *("training.learning_rate", "training.steps", "repair.max_loss", "repair.margin"),
    )
    FOLLOWS: ClassVar = {
        "repair": {"device": "device", "seed": "data_seed"},
        "blocks": {"length": "repair.length", "window": "repair.windows", "seed": "data_seed"},
    }

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        super().__post_init__()
        names = self.task_names
        require(
            len(names) >= 2,
            "tasks",
            "must be at least two, one that was learned and one that may have been forgotten",
            len(names),
        )
        known = f"must name tasks ({', '.join(names)})"
        require(not self.learn or self.learn in names, "learn", known, self.learn)
        for argument in ("learned", "max_loss"):
            unknown = [name for name in getattr(self.repair, argument) if name not in names]
            require(not unknown, f"repair.{argument}", known, ", ".join(unknown))
        self._check_endpoints()
        stopping = self.training.early_stopping
        require(
            self.ledger is None or stopping is None or not stopping.restore_best,
            "training.early_stopping.restore_best",
            "must be false beside a ledger: it accounts for the path to the last step, not for a jump back",
            "true",
        )

    def _check_endpoints(self) -> None:
        if self.after is None:
            require(
                not self.between,
                "between",
                "needs a given `after`: a fine-tune made here has no checkpoints to name",
                ", ".join(self.between),
            )
            return
        require(
            self.before != EMBEDDED,
            "before",
            "must be given where `after` is: the two are checkpoints of one model",
            self.before,
        )
        require(
            self.tasks != _TOY_TASKS,
            "tasks",
            "must be named where `after` is given, in words by `--task en=en.jsonl --task bn=bn.jsonl`: what it learned and "
            "what it may have forgotten",
            "none",
        )
        require(not self.learn, "learn", "must be empty where `after` is given", self.learn)
        require(
            len(self.seeds) == 1,
            "seeds",
            "must be a single one where `after` is given: nothing is trained that it could change",
            self.seeds,
        )

    @property
    def learn_task(self) -> str:
        """The task that a fine-tune made here learns."""
        return self.learn or self.tasks[-1].name

    @property
    def cell_names(self) -> tuple[str, ...]:
        """One a seed, or one for a pair of given models."""
        return (PAIR,) if self.after is not None else super().cell_names

    def gradient_settings(self) -> GradientSettings:
        """How the ledger evaluates losses and gradients."""
        return GradientSettings(self.repair.precision, self.repair.batch_tokens)
