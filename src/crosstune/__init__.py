"""Crosstune measures, acts on and proves what happens when a model's learning crosses something else.

The plan of the house; imports only go down, and no wing imports another::

    cli                 run, plan, show, list: the front door
    studies             one question per file; the only place where wings meet
    interference        do two learning signals pull apart, and where?
    circuits            which attention heads do two tasks pull at, together or against each other?
    merging             what was forgotten, given back: the best model between before and after
    experts             what is new gets a LoRA expert of its own, and a router asks them per token
    distillation        a student learns from a teacher through many terms, and every one is accounted for
    wiring              one model's hidden states put into another, and did anything arrive?
    report              one offline page per run folder; knows no wing
    foundation          models, data, training, evaluation, statistics, records: what every wing stands on

Everything a user needs is a name of this module, fetched on first use, so that ``import crosstune``
is instant and touches nothing::

    ForgettingLedger, ConflictProbe     callbacks for your own transformers or TRL trainer
    measure_conflict, measure_rollback  functions on your own model and checkpoints
    measure_circuits                    which attention heads two tasks pull at together or against each other
    repair                              the models between two checkpoints: give back what was forgotten
    ExpertMixture                       a frozen model with an expert for each skill that came since
    DistillationTrainer, student_from   a student that begins as a piece of its teacher, and learns from it
    run, show                           a whole study, and what a run folder says
    Task, Run, Anatomy                  what crosses walls: rows, results, the parts of a model
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crosstune.circuits import measure_circuits as measure_circuits
    from crosstune.distillation import DistillationTrainer as DistillationTrainer
    from crosstune.distillation import student_from as student_from
    from crosstune.experts import ExpertMixture as ExpertMixture
    from crosstune.experts import learn_skills as learn_skills
    from crosstune.foundation.data import Task as Task
    from crosstune.foundation.models import Anatomy as Anatomy
    from crosstune.foundation.records import Run as Run
    from crosstune.interference import ConflictProbe as ConflictProbe
    from crosstune.interference import ForgettingLedger as ForgettingLedger
    from crosstune.interference import measure_conflict as measure_conflict
    from crosstune.interference import measure_rollback as measure_rollback
    from crosstune.merging import RepairAtStageEnd as RepairAtStageEnd
    from crosstune.merging import repair as repair
    from crosstune.studies import run as run
    from crosstune.studies import show as show

__version__ = "0.1.0"

_ROOM_OF = {
    "Task": "crosstune.foundation.data",
    "Run": "crosstune.foundation.records",
    "Anatomy": "crosstune.foundation.models",
    "ForgettingLedger": "crosstune.interference",
    "ConflictProbe": "crosstune.interference",
    "measure_conflict": "crosstune.interference",
    "measure_rollback": "crosstune.interference",
    "measure_circuits": "crosstune.circuits",
    "repair": "crosstune.merging",
    "RepairAtStageEnd": "crosstune.merging",
    "DistillationTrainer": "crosstune.distillation",
    "student_from": "crosstune.distillation",
    "ExpertMixture": "crosstune.experts",
    "learn_skills": "crosstune.experts",
    "run": "crosstune.studies",
    "show": "crosstune.studies",
}

__all__ = [
    "Task",
    "Run",
    "Anatomy",
    "ForgettingLedger",
    "ConflictProbe",
    "measure_conflict",
    "measure_rollback",
    "measure_circuits",
    "repair",
    "RepairAtStageEnd",
    "ExpertMixture",
    "learn_skills",
    "DistillationTrainer",
    "student_from",
    "run",
    "show",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'crosstune' has no attribute {name!r}")
    value = getattr(import_module(_ROOM_OF[name]), name)
    globals()[name] = value  # the next access does not come here again
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
