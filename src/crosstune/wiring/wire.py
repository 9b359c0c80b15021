"""Two models wired together: fitted on texts that both read, then judged by what the receiver makes of texts that only the sender has read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from crosstune.foundation.data import Task, as_rows, collate
from crosstune.foundation.data.task import named
from crosstune.foundation.errors import DataError, MeasurementError, hold
from crosstune.foundation.evaluation.scoring import logits_nats
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.seeds import Seeds
from crosstune.wiring import verdict
from crosstune.wiring.channel import EMBEDDINGS, Channel, Handed, PairBatch, left_padded
from crosstune.wiring.maps import LinearMap, ridge_by_folds
from crosstune.wiring.moments import PairMoments, shuffled
from crosstune.wiring.pairs import TextPair, coverage, cut_pairs, ending, read_pairs

PART = 16
"""Texts that go through the models at once."""
FEW = 8
"""Tokens of text that a channel is held against."""
_OF_LAYERS = (verdict.CHANNEL, verdict.SHUFFLED)


@dataclass(frozen=True)
class FittedWire:
    """What one pass over texts gave: maps by name, and of the receiver's keys and values the means, [q] and by token that was seen, [n, q]."""

    maps: Mapping[str, LinearMap]
    mean: Tensor
    tokens: Tensor
    by_token: Tensor
    documents: frozenset[str]

    def identity(self, ids: Tensor) -> Tensor:
        """The mean of each token wherever it stood, or of all for one that was not seen, [B, T] → [B, T, q]."""
        at = torch.searchsorted(self.tokens, ids).clamp(max=len(self.tokens) - 1)
        return torch.where((self.tokens[at] == ids)[..., None], self.by_token[at], self.mean)


class Wire:
    """A sender's keys and values, mapped, as the cache that a receiver goes on from.

    Args:
        sender: A folder or hub id, or a model and its tokenizer.
        receiver: Likewise.
        layers: The sender's that are read; all without it.

    Raises:
        ModelError: One is no decoder, or a layer is out of range.
        UnknownFamilyError: The family of one is not in the table.
        UnsupportedError: The receiver's windows slide.
    """

    def __init__(self, sender: Any, receiver: Any, layers: Sequence[int] | None = None) -> None:
        both = [
            (load_model(one), load_tokenizer(one)) if isinstance(one, str | Path) else one
            for one in (sender, receiver)
        ]
        self.channel = Channel.of(both[0][0], both[1][0], layers)
        self.tokenizers = both[0][1], both[1][1]
        self.contexts = [model.config.max_position_embeddings for model, _ in both]
        self.fitted: FittedWire | None = None

    def fit(self, texts: object, *, length: int = 512, seed: int = 0) -> FittedWire:
        """Fit the map and its rivals in closed form, from one pass over texts.

        Args:
            texts: Rows, strings, or a task (its train side), of three documents at least.
            length: The most tokens of a text that a model reads.
            seed: Draws which documents meet in the shuffled control.

        Returns:
            What was fitted; the wire keeps it.

        Raises:
            DataError: A tokenizer is slow, no token of one ends where one of the other does, or documents are too few.
            ModelError: The receiver's own keys and values, handed over, are not its cache to the bit.
            MeasurementError: The sender has as many columns as there are tokens, or all documents fall into one fold.
        """
        lengths = min(length, self.contexts[0]), min(length, self.contexts[1])
        pairs = read_pairs(as_rows(texts, "texts"), self.tokenizers, lengths)
        self.channel.certify(left_padded([pair.receiver for pair in pairs[:2]]))
        generator, moments = Seeds(seed).torch("wiring", "shuffled"), dict[str, PairMoments]()
        tokens = torch.tensor(sorted({at for pair in pairs for at in pair.receiver.input_ids}))
        sums, counts = torch.zeros(0), torch.zeros(len(tokens), dtype=torch.float64)
        for documents, x, y, ids, own in self._read(pairs):
            if not moments:
                moments = {name: PairMoments.about(x, y) for name in _OF_LAYERS}
                sums = own.new_zeros(len(tokens), own.shape[1], dtype=torch.float64)
            moments[verdict.CHANNEL].add(documents, x, y)
            moments[verdict.SHUFFLED].add(*shuffled(documents, x, y, generator))
            at = torch.searchsorted(tokens, ids)
            sums.index_add_(0, at.to(sums.device), own.double())
            counts += torch.bincount(at, minlength=len(tokens))
        true = moments[verdict.CHANNEL]
        layers = true.sender.keys() - {EMBEDDINGS}
        found = {name: one.select(layers, true.receiver) for name, one in moments.items()}
        found[verdict.RELAY] = true.select([EMBEDDINGS], true.receiver)
        sums, seen = sums.cpu(), counts > 0
        self.fitted = FittedWire(
            {name: ridge_by_folds(one)[0] for name, one in found.items()},
            (sums.sum(dim=0) / counts.sum()).float(),
            tokens[seen],
            (sums[seen] / counts[seen, None]).float(),
            frozenset(pair.document for pair in pairs),
        )
        return self.fitted

    def judge(self, texts: object, *, depth: int = 64, ahead: int = 48) -> verdict.WireVerdict:
        """What the receiver's next tokens cost where it has what the sender read, and beside every rival.

        The receiver itself reads the first token of a text, whatever else it is given, and the first token after the
        cut, of which there is no score: nothing but a cache is handed over to predict it from.

        Args:
            texts: Rows, strings, or a task (its test side), of two documents at least, none of them fitted.
            depth: Tokens of the receiver that are handed over, or fewer, to one that ends where the sender's does.
            ahead: Tokens scored.

        Returns:
            The table and the verdict; ``print`` shows both.

        Raises:
            MeasurementError: The wire is not fitted.
            DataError: Documents were fitted, are too few or too short, or `depth` does not fit the receiver's context.
        """
        words = "must be fitted before it is judged", "no map", "Call fit(texts) first."
        hold(self.fitted is not None, MeasurementError, "wire", words)
        most, context = depth + ahead + 2, self.contexts[1]
        law = f"must leave room for what follows in the receiver's context of {context} tokens"
        words = law, str(most), "Hand over fewer, or score fewer."
        hold(most <= context, DataError, "depth", words)
        rows = texts.test if isinstance(texts, Task) else as_rows(texts, "texts")
        known = [row.id for row in rows if self.fitted and row.unit in self.fitted.documents]
        words = "must be of documents that were not fitted", named(known), "Judge other texts."
        hold(not known, DataError, "texts", words)
        whole = read_pairs(rows, self.tokenizers, (self.contexts[0], most))
        pairs = cut_pairs(whole, depth, ahead + 1)
        nats: dict[str, list[Tensor]] = {}
        for start in _shown(range(0, len(pairs), PART), "judging"):
            part = pairs[start : start + PART]
            ids = torch.tensor([pair.ahead for pair in part])
            for name, handed in self._given(part):
                logits = self.channel.go_on(handed, ids)
                cost = logits_nats(logits[:, :-1], ids[:, 1:]).sum(dim=1, dtype=torch.float64)
                nats.setdefault(name, []).append(cost.cpu())
        over = sum(len(pair.causal) for pair in pairs) / len(pairs)
        note = (
            f"{len(pairs)} of {len(whole)} texts, {ahead} tokens after {over:.1f} handed over (mean); "
            f"{coverage(pairs):.0%} of their bytes are in tokens that end together."
        )
        costs = {name: torch.cat(each) for name, each in nats.items()}
        counts = torch.full([len(pairs)], ahead)
        return verdict.judged(costs, counts, [pair.document for pair in pairs], note)

    def _given(self, part: Sequence[TextPair]) -> Iterator[tuple[str, Handed]]:
        """Every way in which the receiver is given some texts."""
        channel, batch, fitted = self.channel, PairBatch.of(part), self.fitted
        assert fitted is not None
        own, sent = channel.own(batch.receiver), channel.sent(batch.sender)
        yield verdict.TEXT, channel.read(batch.receiver)
        yield "own cache", channel.hand(own, batch.receiver)
        for name, size in ((verdict.NOTHING, 0), (f"last {FEW} tokens as text", FEW)):
            yield name, channel.read(left_padded([ending(p.receiver, size) for p in part]))
        embedded = batch.gathered(sent.pop(EMBEDDINGS))
        layers = batch.gathered(torch.cat([*sent.values()], dim=-1))
        states = {name: fitted.maps[name](layers) for name in _OF_LAYERS}
        states[verdict.RELAY] = fitted.maps[verdict.RELAY](embedded)
        states[verdict.MEAN] = fitted.mean.expand(own.shape)
        states[verdict.IDENTITY] = fitted.identity(batch.receiver["input_ids"])
        for name, each in states.items():
            opened = channel.opened(each, batch.receiver)
            yield name, channel.hand(opened, batch.receiver, batch.seen)

    def _read(self, pairs: Sequence[TextPair]) -> Iterator[tuple[Any, ...]]:
        """Of parts of the texts: documents and states of fitting pairs, and all the receiver's tokens but first ones."""
        steps = max(1, len(pairs) // PART)
        for step in _shown(range(steps), "reading"):
            part = pairs[step::steps]
            batch = collate([pair.receiver for pair in part], 0)
            sent = self.channel.sent(collate([pair.sender for pair in part], 0))
            own, later = self.channel.own(batch), batch["attention_mask"].bool()
            at = torch.tensor([row for row, pair in enumerate(part) for _ in pair.fitting])
            a, b = torch.cat([pair.fitting for pair in part]).T
            x = {name: states[at, a] for name, states in sent.items()}
            y = {"layers": own[at, b].to(x[EMBEDDINGS].device)}
            later[:, 0] = False
            documents = [part[row].document for row in at.tolist()]
            yield documents, x, y, batch["input_ids"][later], own[later]


def _shown(steps: range, doing: str) -> Iterator[int]:
    """The steps, under a bar of progress that goes when they are done."""
    yield from track(steps, doing, console=Console(stderr=True), transient=True)
