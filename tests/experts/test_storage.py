"""A saved mixture has the same bits when loaded, and each expert is an ordinary adapter in PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.experts.test_mixture import batch_of, fresh, learn, logits, texts

from crosstune.experts.mixture import ExpertMixture
from crosstune.foundation.errors import CheckpointError, StorageError, TrainingError
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.worlds import random_model

NAMES = ("0", "layers", "router.x", "q")  # as PEFT would confuse them


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def mixture(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ExpertMixture:
    mixture = fresh(base)
    mixture.register("base", texts("animals", 48))
    for skill in ("numbers", "shapes"):
        learn(mixture, skill, tmp_path_factory.mktemp("stages"))
    return mixture.eval()


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
