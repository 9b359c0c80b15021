"""Law: plain transformers and vanilla PEFT read a saved repair and measure exactly what was reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import pairs, tuned
from transformers import AutoModelForCausalLM

from crosstune.foundation.evaluation import score_rows
from crosstune.merging import repair
from crosstune.merging.result import Pick, Repair

SETTINGS = replace(tuned.SMALL, exchange_rates=(1.0,), budgets=(), penalties=(0.0,))


def of(before: Any, after: Any, *granularity: str) -> tuple[Repair, Pick]:
    settings = replace(SETTINGS, granularity=granularity or SETTINGS.granularity)
    found = repair(before, after, keep=tuned.keep(), settings=settings)
    pick = found.pick()
    assert pick.point.coefficients is not None
    assert 0.0 < float(pick.point.coefficients.mean()) < 1.0  # neither end
    return found, pick


def assert_measured(model: Any, found: Repair, pick: Pick, *, exact: bool = True) -> None:
    at = found.points.index(pick.point)
    for task, rows in found.rows.test.items():
        scores = score_rows(model.eval(), rows, pad_id=0, batch_tokens=SETTINGS.batch_tokens)
        reported = found.scores[at][task]
        if exact:
            assert torch.equal(scores.nats, reported.nats)
        else:
            # Float32: merged weights round once more, 6e-8 * sqrt(1e3 terms) of up to 5 nats a token.
            torch.testing.assert_close(scores.nats, reported.nats, rtol=1e-5, atol=1e-5)
        (row,) = pick.tasks.where(task=task).rows()
        loss = (scores.nats.sum() / scores.tokens.sum()).item()
        assert row["loss"] == pytest.approx(loss, rel=1e-12 if exact else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_full_model_has_the_losses_that_were_reported(dtype: torch.dtype, tmp_path: Path) -> None:
    ends = [
        pairs.saved(model.to(dtype), tmp_path / name)
        for name, model in zip("ab", tuned.pair(), strict=True)
    ]
    found, pick = of(*ends)
    folder = found.save(tmp_path / "kept", pick)
    stored = AutoModelForCausalLM.from_pretrained(folder)
    assert {p.dtype for p in stored.parameters()} == {dtype}
    widened = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert_measured(widened, found, pick)


@pytest.mark.parametrize("granularity", ["component", "head"])
def test_an_adapter_in_vanilla_peft_has_the_losses_that_were_reported(
    granularity: str, tmp_path: Path
) -> None:
    base, adapter = tuned.adapted()
    place = pairs.saved(base, tmp_path / "base")
    adapter.save_pretrained(tmp_path / "adapter")
    found, pick = of(place, tmp_path / "adapter", granularity)
    folder = found.save(tmp_path / "kept", pick)
    assert (folder / "adapter_config.json").is_file()
    assert_measured(pairs.vanilla(place, folder), found, pick)
    merged = found.save(tmp_path / "merged", pick, merge=True)
    assert_measured(AutoModelForCausalLM.from_pretrained(merged), found, pick, exact=False)
    assert tiny.tokenizer().get_vocab() == found.ends.tokenizer.get_vocab()
