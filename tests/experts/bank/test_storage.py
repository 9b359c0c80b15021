"""A saved mixture has the same bits when loaded, and each expert is an ordinary adapter in PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.experts.test_lifecycle import several
from tests.experts.test_mixture import batch_of, fresh, logits, texts, with_skills

from crosstune.experts.bank.storage import MANIFEST
from crosstune.experts.mixture import ExpertMixture
from crosstune.foundation.errors import CheckpointError, StorageError, TrainingError
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.storage import fingerprint_file, read_json, write_json
from crosstune.foundation.worlds import random_model

NAMES = ("0", "layers", "router.x", "q")  # as PEFT would confuse them


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def mixture(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ExpertMixture:
    return with_skills(base, tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def saved(mixture: ExpertMixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixture.save(tmp_path_factory.mktemp("saved") / "mixture")


def test_it_is_loaded_with_the_same_bits(mixture: ExpertMixture, saved: Path, base: Path) -> None:
    again = ExpertMixture.load(saved, load_model(base), load_tokenizer(base)).eval()
    for skill in ("animals", "numbers", "shapes"):
        batch = batch_of(mixture, skill)
        assert torch.equal(logits(again, batch), logits(mixture, batch))
    assert (again.bank.events, again.bank.experts) == (mixture.bank.events, mixture.bank.experts)
    assert again.novelty == mixture.novelty
    for skill in ("shapes", "animals"):
        rows = texts(skill, 40, seed=5)
        assert again.assess(rows) == mixture.assess(rows)
    assert not any(p.requires_grad for p in again.parameters())


def test_each_expert_is_an_adapter_in_peft(mixture: ExpertMixture, saved: Path, base: Path) -> None:
    for name in ("numbers", "shapes"):
        alone = PeftModel.from_pretrained(load_model(base), saved / "experts" / f"xp_{name}").eval()
        batch = batch_of(mixture, name)
        with mixture.answering(name):
            assert torch.equal(logits(mixture, batch), logits(alone, batch))


def test_names_that_peft_confuses_keep_all_their_tensors(base: Path, tmp_path: Path) -> None:
    mixture = fresh(base)
    for name in NAMES:
        mixture.spawn(name, rank=2)
        for value in mixture.parameters_of(name):
            value.data.normal_()
        mixture.register(name, texts("numbers", 48))
    mixture.save(tmp_path / "saved")
    again = ExpertMixture.load(tmp_path / "saved", load_model(base), load_tokenizer(base))
    for name in NAMES:
        for one, other in zip(mixture.parameters_of(name), again.parameters_of(name), strict=True):
            assert torch.equal(one, other)


def test_who_left_stays_on_disk_where_it_was_saved(base: Path, tmp_path: Path) -> None:
    mixture = several(base, {"numbers": 3, "shapes": 2, "odd": 2})
    place = mixture.save(tmp_path / "saved")
    batch = batch_of(mixture, "numbers")
    with mixture.answering("odd"):
        alone = logits(mixture, batch)
    hashes = read_json(place / MANIFEST)["experts"]
    mixture.evict("odd", {"usage": 0.01})
    mixture.save(place)
    mixture.merge({"numbers": 0.2, "shapes": 0.1}, "both", rank=2, figures={"similarity": 0.7})
    mixture.save(place)
    manifest = read_json(place / MANIFEST)
    assert (manifest["schema"], list(manifest["experts"])) == (2, ["xp_both"])
    assert manifest["departed"] == hashes
    for name, found in hashes.items():
        file = place / "experts" / name / "adapter_model.safetensors"
        assert fingerprint_file(file) == found
    vanilla = PeftModel.from_pretrained(load_model(base), place / "experts" / "xp_odd").eval()
    assert torch.equal(logits(vanilla, batch), alone)
    again = ExpertMixture.load(place, load_model(base), load_tokenizer(base)).eval()
    assert vars(again.bank) == vars(mixture.bank)
    assert again.replay.rows == mixture.replay.rows and again.replay.quota == 4
    assert torch.equal(logits(again, batch), logits(mixture, batch))
    another = several(base, {"numbers": 3})
    another.evict("numbers")
    another.save(place)  # of another history: nothing there is its own
    assert read_json(place / MANIFEST)["departed"] == {}
    assert sorted(path.name for path in place.glob("experts/*")) == []


def test_a_save_that_is_cut_short_leaves_what_was_there(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = several(base, {"numbers": 3, "odd": 2})
    place = mixture.save(tmp_path / "saved")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    mixture.evict("odd")

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crosstune.experts.bank.storage.write_json", cut)  # the last to be written
    with pytest.raises(KeyboardInterrupt):
        mixture.save(place)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_an_older_schema_lacks_was_not_there_and_a_newer_one_is_refused(
    base: Path, tmp_path: Path
) -> None:
    mixture = several(base, {"numbers": 3})
    place = mixture.save(tmp_path / "saved")
    manifest = read_json(place / MANIFEST)
    old = {**manifest, "schema": 1}
    del old["departed"], old["settings"]["replay"]
    old["events"] = [
        {key: event[key] for key in ("kind", "name", "expert")} for event in old["events"]
    ]
    write_json(place / MANIFEST, old)
    again = ExpertMixture.load(place, load_model(base), load_tokenizer(base)).eval()
    assert (again.bank.events, again.replay.rows) == (mixture.bank.events, {})
    again.evict("numbers")
    write_json(place / MANIFEST, {**manifest, "schema": 3})
    with pytest.raises(CheckpointError, match="schema 3: a newer Crosstune wrote it"):
        ExpertMixture.load(place, load_model(base), load_tokenizer(base))


def test_what_does_not_fit_is_refused_with_the_difference(
    saved: Path, base: Path, tmp_path: Path
) -> None:
    other = random_model("llama", tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="base model: .* saved, .* now"):
        ExpertMixture.load(saved, load_model(other), load_tokenizer(base))
    weights = saved / "experts" / "xp_shapes" / "adapter_model.safetensors"
    own = weights.read_bytes()
    weights.write_bytes(own[:-1])
    with pytest.raises(CheckpointError, match="xp_shapes/adapter_model.safetensors is not what"):
        ExpertMixture.load(saved, load_model(base), load_tokenizer(base))
    weights.unlink()
    with pytest.raises(CheckpointError, match="xp_shapes/adapter_model.safetensors is missing"):
        ExpertMixture.load(saved, load_model(base), load_tokenizer(base))
    weights.write_bytes(own)


def test_an_expert_that_learns_is_not_saved(base: Path, tmp_path: Path) -> None:
    mixture = fresh(base)
    mixture.spawn("numbers", rank=2)
    with pytest.raises(TrainingError, match="`save` must come when no expert is learning"):
        mixture.save(tmp_path / "saved")


def test_a_folder_that_is_no_mixture_is_left_alone(mixture: ExpertMixture, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(StorageError, match="must be free, empty or hold a saved mixture"):
        mixture.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years"
