"""The one tree of errors; every message names the argument, the law, what was found and what to do.

CrosstuneError
├── SettingsError        a setting is missing, misspelt or impossible
├── DataError            rows, files, splits or tokens break a law
├── ModelError           a model is not what the operation needs
│   └── UnknownFamilyError   the anatomy of this architecture is not known
├── StorageError         a file or folder cannot be used as it is
│   └── CheckpointError      a checkpoint does not fit, or is not whole
├── TrainingError        training cannot go on truthfully
│   └── NonFiniteLossError   a loss or gradient is NaN or infinite
├── MeasurementError     a measurement cannot be made, or breaks its own law
│   └── LedgerError          an account does not close
└── UnsupportedError     a known thing that is refused by name until it is built
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial


class CrosstuneError(Exception):
    """An error that finishes its sentence.

    Args:
        argument: The name of what is wrong, as the user wrote it (``"blocks"``, ``"tasks['bn']"``).
        law: What must hold, as a clause that can follow the argument (``"must be at least 2"``).
        found: What was found instead, in a few words.
        remedy: What the user can do, as a sentence.
    """

    def __init__(self, argument: str, *, law: str, found: object, remedy: str) -> None:
        self.argument = argument
        self.law = law
        self.found = str(found)
        self.remedy = remedy
        super().__init__(argument, law, self.found, remedy)

    def __str__(self) -> str:
        return f"`{self.argument}` {self.law}; found {self.found}. {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the four parts when an error crosses a process boundary."""
        parts = {"law": self.law, "found": self.found, "remedy": self.remedy}
        return (partial(type(self), **parts), (self.argument,))


class SettingsError(CrosstuneError, ValueError):
    """A setting is missing, misspelt or impossible."""


class DataError(CrosstuneError, ValueError):
    """Rows, files, splits or tokens break a law."""


class ModelError(CrosstuneError, ValueError):
    """A model is not what the operation needs."""


class UnknownFamilyError(ModelError):
    """The anatomy of this architecture is not known."""


class StorageError(CrosstuneError, OSError):
    """A file or folder cannot be used as it is."""


class CheckpointError(StorageError):
    """A checkpoint does not fit, or is not whole."""


class TrainingError(CrosstuneError, RuntimeError):
    """Training cannot go on truthfully."""


class NonFiniteLossError(TrainingError):
    """A loss or gradient is NaN or infinite."""


class MeasurementError(CrosstuneError, RuntimeError):
    """A measurement cannot be made, or breaks its own law."""


class LedgerError(MeasurementError):
    """An account does not close."""


class UnsupportedError(CrosstuneError, NotImplementedError):
    """A known thing that is refused by name until it is built."""


@contextmanager
def renamed(ours: str, theirs: str) -> Iterator[None]:
    """Inside, an error about our argument `ours` names it `theirs`, as the user wrote it; other errors pass unchanged."""
    try:
        yield
    except CrosstuneError as error:
        if error.argument != ours:
            raise
        kind = type(error)
        raise kind(theirs, law=error.law, found=error.found, remedy=error.remedy) from error


def hold(
    kept: bool, kind: type[CrosstuneError], argument: str, words: tuple[str, object, str]
) -> None:
    """Raise an error of law, found and remedy where a law is not kept."""
    if not kept:
        law, found, remedy = words
        raise kind(argument, law=law, found=found, remedy=remedy)
