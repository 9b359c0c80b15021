"""Are block gradients faster together? One pass for each of 16 blocks against passes of many, side by side.

    python benchmarks/block_gradients.py [--whole] [--rounds 3] [--threads 1] [--clock cpu]

For the embedded model and, where ../shared is beside the checkout, two real ones. Both ways end at what the ledger
needs, ⟨g_k, Δ⟩ at every site, and take turns, so that a busy machine slows both; ratios are taken round by round.
`together` allows any block to join; `used` says what the instruments do by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from peers.command import CLOCKS, SHARED, markdown, spread, timed_command
from torch import Tensor

from crosstune.foundation.data import Row, parse_language
from crosstune.foundation.gradients import batched
from crosstune.foundation.gradients.blocks import Block, make_blocks
from crosstune.foundation.gradients.gradients import block_gradient, evaluating, trainable_names
from crosstune.foundation.models import Anatomy, gradient_sites, load_model, load_tokenizer
from crosstune.foundation.worlds import embedded_world
from crosstune.interference import BlockSettings, GradientSettings

BLOCKS = 16
SENTENCES = {48: 4, 128: 16, 512: 70}  # enough of them to fill a row of this length
SETTINGS = GradientSettings(stack_bytes=2**30)
QUICK = ((1, 2), (48, 128))  # rows of a block, and their lengths
WHOLE = ((1, 2, 4), tuple(SENTENCES))
HEADS = (
    *("model", "rows", "length", "tokens of the largest block", "loop, s", "together, s"),
    *("loop / together, gradients alone", "loop / together, with inner products", "used"),
)


def blocks_of(tokenizer: Any, rows: int, length: int) -> tuple[Block, ...]:
    """Blocks whose rows are full."""
    number, each = BLOCKS * rows, SENTENCES[length]
    said = parse_language("toy:latin-svo").sentences(number * each)
    texts = [" ".join(row.text for row in said[i * each : (i + 1) * each]) for i in range(number)]
    settings = BlockSettings(BLOCKS, rows, length)
    return make_blocks(
        "task", [Row(str(i), text) for i, text in enumerate(texts)], tokenizer, settings
    )


class Turn:
    """One model and its blocks; each way gives the seconds of gradients and of inner products."""

    def __init__(self, model: Any, blocks: tuple[Block, ...], now: Callable[[], float]) -> None:
        self.model, self.blocks, self.now = model, blocks, now
        self.names = trainable_names(model)
        self.anatomy: Anatomy = gradient_sites(model)
        self.step: dict[str, Tensor] = {
            name: torch.randn_like(value) for name, value in model.named_parameters()
        }

    def loop(self) -> tuple[float, float]:
        """A pass and a product for each block."""
        start = self.now()
        found = [block_gradient(self.model, b, self.names, SETTINGS) for b in self.blocks]
        middle = self.now()
        for block in found:
            self.anatomy.inner(block.gradient, self.step)
        return middle - start, self.now() - middle

    def together(self) -> tuple[float, float]:
        """Passes of as many blocks as go in."""
        start = self.now()
        found = self.stacks()
        middle = self.now()
        for stack in found:
            self.anatomy.inner_many(stack.gradients, self.step)
        return middle - start, self.now() - middle

    def stacks(self) -> list[batched.Stack]:
        """The stacks of all blocks."""
        places = range(len(self.blocks))
        return list(batched.block_gradients(self.model, self.blocks, places, self.names, SETTINGS))


def measure(turn: Turn, rounds: int) -> list[str]:
    """Seconds and ratios of both ways, and what the instruments choose."""
    chosen = batched.CPU_WORK
    passes = len(turn.stacks())
    batched.CPU_WORK = 10**18
    found = []
    try:
        for round_number in range(rounds + 1):
            times = turn.loop(), turn.together()
            if round_number > 0:  # the first round warms caches up
                found.append(times)
    finally:
        batched.CPU_WORK = chosen
    return [
        f"{median(sum(loop) for loop, _ in found):.3f}",
        f"{median(sum(together) for _, together in found):.3f}",
        spread([loop[0] / together[0] for loop, together in found]),
        spread([sum(loop) / sum(together) for loop, together in found]),
        "loop" if passes == BLOCKS else f"{passes} passes",
    ]


def main() -> None:
    """Measure every case and print the table."""
    options = timed_command(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    real = [SHARED / "models" / name for name in ("stories260K", "stories3M")]
    table = []
    counts, lengths = WHOLE if options.whole else QUICK
    for folder in (embedded_world().folder, *(path for path in real if path.is_dir())):
        model, tokenizer = load_model(folder), load_tokenizer(folder)
        name = folder.name if folder in real else "embedded"
        for rows in counts:
            for length in lengths:
                if length > model.config.max_position_embeddings:
                    continue
                blocks = blocks_of(tokenizer, rows, length)
                with evaluating(model, SETTINGS):
                    found = measure(Turn(model, blocks, CLOCKS[options.clock]), options.rounds or 3)
                tokens = max(rows * len(row.input_ids) for block in blocks for row in block.rows)
                table.append([name, str(rows), str(length), str(tokens), *found])
    print(markdown(HEADS, table))


if __name__ == "__main__":
    main()
