"""Oracle: the ledger's entries against a slow obvious twin, with `.backward()`, 64 midpoints and no blocks."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from typing import Any

import torch
from tests.interference import driven, tiny

from crosstune.foundation.data import collate, encode
from crosstune.interference import BlockSettings, ForgettingLedger

POINTS = 64
COMPONENTS = {
    "q_proj": "attn.q",
    "k_proj": "attn.k",
    "v_proj": "attn.v",
    "o_proj": "attn.o",
    "gate_proj": "mlp.gate",
    "up_proj": "mlp.up",
    "down_proj": "mlp.down",
    "embed_tokens": "embed",
    "lm_head": "head",
}


def place(name: str) -> tuple[int, str]:
    """Layer and component from a Llama parameter's name, read by eye."""
    pieces = name.split(".")
    layer = int(pieces[2]) if pieces[1] == "layers" else -1
    component = next((COMPONENTS[piece] for piece in pieces if piece in COMPONENTS), "norm")
    return layer, component


def twin(model: Any, states: list[dict[str, torch.Tensor]], rows: Any) -> dict[Any, float]:
    """Σ over states of Δθ · mean gradient of the loss per token, at the middles of 64 equal pieces."""
    batch = collate(encode(rows, tiny.tokenizer(), 16), 0)
    tokens = int((batch["labels"] != -100).sum())
    found: dict[Any, float] = defaultdict(float)
    walker = copy.deepcopy(model).eval()
    for start, stop in itertools.pairwise(states):
        for piece in range(POINTS):
            at = (piece + 0.5) / POINTS
            walker.load_state_dict({n: (1 - at) * start[n] + at * stop[n] for n in start})
            walker.zero_grad()
            # transformers' own mean over scored tokens
            walker(**batch, num_items_in_batch=tokens).loss.backward()
            for name, parameter in walker.named_parameters():
                step = (stop[name] - start[name]).double() / POINTS
                found[place(name)] += float((parameter.grad.double() * step).sum())
    return found


def test_entries_equal_the_midpoint_sums_of_a_plain_backward_pass() -> None:
    model, rows = tiny.llama(), tiny.rows("en", 6)
    # All six rows fall into the two blocks, so the twin needs no blocks.
    ledger = ForgettingLedger(
        {"en": rows}, every=2, tokenizer=tiny.tokenizer(), blocks=BlockSettings(2, 3, 16)
    )
    training = driven.Training(model, ledger, last=4).begin()
    states = [copy.deepcopy(model.state_dict())]
    for step in (2, 4):
        training.go_to(step)
        states.append(copy.deepcopy(model.state_dict()))
    account = training.end().close().of("en")
    expected = twin(model, states, rows)
    assert len(account.entries) == len(expected) == 19
    for entry in account.entries:
        layer = -1 if entry.site.layer is None else entry.site.layer
        # Each of two segments may miss by its tolerance; the twin's own error is far smaller.
        difference = abs(entry.nats - expected[layer, entry.site.component])
        assert difference <= account.tolerance, str(entry.site)
    assert max(abs(value) for value in expected.values()) > 50 * account.tolerance
