"""Two models wired together: fitted on texts that both read, then judged by what the receiver makes of what only the sender has read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Tokens of text that the channel is held against."""
_OF_LAYERS = (verdict.CHANNEL, verdict.SHUFFLED)


@dataclass(frozen=True)
class FittedWire:
    """What one pass over texts gave: the map, and what its rivals are made of.

    Shapes: q the receiver's keys and values; ``mean`` [q], ``by_token`` [tokens, q].
    """

    maps: Mapping[str, LinearMap]
    """The channel's, that of shuffled documents, and that from the sender's embeddings."""
    penalties: Mapping[str, float]
    mean: Tensor
    tokens: Tensor
    """The receiver's tokens that were seen, sorted."""
    by_token: Tensor
    documents: frozenset[str]

    def identity(self, ids: Tensor) -> Tensor:
        """The mean of each token wherever it stood; of one that was not seen, the mean of all; [B, T, q]."""
        at = torch.searchsorted(self.tokens, ids).clamp(max=len(self.tokens) - 1)
        known = self.tokens[at] == ids
        return torch.where(known[..., None], self.by_token[at], self.mean)


class Wire:
    """A sender's keys and values, mapped, as the cache that a receiver goes on from.

    Args:
        sender: A folder, a hub id, or a model and its tokenizer; a tokenizer must be fast.
        receiver: Likewise.
        layers: The sender's that are read; all without it.

    Raises:
        ModelError: One is no decoder, or a layer is out of range.
        UnknownFamilyError: The family of one is not in the table.
        UnsupportedError: The receiver's windows slide.
    """

    def __init__(self, sender: Any, receiver: Any, layers: Sequence[int] | None = None) -> None:
        both = _opened(sender), _opened(receiver)
        self.channel = Channel.of(both[0][0], both[1][0], layers)
        self.tokenizers = both[0][1], both[1][1]
        self.contexts = tuple(int(model.config.max_position_embeddings) for model, _ in both)
        self.fitted: FittedWire | None = None

    def fit(self, texts: object, *, length: int = 512, seed: int = 0) -> FittedWire:
        """Fit the map and its rivals in closed form, from one pass over texts.

        Args:
            texts: Rows, strings, or a task (its train side), of three documents at least.
            length: The most tokens of a text that each model reads.
            seed: Draws which documents meet in the shuffled control.

        Returns:
            What was fitted, which the wire keeps.

        Raises:
            DataError: A tokenizer is slow, the tokenizers share no end of a token, or documents are too few.
            ModelError: The receiver's own keys and values, handed over, are not its cache to the bit.
            MeasurementError: Tokens are not more than the columns of the sender, or documents fall into one fold.
        """
        lengths = min(length, self.contexts[0]), min(length, self.contexts[1])
        pairs = read_pairs(as_rows(texts, "texts"), self.tokenizers, lengths)
        self.channel.certify(left_padded([pair.receiver for pair in pairs[:2]]))
        tokens = torch.tensor(sorted({at for pair in pairs for at in pair.receiver.input_ids}))
        generator, moments = Seeds(seed).torch("wiring", "shuffled"), dict[str, PairMoments]()
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
        layers, receiver = [name for name in true.sender if name != EMBEDDINGS], [*true.receiver]
        found = {name: ridge_by_folds(m.select(layers, receiver)) for name, m in moments.items()}
        found[verdict.RELAY] = ridge_by_folds(true.select([EMBEDDINGS], receiver))
        seen = counts > 0
        self.fitted = FittedWire(
            {name: one for name, (one, _, _) in found.items()},
            {name: penalty for name, (_, penalty, _) in found.items()},
            (sums.sum(dim=0) / counts.sum()).float().cpu(),
            tokens[seen],
            (sums.cpu()[seen] / counts[seen, None]).float(),
            frozenset(pair.document for pair in pairs),
        )
        return self.fitted

    def judge(self, texts: object, *, depth: int = 64, ahead: int = 48) -> verdict.WireVerdict:
        """What the receiver's next tokens cost if it has what the sender read, and under every rival.

        The receiver reads the first token of a text itself, under all conditions but that of nothing else to read. The first
        token after the cut is read, and predicts the next: no condition has scores of it.

        Args:
            texts: Rows, strings, or a task (its test side), of two documents at least, none of which was fitted.
            depth: Tokens of the receiver that are handed over; fewer where no token of both ends there.
            ahead: Tokens scored.

        Returns:
            The table of nats a token and the verdict; ``print`` shows both.

        Raises:
            MeasurementError: The wire is not fitted.
            DataError: Documents were fitted, are too few or too short, or `depth` does not fit the receiver's context.
        """
        fitted, most = self.fitted, depth + ahead + 2
        words = "must be fitted before it is judged", "no map", "Call fit(texts) first."
        hold(fitted is not None, MeasurementError, "wire", words)
        assert fitted is not None
        law = f"must leave room for what follows in the receiver's context of {self.contexts[1]}"
        words = law, f"{most} tokens in all", "Hand over less."
        hold(most <= self.contexts[1], DataError, "depth", words)
        rows = texts.test if isinstance(texts, Task) else as_rows(texts, "texts")
        known = [row.id for row in rows if row.unit in fitted.documents]
        words = "must be of documents that were not fitted", named(known), "Judge other texts."
        hold(not known, DataError, "texts", words)
        whole = read_pairs(rows, self.tokenizers, (self.contexts[0], most))
        pairs = cut_pairs(whole, depth, ahead + 1)
        given = self._given(fitted)
        nats = {name: torch.zeros(len(pairs), dtype=torch.float64) for name in given}
        for start in _shown(range(0, len(pairs), PART), "judging"):
            part = pairs[start : start + PART]
            ids, batch = torch.tensor([pair.ahead for pair in part]), PairBatch.of(part)
            sent, own = self.channel.sent(batch.sender), self.channel.own(batch.receiver)
            for name, give in given.items():
                logits = self.channel.go_on(give(part, batch, sent, own), ids)
                cost = logits_nats(logits[:, :-1], ids[:, 1:]).sum(dim=1, dtype=torch.float64)
                nats[name][start : start + PART] = cost.cpu()
        counts = torch.full([len(pairs)], ahead)
        mean = sum(len(pair.receiver.input_ids) for pair in pairs) / len(pairs)
        note = (
            f"{len(pairs)} of {len(whole)} texts go on for {ahead} tokens after {mean:.1f} on average; "
            f"{coverage(pairs):.0%} of their bytes are in tokens that end together."
        )
        return verdict.judged(nats, counts, [pair.document for pair in pairs], note)

    def _given(self, fitted: FittedWire) -> dict[str, Callable[..., Handed]]:
        """Every condition: how the receiver is given a part of the texts."""
        channel = self.channel

        def text(size: int) -> Callable[..., Handed]:
            """The first token and the last so many."""
            return lambda part, *_: channel.read(
                left_padded([ending(pair.receiver, size) for pair in part])
            )

        def hand(states: Callable[..., Tensor]) -> Callable[..., Handed]:
            def give(part: Any, batch: PairBatch, sent: Any, own: Tensor) -> Handed:
                mask = batch.receiver["attention_mask"]
                first = mask.cumsum(dim=1) == 1
                given = channel.opened(states(batch, sent).expand(*own.shape), batch.receiver)
                return channel.hand(given, batch.receiver, first | (batch.partner >= 0))

            return give

        def mapped(name: str) -> Callable[..., Handed]:
            def states(batch: PairBatch, sent: Mapping[str, Tensor]) -> Tensor:
                sites = (
                    [EMBEDDINGS] if name == verdict.RELAY else [n for n in sent if n != EMBEDDINGS]
                )
                return fitted.maps[name](batch.gathered(torch.cat([sent[n] for n in sites], -1)))

            return hand(states)

        return {
            verdict.TEXT: lambda part, batch, sent, own: channel.read(batch.receiver),
            "own cache": lambda part, batch, sent, own: channel.hand(own, batch.receiver),
            verdict.NOTHING: text(0),
            f"last {FEW} tokens as text": text(FEW),
            **{name: mapped(name) for name in (*_OF_LAYERS, verdict.RELAY)},
            verdict.MEAN: hand(lambda batch, sent: fitted.mean),
            verdict.IDENTITY: hand(
                lambda batch, sent: fitted.identity(batch.receiver["input_ids"])
            ),
        }

    def _read(self, pairs: Sequence[TextPair]) -> Iterator[tuple[Any, ...]]:
        """Of each part of the texts: documents and states of fitting pairs, and the receiver's other tokens than first ones."""
        steps = max(1, len(pairs) // PART)
        for step in _shown(range(steps), "reading"):
            part = pairs[step::steps]
            sent = self.channel.sent(collate([pair.sender for pair in part], 0))
            batch = collate([pair.receiver for pair in part], 0)
            own = self.channel.own(batch)
            at = torch.tensor([row for row, pair in enumerate(part) for _ in pair.fitting])
            a, b = torch.cat([pair.fitting for pair in part]).T
            x = {name: states[at, a] for name, states in sent.items()}
            y = {"receiver": own[at, b].to(next(iter(x.values())).device)}
            later = batch["attention_mask"].bool()
            later[:, 0] = False
            documents = [part[row].document for row in at.tolist()]
            yield documents, x, y, batch["input_ids"][later], own[later]


def _opened(given: Any) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    is_place = isinstance(given, str | Path)
    return (load_model(given), load_tokenizer(given)) if is_place else tuple(given)  # type: ignore[return-value]


def _shown(steps: range, doing: str) -> Iterator[int]:
    """The steps, with a bar of progress that goes when they are done."""
    yield from track(steps, doing, console=Console(stderr=True), transient=True)
