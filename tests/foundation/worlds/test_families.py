"""Random stand-ins load as ordinary Hugging Face folders."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.foundation.data import Row, collate, encode
from crosstune.foundation.errors import ModelError
from crosstune.foundation.worlds import FAMILIES, random_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_a_toy_sentence(tmp_path, family):
    folder = random_model(family, tmp_path / family)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == family
    batch = collate(encode([Row("r", "টুচেদা tina.")], tokenizer, 64), tokenizer.pad_token_id)
    with torch.no_grad():
        loss = model(**batch).loss
    assert abs(float(loss) - 6.24) < 0.5  # ln 512: random weights know nothing
    assert model.num_parameters() < 100_000


def test_seeds_and_dimensions_are_obeyed_and_a_folder_is_kept(tmp_path):
    def weight(folder):
        return AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight

    first, same = (random_model("llama", tmp_path / name, hidden_size=16) for name in "ab")
    other = random_model("llama", tmp_path / "c", seed=1, hidden_size=16)
    assert torch.equal(weight(first), weight(same))
    assert weight(first).shape == (512, 16)
    assert not torch.equal(weight(first), weight(other))
    assert torch.equal(weight(random_model("llama", first, seed=1)), weight(same))


def test_an_unknown_family_lists_the_known(tmp_path):
    with pytest.raises(ModelError, match="llama, mistral"):
        random_model("lama", tmp_path / "x")
