"""What a study of the catalogue is: a question, its settings, and where the `Procedure` is that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from crosstune.studies.frame.loading import load, load_procedure
from crosstune.studies.frame.plan import Listener, Plan
from crosstune.studies.frame.settings import StudySettings, check_machine

if TYPE_CHECKING:
    from crosstune.foundation.records import Run


@dataclass(frozen=True)
class Study:
    """One question and how it is answered.

    Attributes:
        name: The name on the command line.
        question: The question, as a sentence.
        settings: Where its settings class is, as ``module:name``; reading it loads no heavy library.
        procedure: Where its `Procedure` is, as ``module:name``, or the file that holds it.
    """

    name: str
    question: str
    settings: str
    procedure: str

    @classmethod
    def of_file(cls, file: str) -> Study:
        """The study in a file that the user named; its code is run."""
        procedure = load_procedure(file)
        return cls(procedure.kind, procedure.question, "", file)

    def settings_class(self) -> Any:
        """The class of its settings."""
        return (
            load(self.settings) if self.settings else load_procedure(self.procedure).settings_class
        )

    def run(self, settings: StudySettings, listener: Listener) -> Run:
        """The finished run, with its folder; the listener gets its progress. What this machine cannot do is refused at once."""
        check_machine(settings)
        return cast("Run", load_procedure(self.procedure)(settings).run(listener))

    def plan(self, settings: Any) -> Plan:
        """Say what the run would cost."""
        return cast("Plan", load_procedure(self.procedure)(settings).plan())
