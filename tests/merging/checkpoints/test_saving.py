"""What is saved is ordinary: vanilla transformers and vanilla PEFT compute what the work model computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.interference import tiny
from tests.merging import pairs
from transformers import AutoTokenizer

from crosstune.foundation.errors import SettingsError, StorageError
from crosstune.foundation.models import load_model
from crosstune.foundation.storage import read_json
from crosstune.foundation.worlds import random_model
from crosstune.merging.checkpoints import saving
from crosstune.merging.checkpoints.endpoints import Endpoints, Parent, open_endpoints
from crosstune.merging.checkpoints.saving import card_of, escape, save_repaired

TOKENIZER = tiny.tokenizer()
# float32 logits of ~1: 1e3 terms in another order, 1.2e-7 * sqrt(1e3), times ~3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("saving")
    pairs.saved(pairs.base(), here / "base")
    pairs.saved_adapter(here / "base", here / "one", seed=1)
    uneven = {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 1}}
    pairs.saved_adapter(here / "base", here / "two", seed=2, r=3, use_rslora=True, **uneven)
    return here


def save(ends: Endpoints, folder: Path, **options: Any) -> Path:
    return save_repaired(ends, folder, manifest={"seed": 3}, card="Won 0.5 nats.", **options)


def test_a_fresh_adapter_at_its_end_is_the_adapter_after_bit_for_bit(
    folders: Path, tmp_path: Path
) -> None:
    ends = open_endpoints(folders / "base", folders / "one")
    folder = save(ends, tmp_path / "saved")
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (folder, folders / "one"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    config = read_json(folder / "adapter_config.json")
    assert (config["r"], config["lora_alpha"]) == (2, 8)
    assert config["base_model_name_or_path"] == str(folders / "base")


@pytest.mark.parametrize("at", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("before", ["base", "one"])
def test_vanilla_peft_computes_what_the_work_model_did(
    folders: Path, tmp_path: Path, before: str, at: float
) -> None:
    ends = open_endpoints(folders / before, folders / "two", tokenizer=TOKENIZER)
    pairs.place(ends, at)
    folder = save(ends, tmp_path / "saved")
    config = read_json(folder / "adapter_config.json")
    assert not config["rank_pattern"] and not config["alpha_pattern"]
    vanilla = pairs.vanilla(folders / "base", folder)
    assert torch.equal(pairs.logits(vanilla), pairs.logits(ends.model))


@pytest.mark.parametrize("before", ["base", "one"])
def test_merged_weights_compute_the_same_and_the_work_model_stays(
    folders: Path, tmp_path: Path, before: str
) -> None:
    ends = open_endpoints(folders / before, folders / "two", tokenizer=TOKENIZER)
    pairs.place(ends, 0.4)
    work = pairs.logits(ends.model)
    merged = load_model(save(ends, tmp_path / "merged", merge=True))
    torch.testing.assert_close(pairs.logits(merged), work, **CLOSE)
    assert torch.equal(pairs.logits(ends.model), work)
    again = save(ends, tmp_path / "adapter")
    assert torch.equal(pairs.logits(pairs.vanilla(folders / "base", again)), work)


def test_experts_that_are_bare_parameters_are_joined_saved_and_merged(tmp_path: Path) -> None:
    base = random_model("mixtral", tmp_path / "base")
    options = {
        "target_modules": ["q_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    }
    one = pairs.saved_adapter(base, tmp_path / "one", seed=1, r=2, **options)
    two = pairs.saved_adapter(base, tmp_path / "two", seed=2, r=3, **options)
    ends = open_endpoints(one, two)
    assert ends.model.peft_config["default"].r == 5
    work = pairs.logits(ends.model)
    torch.testing.assert_close(work, pairs.logits(pairs.vanilla(base, two)), **CLOSE)
    saved, merged = save(ends, tmp_path / "saved"), save(ends, tmp_path / "merged", merge=True)
    torch.testing.assert_close(pairs.logits(pairs.vanilla(base, saved)), work, **CLOSE)
    torch.testing.assert_close(pairs.logits(load_model(merged)), work, **CLOSE)


def test_a_live_adapter_of_any_name_is_saved(folders: Path, tmp_path: Path) -> None:
    live = pairs.vanilla(folders / "base", folders / "one")
    live.load_adapter(folders / "one", "layers", is_trainable=True)
    live.set_adapter("layers")
    before = {n: p.detach() for n, p in live.named_parameters() if p.requires_grad}
    folder = save(Endpoints.in_place(live, before, TOKENIZER), tmp_path / "saved")
    vanilla = pairs.vanilla(folders / "base", folder)
    assert torch.equal(pairs.logits(vanilla), pairs.logits(live))


def test_the_manifest_names_the_parents(folders: Path, tmp_path: Path) -> None:
    ends = open_endpoints(folders / "base", folders / "one")
    found = read_json(save(ends, tmp_path / "saved") / "repair.json")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert found["seed"] == 3 and found["kind"] == "lora" and found["notes"] == []
    assert [parent["role"] for parent in found["parents"]] == ["base", "before", "after"]
    assert found["parents"][2]["fingerprint"] == ends.parents[2].fingerprint
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert "Won 0.5 nats." in card and ends.parents[2].fingerprint in card


def test_saving_is_whole_or_nothing_and_spares_what_it_reads(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = open_endpoints(folders / "base", folders / "one")
    for parent in ("base", "one"):
        with pytest.raises(StorageError, match="must not be a folder that the repair reads"):
            save(ends, folders / parent)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").touch()
    with pytest.raises(StorageError, match="must be free, empty or hold a saved model"):
        save(ends, tmp_path / "notes")
    target = save(ends, tmp_path / "saved")
    kept = {p.name: p.read_bytes() for p in target.iterdir()}
    pairs.place(ends, 0.0)
    monkeypatch.setattr(saving, "card_of", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(ends, target)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "saved"]


def test_a_full_model_has_nothing_to_merge(tmp_path: Path) -> None:
    ends = open_endpoints(pairs.base(), pairs.base(), tokenizer=TOKENIZER)
    with pytest.raises(SettingsError, match="`merge` must be False"):
        save(ends, tmp_path / "saved", merge=True)


def parents(after: str) -> tuple[Parent, ...]:
    return (Parent("before", "a|b <i>", "0" * 16), Parent("after", after, "1" * 16))


@pytest.mark.parametrize(
    ("kind", "library"), [("full", "transformers"), ("merged", "transformers"), ("lora", "peft")]
)
def test_a_new_card_says_what_library_reads_it(kind: str, library: str) -> None:
    card = card_of(parents("model in memory"), "Won back.", kind=kind)
    assert card.startswith(f"---\nlibrary_name: {library}\n") and "Won back." in card


def test_the_parents_card_is_kept_and_the_section_comes_once(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")
    first = card_of(parents(str(tmp_path)), "First.", kind="full")
    assert first.startswith("---\nlicense: mit\n---\n# Mine\n\n") and "First." in first
    file.write_text(first + "\nMore of mine.\n", encoding="utf-8")
    second = card_of(parents(str(tmp_path)), "Second.", kind="full")
    assert "First." not in second and "Second." in second and second.count("## Repair") == 1
    assert "# Mine" in second and "More of mine." in second


def test_an_adapters_card_is_not_that_of_merged_weights(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlibrary_name: peft\n---\n", encoding="utf-8")
    assert "library_name: transformers" in card_of(parents(str(tmp_path)), "", kind="merged")


def test_text_shows_as_it_is() -> None:
    card = card_of(parents("x"), "bn <script>", kind="full")
    assert "| before | a\\|b &lt;i&gt; | `0000000000000000` |" in card and "<script" not in card
    assert escape("a_b *c*\n[d](e)") == "a\\_b \\*c\\* \\[d\\](e)"
    assert escape("`#` & \\") == "\\`\\#\\` &amp; \\\\"
