"""Rollback: what is put back regains exactly what it should, slices included, and misfits are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tests.interference import driven, tiny
from transformers import GPT2Config, GPT2LMHeadModel

from crosstune.foundation.data import Task, collate, encode
from crosstune.foundation.errors import CheckpointError, ModelError, SettingsError
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.models import save_model
from crosstune.foundation.records import Table
from crosstune.interference.ledger.rollback import compare_with_ledger, measure_rollback

ROWS = tiny.rows("en", 12)
ROUNDING = 2e-6  # float32: 6e-8 · √(1e3 terms behind a logit), a nat of 3 in the mean of 80 tokens


def moved(model: Any, seed: int = 3) -> Any:
    """The same model with every trainable parameter moved a little."""
    after = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in after.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return after


def rolled(before: Any, after: Any, **options: Any) -> Table:
    return measure_rollback(before, after, {"en": ROWS}, tokenizer=tiny.tokenizer(), **options)


def loss(model: Any) -> float:
    scores = score_rows(model, encode(ROWS, tiny.tokenizer(), 128), pad_id=0)
    return (scores.nats.sum() / scores.tokens.sum()).item()


def cell(table: Table, where: str) -> dict[str, Any]:
    return table.where(where=where).rows()[0]


def test_each_row_is_the_loss_with_that_component_put_back() -> None:
    before = tiny.llama()
    after = moved(before)
    table = rolled(before, after)
    by_hand = copy.deepcopy(after)
    with torch.no_grad():
        by_hand.model.layers[1].self_attn.v_proj.weight.copy_(
            before.model.layers[1].self_attn.v_proj.weight
        )
    row = cell(table, "L1 attn.v")
    assert row["loss"] == pytest.approx(loss(by_hand), abs=ROUNDING)
    assert row["nats"] == pytest.approx(loss(after) - loss(by_hand), abs=ROUNDING)
    assert row["low"] < row["nats"] < row["high"]
    assert cell(table, "all")["loss"] == pytest.approx(loss(before), abs=ROUNDING)
    assert cell(table, "none")["loss"] == pytest.approx(loss(after), abs=ROUNDING)
    assert cell(table, "none")["nats"] == 0
    assert cell(table, "all")["share"] == pytest.approx(1)


def test_the_model_is_left_as_it_was() -> None:
    before = tiny.llama()
    after = moved(before).train()
    kept = {name: value.clone() for name, value in after.state_dict().items()}
    rolled(before, after)
    assert all(torch.equal(value, kept[name]) for name, value in after.state_dict().items())
    assert after.training


def test_only_the_slice_of_a_fused_parameter_is_put_back() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=23,
        n_embd=16,
        n_layer=1,
        n_head=4,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=1,
    )
    before = GPT2LMHeadModel(config)
    after = copy.deepcopy(before)
    with torch.no_grad():  # keys move, queries and values do not
        after.transformer.h[0].attn.c_attn.weight[:, 16:32] += torch.randn(16, 16)
    table = rolled(before, after)
    assert cell(table, "L0 attn.k")["loss"] == cell(table, "all")["loss"]  # identical arithmetic
    for untouched in ("L0 attn.q", "L0 attn.v"):
        assert cell(table, untouched)["nats"] == 0
    assert cell(table, "L0 attn.k")["nats"] != 0


def test_layers_and_lora_factors_can_be_put_back() -> None:
    before = tiny.lora()
    after = copy.deepcopy(before)
    after(**collate(encode(ROWS, tiny.tokenizer(), 128), 0)).loss.backward()
    with torch.no_grad():
        for parameter in after.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.05 * parameter.grad)
    fine = rolled(before, after, by="site")
    assert cell(fine, "L0 attn.q (A)")["factor"] == "A"
    assert cell(fine, "L0 attn.q (B)")["nats"] != 0
    assert cell(fine, "L0 mlp.gate")["nats"] == 0  # frozen
    layers = rolled(before, after, by="layer")
    assert {"L0", "L1", "embed", "all", "none"} <= set(layers.column("where"))
    both = cell(layers, "L0")["nats"] + cell(layers, "L1")["nats"]
    # A small step along the gradient: layers add up but for the second order, a few percent.
    assert both == pytest.approx(cell(layers, "all")["nats"], rel=0.2)


def test_adapters_are_put_back_one_by_one_or_with_the_component_they_adapt() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    before = get_peft_model(tiny.llama(), config, adapter_name="prose")
    before.add_adapter("code", config)
    before.base_model.set_adapter(["prose", "code"])
    after = moved(before)
    fine = rolled(before, after, by="site")
    assert cell(fine, "L0 attn.q (code B)")["adapter"] == "code"
    assert cell(fine, "L0 attn.q (code B)")["nats"] != cell(fine, "L0 attn.q (prose B)")["nats"]
    together = rolled(before, after).where(layer=0, component="attn.q")
    assert together.column("where") == ["L0 attn.q"] and together.column("nats") != [0]


def test_tensors_may_leave_out_what_training_did_not_move() -> None:
    before = tiny.lora()
    after = moved(before)
    trainable = {name: p.detach() for name, p in before.named_parameters() if p.requires_grad}
    assert rolled(trainable, after).rows() == rolled(before, after).rows()


def test_folders_and_files_are_read(tmp_path: Path) -> None:
    before = tiny.llama()
    after = moved(before)
    save_model(before, tiny.tokenizer(), tmp_path / "before")
    save_model(after, tiny.tokenizer(), tmp_path / "after")
    expected = rolled(before, after).rows()
    assert (
        measure_rollback(tmp_path / "before", tmp_path / "after", {"en": ROWS}).rows() == expected
    )
    save_file(before.state_dict(), tmp_path / "weights.safetensors")
    assert rolled(tmp_path / "weights.safetensors", after).rows() == expected
    with pytest.raises(CheckpointError, match="must be an existing file"):
        rolled(tmp_path / "absent.safetensors", after)


def test_another_architecture_is_refused_with_the_difference_shown() -> None:
    after = tiny.llama()
    short = {name: p.detach() for name, p in after.named_parameters()}
    short["lm_head.weight"] = torch.zeros(23, 8)
    short["extra"] = torch.zeros(1)
    del short["model.norm.weight"]
    pattern = r"model.norm.weight is missing; extra is not in `after`; lm_head.weight is \(23, 8\)"
    with pytest.raises(CheckpointError, match=pattern):
        rolled(short, after)


def test_bad_arguments_are_refused() -> None:
    model = tiny.llama()
    with pytest.raises(SettingsError, match="must be 'component', 'head', 'layer' or 'site'"):
        rolled(model, model, by="neuron")
    with pytest.raises(ModelError, match="tokenizer"):
        measure_rollback(model, model, {"en": ROWS})


def test_one_head_is_put_back_alone() -> None:
    before = tiny.llama()
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.model.layers[1].self_attn.o_proj.weight[:, 4:8] += 0.3  # the input columns of head 1
    rows = {row["where"]: row for row in rolled(before, after, by="head").rows()}
    assert rows["L1 attn.o head 1"]["nats"] == rows["all"]["nats"] != 0.0
    others = {name for name, row in rows.items() if row["nats"] != 0.0}
    assert others == {"all", "L1 attn.o head 1"}
    assert (rows["L1 attn.o head 1"]["head"], rows["L0 attn.v kv-head 1"]["kv_head"]) == (1, 1)
    assert "L0 mlp.up" in rows


def test_a_task_is_scored_on_both_sides_and_blocks_choose_the_ledgers_rows() -> None:
    before = tiny.llama()
    after = moved(before)
    rows = tiny.rows("en", 30)
    task = Task("en", tuple(rows[:15]), tuple(rows[15:]))
    table = measure_rollback(
        before, after, {"en": task}, tokenizer=tiny.tokenizer(), blocks=driven.BLOCKS
    )
    assert set(table.column("side")) == {"train", "test"}
    assert set(table.column("n")) == {12}  # 4 blocks of 3 rows, each its own group


def test_ledger_and_rollback_are_compared_in_rank() -> None:
    before = tiny.sure()
    after = copy.deepcopy(before)
    ledger = driven.followed(after, driven.ledger(every=6, by_head=True), last=6, rate=1e-3)
    tasks = {"en": tiny.rows("en", 40)}
    for by in ("component", "layer", "site"):
        back = measure_rollback(
            before, after, tasks, tokenizer=tiny.tokenizer(), by=by, blocks=driven.BLOCKS
        )
        row = compare_with_ledger(back, ledger.sites()).rows()[0]
        assert (row["task"], row["side"]) == ("en", "train")
        assert row["sites"] == (5 if by == "layer" else 19)
        assert row["rank_correlation"] > 0.9  # one short segment: 0.99 to 1 over seeds
    heads = measure_rollback(
        before, after, tasks, tokenizer=tiny.tokenizer(), by="head", blocks=driven.BLOCKS
    )
    row = compare_with_ledger(heads, ledger.heads()).rows()[0]
    assert row["sites"] == 2 * (4 + 2 + 2 + 4)
    assert row["rank_correlation"] > 0.9
    # A perfect account of the same rows: ranks agree exactly.
    twin = Table("forgetting_sites", ledger.sites().columns, _as_entries(ledger.sites(), back))
    assert compare_with_ledger(back, twin).rows()[0]["rank_correlation"] == pytest.approx(1.0)


def _as_entries(sites: Table, back: Table) -> list[dict[str, Any]]:
    regained = {row["where"]: row["nats"] for row in back.rows()}
    return [{**row, "nats": regained[row["where"]]} for row in sites.where(task="en").rows()]
