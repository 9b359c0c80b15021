"""Exported adapters: vanilla PEFT computes what the mixture does, and vLLM's rules hold; what breaks one is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.experts.test_lifecycle import drawn, several
from tests.experts.test_mixture import batch_of, fresh, logits, texts
from torch import Tensor

from crosstune.experts.bank.exports import check_served
from crosstune.experts.mixture import ExpertMixture
from crosstune.foundation.errors import SettingsError, StorageError
from crosstune.foundation.models import load_model
from crosstune.foundation.worlds import random_model

FAMILIES = ("llama", "gpt2")  # GPT-2's layers are transposed
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(request.param, tmp_path_factory.mktemp("models") / request.param)


def vanilla(folder: Path, adapter: Path, batch: dict[str, Tensor]) -> Tensor:
    return logits(PeftModel.from_pretrained(load_model(folder), adapter).eval(), batch)


def test_every_expert_is_in_peft_what_it_is_in_the_mixture(folder: Path, tmp_path: Path) -> None:
    mixture = several(folder, {"numbers": 3, "shapes": 5})
    mixture.unfreeze("shapes")
    mixture.grow("shapes")
    drawn(mixture, "shapes", 5)
    mixture.register("shapes", texts("shapes", 48))
    for name, rank in (("numbers", 3), ("shapes", 10)):
        place = mixture.export(tmp_path / name, name)
        batch = batch_of(mixture, name)
        with mixture.answering(name):
            found = logits(mixture, batch)
        torch.testing.assert_close(vanilla(folder, place, batch), found, rtol=0, atol=1e-6)
        assert check_served(place) == []
        said = json.loads((place / CONFIG).read_text())
        assert (said["r"], said["lora_alpha"], said["use_rslora"]) == (rank, rank, False)
        assert said["base_model_name_or_path"] == str(folder)
        own = len(mixture.parameters_of(name))
        assert len(load_file(place / WEIGHTS)) == own


def test_a_constant_mixture_is_one_adapter(folder: Path, tmp_path: Path) -> None:
    """Σ w ΔW of experts of unlike rank, scale, and targets, against the sum of full matrices in the base's weights."""
    mixture = fresh(folder, site=1)
    target = mixture._linear[0]
    for at, options in enumerate(({"rank": 3}, {"rank": 2, "alpha": 5.0, "targets": [target]})):
        mixture.spawn(f"x{at}", **options)
        drawn(mixture, f"x{at}", at)
        mixture.register(f"x{at}", texts("numbers", 48))
    batch, weights = batch_of(mixture, "shapes"), {"x0": 0.3, "x1": -1.5}
    found = vanilla(folder, mixture.export(tmp_path / "both", weights), batch)
    assert check_served(tmp_path / "both") == []
    own = dict(mixture.model.named_parameters())
    base = load_model(folder).eval()
    for name, scale in (("x0", 0.3 * 2.0), ("x1", -1.5 * 2.5)):
        for path, a in own.items():
            if f".lora_A.xp_{name}" not in path:
                continue
            update = scale * own[path.replace("lora_A", "lora_B")] @ a
            module = base.get_submodule(
                path.removeprefix("base_model.model.").partition(".lora_A")[0]
            )
            module.weight.data += update if isinstance(module, torch.nn.Linear) else update.T
    torch.testing.assert_close(found, logits(base, batch), rtol=0, atol=1e-5)
    assert not torch.allclose(found, logits(load_model(folder).eval(), batch), atol=1e-3)


def with_key(key: str, value: Any) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        said = json.loads((place / CONFIG).read_text())
        (place / CONFIG).write_text(json.dumps({**said, key: value}))

    return change


def with_tensor(name: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        found = load_file(place / WEIGHTS)
        save_file({**found, name: torch.zeros(2, 2)}, place / WEIGHTS)

    return change


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "alpha_pattern": (with_key("alpha_pattern", {"q_proj": 4}), "alpha_pattern is .* not served"),
    "rank_pattern": (with_key("rank_pattern", {"q_proj": 4}), "rank_pattern is .* not served"),
    "dora": (with_key("use_dora", True), "use_dora is True"),
    "modules_to_save": (with_key("modules_to_save", ["lm_head"]), "modules_to_save is"),
    "bias": (with_key("bias", "all"), "bias is all, and must be none"),
    "pissa": (with_key("init_lora_weights", "pissa"), "init_lora_weights is pissa"),
    "small r": (with_key("r", 2), "r is 2, and must be from 3, a layer's, to 512"),
    "large r": (with_key("r", 513), "r is 513, and must be from 3"),
    "router": (with_tensor("base_model.model.router.weight"), "router.weight is no lora_A"),
    "a name inside": (with_tensor("x.lora_A.xp_code.weight"), "xp_code.weight is no lora_A"),
}


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return several(folder, {"numbers": 3}).export(tmp_path_factory.mktemp("x") / "x", "numbers")


@pytest.mark.parametrize("name", BREAKS)
def test_what_would_not_be_served_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    change, words = BREAKS[name]
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    (only,) = check_served(tmp_path)
    assert re.search(words, only)


def test_an_adapter_of_peft_with_a_rank_by_layer_is_caught(tmp_path: Path) -> None:
    """As PEFT writes it, not as this test would."""
    base = load_model(random_model("llama", tmp_path / "llama"))
    config = LoraConfig(r=4, target_modules=["q_proj"], alpha_pattern={"q_proj": 2}, use_dora=True)
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    said = " ".join(check_served(tmp_path / "adapter"))
    assert "alpha_pattern is" in said and "use_dora is" in said
    assert "lora_magnitude_vector is no lora_A" in said


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    mixture: ExpertMixture = several(random_model("llama", tmp_path / "llama"), {"numbers": 3})
    for weights in ({}, {"numbers": float("inf")}):
        with pytest.raises(SettingsError, match="`weights` must be finite numbers"):
            mixture.export(tmp_path / "out", weights)
    with pytest.raises(SettingsError, match="`name` must be an expert of the mixture"):
        mixture.export(tmp_path / "out", {"numbers": 0.5, "base": 0.5})
    with pytest.raises(StorageError, match="must be free, empty or hold an adapter"):
        mixture.export(tmp_path, "numbers")
    mixture.export(mixture.export(tmp_path / "out", "numbers"), {"numbers": 0.5})  # anew
    with pytest.raises(StorageError):
        check_served(tmp_path)
