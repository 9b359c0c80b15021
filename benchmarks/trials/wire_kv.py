"""Keys and values handed from one story model to another: `python benchmarks/trials/wire_kv.py OUT` prints three tables and writes OUT/wire_kv.md.

400 stories to fit, 100 others to judge. The receiver has C tokens only through the sender, or as each rival gives them, and predicts
the next 48. Below each table: does the sender add to which tokens there were? What the receiver's mean per token leaves of its keys
and values is fitted from the sender's, from the sender's of another document, and from the sender's embeddings, and added to it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from crosstune.foundation.data import as_rows, collate
from crosstune.foundation.evaluation.scoring import logits_nats
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.foundation.storage import atomic_write
from crosstune.wiring import PairMoments, Wire, ridge_by_folds
from crosstune.wiring.channel import EMBEDDINGS, PairBatch
from crosstune.wiring.maps import LinearMap
from crosstune.wiring.moments import shuffled
from crosstune.wiring.pairs import cut_pairs, read_pairs

SHARED = Path(__file__).resolve().parents[3] / "shared"
TRIALS = (
    ("stories260K", "stories279K", 96),
    ("stories260K", "stories3M", 64),
    ("stories3M", "stories260K", 96),
)
AHEAD, PART, LENGTH = 48, 16, 512


def stories(side: str, count: int) -> list[str]:
    """The first stories of a side that have more than 600 bytes, enough for every trial."""
    path = SHARED / "data" / "english" / f"tinystories_{side}.jsonl"
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return [text for text in texts if len(text.encode()) > 600][:count]


def left_over(wire: Wire, texts: list[str]) -> dict[str, LinearMap]:
    """Maps to what the receiver's mean per token leaves."""
    channel, fitted = wire.channel, wire.fitted
    assert fitted is not None
    lengths = tuple(min(LENGTH, context) for context in wire.contexts)
    pairs = read_pairs(as_rows(texts, "texts"), wire.tokenizers, lengths)
    moments: dict[str, PairMoments] = {}
    generator = torch.Generator().manual_seed(0)
    for step in range(steps := len(pairs) // PART):
        part = pairs[step::steps]
        batch = collate([pair.receiver for pair in part], 0)
        sent = channel.sent(collate([pair.sender for pair in part], 0))
        left = channel.own(batch) - fitted.identity(batch["input_ids"])
        at = torch.tensor([row for row, pair in enumerate(part) for _ in pair.fitting])
        a, b = torch.cat([pair.fitting for pair in part]).T
        documents = [part[row].document for row in at.tolist()]
        x, y = {name: states[at, a] for name, states in sent.items()}, {"left": left[at, b]}
        if not moments:
            moments = {name: PairMoments.about(x, y) for name in ("A", "another's A")}
        moments["A"].add(documents, x, y)
        moments["another's A"].add(*shuffled(documents, x, y, generator))
    layers = [name for name in moments["A"].sender if name != EMBEDDINGS]
    chosen = {name: one.select(layers, ["left"]) for name, one in moments.items()}
    chosen["A's embeddings"] = moments["A"].select([EMBEDDINGS], ["left"])
    return {name: ridge_by_folds(one)[0] for name, one in chosen.items()}


def beside_tokens(wire: Wire, fit: list[str], judge: list[str], depth: int) -> str:
    """What the next tokens cost less, paired, if the sender stands beside the receiver's mean per token."""
    channel, fitted, maps = wire.channel, wire.fitted, left_over(wire, fit)
    assert fitted is not None
    whole = read_pairs(
        as_rows(judge, "texts"), wire.tokenizers, (wire.contexts[0], depth + AHEAD + 2)
    )
    pairs = cut_pairs(whole, depth, AHEAD + 1)
    nats: dict[str, list[Tensor]] = {name: [] for name in ("nothing", *maps)}
    for start in range(0, len(pairs), PART):
        part = pairs[start : start + PART]
        ids, batch = torch.tensor([pair.ahead for pair in part]), PairBatch.of(part)
        sent = channel.sent(batch.sender)
        embedded = batch.gathered(sent.pop(EMBEDDINGS))
        layers = batch.gathered(torch.cat([*sent.values()], dim=-1))
        tokens = fitted.identity(batch.receiver["input_ids"])
        for name, costs in nats.items():
            states = tokens
            if name in maps:
                states = tokens + maps[name](embedded if "embeddings" in name else layers)
            handed = channel.opened(states, batch.receiver)
            logits = channel.go_on(channel.hand(handed, batch.receiver, batch.seen), ids)
            costs.append(logits_nats(logits[:, :-1], ids[:, 1:]).sum(dim=1, dtype=torch.float64))
    sums = {name: torch.cat(costs) for name, costs in nats.items()}
    counts = torch.full([len(pairs)], AHEAD)
    lines = []
    for name, one in sums.items():
        cost, more = ratio_jackknife(one, counts), ratio_jackknife(one - sums["A"], counts)
        told = [Estimate(float(i.value), float(i.low), float(i.high)) for i in (cost, more)]
        lines.append(f"| {name} | {told[0]} | {told[1]} |")
    head = "| beside B's mean per token | nats a token | less A |\n| --- | --- | --- |\n"
    return head + "\n".join(lines)


def main() -> None:
    """Fit and judge every pair, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    fit, judge, parts = stories("train", 400), stories("heldout", 100), []
    for sender, receiver, depth in TRIALS:
        wire = Wire(SHARED / "models" / sender, SHARED / "models" / receiver)
        start = time.perf_counter()
        wire.fit(fit, length=LENGTH)
        middle = time.perf_counter()
        found = wire.judge(judge, depth=depth, ahead=AHEAD)
        end = time.perf_counter()
        title = f"## {sender} → {receiver}, C = {depth}"
        seconds = f"Fitted in {middle - start:.0f} s, judged in {end - middle:.0f} s."
        beside = beside_tokens(wire, fit, judge, depth)
        parts.append(f"{title}\n\n{found}\n\n{beside}\n\n{seconds}\n")
        print(parts[-1], flush=True)
    with atomic_write(given.out / "wire_kv.md") as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
