"""How long may a segment be: `python benchmarks/ledger_segments.py`; with `--whole` it writes docs/ledger.md.

One training of stories260K on Bengali is followed by several forgetting ledgers at once, so that all of them account for
the same path. Every column is held against the ledger of one step a segment (m = 1). `one` is a single Simpson panel
a segment, whether it closes or not; `closed` refines until it does, as the library does by default.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from peers.command import SHARED, command, markdown, publish, spread
from transformers import Trainer, TrainingArguments

from crosstune.foundation.data import Row, collate, encode
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.interference import BlockSettings, ForgettingLedger, GradientSettings, LedgerSettings
from crosstune.interference.ledger.accounts import Account, TaskAccount
from crosstune.interference.ledger.quadrature import Tolerance
from crosstune.interference.ledger.rollback import compare_with_ledger, measure_rollback

BATCH, LENGTH = 8, 64
STEPS, RATES, SEGMENTS = 120, (2e-4, 1e-3), (5, 10, 40)
QUICK_STEPS, QUICK_SEEDS, QUICK_SEGMENTS = 20, (0, 1), (5, 10)
BLOCKS = BlockSettings(blocks=8, rows_per_block=4, length=LENGTH)
ANY_RESIDUAL = 1e9


def rows(language: str, count: int) -> list[Row]:
    """The first rows of one language; a document is a group."""
    path = SHARED / "data" / "languages" / f"{language}.jsonl"
    with path.open(encoding="utf-8") as stream:
        found = [json.loads(line) for _, line in zip(range(count), stream, strict=False)]
    return [Row(row["id"], row["text"], group=row["id"]) for row in found]


def ledger(english: list[Row], every: int, *, refine: bool) -> ForgettingLedger:
    """A ledger of one segment length, with or without refinement."""
    loose = {} if refine else {"max_panels": 1, "absolute": ANY_RESIDUAL}
    settings = LedgerSettings(every=every, track=False, **loose)
    return ForgettingLedger({"en": english}, blocks=BLOCKS, settings=settings)


@dataclass(frozen=True)
class Course:
    """One training, and the segments that its ledgers are given."""

    rate: float
    steps: int = STEPS
    segments: tuple[int, ...] = SEGMENTS
    seed: int = 0


def train(model: Any, tokenizer: Any, course: Course, callbacks: list[ForgettingLedger]) -> None:
    """Fine-tune on Bengali with the stock trainer; AdamW, constant learning rate."""
    encoded = encode(rows("bn", STEPS * BATCH), tokenizer, LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                max_steps=course.steps,
                per_device_train_batch_size=BATCH,
                learning_rate=course.rate,
                lr_scheduler_type="constant",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
                seed=course.seed,
            ),
            train_dataset=encoded,  # type: ignore[arg-type]
            data_collator=lambda batch: collate(batch, tokenizer.pad_token_id or 0),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        ).train()


@dataclass(frozen=True)
class Line:
    """One ledger against the path itself."""

    course: Course
    every: int
    kind: str
    account: TaskAccount
    path: TaskAccount

    @property
    def seconds(self) -> float:
        """What its evaluations took."""
        return sum(segment.seconds for segment in self.account.segments)

    @property
    def contributions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Its own and the path's, by component."""
        mine, exact = (
            torch.tensor([entry.nats for entry in account.entries]).double()
            for account in (self.account, self.path)
        )
        return mine, exact

    @property
    def error(self) -> float:
        """The largest of a component."""
        mine, exact = self.contributions
        return (mine - exact).abs().max().item()

    def cells(self) -> list[str]:
        """The cells of one table row."""
        mine, exact = self.contributions
        correlation = torch.corrcoef(torch.stack([mine, exact]))[0, 1].item()
        residual = self.account.booked - self.account.measured
        return [
            f"{self.course.rate:g}",
            str(self.every),
            self.kind,
            f"{self.account.measured:.4f}",
            f"{self.account.booked:.4f}",
            f"{abs(residual / self.account.measured):.1e}",
            f"{self.error:.4f}",
            f"{correlation:.4f}",
            str(max(segment.panels for segment in self.account.segments)),
            f"{self.account.evaluations / self.course.steps:.2f}",
            f"{self.seconds:.1f}",
        ]


HEADER = [
    "learning rate",
    "m",
    "kind",
    "measured",
    "attributed",
    "relative residual",
    "largest component error",
    "correlation",
    "most panels",
    "evaluations a step",
    "seconds",
]


def measure(course: Course) -> tuple[list[Line], Account, str]:
    """All ledgers over one training, and the rank agreement with rollback."""
    folder = SHARED / "models" / "stories260K"
    model, tokenizer = load_model(folder, dtype="float32"), load_tokenizer(folder)
    english = rows("en", 400)
    path = ledger(english, 1, refine=True)
    others = [
        (every, kind, ledger(english, every, refine=kind == "closed"))
        for every in course.segments
        for kind in ("one", "closed")
    ]
    train(model, tokenizer, course, [path, *(other for _, _, other in others)])
    exact = path.close()
    lines = [Line(course, 1, "closed", exact.of("en"), exact.of("en"))]
    lines += [
        Line(course, every, kind, other.close().of("en"), exact.of("en"))
        for every, kind, other in others
    ]
    back = measure_rollback(folder, model, {"en": english}, tokenizer=tokenizer, blocks=BLOCKS)
    rho = compare_with_ledger(back, path.sites()).rows()[0]
    words = (
        f"Learning rate {course.rate:g}: rank correlation of ledger and rollback {rho['rank_correlation']:.2f} "
        f"[{rho['low']:.2f}, {rho['high']:.2f}] ({rho['sites']} sites)."
    )
    return lines, exact, words


def page(results: list[tuple[list[Line], Account, str]]) -> str:
    """The page docs/ledger.md."""
    table = markdown(HEADER, [line.cells() for lines, _, _ in results for line in lines])
    accounts = "\n".join(f"> {account.of('en')}\n" for _, account, _ in results)
    agreement = "\n".join(f"* {words}" for _, _, words in results)
    return (
        "# The forgetting ledger: how long may a segment be?\n\n"
        "Written by `benchmarks/ledger_segments.py --whole`: stories260K (260 thousand parameters, pretrained on English "
        f"stories) learns Bengali news for {STEPS} steps of {BATCH} rows with AdamW. The reference is "
        f"{BLOCKS.blocks} blocks of {BLOCKS.rows_per_block} English rows. Figures are nats per token; errors are "
        "against the ledger of one step a segment (m = 1), over components.\n\n"
        + table
        + "\n\nA segment always closes once it is divided finely enough, because both of its ends are known; closing "
        "says nothing about *which* component a long segment blames, so state m beside every figure. The default is "
        "m = 10.\n\nThe account of m = 1 in its own words:\n\n"
        + accounts
        + "\nAgainst rollback, the causal instrument:\n\n"
        + agreement
        + "\n\n"
        + precision()
        + "\n"
        + half_precision()
        + "\n"
    )


def half_precision() -> str:
    """How much worse bf16 weights close when they are not evaluated as float32: one sentence."""
    folder = SHARED / "models" / "stories260K"
    model, tokenizer = load_model(folder, dtype="bfloat16"), load_tokenizer(folder)
    ledgers = [
        ForgettingLedger(
            {"en": rows("en", 400)},
            blocks=BLOCKS,
            gradients=GradientSettings(precision=precision),
            settings=LedgerSettings(every=1, track=False, max_panels=1, absolute=ANY_RESIDUAL),
        )
        for precision in ("float32", "model")
    ]
    train(model, tokenizer, Course(1e-3, steps=20), ledgers)
    worst = [
        max(abs(segment.residual) for segment in ledger.close().of("en").segments)
        for ledger in ledgers
    ]
    return (
        "stories260K with bf16 weights, 20 steps at 1e-3, one step and one panel a segment: the worst segment misses "
        f"by {worst[0]:.1e} nats per token evaluated as float32, by {worst[1]:.1e} evaluated in bf16."
    )


def precision() -> str:
    """What closing means for each dtype in which losses and gradients are evaluated."""
    lines = [
        f"| {str(dtype).removeprefix('torch.')} | {tolerance.absolute:g} | {100 * tolerance.relative:g} % |"
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
        for tolerance in (Tolerance.of_dtype(dtype),)
    ]
    return (
        "## Precision\n\nA segment is closed when it misses by no more than an absolute part plus a share of its "
        "loss change. Weights kept in half precision are evaluated as float32 by default and close as float32 does; "
        '`GradientSettings(precision="model")` saves that copy and is held to the wider tolerance.\n\n'
        "| evaluated in | nats per token | share of the change |\n| --- | --- | --- |\n"
        + "\n".join(lines)
        + "\n"
    )


def quick(results: list[tuple[list[Line], Account, str]]) -> str:
    """Costs and errors of the segments against m = 1 of the same training, over the seeds."""
    found = []
    for lines in zip(*(lines for lines, _, _ in results), strict=True):
        paths = [lines_of[0] for lines_of, _, _ in results]
        found.append(
            [
                str(lines[0].every),
                lines[0].kind,
                spread(
                    [line.seconds / one.seconds for line, one in zip(lines, paths, strict=True)]
                ),
                spread([line.error / line.contributions[1].abs().max().item() for line in lines]),
            ]
        )
    heads = ("m", "kind", "seconds, of m = 1", "largest error, of the largest contribution")
    return "\n".join([markdown(heads, found), "", *(words for _, _, words in results)])


def main() -> None:
    """Measure, and print or write the page."""
    options = command(__doc__).parse_args()
    if not (SHARED / "models" / "stories260K").is_dir():
        print("skipped: ../shared/models/stories260K is not beside this checkout")
        return
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()  # several ledgers are meant
    if options.whole:
        publish(page([measure(Course(rate)) for rate in RATES]), "ledger.md", whole=True)
    else:
        courses = [Course(1e-3, QUICK_STEPS, QUICK_SEGMENTS, seed) for seed in QUICK_SEEDS]
        print(quick([measure(course) for course in courses]))


if __name__ == "__main__":
    main()
