"""A cache is the teacher: states to the bit, the likeliest to a definition in float64; it is whole after a kill, and refuses what it cannot say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.distillation.pair import models, texts, trainer
from tests.distillation.test_divergences import oracle
from tests.distillation.test_trainer import PowerCut

from crosstune.distillation import CachedTeacher, cache, cache_teacher
from crosstune.distillation.curriculum import Curriculum, Schedule
from crosstune.distillation.divergences import Divergence
from crosstune.distillation.terms.distribution import DistributionTerms
from crosstune.foundation.data import UNSCORED, Encoded, as_rows, collate, encode
from crosstune.foundation.errors import CheckpointError, CrosstuneError, StorageError
from crosstune.foundation.models import load_model, load_tokenizer, model_inputs
from crosstune.foundation.training import Terms
from crosstune.foundation.training.loss import LossModule

FACTORS = {"ce": 0.2, "kd": 0.4}
Kept = tuple[Path, list[Encoded], dict[int | None, CachedTeacher]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Where models lie, the rows of `pair.trainer`, and caches of states and of the five likeliest tokens."""
    folder = tmp_path_factory.mktemp("models")
    teacher, tokenizer = models(folder)[1:]
    sets = (("rows", texts(24)), ("held_out['others']", texts(10, seed=1)))
    rows = [row for name, some in sets for row in encode(as_rows(some, name), tokenizer, 48)]
    made = [cache_teacher(teacher, tokenizer, rows, folder / f"{k}", top_k=k) for k in (None, 5)]
    return folder, rows, {one.top_k: one for one in made}


def found(student: Any, teacher: Any, batch: list[Encoded], **options: Any) -> list[torch.Tensor]:
    """The sums of one batch, and the gradients."""
    student.zero_grad()
    weights = {name: Schedule(name, Curriculum(alphas=FACTORS), 1) for name in FACTORS}
    terms = DistributionTerms(student, teacher, weights, **options)
    micro = LossModule(student, Terms([terms], teacher))(collate(batch, 0), FACTORS, 0)
    micro.loss.backward()
    return [*micro.sums.values(), *(p.grad for p in student.parameters())]


@pytest.mark.parametrize(("T", "k"), [(1.0, None), (2.0, 9)])
@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_states_are_the_live_teacher(kind: str, T: float, k: int | None, kept: Kept) -> None:
    folder, rows, caches = kept
    student, teacher, _ = models(folder)
    distinct = {tuple(row.input_ids): row for row in rows}.values()
    cached = sorted(distinct, key=lambda row: -len(row.input_ids))  # the batch that was read
    for batch, rtol in ((cached, 0.0), (rows[3:8], 1e-5)):  # another shape is rounded otherwise
        of = {"divergence": Divergence(kind, top_k=k), "temperature": T}
        pair = [found(student, one, batch, **of) for one in (teacher, caches[None])]
        torch.testing.assert_close(*pair, rtol=rtol, atol=rtol / 100)


def test_the_ledger_is_that_of_the_live_teacher_killed_or_not(kept: Kept, tmp_path: Path) -> None:
    folder, rows, caches = kept
    more: dict[str, Any] = {"terms": ("ce", "kd"), "temperature": 2.0, "final_temperature": 1.0}
    more["training"] = {"steps": 4, "checkpoint_every": 2, "accumulation": 2}
    live = trainer(folder, tmp_path / "live", **more).run().ledger.rows()
    ledger = trainer(folder, tmp_path / "read", caches[None], **more).run().ledger.rows()
    assert {row["side"] for row in ledger} == {"train", "parity", "others"}
    for one, other in zip(live, ledger, strict=True):
        assert other == {**one, **{n: pytest.approx(one[n], rel=1e-5) for n in ("raw", "weighted")}}
    with pytest.raises(KeyboardInterrupt):
        trainer(folder, tmp_path / "cut", caches[None], **more).run(PowerCut())
    result = trainer(folder, tmp_path / "cut", caches[None], **more).run()
    assert result.resumed_from == 2 and result.ledger.rows() == ledger
    another = cache_teacher(*models(folder)[1:], rows[::-1], tmp_path / "another")
    with pytest.raises(CheckpointError, match="second_model"):
        trainer(folder, tmp_path / "cut", another, **more).run()


def test_the_likeliest_say_their_own_and_all_of_them_the_whole(kept: Kept, tmp_path: Path) -> None:
    folder, rows, _ = kept
    student, teacher, tokenizer = models(folder)
    teacher.get_output_embeddings().weight.data *= 20.0  # some tokens are likely
    sharp = cache_teacher(teacher, tokenizer, rows, tmp_path, top_k=len(tokenizer))
    batch = collate(rows[:6], 0)
    scored = batch["labels"][:, 1:] != UNSCORED
    with torch.no_grad():
        y, z = (m(**model_inputs(batch)).logits[:, :-1][scored] for m in (teacher, student))
    whole, *slopes = found(student, teacher, rows[:6])[1:]
    errors = []
    for k in (4, 64, len(tokenizer)):
        _, kd, *own = found(student, sharp, rows[:6], divergence=Divergence(top_k=k))
        said = oracle("forward", 0.5, z, y, 1.0, k, own=0).sum()
        assert float(kd) == pytest.approx(float(said), rel=1e-4)  # ln q was rounded by 2⁻¹¹ of it
        errors.append(abs(float(whole - kd)) / float(whole))
    assert errors[0] > errors[1] > 1e-2 and errors[2] < 1e-4
    assert all((a - b).norm() < 1e-3 * b.norm() for a, b in zip(own, slopes, strict=True))


@pytest.mark.parametrize("k", [None, 5])
def test_killed_it_goes_on_to_the_same_files(
    k: int | None, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SHARD_TOKENS", 200)
    given, told = (*models(kept[0])[1:], kept[1]), list[str]()

    def cut(words: str) -> None:
        told.append(words)
        if words.startswith("2 of "):
            raise KeyboardInterrupt

    cache_teacher(*given, tmp_path / "whole", top_k=k)
    with pytest.raises(KeyboardInterrupt):
        cache_teacher(*given, tmp_path / "cut", top_k=k, listener=cut)
    assert "MiB, about " in told[0]
    with pytest.raises(StorageError, match=r"must be a finished cache; found no cache.json"):
        CachedTeacher(tmp_path / "cut")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").iterdir()}
    cache_teacher(*given, tmp_path / "cut", top_k=k)
    assert len(before) == 2 and all(at.stat().st_mtime_ns == t for at, t in before.items())
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
    next((tmp_path / "cut").glob("*-3.safetensors")).unlink()
    with pytest.raises(StorageError, match=r"-3.safetensors` must be there; found no such file"):
        CachedTeacher(tmp_path / "cut")


@pytest.mark.parametrize(
    ("k", "options", "said"),
    [
        (5, {"final_temperature": 1.5}, r"at temperature 1, of at most the 5 .* \(1.0, 1.5\)"),
        (5, {"divergence": "jsd"}, "`divergence` must be forward"),
        (5, {"top_k": 6}, "of at most the 5 tokens in the cache"),
        (None, {"terms": ("kd", "hidden")}, "`terms` must be ce and kd with a cache; found hidden"),
        (None, {"training": {"length": 12}}, "row '.*': other tokens of it: text, length"),
    ],
)
def test_what_a_cache_cannot_say_is_refused(
    k: int | None, options: dict[str, Any], said: str, kept: Kept, tmp_path: Path
) -> None:
    with pytest.raises(CrosstuneError, match=said):
        trainer(kept[0], tmp_path, kept[2][k], **{"terms": ("kd",), "alphas": {}, **options})


def test_other_rows_tokenizers_teachers_and_sizes_are_refused(kept: Kept, tmp_path: Path) -> None:
    folder, rows, caches = kept
    (student, teacher, tokenizer), own = models(folder), caches[None]
    more = [replace(row, row_id="new", input_ids=[5, *row.input_ids]) for row in rows[:1]]
    with pytest.raises(CrosstuneError, match="`held` must be in the cache.*'new': no such row"):
        own.check(tokenizer, {"rows": rows, "held": more})
    hook = teacher.model.layers[0].register_forward_hook(lambda m, i, o: 1.01 * o)
    with pytest.raises(CrosstuneError, match="`teacher` must say what it said; found what is"):
        own.check_live(teacher, rows)
    hook.remove()
    with pytest.raises(CrosstuneError, match="must have the weights of the cache"):
        own.check_live(teacher.to(torch.bfloat16), rows)
    half = cache_teacher(teacher, tokenizer, rows, tmp_path)
    assert half(**collate(rows[:2], 0)).dtype == torch.bfloat16
    half.check_live(teacher, rows)
    tokenizer.add_tokens(["zebra"])
    with pytest.raises(CrosstuneError, match="`tokenizer` must be the cache's"):
        own.check(tokenizer, {})
    student.resize_token_embeddings(len(tokenizer))
    with pytest.raises(CrosstuneError, match="where the vocabularies differ"):
        found(student, own, rows[:2])


def test_bytes_that_changed_are_refused(kept: Kept, tmp_path: Path) -> None:
    folder, rows, _ = kept
    _, teacher, tokenizer = models(folder)
    for damage in ("shifted", "torn"):
        made = cache_teacher(teacher, tokenizer, rows, tmp_path / damage)
        path = next((tmp_path / damage).glob("*-0.safetensors"))
        if damage == "shifted":
            parts = load_file(path)
            save_file({**parts, "states": parts["states"].roll(1, dims=0)}, path)
        else:
            path.write_bytes(path.read_bytes()[:5])
        said = "other bytes in row" if damage == "shifted" else "must be a whole shard"
        with pytest.raises(StorageError, match=said):
            made(**collate(rows, 0))


def test_what_the_likeliest_hold_on_a_real_model(shared: Path, tmp_path: Path) -> None:
    place = shared / "models" / "stories3M"
    teacher, tokenizer = load_model(place), load_tokenizer(place)
    lines = (shared / "data/english/tinystories_heldout.jsonl").read_text("utf-8").splitlines()
    rows = encode(as_rows([json.loads(x)["text"] for x in lines[:20]], "rows"), tokenizer, 128)
    made = cache_teacher(teacher, tokenizer, rows, tmp_path, top_k=256)
    with torch.no_grad():
        logits = [teacher(input_ids=torch.tensor([row.input_ids])).logits[0, :-1] for row in rows]
    q = torch.cat(logits).double().softmax(-1).sort(descending=True).values
    assert 0.99 < made.about["captured"] == pytest.approx(float(q[:, :256].sum(-1).mean()), 1e-5)
