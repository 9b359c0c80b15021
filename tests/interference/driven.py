"""A training loop by hand that calls a callback as a trainer does: every step can be seen and stopped at."""

from __future__ import annotations

from typing import Any

import torch
from tests.interference import tiny
from transformers import TrainerControl, TrainerState, TrainingArguments

from crosstune.foundation.data import collate, encode
from crosstune.interference import BlockSettings, ForgettingLedger, LedgerSettings

BLOCKS = BlockSettings(blocks=4, rows_per_block=3, length=16)


def ledger(every: int = 5, run: Any = None, **settings: Any) -> ForgettingLedger:
    """A ledger of both languages."""
    return ForgettingLedger(
        {"en": tiny.rows("en", 40), "bn": tiny.rows("bn", 40)},
        every,
        tokenizer=tiny.tokenizer(),
        blocks=BLOCKS,
        settings=LedgerSettings(**settings),
        run=run,
    )


class Training:
    """AdamW on the second language, step by step, with one ledger.

    Args:
        model: What is trained.
        callback: The ledger.
        last: The step at which training ends.
        rate: The learning rate.
    """

    def __init__(
        self, model: Any, callback: ForgettingLedger, *, last: int = 12, rate: float = 1e-2
    ) -> None:
        self.model, self.callback = model, callback
        self.state = TrainerState(max_steps=last)
        self.control = TrainerControl()
        self.args = TrainingArguments("unused", report_to=[], use_cpu=True)
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.1
        )
        encoded = encode(tiny.rows("bn", 4 * last, start=500), tiny.tokenizer(), 16)
        self.batches = [collate(encoded[4 * n : 4 * n + 4], 0) for n in range(last)]

    def _call(self, event: str) -> None:
        getattr(self.callback, event)(
            self.args, self.state, self.control, model=self.model, processing_class=None
        )

    def begin(self) -> Training:
        """Call `on_train_begin`."""
        self._call("on_train_begin")
        return self

    def go_to(self, step: int) -> Training:
        """Take optimizer steps until this one is done."""
        for number in range(self.state.global_step, step):
            self.model.train()
            self.model(**self.batches[number]).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.state.global_step = number + 1
            self._call("on_step_end")
        return self

    def end(self) -> ForgettingLedger:
        """Call `on_train_end`."""
        self._call("on_train_end")
        return self.callback


def followed(model: Any, callback: ForgettingLedger, **settings: Any) -> ForgettingLedger:
    """The ledger after a whole training."""
    training = Training(model, callback, **settings).begin()
    return training.go_to(training.state.max_steps).end()
