"""ProbeHistory: the sums of every measured state; all tables of a probe follow from it, also after a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby, product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from crosstune.foundation.errors import CheckpointError
from crosstune.foundation.storage import atomic_write, fingerprint_file, read_json, write_json
from crosstune.interference.conflict.collect import Pair
from crosstune.interference.conflict.cosine import Agreement, PairSums, agreement
from crosstune.interference.conflict.settings import ProbeSettings

_SCHEMA = 1
_FIELDS = tuple(one.name for one in fields(PairSums))


@dataclass(frozen=True)
class State:
    """What was measured at the state of the weights after `step` optimizer steps."""

    step: int
    sums: Mapping[str, Mapping[Pair, PairSums]]  # by reference ("current", "frozen") and pair
    _known: dict[tuple[str, Pair, float], Agreement] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def agreement(self, reference: str, pair: Pair, level: float) -> Agreement:
        """The agreement of a pair at this state, computed once: windows, peaks and movement all need it."""
        key = (reference, pair, level)
        if key not in self._known:
            self._known[key] = agreement(self.sums[reference][pair], level)
        return self._known[key]


class ProbeHistory:
    """The states a probe has measured, oldest first; the settings say which make a burst and a window."""

    def __init__(self, settings: ProbeSettings) -> None:
        self.settings = settings
        self.states: list[State] = []

    @property
    def last_step(self) -> int:
        """The step of the newest state; −1 where there is none."""
        return self.states[-1].step if self.states else -1

    @property
    def references(self) -> tuple[str, ...]:
        """What the states were compared with."""
        return tuple(self.states[0].sums) if self.states else ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of tasks."""
        return tuple(self.states[0].sums["current"]) if self.states else ()

    def series(self) -> Iterator[tuple[str, Pair]]:
        """Every reference and pair that has a figure at each state."""
        return product(self.references, self.pairs)

    def bursts(self) -> list[list[State]]:
        """The states of each burst, also of one that was cut short."""
        return _grouped(self.states, self.settings.probe_at)

    def probes(self) -> list[list[State]]:
        """The states of each whole burst.

        One that was cut short, by the training's end or a resume without history, is left out: an oscillation that
        cancels in the others shows in it as a change.
        """
        whole = self.settings.states_a_burst
        return [burst for burst in self.bursts() if len(burst) == whole]

    def judged_states(self) -> list[State]:
        """The states of all whole bursts: those that enter means over several states."""
        return [state for burst in self.probes() for state in burst]

    def windows(self) -> list[list[State]]:
        """The states of each window's whole bursts; a window without any is left out."""
        return _grouped(self.judged_states(), self.settings.window_at)

    def newest_window(self) -> list[State]:
        """The states of the newest window, also those of a burst that was cut short."""
        return _grouped(self.states, self.settings.window_at)[-1]

    def save(self, folder: Path, identity: str) -> None:
        """Write everything into an existing folder, with the fingerprint of the comparison that the sums belong to."""
        tensors = {  # copied: safetensors refuses tensors that share memory
            f"{index}.{place}.{name}": getattr(state.sums[reference][pair], name).clone(
                memory_format=torch.contiguous_format
            )
            for index, state in enumerate(self.states)
            for place, (reference, pair) in enumerate(self.series())
            for name in _FIELDS
        }
        about = {
            "schema": _SCHEMA,
            "identity": identity,
            "steps": [state.step for state in self.states],
            "references": list(self.references),
            "pairs": [list(pair) for pair in self.pairs],
        }
        with atomic_write(folder / "states.safetensors") as temporary:
            save_file(tensors, temporary)
        about["states"] = fingerprint_file(folder / "states.safetensors")
        write_json(folder / "states.json", about)

    def load(self, folder: Path) -> str:
        """Take over what `save` wrote; returns the fingerprint that it was written with."""
        about = read_json(folder / "states.json")
        if about.get("schema") != _SCHEMA:
            raise CheckpointError(
                str(folder),
                law=f"must hold a probe's history of schema {_SCHEMA}",
                found=f"schema {about.get('schema')}",
                remedy="Resume with the version of Crosstune that wrote it.",
            )
        file = folder / "states.safetensors"
        if not file.is_file() or fingerprint_file(file) != about["states"]:
            raise CheckpointError(
                str(file),
                law="must be what was written beside its states.json",
                found="another file" if file.is_file() else "no file",
                remedy="Resume from an older checkpoint; this one was not written to its end.",
            )
        tensors = load_file(file)
        series = list(product(about["references"], [(a, b) for a, b in about["pairs"]]))
        self.states = []
        for index, step in enumerate(about["steps"]):
            sums: dict[str, dict[Pair, PairSums]] = {name: {} for name in about["references"]}
            for place, (reference, pair) in enumerate(series):
                parts = {name: tensors[f"{index}.{place}.{name}"] for name in _FIELDS}
                sums[reference][pair] = PairSums(**parts)
            self.states.append(State(step, sums))
        return str(about["identity"])


def _grouped(states: Sequence[State], number: Callable[[int], int]) -> list[list[State]]:
    """Consecutive states whose steps have the same number, together."""
    return [list(group) for _, group in groupby(states, key=lambda state: number(state.step))]
