"""Models come from ordinary folders, whole and finite, or an error says why not; and go back atomically."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tests.foundation.models.decoders import CONFIGS, ROWS, decoder, with_lora
from tests.foundation.training import tiny
from tokenizers import Tokenizer, models, pre_tokenizers

from crosstune.foundation.errors import ModelError, StorageError
from crosstune.foundation.models import (
    load_model,
    load_tokenizer,
    loading,
    save_model,
    weights_fingerprint,
)


def word_tokenizer(**special: str) -> Any:
    """A tokenizer of a few words."""
    words = {"<unk>": 0, "<eos>": 1, "<pad>": 2, "one": 3, "two": 4}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(decoder("llama"), word_tokenizer(eos_token="<eos>"), tmp_path / "model")


def spoil(folder: Path, change: Any) -> None:
    """Rewrite the weights of a saved model."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_is_loaded(name: str, tmp_path: Path) -> None:
    model = decoder(name)
    again = load_model(save_model(model, None, tmp_path / "model"))
    assert not again.training
    for (key, value), (other_key, other) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert key == other_key
        assert torch.equal(value, other), key
    with torch.no_grad():
        again.config._attn_implementation = "eager"
        assert torch.equal(model(ROWS).logits, again(ROWS).logits)


def test_the_folder_is_an_ordinary_one(folder: Path) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(plain.lm_head.weight, load_model(folder).lm_head.weight)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing temporary stays


def test_dtypes_are_asked_for_by_name(folder: Path) -> None:
    assert load_model(folder).dtype == torch.float32
    assert load_model(str(folder), dtype="float64").dtype == torch.float64
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ModelError, match=r"`dtype` must be auto, .*found 'float8'"):
        load_model(folder, dtype="float8")


@pytest.mark.parametrize("where", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_missing_folder_is_told(where: str) -> None:
    for load in (load_model, load_tokenizer):
        with pytest.raises(
            StorageError, match=r"existing folder or a hub id; found .*(nowhere|a/b/c)"
        ):
            load(where)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="not a folder"):
        load_model(tmp_path / "file")


def test_an_unknown_hub_id_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("x/y is not a local folder\nand many more lines")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(StorageError, match=r"'x/y': x/y is not a local folder\. Check"):
        load_model("x/y")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that refuses every connection, and no patience with it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the hub is asked again"))


@pytest.mark.usefixtures("no_hub")
def test_a_hub_that_does_not_answer_is_asked_once() -> None:
    for load in (load_model, load_tokenizer):
        with pytest.raises(StorageError, match=r"'who/what': .*couldn't connect"):
            load("who/what")
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.usefixtures("no_hub")
def test_a_model_in_the_local_cache_is_loaded_without_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "hub" / "models--who--what"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (place / "snapshots").mkdir()
    folder.rename(place / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert weights_fingerprint(load_model("who/what")) == weights_fingerprint(decoder("llama"))
    assert load_tokenizer("who/what").eos_token == "<eos>"


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_answers_is_left_to_its_library(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(loading, "urlopen", lambda *a, **b: asked.append(a) or nullcontext())
    with loading.hub_or_cache("who/what"):
        assert offline == constants.HF_HUB_OFFLINE
    assert len(asked) == (not offline)


def test_a_folder_without_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"config\.json; found .* nothing in it"):
        load_model(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(StorageError, match=r"adapter_config\.json.*base model"):
        load_model(tmp_path)


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(StorageError, match="pickled weights are never read"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"),
            r"1 missing .*layers\.1\.mlp\.up_proj",
        ),
        (
            lambda weights: weights.update({"model.norm.weight": torch.ones(4)}),
            r"1 of another shape .*model\.norm\.weight",
        ),
    ],
    ids=["missing", "another shape"],
)
def test_a_weight_is_not_made_up(change: Any, words: str, folder: Path) -> None:
    spoil(folder, change)
    with pytest.raises(StorageError, match=words):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_told(value: float, folder: Path) -> None:
    spoil(folder, lambda weights: weights["model.norm.weight"][:2].fill_(value))
    with pytest.raises(ModelError, match=r"`model\.model\.norm\.weight` .* 2 of 16 elements"):
        load_model(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
    ],
)
def test_what_is_no_decoder_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"decoder.*{config['architectures'][0]}"):
        load_model(tmp_path)


def test_a_tokenizer_without_padding_pads_with_its_end(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<eos>", 1)


def test_a_tokenizer_keeps_its_own_padding(tmp_path: Path) -> None:
    own = word_tokenizer(eos_token="<eos>", pad_token="<pad>")
    assert load_tokenizer(save_model(decoder("llama"), own, tmp_path / "m")).pad_token == "<pad>"


def test_a_tokenizer_with_neither_is_refused(tmp_path: Path) -> None:
    save_model(decoder("llama"), word_tokenizer(), tmp_path / "m")
    with pytest.raises(ModelError, match="padding or end-of-text token; found neither"):
        load_tokenizer(tmp_path / "m")


def test_a_saved_model_is_replaced_whole(folder: Path) -> None:
    (folder / "stale.txt").touch()
    other = decoder("llama", seed=4)
    save_model(other, None, folder)
    assert torch.equal(load_model(folder).lm_head.weight, other.lm_head.weight)
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder("llama", seed=4)

    def half(where: Path) -> None:
        (Path(where) / "config.json").touch()
        raise RuntimeError("disk full")

    monkeypatch.setattr(model, "save_pretrained", half)
    with pytest.raises(RuntimeError, match="disk full"):
        save_model(model, None, folder)
    assert torch.equal(load_model(folder).lm_head.weight, decoder("llama").lm_head.weight)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_other_people_s_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StorageError, match="must be free, empty or hold a saved model"):
        save_model(decoder("llama"), None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_adapter_is_saved_as_peft_does(tmp_path: Path) -> None:
    adapted = with_lora(decoder("llama"), target_modules=["q_proj"])
    where = save_model(adapted, None, tmp_path / "deep" / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in where.iterdir()}


def test_the_tokenizer_beside_an_adapter_is_read(tmp_path: Path) -> None:
    adapted = with_lora(decoder("llama"), target_modules=["q_proj"])
    place = save_model(adapted, word_tokenizer(eos_token="<eos>"), tmp_path / "adapter")
    assert not (place / "config.json").exists()
    assert load_tokenizer(place).get_vocab() == word_tokenizer(eos_token="<eos>").get_vocab()
    with pytest.raises(StorageError, match="must be a model folder with a config.json"):
        load_model(place)


def test_a_real_model_speaks(shared: Path) -> None:
    where = shared / "models" / "stories260K"
    model, tokenizer = load_model(where), load_tokenizer(where)
    rows = tokenizer("Once upon a time, there was a little girl", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = model(rows, labels=rows).loss.item()
    assert loss < 3.0  # a uniform guess over 512 tokens costs ln 512 = 6.24 nats


def test_one_bit_of_one_weight_is_seen() -> None:
    model = tiny.model()
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(tiny.model())
    with torch.no_grad():
        model.lm_head.weight[3, 4] = model.lm_head.weight[3, 4].nextafter(torch.tensor(1.0))
    assert weights_fingerprint(model) != before


def test_number_formats_differ_and_every_one_can_be_read() -> None:
    prints = {
        weights_fingerprint(tiny.model().to(kind)) for kind in (torch.float32, torch.bfloat16)
    }
    assert len(prints) == 2
