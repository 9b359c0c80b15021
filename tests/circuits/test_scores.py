"""CircuitScores: filled layer by layer, killed and gone on with, and asked in the words of the measurement."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.circuits.known_scores import World, pair_scores, rows

from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError, SettingsError, StorageError

DIRECTIONAL = Form("directional", "task_a")
SIGNED = Form("signed", "pooled")
SYMMETRIC = Form("symmetric", "pooled")


def equal(one: CircuitScores, other: CircuitScores) -> bool:
    return (
        all(
            np.array_equal(one.pairs(block, form), other.pairs(block, form))
            for block in one.blocks
            for form in one.forms
        )
        and one.summary.csv() == other.summary.csv()
    )


def test_arrays_are_samples_by_samples_by_layers_by_heads() -> None:
    world = World()
    scores = world.scores()
    for block, heads in (("q", 4), ("k", 2), ("v", 2), ("o", 4)):
        a, b = world.gradients(block)
        for form in scores.forms:
            found = scores.pairs(block, form)
            assert found.shape == (8, 6, 3, heads) and found.dtype == np.float32
            for layer in range(3):
                expected = pair_scores(a[:, layer], b[:, layer], form)
                np.testing.assert_allclose(
                    found[:, :, layer], expected, rtol=1e-6
                )  # float64, rounded once: 6e-8


def test_what_was_not_put_is_not_zero() -> None:
    scores = World().begin()
    scores.put(1, World().layer(1))
    found = scores.pairs("q", SIGNED)
    assert np.isnan(found[:, :, [0, 2]]).all() and np.isfinite(found[:, :, 1]).all()
    assert scores.done == (1,)
    with pytest.raises(MeasurementError, match="layer 0, 2"):
        scores.finish()


def test_scores_cannot_be_changed_by_readers() -> None:
    with pytest.raises(ValueError, match="read-only"):
        World().scores().pairs("q", SIGNED)[0, 0, 0, 0] = 1


def test_some_layers_and_heads_keep_their_numbers() -> None:
    world = World().with_settings(layers=(0, 2), heads=(3, 2))
    scores, whole = world.scores(), World().scores()
    assert scores.layers == (0, 2)
    assert (scores.heads("q"), scores.heads("k")) == ((2, 3), (1,))
    for block, heads in (("q", [2, 3]), ("v", [1])):
        expected = whole.pairs(block, SIGNED)[:, :, [0, 2]][..., heads]
        np.testing.assert_array_equal(scores.pairs(block, SIGNED), expected)
    one, other = scores.pair(0, 0, 2, 3, block="q"), whole.pair(0, 0, 2, 3, block="q")
    assert one.slices[0].scores == other.slices[0].scores
    with pytest.raises(MeasurementError, match="must be of what was measured: 0, 2"):
        scores.pair(0, 0, 1, 3)


def test_a_score_of_j_alone_has_one_row() -> None:
    world = World().with_settings(variants=("ewc", "signed"))
    found = world.scores().pairs("q", Form("ewc", "task_a"))
    assert found.shape == (1, 6, 3, 4)


def test_margins_are_means_of_pairs() -> None:
    world = World(n_a=7, n_b=5).with_settings(fisher="pooled")
    scores = world.scores()
    of_rows, of_columns = scores.margins("q", SIGNED)
    pairs = scores.pairs("q", SIGNED).astype(np.float64)
    rounding = {"rtol": 0, "atol": 1e-6 * abs(pairs).max()}  # float32: a mean of seven, 7 * 6e-8
    np.testing.assert_allclose(of_rows, pairs.mean(1), **rounding)
    np.testing.assert_allclose(of_columns, pairs.mean(0), **rounding)


def test_a_folder_is_read_back_whole(tmp_path: Path) -> None:
    world = World()
    kept = world.scores(folder=tmp_path / "kept")
    found = CircuitScores.open(tmp_path / "kept")
    assert isinstance(kept.pairs("q", SIGNED), np.memmap)
    assert equal(found, world.scores()) and equal(kept, found)
    assert (found.rows_a, found.settings, found.layers) == (kept.rows_a, kept.settings, kept.layers)
    plain = np.load(tmp_path / "kept" / "q-signed-pooled.npy", mmap_mode="r")
    np.testing.assert_array_equal(plain, kept.pairs("q", SIGNED))


def test_killed_and_gone_on_with_is_uninterrupted(tmp_path: Path) -> None:
    world, folder = World(), tmp_path / "kept"
    world.begin(folder=folder).put(2, world.layer(2))
    # Killed while layer 0 was written: its pairs are there, and not the rest of the layer.
    half = np.load(folder / "q-signed-pooled.npy", mmap_mode="r+")
    half[:, :, 0] = 7.0
    half.flush()
    with pytest.raises(StorageError, match="none of layer 0, 1"):
        CircuitScores.open(folder)
    resumed = world.begin(folder=folder)
    assert resumed.done == (2,)
    for layer in (0, 1):
        resumed.put(layer, world.layer(layer))
    assert equal(resumed.finish(), world.scores())
    assert equal(CircuitScores.open(folder), world.scores())


def test_a_killed_beginning_is_begun_again(tmp_path: Path) -> None:
    world = World()
    world.begin(folder=tmp_path)
    (tmp_path / "o-signed-pooled.npy").unlink()
    assert equal(world.scores(folder=tmp_path), world.scores())


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (World().with_settings(damping_share=0.5), "settings"),
        (World().with_settings(variants=("signed",)), "settings"),
        (replace(World(), rows_b=rows("c", 6)), "rows of task B"),
        (replace(World(), order_a=(1, 0, 2, 3, 4, 5, 6, 7)), "rows of task A"),
        (
            replace(World(), rows_a=tuple(replace(r, loss=2 * r.loss) for r in rows("a", 8))),
            "weights",
        ),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, other: World, what: str) -> None:
    World().begin(folder=tmp_path)
    with pytest.raises(StorageError, match=f"scores of other {what}"):
        other.begin(folder=tmp_path)


def test_speed_is_no_other_measurement(tmp_path: Path) -> None:
    World().scores(folder=tmp_path)
    faster = World().with_settings(budget_gib=9.0, batch_tokens=64)
    assert faster.begin(folder=tmp_path).done == (0, 1, 2)


def test_damaged_scores_are_seen(tmp_path: Path) -> None:
    World().scores(folder=tmp_path / "whole")
    for name, spoil in (
        ("v-signed-pooled.npy", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
        ("layer-00001.safetensors", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
        ("layer-00002.safetensors", lambda raw: raw[:-8]),
        ("scores.json", lambda raw: raw.replace(b"what a 0 says", b"what a 0 sang")),
        ("scores.json", lambda raw: raw[:40]),
        ("k-symmetric-pooled.npy", lambda raw: raw[:-4]),
    ):
        folder = tmp_path / "spoilt"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / name).write_bytes(spoil((folder / name).read_bytes()))
        with pytest.raises(StorageError):
            CircuitScores.open(folder)
        shutil.rmtree(folder)


def test_a_folder_without_scores_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="scores.json"):
        CircuitScores.open(tmp_path)
    (tmp_path / "scores.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(StorageError, match="'other'"):
        CircuitScores.open(tmp_path)


def test_above_the_budget_arrays_are_mapped() -> None:
    world = World().with_settings(budget_gib=1e-6)
    scores = world.scores()
    place = Path(scores.pairs("q", SIGNED).filename)
    assert place.exists() and equal(scores, World().scores())
    del scores
    assert not place.exists(), "a temporary folder goes with its scores"


@pytest.mark.parametrize(
    ("n_a", "n_b", "named"), [(0, 6, "A has"), (8, 0, "B has"), (0, 0, "A and task B have")]
)
def test_without_samples_everything_is_empty_and_said(
    tmp_path: Path, n_a: int, n_b: int, named: str
) -> None:
    world = replace(World(n_a=n_a, n_b=n_b)).with_settings(variants=("directional", "ewc"))
    with pytest.warns(UserWarning, match=f"Task {named} no samples"):
        scores = world.begin(folder=tmp_path).finish()
    assert scores.pairs("q", DIRECTIONAL).shape == (n_a, n_b, 3, 4)
    assert scores.pairs("k", Form("ewc", "task_a")).shape == (min(n_a, 1), n_b, 3, 2)
    assert np.isnan(scores.summary.column("mean")).all() and len(scores.summary) == 2 * 3 * 12
    assert not any(scores.summary.column("shown"))
    assert len(scores.top(5, block="q", layer=0, head=0)) == 0
    assert scores.statements[0].tone == "warning" and f"task {named}" in scores.statements[0].text
    assert scores.methods_paragraph().startswith("No pair of samples was scored")
    assert {name: len(table) for name, table in scores.tables.items()} == {
        "circuit_heads": 72,
        "circuit_slices": 0,
        "circuit_pairs": 0,
    }
    reopened = CircuitScores.open(tmp_path)
    assert reopened.pairs("q", DIRECTIONAL).shape == (n_a, n_b, 3, 4)


def test_a_layer_is_put_once_and_only_where_it_was_meant(tmp_path: Path) -> None:
    world = World().with_settings(layers=(1,))
    scores = world.begin(folder=tmp_path)
    with pytest.raises(MeasurementError, match="must be of what was measured: 1"):
        scores.put(0, world.layer(0))
    scores.put(1, world.layer(1))
    with pytest.raises(MeasurementError, match="must be put once"):
        scores.put(1, world.layer(1))
    with pytest.raises(MeasurementError, match="must be put once"):
        CircuitScores.open(tmp_path).put(1, world.layer(1))


@pytest.mark.parametrize("options", [{"layers": (3,)}, {"heads": (4,)}])
def test_a_layer_or_head_the_model_lacks_is_refused(options: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(SettingsError, match="for this model"):
        World().with_settings(**options).begin()


def test_tables_are_named_and_whole() -> None:
    found = World().scores().tables
    assert {name: table.name for name, table in found.items()} == {name: name for name in found}
    assert len(found["circuit_heads"]) == 3 * 3 * 12
    assert len(found["circuit_slices"]) == 3 * 12
    assert len(found["circuit_pairs"]) == (4 * 2 + 3 * 12) * 20, (
        "signed and symmetric by block, directional by layer and head"
    )
