"""The settings that every study has, and the checks that all share. No torch here: the command line reads its help from this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import SettingsError, renamed
from crosstune.foundation.settings.options import left_to
from crosstune.foundation.storage import check_room, safe_name
from crosstune.foundation.training.settings import TrainingSettings, check_trackers
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.frame.loading import load


@dataclass(frozen=True)
class StudySettings:
    """Where a study runs, and on which tasks. Subclasses add what they ask and keep the settings flat."""

    output: str = "runs/study"
    """The run folder. A run that was stopped goes on in it."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Type of the weights in memory; `auto` keeps that of the files."""
    device: str = "auto"
    """`cpu`, `cuda`, …; `auto` takes an accelerator where there is one. CUDA_VISIBLE_DEVICES chooses among several."""
    tasks: tuple[TaskSettings, ...] = ()
    """The tasks."""
    workers: int = 1
    """Cells run at the same time on this machine, each in a process of its own with its share of the cores."""
    engine: Literal["local", "ray"] = "local"
    """Where cells run: on this machine, or on a Ray cluster, which runs as many at a time as it has room for."""
    address: str | None = None
    """The Ray cluster to join (`auto`, `host:port`, `ray://…`); none starts one on this machine."""

    NO_NUMBERS: ClassVar[tuple[str, ...]] = ("output", "workers", "engine", "address")
    """Settings that change no number of a cell: a run may go on with others."""
    COMMON: ClassVar[tuple[str, ...]] = ()
    """The settings that the short help names; none: that help names all."""
    FOLLOWS: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Part → its field → the setting of the study that it follows, and which must therefore be left alone in the part."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        names = [task.name for task in self.tasks]
        for at, name in enumerate(names):
            safe_name(name, f"tasks[{at}].name")  # it becomes a part of paths
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, "tasks", "must have different names", f"{', '.join(twice)} twice")
        for part, owners in self.FOLLOWS.items():
            if getattr(self, part) is not None:
                left_to(owners, part, getattr(self, part))
        require(
            ":" not in self.device,
            "device",
            "must be a kind of device, without a number (CUDA_VISIBLE_DEVICES chooses which)",
            self.device,
        )
        require(self.workers >= 1, "workers", "must be at least 1", self.workers)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, as listed."""
        return tuple(task.name for task in self.tasks)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """The names of the cells."""
        raise NotImplementedError

    def of_cell(self, name: str) -> Self:
        """The settings of one cell: those of the study, but for what names the other cells."""
        return self

    def part(self, name: str, **more: Any) -> Any:
        """A part of the settings, with what it follows filled in.

        Args:
            name: A field of this class whose value is a settings class, or None.
            more: Fields of the part that the study decides.

        Returns:
            The part; None stays None.
        """
        own = getattr(self, name)
        if own is None:
            return None
        follows = {each: _at(self, owner) for each, owner in self.FOLLOWS.get(name, {}).items()}
        return replace(own, **{**follows, **more})

    def same_numbers(self) -> Self:
        """The settings without what changes no number of a cell."""
        usual: dict[str, Any] = {
            one.name: one.default if one.default_factory is MISSING else one.default_factory()
            for one in fields(self)
        }
        return replace(self, **{name: usual[name] for name in self.NO_NUMBERS})


@dataclass(frozen=True)
class SeededSettings(StudySettings):
    """A study with one cell a seed, on tasks that are split into train and test rows."""

    seeds: tuple[int, ...] = (0,)
    """One cell each; a seed never changes the rows."""
    test_share: float = 0.4
    """Share of the rows held out, by group across all tasks."""
    data_seed: int = 0
    """Changes which rows are held out, and which are chosen; the same for all seeds."""

    NO_NUMBERS: ClassVar[tuple[str, ...]] = (*StudySettings.NO_NUMBERS, "seeds")

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        super().__post_init__()
        require(len(self.seeds) >= 1, "seeds", "must be at least one", "none")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", "must differ", self.seeds)
        require(min(self.seeds) >= 0, "seeds", "must not be negative", min(self.seeds))
        require(0 < self.test_share < 1, "test_share", "must lie between 0 and 1", self.test_share)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """One a seed."""
        return tuple(f"seed-{seed}" for seed in self.seeds)

    def of_cell(self, name: str) -> Self:
        """The settings of a seed alone."""
        return replace(self, seeds=(self.seeds[self.cell_names.index(name)],))


@dataclass(frozen=True)
class LearningSettings(SeededSettings):
    """A study in which a model that knows the first task learns the last one; enough for many studies."""

    model: str = EMBEDDED
    """The model before: a folder, a hub id, or `embedded`: a tiny one that knows the first toy language."""
    tasks: tuple[TaskSettings, ...] = (
        TaskSettings(name="en", source="toy:latin-svo"),
        TaskSettings(name="bn", source="toy:bengali-sov-0.3"),
    )
    """The tasks: the first one is known, the last one is learned."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How the last task is learned."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        super().__post_init__()
        require(len(self.tasks) >= 2, "tasks", "must be at least two", len(self.tasks))


def check_machine(settings: StudySettings) -> None:
    """Refuse, before anything is loaded, what cannot be done here: write there, follow with that tracker, compute on that device."""
    check_room(settings.output, "output")
    if settings.engine != "local":
        return  # other machines do the work
    trackers = getattr(getattr(settings, "training", None), "report_to", ())
    with renamed("report_to", "training.report_to"):
        check_trackers(trackers)
    if settings.device not in ("auto", "cpu"):
        load("crosstune.foundation.models.loading:check_device")(settings.device)


def require(holds: bool, argument: str, law: str, found: object) -> None:
    """Refuse a setting that breaks a law."""
    if not holds:
        raise SettingsError(
            argument, law=law, found=found, remedy="Change it in the settings file or command."
        )


def _at(settings: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        settings = getattr(settings, name)
    return settings
