"""Laws: a sample's gradients are its own, however rows are batched, ordered and padded, recomputed or shared among processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import processes
from tests.circuits.drawn import assert_close, captured, gradients, rows
from tests.foundation.models.decoders import decoder, with_lora
from tests.interference import tiny
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crosstune.circuits.capture.factors import Factors
from crosstune.foundation.data import collate
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.models import HeadMap

ROWS = rows(prompt=1)
ROUNDING = 1e-5  # losses are float32


@pytest.fixture(scope="module")
def model() -> Any:
    return decoder("llama").double()


@pytest.fixture(scope="module")
def plain(model: Any) -> dict[tuple[int, str], Tensor]:
    return gradients(captured(model, ROWS))


@pytest.mark.parametrize("batch_tokens", [1, 24, 1000])
def test_the_size_of_batches(batch_tokens: int, model: Any, plain: Any) -> None:
    assert_close(gradients(captured(model, ROWS, batch_tokens=batch_tokens)), plain, ROUNDING)


def test_the_order_of_rows_to_the_bit(model: Any, plain: Any) -> None:
    order = [3, 0, 5, 4, 1, 2]
    found = gradients(captured(model, [ROWS[at] for at in order]))
    for place, value in plain.items():
        assert torch.equal(found[place], value[order]), place


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_of_an_ordinary_pass_does_not_matter(family: str, side: Any) -> None:
    model = decoder(family)  # eager attention in float64 is NaN where a padded row sees nothing
    found = gradients(captured(model, ROWS))
    token_nats(model, collate(ROWS, 0, side=side)).sum().backward()
    heads = HeadMap.of(model)
    for (layer, block), value in found.items():
        projection = heads.projection(layer, block)
        expected = projection.tile(model.get_parameter(projection.weight).grad)
        distance = (value.sum(0) - expected).norm()
        assert distance <= 1e-3 * expected.norm(), (layer, block)


def recomputing(model: Any) -> None:
    """Every layer is always checkpointed, whatever its mode says."""
    for layer in model.model.layers:
        inner = layer.forward
        layer.forward = lambda *args, inner=inner, **keywords: checkpoint(
            inner, *args, use_reentrant=False, **keywords
        )


@pytest.mark.parametrize("way", ["by its own flag", "always"])
def test_checkpointing_to_the_bit(way: str) -> None:
    model = tiny.llama()
    before = captured(model, ROWS)
    if way == "always":
        recomputing(model)
    else:
        model.train().activation_checkpointing_enable({"use_reentrant": False})
    assert_same_bits(captured(model, ROWS), before)


@pytest.mark.parametrize("options", [{"layers": (2,)}, {"blocks": ("o", "k")}, {"layers": (1,)}])
def test_what_else_is_asked_for(options: Any, model: Any, plain: Any) -> None:
    found = gradients(captured(model, ROWS, **options))
    assert len(found) < len(plain)
    assert_close(found, {place: plain[place] for place in found}, 1e-9)


def test_an_adapter_that_does_nothing_changes_nothing(plain: Any) -> None:
    adapted = with_lora(decoder("llama"), target_modules=["q_proj", "o_proj"]).double()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    assert_close(gradients(captured(adapted, ROWS)), plain, 1e-9)


def assert_same_bits(one: Factors, other: Factors) -> None:
    assert one.rows == other.rows
    mine, theirs = tensors_of(one), tensors_of(other)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(mine[name], value), name


def tensors_of(factors: Factors) -> dict[str, Tensor]:
    found = {
        "losses": torch.tensor([row.loss for row in factors.rows]),
        "difference": torch.tensor(factors.difference),
    }
    for layer in factors.layers:
        for index, batch in enumerate(factors.layer(layer).batches):
            found[f"{layer}.{index}.places"] = batch.places
            for block in factors.blocks:
                found[f"{layer}.{index}.{block}.headed"] = batch.headed(block).contiguous()
                found[f"{layer}.{index}.{block}.shared"] = batch.shared(block).contiguous()
    return {name: value.clone() for name, value in found.items()}


WAYS: dict[str, dict[str, Any]] = {
    "memory": {},
    "folder": {},
    "temporary": {"budget_gib": 1e-6},
    "sampled": {"labels": "sampled"},
}


def asked(way: str, folder: str) -> Factors:
    place = Path(folder) / "kept" if way == "folder" else None
    return captured(tiny.llama(), ROWS, place, batch_tokens=24, **WAYS[way])


def work(number: int, folder: str) -> None:
    for way in WAYS:
        with asked(way, folder) as factors:
            save_file(tensors_of(factors), f"{folder}/{number}-{way}.safetensors")
    broken: Any = tiny.llama()
    with torch.no_grad():
        broken.model.embed_tokens.weight[ROWS[1].input_ids[1]] = torch.nan
    try:
        captured(broken, ROWS[:2] + ROWS[2:3], batch_tokens=1)
    except MeasurementError as error:
        Path(folder, f"{number}.txt").write_text(str(error), encoding="utf-8")


def test_two_processes_to_the_bit(tmp_path: Path) -> None:
    processes.in_two(work, str(tmp_path))
    for way in WAYS:
        alone = tensors_of(asked(way, str(tmp_path / "alone")))
        for number in range(2):
            found = load_file(tmp_path / f"{number}-{way}.safetensors")
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                assert torch.equal(found[name], value), (way, number, name)
    told = [(tmp_path / f"{number}.txt").read_text(encoding="utf-8") for number in range(2)]
    assert told[0] == told[1] and "NaN" in told[0], "an error of one is told by both"
