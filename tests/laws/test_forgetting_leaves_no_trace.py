"""Law: training with the forgetting ledger is bit for bit training without it, on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import driven, tiny

from crosstune.interference import ForgettingLedger

HARD = {
    "max_steps": 4,
    "gradient_accumulation_steps": 3,
    "optim": "adamw_torch",
    "weight_decay": 0.1,
    "logging_steps": 1,
}


class NosyLedger(ForgettingLedger):
    """Closes a segment also where `.grad` holds accumulated values."""

    looks = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model = given["model"]
        before = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters()}
        self._steps = (self._steps[0], self._steps[1] + 1)  # as if a step had been taken
        self._close_segment(args, state, model)
        for name, parameter in model.named_parameters():
            assert parameter.grad is before[name][0]
            assert torch.equal(parameter.grad, before[name][1])
        self.looks += 1


def trained(folder: Path, callbacks: list[Any], model: Any) -> dict[str, Any]:
    trainer = tiny.trainer(model, folder, callbacks, **HARD)
    trainer.train()
    times = {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
    return {
        "weights": [p.detach().clone() for p in model.parameters()],
        "optimizer": [
            value
            for kept in trainer.optimizer.state_dict()["state"].values()
            for value in kept.values()
        ],
        "log": [
            {key: value for key, value in entry.items() if key not in times}
            for entry in trainer.state.log_history
            if not any(key.startswith("forgetting/") for key in entry)
        ],
        "random": torch.get_rng_state(),
        "flags": [module.training for module in model.modules()],
    }


@pytest.mark.parametrize("kind", [ForgettingLedger, NosyLedger])
def test_training_with_the_ledger_is_bit_identical(kind: Any, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", [], tiny.llama(dropout=0.3))
    ledger = kind({"en": tiny.rows("en", 40)}, every=2, blocks=driven.BLOCKS)
    watched = trained(tmp_path / "watched", [ledger], tiny.llama(dropout=0.3))
    for part in ("weights", "optimizer"):
        for one, other in zip(plain[part], watched[part], strict=True):
            assert torch.equal(one, other)
    assert torch.equal(plain["random"], watched["random"])
    assert plain["log"] == watched["log"]
    assert plain["flags"] == watched["flags"]
    assert getattr(ledger, "looks", 4) == 4
    assert ledger.close().of("en").measured != 0
