"""Loss, gradient norm and held-out loss are the same for every split into batch × accumulation × processes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import processes
from tests.foundation.training import tiny, toy
from transformers import TrainerCallback

from crosstune.foundation.errors import NonFiniteLossError
from crosstune.foundation.ranks import gather_over_ranks, is_first
from crosstune.foundation.training import StageData, Terms, train_stage

# (rows per micro-batch, accumulation, processes), as in TRL's own invariance test
SPLITS = [(8, 1, 1), (4, 2, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2)]
ONE_TERM = Terms()
TERMS = ("one", "five", "checkpointed")
RELATIVE = 1e-5  # float32: 2e2 tokens in another order, 1.2e-7 * sqrt(2e2), over 3 steps, times a condition of 2


def curves(
    folder: Path, accumulation: int, terms: Terms = ONE_TERM, *, model: Any = None, **changes: Any
) -> dict[str, Any]:
    """What a stage reports, for rows of unequal length."""
    chosen = tiny.settings(
        accumulation=accumulation,
        evaluate_every=3,
        optimizer="sgd",
        learning_rate=0.1,
        clip=0.3,
        **changes,
    )
    result = train_stage(
        model or tiny.model(), tiny.data(21), chosen, output_folder=folder, terms=terms
    )
    return {
        "losses": tiny.losses(result.history),
        "norms": [line["grad_norm"] for line in result.history if "grad_norm" in line],
        "looks": [line["eval_other_loss"] for line in result.history if "eval_other_loss" in line],
        "ledger": result.ledger.column("weighted"),
        "final": [
            line["eval_other_loss_final"] for line in result.history if "eval_other_loss" in line
        ],
        "counts": result.ledger.column("count"),
        "rows": result.cost.rows,
        "tokens": result.cost.tokens,
    }


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Any, Any]:
    folder = tmp_path_factory.mktemp("splits")
    alone = {split: both(folder / str(split), split[1]) for split in SPLITS if split[2] == 1}
    return {**alone, **two_processes(folder)}


def both(folder: Path, accumulation: int) -> dict[str, Any]:
    """One term, and six entries of five: two learn parameters of their own, two come from one head; also with less memory."""
    return {
        "one": curves(folder / "one", accumulation),
        "five": curves(folder / "five", accumulation, toy.terms()),
        "checkpointed": curves(
            folder / "less memory", accumulation, toy.terms(), gradient_checkpointing=True
        ),
    }


def two_processes(folder: Path) -> dict[Any, Any]:
    """What two processes found that a launcher has told of each other."""
    processes.launched(2, in_two, folder)
    found = json.loads((folder / "found.json").read_text())
    named = {str(split): split for split in SPLITS}
    return {named.get(name, name): value for name, value in found.items()}


@pytest.mark.parametrize("split", SPLITS[1:])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("figure", ["losses", "norms", "looks", "final", "ledger"])
def test_figures_do_not_depend_on_the_split(measured, split, terms: str, figure: str) -> None:
    reference = measured[SPLITS[0]][terms][figure]
    assert len(reference) > 1
    assert measured[split][terms][figure] == pytest.approx(reference, rel=RELATIVE)


@pytest.mark.parametrize("split", SPLITS[1:])
def test_every_split_reads_the_same_rows_and_tokens(measured, split) -> None:
    for count in ("counts", "rows", "tokens"):
        assert measured[split]["five"][count] == measured[SPLITS[0]]["five"][count]


def test_every_term_moves_the_loss(measured) -> None:
    """The five-term figures are not those of one term, and the same however activations are kept."""
    for figure in ("losses", "norms", "looks"):
        one, five, checkpointed = (measured[SPLITS[0]][terms][figure] for terms in TERMS)
        assert five != pytest.approx(one, rel=1e-2)
        assert checkpointed == pytest.approx(five, rel=RELATIVE)


def test_a_wrong_scale_would_be_seen(measured) -> None:
    """The tolerance is far below what dividing by the accumulation or the processes would do."""
    losses = measured[SPLITS[0]]["one"]["losses"]
    assert [loss / 2 for loss in losses] != pytest.approx(losses, rel=1e-2)
    assert max(losses) - min(losses) > 100 * RELATIVE * max(losses)  # the curve itself moves


def test_processes_with_unequal_shares_of_a_step_agree_with_one(measured, tmp_path: Path) -> None:
    alone = curves(tmp_path, 1, batch_rows=7)
    for figure in ("losses", "norms", "looks"):
        assert measured["uneven"][figure] == pytest.approx(alone[figure], rel=RELATIVE)


def test_a_model_that_was_checkpointed_before_agrees(measured) -> None:
    """Its parameters may go unused at a step, which two processes must expect."""
    for figure in ("losses", "norms", "looks"):
        expected = measured[SPLITS[0]]["five"][figure]
        assert measured["checkpointed before"][figure] == pytest.approx(expected, rel=RELATIVE)


def test_every_process_names_the_row_that_one_of_them_read(measured) -> None:
    assert len(measured["poison"]) == 2
    for message in measured["poison"]:
        assert "`loss` must be finite at optimizer step" in message
        assert "next_token in rows" in message
        assert "the-victim" in message


def test_two_processes_resume_to_the_bit(measured) -> None:
    assert measured["resumed"] == {"from": 3, "same_bits": True, "same_ledger": True}


def poison(folder: Path) -> list[str]:
    model, data = tiny.model(), tiny.data(8, held_out=0)
    with torch.no_grad():
        model.get_input_embeddings().weight[31] = math.nan
    rows = [
        dataclasses.replace(row, input_ids=[min(token, 30) for token in row.input_ids])
        for row in data.train
    ]
    rows[0] = dataclasses.replace(
        rows[0], row_id="the-victim", input_ids=[31, *rows[0].input_ids[1:]]
    )
    try:
        train_stage(model, StageData(rows, 0), tiny.settings(), output_folder=folder)
    except NonFiniteLossError as error:
        return gather_over_ranks(str(error))
    return []


def resume(folder: Path) -> dict[str, Any]:
    class PowerCut(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 4:
                raise KeyboardInterrupt

    def train(place: str, *callbacks: TrainerCallback):
        model = tiny.model(attention_dropout=0.3)
        chosen = tiny.settings(accumulation=2, checkpoint_every=3)
        result = train_stage(
            model, tiny.data(), chosen, output_folder=folder / place, callbacks=callbacks
        )
        return tiny.weights(model), result

    whole, uninterrupted = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", PowerCut())
    again, result = train("cut")
    return {
        "from": result.resumed_from,
        "same_bits": tiny.same_bits(whole, again),
        "same_ledger": result.ledger.rows() == uninterrupted.ledger.rows(),
    }


def in_two(folder: Path) -> None:
    found: dict[str, Any] = {
        str(split): both(folder / str(split), split[1]) for split in SPLITS if split[2] == 2
    }
    found["uneven"] = curves(folder / "uneven", 1, batch_rows=7)
    found["poison"] = poison(folder / "poison")
    found["resumed"] = resume(folder)
    checkpointed = tiny.model()
    checkpointed.activation_checkpointing_enable({"use_reentrant": False})
    found["checkpointed before"] = curves(folder / "before", 1, toy.terms(), model=checkpointed)
    if is_first():
        (folder / "found.json").write_text(json.dumps(found))
