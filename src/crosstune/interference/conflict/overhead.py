"""What a probe costs, before anything starts: overhead ≤ 1.15 × passes × probe tokens / training tokens."""

from __future__ import annotations

from dataclasses import dataclass

from crosstune.interference.conflict.settings import ProbeSettings

MARGIN = 1.15
"""What evaluation in eval mode, small batches and float64 products may cost beyond the tokens."""


@dataclass(frozen=True)
class ProbeCost:
    """The cost of a probe over one training.

    Attributes:
        states: States that are measured.
        passes: Times each block is differentiated at a state: 1 when gradients are kept, else 2, and a few more for
            blocks that share rows.
        tokens: Tokens that go forward and backward for the probe.
        overhead: The most it may add, as a share of the training's time.
        gradient_bytes: Memory for gradients that are kept (or for the sums, when none are).
    """

    states: int
    passes: float
    tokens: float
    overhead: float
    gradient_bytes: int


def probe_cost(
    settings: ProbeSettings,
    *,
    tasks: int,
    tokens_per_row: float,
    steps: int,
    tokens_per_step: float,
    parameters: int,
    blocks: int | None = None,
) -> ProbeCost:
    """The predicted cost of a probe in one training.

    Args:
        settings: The probe's settings.
        tasks: How many tasks are compared.
        tokens_per_row: Padded tokens of a probe row, at most ``settings.length``.
        steps: Optimizer steps of the training.
        tokens_per_step: Padded tokens of one optimizer step.
        parameters: Elements that gradients are taken of: those of trainable parameters, or of the whole weights
            beside the adapters where `settings.weights` is ``effective``.
        blocks: Blocks per task, where ``settings.blocks`` is ``auto``; by default the budget.

    Returns:
        The cost; in several processes time and kept gradients are shared among them.
    """
    asked = settings.max_blocks if settings.blocks == "auto" else settings.blocks
    number = tasks * (asked if blocks is None else blocks)
    keeps = 4 * parameters * number <= settings.keep_gib * 2**30
    states = settings.states(steps)
    passes = 1.0 if keeps else 2.0
    tokens = states * passes * number * settings.rows_per_block * tokens_per_row
    return ProbeCost(
        states=states,
        passes=passes,
        tokens=tokens,
        overhead=MARGIN * tokens / (steps * tokens_per_step),
        gradient_bytes=4 * parameters * (number if keeps else tasks + 2),
    )
