"""`measure_circuits` as a user calls it: what it returns, what it leaves behind, and what it refuses in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.interference import tiny

import crosstune
from crosstune.circuits import CircuitScores, Form
from crosstune.foundation.data import Row
from crosstune.foundation.errors import (
    CrosstuneError,
    DataError,
    ModelError,
    SettingsError,
)
from crosstune.foundation.models import save_model

ROUNDING = 1e-4  # float32 factors and sums: 1.2e-7 * sqrt(1e3 terms), times ~30 for entries over a small Fisher
SMALL: dict[str, Any] = {"rows": 12, "length": 12}


def measured(model: Any = None, **options: Any) -> CircuitScores:
    rows = (tiny.rows("en", 20), tiny.rows("bn", 20))
    return crosstune.measure_circuits(
        model or tiny.llama(), tiny.tokenizer(), *rows, **(SMALL | options)
    )


def test_every_block_has_its_own_heads_and_every_pair_a_score() -> None:
    found = measured()
    assert found.blocks == ("q", "k", "v", "o")
    for block, heads in (("q", 4), ("k", 2), ("v", 2), ("o", 4)):
        for form in found.forms:
            scores = found.pairs(block, form)
            assert scores.shape == (12, 12, 2, heads)
            assert np.isfinite(scores).all()
            assert (scores != 0).any(axis=(0, 1)).all()


def test_layers_blocks_and_heads_may_be_chosen_and_score_what_they_score_among_all() -> None:
    form = Form("signed", "pooled")
    whole = measured()
    some = measured(layers=(1,), heads=(3,), blocks=("k", "o"), variants=("signed",))
    assert some.pairs("o", form).shape == (12, 12, 1, 1)
    for block, head in (("o", 3), ("k", 1)):
        one, other = some.pairs(block, form)[..., 0, 0], whole.pairs(block, form)[..., 1, head]
        assert np.allclose(one, other, rtol=0, atol=ROUNDING * np.abs(other).max())


def test_dependent_samples_are_not_paired() -> None:
    """From rows to the table: groups of three within English, and Bengali in the groups of its English."""

    def grouped(task: str, name: str) -> list[Row]:
        return [
            Row(row.id, row.text, group=f"{name}{at // 3}")
            for at, row in enumerate(tiny.rows(task, 12))
        ]

    def found(first: str, second: str) -> CircuitScores:
        given = (grouped("en", first), grouped("bn", second))
        return crosstune.measure_circuits(tiny.llama(), tiny.tokenizer(), *given, **SMALL)

    form = Form("signed", "pooled")
    together, alone = found("g", "g"), found("e", "b")
    for scores, shares in ((together, True), (alone, False)):
        pairs = scores.pairs("q", form)
        a, b = ([row.group for row in rows] for rows in (scores.rows_a, scores.rows_b))
        apart = np.array([[one != other for other in b] for one in a])
        assert apart.all() != shares
        expected = (pairs * apart[..., None, None]).sum(1) / apart.sum(1)[:, None, None]
        across = scores.independent("q", form, "across_a")
        assert np.allclose(across, expected, rtol=0, atol=ROUNDING * np.abs(pairs).max())
    assert not np.allclose(
        *(one.independent("q", form, "across_a").mean() for one in (together, alone)), rtol=1e-3
    )


def test_a_folder_with_a_model_is_a_model(tmp_path: Path) -> None:
    folder = save_model(tiny.llama(), tiny.tokenizer(), tmp_path / "model")
    rows = (tiny.rows("en", 20), tiny.rows("bn", 20))
    found = crosstune.measure_circuits(folder, None, *rows, **SMALL)
    form = found.forms[0]
    assert np.array_equal(found.pairs("q", form), measured().pairs("q", form))


def test_scores_in_a_folder_are_read_whole_and_factors_serve_other_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.llama()
    found = measured(model, folder=tmp_path)
    assert found.folder is not None
    opened = CircuitScores.open(found.folder)
    form = found.forms[0]
    assert np.array_equal(found.pairs("v", form), opened.pairs("v", form))
    assert opened.rows_a == found.rows_a
    # No pass through the model is left to be made: one that tried would die.
    monkeypatch.setattr(type(model), "forward", None)
    other = measured(model, folder=tmp_path, variants=("ewc",), averages="task_a")
    assert other.folder not in (None, found.folder)
    assert np.isfinite(other.pairs("q", other.forms[0])).all()


def test_an_adapter_is_measured_by_the_weights_that_act() -> None:
    model = tiny.lora()
    adapted = measured(model)
    merged = measured(model.merge_and_unload())
    for form in adapted.forms:
        one, other = adapted.pairs("q", form), merged.pairs("q", form)
        assert np.allclose(one, other, rtol=0, atol=10 * ROUNDING * np.abs(other).max())


def test_the_model_and_the_random_streams_are_left_as_they_were() -> None:
    model = tiny.llama().train()
    model.model.layers[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    stream = torch.get_rng_state()
    measured(model, fisher="true", damping="floor")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), stream)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("empty", ["a", "b"])
def test_a_task_without_rows_gives_well_shaped_nothing_and_a_warning(empty: str) -> None:
    rows = {"a": tiny.rows("en", 20), "b": tiny.rows("bn", 20)} | {empty: []}
    with pytest.warns(UserWarning, match=f"Task {empty.upper()}"):
        found = crosstune.measure_circuits(
            tiny.llama(), tiny.tokenizer(), rows["a"], rows["b"], **SMALL
        )
    shape = (0, 12, 2, 4) if empty == "a" else (12, 0, 2, 4)
    assert found.pairs("q", found.forms[0]).shape == shape
    assert np.isnan(found.summary.column("mean")).all()
    assert len(found.top(5)) == 0


def test_one_sample_of_b_is_scored_and_one_of_a_is_too_few_for_a_fisher() -> None:
    one = tiny.rows("bn", 1)
    found = crosstune.measure_circuits(
        tiny.llama(), tiny.tokenizer(), tiny.rows("en", 20), one, **SMALL
    )
    assert found.pairs("q", found.forms[0]).shape == (12, 1, 2, 4)
    with pytest.raises(DataError, match=r"at least 10 samples.*1 samples"):
        crosstune.measure_circuits(
            tiny.llama(), tiny.tokenizer(), one, tiny.rows("en", 20), **SMALL
        )


def broken() -> Any:
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"blocks": ("mlp",)}, SettingsError, r"blocks.*q, k, v, o.*mlp"),
        ({"layers": (2,)}, SettingsError, r"layers.*0 to 1.*2"),
        ({"heads": (0, 9)}, SettingsError, r"heads.*0 to 3.*9"),
        ({"length": 33}, SettingsError, r"length.*32 tokens.*33"),
        ({"variant": "signed"}, SettingsError, r"variant"),
        ({"computation_device": "cuda"}, CrosstuneError, r"cuda"),
        ({"model": broken()}, ModelError, r"finite"),
        ({"model": torch.nn.Linear(2, 2)}, ModelError, r"language-model head.*Linear"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    if "computation_device" in options and torch.cuda.is_available():
        pytest.skip("a CUDA device is there, so asking for it is no mistake")
    with pytest.raises(error, match=words):
        measured(**options)


def test_a_task_against_itself_and_a_model_without_tokenizer_are_refused() -> None:
    rows = tiny.rows("en", 20)
    with pytest.raises(DataError, match="task_b.*two halves"):
        crosstune.measure_circuits(tiny.llama(), tiny.tokenizer(), rows, rows, **SMALL)
    with pytest.raises(ModelError, match="tokenizer"):
        crosstune.measure_circuits(tiny.llama(), None, rows, tiny.rows("bn", 20), **SMALL)


def test_texts_of_users_are_kept_as_they_are() -> None:
    hostile = [Row(f"<b>{n}", f"the cat <script>{n}</script> eats") for n in range(12)]
    found = crosstune.measure_circuits(
        tiny.llama(), tiny.tokenizer(), hostile, tiny.rows("bn", 20), **SMALL
    )
    assert all("<script>" in text for text in found.top(5).column("text_a"))
    assert all(name.startswith("<b>") for name in found.top(5).column("row_a"))
