"""The base under adapters: found where it is, and one and the same for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.interference import tiny
from tests.merging import pairs

from crosstune.foundation.errors import CheckpointError, StorageError, UnsupportedError
from crosstune.foundation.storage import read_json, write_json
from crosstune.merging.checkpoints.joint_lora import has_lora_layers, open_base
from crosstune.merging.checkpoints.opening import Opening

OPENING = Opening("cpu", "float32", trust_remote_code=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("bases")
    pairs.saved(pairs.base(), here / "base")
    pairs.saved(pairs.moved(pairs.base(), ["lm_head"]), here / "other")
    pairs.saved_adapter(here / "base", here / "one", seed=1)
    pairs.saved_adapter(here / "other", here / "elsewhere", seed=2)
    return here


def test_the_base_is_found_and_has_one_fingerprint_everywhere(folders: Path) -> None:
    one = folders / "one"
    live = pairs.vanilla(folders / "base", one)
    found = [
        open_base({"before": one, "after": one}, OPENING),
        open_base({"before": folders / "base", "after": one}, OPENING),
        open_base({"before": pairs.base(), "after": one}, OPENING),
        open_base({"before": folders / "base", "after": live}, OPENING),
        open_base({"before": live, "after": one}, OPENING),
    ]
    assert len({base.fingerprint for base in found}) == 1
    for base in found:
        assert not has_lora_layers(base.model)
        assert torch.equal(pairs.logits(base.model), pairs.logits(pairs.base()))
    assert has_lora_layers(live)


def test_another_base_is_refused_with_what_differs(folders: Path) -> None:
    live = pairs.vanilla(folders / "base", folders / "one")
    other = pairs.vanilla(folders / "other", folders / "elsewhere")
    for before in (other, folders / "other", pairs.moved(pairs.base(), ["lm_head"])):
        with pytest.raises(
            CheckpointError, match="1 of the base's tensors different: lm_head.weight"
        ):
            open_base({"before": before, "after": live}, OPENING)
    with pytest.raises(CheckpointError, match="`before` must be an adapter of the base of `after`"):
        open_base({"before": folders / "elsewhere", "after": folders / "one"}, OPENING)


def test_a_base_given_by_the_user_is_taken_and_the_difference_said(folders: Path) -> None:
    base = open_base({"before": folders / "other", "after": folders / "one"}, OPENING)
    assert base.source == folders / "other"
    assert len(base.notes) == 1 and "`after` is an adapter of" in base.notes[0]


def test_ends_of_other_kinds_are_refused(folders: Path) -> None:
    one = folders / "one"
    with pytest.raises(UnsupportedError, match=r"`between\[0\]` must be an adapter"):
        open_base({"before": one, "between[0]": folders / "base", "after": one}, OPENING)
    loose = pairs.adapted(pairs.base(), seed=1).get_base_model()
    with pytest.raises(UnsupportedError, match="LoRA layers outside a PEFT model"):
        open_base({"before": loose, "after": one}, OPENING)
    live = pairs.vanilla(folders / "base", one)
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        open_base({"before": tiny.llama(tied=True), "after": live}, OPENING)


def test_an_adapter_that_names_no_base_says_so(folders: Path, tmp_path: Path) -> None:
    adapter = pairs.saved_adapter(folders / "base", tmp_path / "nameless", seed=1)
    config = read_json(adapter / "adapter_config.json")
    write_json(adapter / "adapter_config.json", config | {"base_model_name_or_path": None})
    with pytest.raises(StorageError, match="no base_model_name_or_path"):
        open_base({"before": adapter, "after": adapter}, OPENING)
