"""The ends of a repair: w = 1 is after and w = 0 is before, bit for bit, of full models; of adapters as functions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.interference import tiny
from tests.merging import pairs

from crosstune.foundation.errors import (
    CheckpointError,
    CrosstuneError,
    ModelError,
    SettingsError,
    UnsupportedError,
)
from crosstune.foundation.models import load_model
from crosstune.merging.checkpoints.endpoints import Endpoints, open_endpoints

TOKENIZER = tiny.tokenizer()
# float32 logits of ~1: 1e3 terms in another order, 1.2e-7 * sqrt(1e3), times ~3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
MOVED = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`before` and `after` (tied), `base` and its adapters `one` and `two` of other ranks and scales."""
    here = tmp_path_factory.mktemp("ends")
    before = tiny.llama(tied=True)
    pairs.saved(before, here / "before")
    pairs.saved(pairs.moved(before, MOVED), here / "after")
    pairs.saved(pairs.base(), here / "base")
    pairs.saved_adapter(here / "base", here / "one", seed=1)
    uneven = {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 1}}
    pairs.saved_adapter(here / "base", here / "two", seed=2, r=3, use_rslora=True, **uneven)
    return here


@pytest.mark.parametrize("in_memory", [(), ("before",), ("after",), ("before", "after")])
def test_a_full_pair(folders: Path, in_memory: tuple[str, ...]) -> None:
    models = {role: load_model(folders / role) for role in ("before", "after")}
    given: dict[str, Any] = {
        role: models[role] if role in in_memory else folders / role for role in models
    }
    ends = open_endpoints(given["before"], given["after"], tokenizer=TOKENIZER)
    assert (ends.kind, ends.count, ends.names, ends.notes) == ("full", 1, MOVED, ())
    assert not ends.model.training and ends.tokenizer is TOKENIZER
    for at, role in ((0.0, "before"), (1.0, "after")):
        pairs.place(ends, at)
        for name, parameter in models[role].named_parameters():
            assert torch.equal(dict(ends.model.named_parameters())[name], parameter), name
            assert torch.equal(ends.tensor(int(at), name), parameter), name
    assert ends.dtype(MOVED[0]) == torch.float32


def test_parents_are_the_same_in_memory_and_on_disk(folders: Path) -> None:
    before, after = folders / "before", folders / "after"
    stored = open_endpoints(before, after)
    held = open_endpoints(load_model(before), load_model(after), tokenizer=TOKENIZER)
    assert [p.role for p in stored.parents] == ["before", "after"]
    assert [p.source for p in stored.parents] == [str(before), str(after)]
    assert [p.fingerprint for p in stored.parents] == [p.fingerprint for p in held.parents]
    assert stored.parents[0].fingerprint != stored.parents[1].fingerprint


def test_what_moves_can_be_differentiated_although_it_was_frozen() -> None:
    before = tiny.llama()
    after = pairs.moved(before, ["lm_head"]).requires_grad_(False)
    ends = open_endpoints(before, after, tokenizer=TOKENIZER)
    wanted = {name for name, value in ends.model.named_parameters() if value.requires_grad}
    assert wanted == {"lm_head.weight"} and not after.lm_head.weight.requires_grad


def test_a_fresh_adapter_leaves_everything_of_the_one_after_it(folders: Path) -> None:
    factors = load_file(folders / "one" / "adapter_model.safetensors")
    after = pairs.vanilla(folders / "base", folders / "one")
    fresh = pairs.adapted(pairs.base(), seed=9, fresh=True)
    for before, given in (
        (folders / "base", folders / "one"),
        (pairs.base(), folders / "one"),
        (folders / "base", after),
        (fresh, after),
        (after.get_base_model(), after),
    ):
        ends = open_endpoints(before, given, tokenizer=TOKENIZER)
        config = ends.model.peft_config["default"]
        assert (ends.kind, config.r, config.lora_alpha) == ("lora", 2, 8)
        assert len(ends.names) == 6 and all("lora_B" in name for name in ends.names)
        for name in ends.names:
            assert torch.equal(ends.tensor(1, name), factors[name.replace(".default", "")])
            assert not ends.tensor(0, name).any()
        assert torch.equal(pairs.logits(ends.model), pairs.logits(after))
        pairs.place(ends, 0.0)
        assert torch.equal(pairs.logits(ends.model), pairs.logits(pairs.base()))


@pytest.mark.parametrize("in_memory", [(), ("one",), ("two",), ("one", "two")])
def test_two_adapters_join_in_one(folders: Path, in_memory: tuple[str, ...]) -> None:
    models = {name: pairs.vanilla(folders / "base", folders / name) for name in ("one", "two")}
    one, two = (models[n] if n in in_memory else folders / n for n in ("one", "two"))
    ends = open_endpoints(one, two, tokenizer=TOKENIZER)
    assert ends.model.peft_config["default"].r == 2 + 4
    assert len(ends.names) == 6 and all("lora_B" in name for name in ends.names)
    for at, name in ((0.0, "one"), (1.0, "two")):
        pairs.place(ends, at)
        torch.testing.assert_close(pairs.logits(ends.model), pairs.logits(models[name]), **CLOSE)
    assert {p.role for p in ends.parents} == {"base", "before", "after"}
    assert {n for n, p in ends.model.named_parameters() if p.requires_grad} == set(ends.names)


def test_a_point_between_two_adapters_interpolates_their_updates(folders: Path) -> None:
    """The products B A are interpolated, as merged models would be, and not the factors."""
    ends = open_endpoints(folders / "one", folders / "two", tokenizer=TOKENIZER)
    pairs.place(ends, 0.3)
    merged = [
        dict(pairs.vanilla(folders / "base", folders / n).merge_and_unload().named_parameters())
        for n in ("one", "two")
    ]
    oracle = pairs.base()
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            parameter.copy_(torch.lerp(merged[0][name], merged[1][name], 0.3))
    torch.testing.assert_close(pairs.logits(ends.model), pairs.logits(oracle), **CLOSE)


def test_in_place_a_fresh_adapter_moves_by_its_b() -> None:
    live = pairs.adapted(pairs.base(), seed=1, fresh=True)
    before = {n: p.detach().clone() for n, p in live.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name in before:
            dict(live.named_parameters())[name].add_(0.1)
    trained = pairs.logits(live)
    ends = Endpoints.in_place(live, before, TOKENIZER)
    assert ends.kind == "lora" and all("lora_B" in n for n in ends.names) and len(ends.names) == 6
    pairs.place(ends, 0.0)
    assert torch.equal(pairs.logits(live), pairs.logits(pairs.base()))
    pairs.place(ends, 1.0)
    assert torch.equal(pairs.logits(live), trained)


def nan(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})


def test_nan_weights_are_refused_on_either_side(tmp_path: Path) -> None:
    good = pairs.saved(tiny.llama(), tmp_path / "good")
    bad = pairs.saved(tiny.llama(), tmp_path / "bad")
    nan(bad)
    for ends, role in (((bad, good), "before"), ((good, bad), "after")):
        with pytest.raises(ModelError, match=f"`{role}.lm_head.weight` must be finite; found 1 of"):
            open_endpoints(*ends)


def test_bad_pairs_are_refused_with_the_difference(folders: Path, tmp_path: Path) -> None:
    model = tiny.llama()
    other = tiny.tokenizer()
    other.add_tokens(["sparrow"])
    vocabulary = pairs.saved(model, tmp_path / "vocabulary")
    other.save_pretrained(vocabulary)
    half = pairs.saved(tiny.llama().bfloat16(), tmp_path / "half")
    quantised = copy.deepcopy(model)
    quantised.is_quantized = True
    cases: list[tuple[tuple[Any, Any], type[CrosstuneError], str]] = [
        ((tiny.llama(tied=True), model), CheckpointError, "tie_word_embeddings is True"),
        ((half, model), CheckpointError, "is torch.bfloat16, in `after` torch.float32"),
        ((vocabulary, pairs.saved(model, tmp_path / "m")), CheckpointError, "'sparrow' is 23"),
        ((model, quantised), UnsupportedError, "`after` must not use quantised weights"),
        ((folders / "one", folders / "base"), UnsupportedError, "`before` must be a full model"),
    ]
    for (before, after), kind, words in cases:
        with pytest.raises(kind, match=words):
            open_endpoints(before, after, tokenizer=None if before == vocabulary else TOKENIZER)
    with pytest.raises(SettingsError, match="`precision` must be 'float32' or 'model'"):
        open_endpoints(model, model, tokenizer=TOKENIZER, precision="half")


def test_real_models_stream_from_their_folder(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    after = pairs.moved(load_model(folder), ["layers.2.mlp"])
    ends = open_endpoints(folder, after)
    assert ends.names and all("layers.2.mlp" in name for name in ends.names) and ends.notes == ()
