"""What a study hears of a fine-tune: every optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class EachStep(TrainerCallback):  # type: ignore[misc]
    """Calls back after every optimizer step.

    Args:
        tell: Called with the steps that were taken and the most there will be.
    """

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say which step was taken."""
        self._tell(state.global_step, state.max_steps)
