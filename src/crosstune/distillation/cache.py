"""A teacher that is read once: of every row its last states, or its k likeliest tokens, in a folder that takes its place for kd.

States (2 H bytes a token in bfloat16) serve every temperature and divergence exactly. The likeliest (6 k + 2 bytes: ids, and in
float16 their log-probabilities and that of all others) serve forward KL at T = 1. Every position is kept but a row's last, whatever is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from time import perf_counter
from typing import Any
from zlib import crc32

import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PretrainedConfig

from crosstune.distillation.divergences import Divergence, Likeliest, buckets
from crosstune.distillation.head import CHUNK_BYTES, Head, Side, check_head
from crosstune.foundation import storage
from crosstune.foundation.data import Encoded, collate
from crosstune.foundation.errors import DataError, ModelError, StorageError, hold
from crosstune.foundation.evaluation.scoring import batches_of
from crosstune.foundation.models import measuring, model_inputs, weights_fingerprint
from crosstune.foundation.models.streams import ending, looking

_SHARD_TOKENS = 2**13
_ABOUT, _SHARD = "cache.json", "{}-{}.safetensors"
_SAY = Console(stderr=True, highlight=False, soft_wrap=True).print
_AGAIN = "Cache the rows again."


def cache_teacher(
    teacher: Any,
    tokenizer: Any,
    rows: Sequence[Encoded],
    folder: Path | str,
    *,
    top_k: int | None = None,
    listener: Callable[[str], object] = _SAY,
) -> CachedTeacher:
    """Read rows once, and keep what kd needs of them; where a call was killed, the next goes on.

    Args:
        teacher: A causal language model; it is left as it was.
        tokenizer: That encoded the rows.
        rows: All that will be learned or held out, as `encode` returns them.
        folder: Where the cache is to lie.
        top_k: Likeliest tokens that are kept at each position; None: states.
        listener: Is told what it will cost, how far it is, and how much the likeliest hold.

    Returns:
        The cache, opened.

    Raises:
        SettingsError: There are not so many tokens.
    """
    check_head(teacher)
    head, place = Head.of(teacher), Path(folder)
    size, own = len(head.weight), [*{_key(row.input_ids): row for row in rows}.values()]
    Divergence(top_k=top_k).size(size, size)  # refuses a top_k below 1 or above it
    shards = [[own[at] for at in places] for places in batches_of(own, _SHARD_TOKENS)]
    about: dict[str, Any] = {"top_k": top_k, "vocabulary": size, "head": [head.scale, head.softcap]}
    about["teacher"] = weights_fingerprint(teacher)
    about["tokenizer"] = storage.fingerprint(tokenizer.get_vocab())
    about["rows"] = [[(r.row_id, _key(r.input_ids), len(r.input_ids)) for r in s] for s in shards]
    name, tokens = storage.fingerprint(about), sum(len(row.input_ids) - 1 for row in own)
    began, first = perf_counter(), [*_read(teacher, own[:8], top_k).values()]
    part = tokens / len(first[0])
    cost = sum(x.nbytes for x in first) * part / 2**20, (perf_counter() - began) * part
    listener(f"{tokens} tokens: {cost[0]:.1f} MiB, about {cost[1]:.0f} s")
    for at, some in enumerate(shards):
        if not (path := place / _SHARD.format(name, at)).exists():
            kept = _read(teacher, some, top_k)
            sizes = [len(row.input_ids) - 1 for row in some]
            each = zip(*(part.cpu().split(sizes) for part in kept.values()), strict=True)
            kept |= {"sums": torch.tensor([*map(_sum, each)])}
            kept |= {} if top_k or at else head._asdict()
            with storage.atomic_write(path) as temporary:
                save_file({n: x for n, x in kept.items() if isinstance(x, Tensor)}, temporary)
        listener(f"{at + 1} of {len(shards)} shards are written")
    if top_k is not None:
        found = [load_file(place / _SHARD.format(name, at))["logs"] for at in range(len(shards))]
        about["captured"] = 1.0 - float(torch.cat(found)[:, -1].double().exp().mean())
        listener(f"the likeliest {top_k} hold {about['captured']:.4f}")
    storage.write_json(place / _ABOUT, {"cache": name, **about})
    return CachedTeacher(place)


class CachedTeacher(nn.Module):
    """Takes the teacher's place: what goes "into its head" is what was kept of a batch's rows, found by their tokens.

    Shapes: [B, T, H], or [B, T, 2 k + 1] of ids (float32 holds them below 2²⁴) and log-probabilities; 0 at a row's last token and on padding.

    Args:
        folder: Of `cache_teacher`; one that holds no whole cache is a StorageError.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        place = Path(folder)
        words = "must be a finished cache", f"no {_ABOUT} in it", "Make it, or go on with it."
        hold((place / _ABOUT).is_file(), StorageError, str(folder), words)
        self.about = about = storage.read_json(place / _ABOUT)
        self.config = PretrainedConfig(cache=about["cache"])  # by which a training knows it again
        self.top_k, self.vocabulary = about["top_k"], about["vocabulary"]
        self._out = nn.Identity()
        self._places: dict[str, tuple[Path, int, int, int]] = {}
        for at, rows in enumerate(about["rows"]):
            path = place / _SHARD.format(about["cache"], at)
            hold(path.is_file(), StorageError, str(path), ("must be there", "no such file", _AGAIN))
            ends = pairwise(accumulate((size - 1 for *_, size in rows), initial=0))
            each = enumerate(zip(rows, ends, strict=True))
            self._places |= {key: (path, row, *own) for row, ((_, key, _), own) in each}
        self._known = {row_id for rows in about["rows"] for row_id, *_ in rows}
        with _opened(place / _SHARD.format(about["cache"], 0)) as file:
            for name in ("weight", "bias"):  # no parameters: what is looked up is never noisy
                part = file.get_tensor(name) if name in [*file.keys()] else None
                self.register_buffer(name, part, persistent=False)

    def get_output_embeddings(self) -> nn.Module:
        """Where a pass that looks at the last states ends."""
        return self._out

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Tensor:
        """What was kept of a batch; files are opened for it, so that copies and processes share no handle. A StorageError where bytes changed."""
        real, found = attention_mask.bool(), list[Tensor]()
        for ids, own in zip(input_ids, real, strict=True):
            path, row, start, stop = self._place(ids[own].tolist())
            with _opened(path) as file:
                names = ("ids", "logs") if self.top_k else ("states",)
                parts = [file.get_slice(name)[start:stop] for name in names]
                same = _sum(parts) == int(file.get_slice("sums")[row : row + 1])
            words = "must hold what was written", f"other bytes in row {row}", _AGAIN
            hold(same, StorageError, str(path), words)
            found.append(torch.cat([p.float() for p in parts], -1) if self.top_k else parts[0])
        kept = torch.cat(found).to(input_ids.device)
        whole = kept.new_zeros(*input_ids.shape, kept.shape[-1])
        whole[:, :-1][real[:, :-1] & real[:, 1:]] = kept
        return self._out(whole)  # type: ignore[no-any-return]

    def side(self, kept: Tensor) -> Side | Likeliest:
        """What `head_sums` takes for the teacher, of some positions of `forward`."""
        if self.top_k is not None:
            return Likeliest(kept[:, : self.top_k].long(), kept[:, self.top_k :])
        return Side(kept, Head(self.weight, self.bias, *self.about["head"]))  # type: ignore[arg-type]

    def check(self, tokenizer: Any, rows: Mapping[str, Sequence[Encoded]]) -> None:
        """Raise a DataError where a student has another tokenizer, or a row of these sets is not here."""
        same = storage.fingerprint(tokenizer.get_vocab()) == self.about["tokenizer"]
        hold(same, DataError, "tokenizer", ("must be the cache's", "another vocabulary", _AGAIN))
        for name, row in ((name, row) for name, some in rows.items() for row in some):
            self._place(row.input_ids, name, row.row_id)

    def check_live(self, teacher: Any, rows: Sequence[Encoded]) -> None:
        """Raise a ModelError unless a teacher has the weights that were cached, and says now what it said of the four longest rows."""
        live, own, k = weights_fingerprint(teacher), self.about["teacher"], self.top_k
        words = f"must have the weights of the cache ({own})", live, _AGAIN
        hold(live == own, ModelError, "teacher", words)
        for row in sorted(rows, key=lambda row: len(row.input_ids))[-4:]:
            self._place(row.input_ids, row_id=row.row_id)
            now, ids = _read(teacher, [row], k), torch.tensor([row.input_ids])
            then = self(ids, torch.ones_like(ids))[0, :-1]
            said, kept = (now["logs"].exp(), then[:, k:].exp()) if k else (now["states"], then)
            gap = float((said.cpu() - kept).abs().max() / kept.abs().max())
            most = 0.05 if k or then.dtype.itemsize < 4 else 1e-3  # what is coarse is rounded
            words = "must say what it said", f"what is {gap:.2%} off", _AGAIN
            hold(gap < most, ModelError, "teacher", words)

    def _place(
        self, ids: list[int], name: str = "rows", row_id: str = ""
    ) -> tuple[Path, int, int, int]:
        """The file of a row, which one it is there, and where it begins and ends."""
        place, known = self._places.get(_key(ids)), row_id in self._known
        seen = "other tokens of it: text, length or windows changed" if known else "no such row"
        words = "must be in the cache, token by token", f"row {row_id!r}: {seen}", _AGAIN
        hold(place is not None, DataError, name, words)
        return place  # type: ignore[return-value]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A shard, which must be readable."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        law, found = "must be a whole shard", str(error)
        raise StorageError(str(path), law=law, found=found, remedy=_AGAIN) from error


def _sum(parts: Iterable[Tensor]) -> int:
    """A checksum of a row's tensors."""
    return crc32(b"".join(bytes(x.contiguous().view(torch.uint8).numpy()) for x in parts))


def _key(ids: list[int]) -> str:
    return storage.fingerprint(str(ids))


@torch.no_grad()
def _read(teacher: Any, rows: Sequence[Encoded], top_k: int | None) -> dict[str, Tensor]:
    """What is kept of rows, one after the other; states are what goes into the head."""
    head, layer, seen = Head.of(teacher), teacher.get_output_embeddings(), list[Tensor]()
    batch = {n: x.to(head.weight.device) for n, x in collate(rows, 0).items()}
    with measuring(teacher), looking(layer, seen.append), ending(layer):
        teacher(**model_inputs(batch))
    states = seen[0][:, :-1][batch["attention_mask"][:, 1:].bool()]
    if top_k is None:
        return {"states": states}
    ids, logs = list[Tensor](), list[Tensor]()
    for some in states.split(max(1, CHUNK_BYTES // (4 * len(head.weight)))):
        out = some.new_empty(len(some), len(head.weight), dtype=torch.float32)
        whole = head.finish(head.project(some, out)).log_softmax(dim=-1)
        ids.append(whole.topk(top_k).indices)
        logs.append(buckets(whole, ids[-1])[0].clamp(min=-6e4).half())
    return {"ids": torch.cat(ids).int(), "logs": torch.cat(logs)}
