"""Law of the stream: what is read is transformers' own hidden state, and writing it back changes no bit of what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import CONFIGS, ROWS, decoder, with_lora
from torch import Tensor

from crosstune.foundation.models import Stream, load_model, model_inputs, positions

BATCHES = {
    "single": ROWS[:1],
    "batch": ROWS,
    "left": torch.tensor([[0, 0, 0, 5, 30, 9, 21, 4], [8, 8, 1, 4, 19, 33, 6, 12]]),
    "right": torch.tensor([[5, 30, 9, 21, 4, 0, 0, 0], [8, 8, 1, 4, 19, 33, 6, 12]]),
}
"""Token ids; 0 pads."""


def batch_of(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def logits(stream: Stream, batch: dict[str, Tensor], cached: bool, **options: bool) -> Any:
    with torch.no_grad():
        return stream.model(**model_inputs(batch) | {"use_cache": cached}, **options)


def greedy(stream: Stream, batch: dict[str, Tensor], prefill: Any, steps: int = 3) -> Tensor:
    """The logits of every step; the context is entered around the first forward pass alone."""
    mask, inputs = batch["attention_mask"], model_inputs(batch) | {"use_cache": True}
    found = []
    with torch.no_grad():
        with prefill:
            outputs = stream.model(**inputs)
        for _ in range(steps):
            found.append(outputs.logits[:, -1])
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
            outputs = stream.model(
                input_ids=found[-1].argmax(-1, keepdim=True),
                attention_mask=mask,
                position_ids=positions(mask)[:, -1:],
                past_key_values=outputs.past_key_values,
            )
    return torch.stack(found)


def check_law(stream: Stream, batch: dict[str, Tensor], cached: bool) -> None:
    sites = range(stream.num_layers + 1)
    told = logits(stream, batch, cached, output_hidden_states=True)
    found = stream.read(batch, sites)
    assert len(told.hidden_states) == len(sites) == len(found)
    for site in sites[:-1]:
        assert torch.equal(found[site], told.hidden_states[site]), site
    assert torch.equal(stream.entries[-1](found[sites[-1]]), told.hidden_states[-1])
    written = greedy(stream, batch, nullcontext()) if cached else None
    for site in sites:
        with stream.write(site, found[site]):
            assert torch.equal(logits(stream, batch, cached).logits, told.logits), site
        if written is not None:
            again = greedy(stream, batch, stream.write(site, found[site]))
            assert torch.equal(again, written), site


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_known_family_keeps_the_law(name: str, rows: str) -> None:
    """When it scores and when it generates."""
    stream, batch = Stream.of(decoder(name)), batch_of(BATCHES[rows])
    check_law(stream, batch, cached=False)
    check_law(stream, batch, cached=True)


def test_a_model_with_an_adapter_keeps_the_law() -> None:
    model = with_lora(decoder("llama"), target_modules="all-linear")
    check_law(Stream.of(model), batch_of(BATCHES["left"]), cached=True)


@pytest.mark.parametrize("name", ["stories260K", "stories279K", "stories3M"])
def test_trained_models_keep_the_law(shared: Path, name: str) -> None:
    model = load_model(shared / "models" / name).eval()
    for rows in ("left", "right"):
        check_law(Stream.of(model), batch_of(BATCHES[rows]), cached=True)


class ReadsTheNext(Stream):
    """Off by one where it reads."""

    def read(self, batch: Any, sites: Sequence[int]) -> dict[int, Tensor]:
        nearby = {site: min(site + 1, self.num_layers) for site in sites}
        found = super().read(batch, list(nearby.values()))
        return {site: found[near] for site, near in nearby.items()}


class WritesTheNext(Stream):
    """Off by one where it writes."""

    def write(self, site: int, values: Tensor, where: Tensor | None = None) -> Any:
        return super().write(min(site + 1, self.num_layers), values, where)


class AllNext(ReadsTheNext, WritesTheNext):
    """Off by one in both, so that what it reads and writes back is the same."""


@pytest.mark.parametrize("copy", [ReadsTheNext, WritesTheNext, AllNext])
def test_a_copy_that_is_off_by_one_breaks_the_law(copy: Callable[..., Stream]) -> None:
    right = Stream.of(decoder("llama"))
    with pytest.raises(AssertionError):
        check_law(copy(right.model, right.entries, right.width), batch_of(ROWS), cached=False)
