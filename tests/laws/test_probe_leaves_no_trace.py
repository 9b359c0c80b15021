"""Law: training with the conflict probe is bit for bit training without it, on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import tiny

from crosstune.foundation.errors import UnsupportedError
from crosstune.interference import ConflictProbe

PROBE = {"every": 2, "burst": 2, "blocks": 3, "rows_per_block": 2, "length": 16}
HARD = {
    "max_steps": 3,
    "gradient_accumulation_steps": 3,
    "optim": "adamw_torch",
    "weight_decay": 0.1,
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "logging_steps": 1,
}


class NosyProbe(ConflictProbe):
    """Looks also in the middle of an accumulation and just before the optimizer steps."""

    looks = 0

    def _look_now(self, model: Any) -> None:
        before = {name: p.grad for name, p in model.named_parameters()}
        assert any(gradient is not None for gradient in before.values())
        self.comparison.sums(model)
        assert all(p.grad is before[name] for name, p in model.named_parameters())
        self.looks += 1

    def on_substep_end(
        self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any
    ) -> None:
        self._look_now(model)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any
    ) -> None:
        self._look_now(model)


def tasks() -> dict[str, Any]:
    return {"en": tiny.rows("en", 12), "bn": tiny.rows("bn", 12)}


def trained(folder: Path, callbacks: list[Any], model: Any, **arguments: Any) -> dict[str, Any]:
    """Everything that training leaves behind, but the time it took."""
    trainer = tiny.trainer(model, folder, callbacks, **(HARD | arguments))
    trainer.train()
    optimizer = trainer.optimizer.state_dict()["state"]
    times = {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
    log = [
        {key: value for key, value in entry.items() if key not in times}
        for entry in trainer.state.log_history
        if not any(key.startswith("conflict/") for key in entry)
    ]
    return {
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "optimizer": {f"{i}.{k}": v for i, kept in optimizer.items() for k, v in kept.items()},
        "log": log,
        "random": torch.get_rng_state(),
        "flags": [module.training for module in model.modules()],
    }


def assert_equal_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("weights", "optimizer"):
        assert one[part].keys() == other[part].keys()
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), f"{part}: {name}"
    assert torch.equal(one["random"], other["random"])
    assert one["log"] == other["log"]
    assert one["flags"] == other["flags"]


@pytest.mark.parametrize("kind", ["full", "lora", "effective"])
def test_training_is_the_same_to_the_bit(kind: str, tmp_path: Path) -> None:
    def model() -> Any:
        return tiny.llama(dropout=0.2) if kind == "full" else tiny.lora()

    plain = trained(tmp_path / "plain", [], model())
    weights = "effective" if kind == "effective" else "trained"
    probe = NosyProbe(tasks(), weights=weights, **PROBE)
    probed = trained(tmp_path / "probed", [probe], model())
    assert_equal_bits(plain, probed)
    assert [state.step for state in probe.history.states] == [0, 1, 2, 3]
    assert probe.looks == 3 * 3  # two substeps and one optimizer step, three times


def test_the_comparison_would_see_a_trace(tmp_path: Path) -> None:
    class Careless(ConflictProbe):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_step_end(*args, **kwargs)
            torch.rand(1)  # moves the generator that dropout draws from

    plain = trained(tmp_path / "plain", [], tiny.llama(dropout=0.2))
    traced = trained(tmp_path / "traced", [Careless(tasks(), **PROBE)], tiny.llama(dropout=0.2))
    with pytest.raises(AssertionError):
        assert_equal_bits(plain, traced)


def test_reentrant_checkpointing_is_refused_in_words(tmp_path: Path) -> None:
    trainer = tiny.trainer(
        tiny.llama(),
        tmp_path,
        [ConflictProbe(tasks(), **PROBE)],
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": True},
    )
    with pytest.raises(UnsupportedError, match="use_reentrant"):
        trainer.train()
