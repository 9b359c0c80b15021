"""The analytic router: features know the past of their own sequence alone; what is kept of skills are sums, and sums are enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.processes import in_two
from torch import Tensor

from crosstune.experts.routing import prefix
from crosstune.experts.routing.prefix import (
    WIDEST,
    PrefixRouter,
    SkillSums,
    largest,
    narrowed,
    prefix_features,
)
from crosstune.foundation.data import Row, collate, encode
from crosstune.foundation.errors import (
    CrosstuneError,
    DataError,
    MeasurementError,
    ModelError,
    SettingsError,
)
from crosstune.foundation.models import Stream, load_model, load_tokenizer, positions

CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
WIDTH = 5
TOKENS = {"code": 40, "bn": 25, "a.b/c": 90}


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def places(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def alone(row: Tensor) -> Tensor:
    """The features of one sequence [T, d], a token at a time in numpy."""
    past = row.double().numpy()
    means = [past[: at + 1].mean(axis=0) for at in range(len(row))]
    return torch.tensor(np.hstack([past, means, np.ones((len(row), 1))])).float()


def test_features_are_the_state_the_mean_so_far_and_one() -> None:
    read = states(2, 6)
    found, _ = prefix_features(read, torch.arange(6).expand(2, 6))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.stack([alone(row) for row in read]), **CLOSE)


def test_padding_and_packed_neighbours_are_not_in_the_mean() -> None:
    read = states(2, 7)
    found, _ = prefix_features(read, places([0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 0, 1, 0, 1]))
    torch.testing.assert_close(found[0, 2:], alone(read[0, 2:]), **CLOSE)
    for document in (slice(0, 3), slice(3, 5), slice(5, 7)):
        torch.testing.assert_close(found[1, document], alone(read[1, document]), **CLOSE)


def test_no_future_token_reaches_a_feature() -> None:
    read, at = states(1, 6), torch.arange(6)[None]
    before, _ = prefix_features(read, at)
    read[0, 4:] += 100.0
    after, _ = prefix_features(read, at)
    assert torch.equal(before[:, :4], after[:, :4])
    assert bool((before[:, 4:, :-1] != after[:, 4:, :-1]).all())


@pytest.mark.parametrize("cuts", [[1] * 7, [4, 3], [5, 2]])
def test_parts_with_the_state_handed_on_are_one_pass(cuts: list[int]) -> None:
    read = states(3, 7).bfloat16()
    at = places([0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 0, 1, 2])
    whole, last = prefix_features(read, at)
    state, parts = None, []
    for part, its in zip(read.split(cuts, 1), at.split(cuts, 1), strict=True):
        found, state = prefix_features(part, its, state)
        parts.append(found)
    torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)
    assert state is not None
    torch.testing.assert_close(state.total, last.total)
    assert state.count.tolist() == last.count.tolist() == [7, 5, 3]


def features(name: str) -> Tensor:
    """Rows [1, T, F] of a skill whose mean is its own."""
    at = list(TOKENS).index(name)
    tokens = TOKENS[name]
    found, _ = prefix_features(states(1, tokens, seed=at) + at, torch.arange(tokens)[None])
    return found


def sums(name: str) -> SkillSums:
    return SkillSums.of(features(name), torch.ones(1, TOKENS[name]))


def router(*names: str) -> PrefixRouter:
    found = PrefixRouter()
    for name in names or TOKENS:
        found.learn(name, sums(name))
    found.temperature = 0.2
    return found


EVERY = torch.cat([features(name) for name in TOKENS], dim=1)


def lstsq_scores(ridge: float) -> np.ndarray:
    """The joint fit on all tokens: rows weighed by their skill, the ridge as further rows."""
    x = EVERY[0].double().numpy()
    skill = np.repeat(np.arange(3), list(TOKENS.values()))
    weights = 1 / np.sqrt(np.array(list(TOKENS.values())))[skill][:, None]
    penalty = ridge * ((weights * x) ** 2).sum() / x.shape[1]
    left = np.vstack([weights * x, np.sqrt(penalty) * np.eye(x.shape[1])])
    right = np.vstack([weights * np.eye(3)[skill], np.zeros((x.shape[1], 3))])
    return x @ np.linalg.lstsq(left, right, rcond=None)[0]


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_sums_give_the_joint_fit_on_all_tokens(ridge: float) -> None:
    found = router()
    found.ridge = ridge
    wanted = torch.tensor(lstsq_scores(ridge) / 0.2).softmax(-1).float()
    torch.testing.assert_close(found.gates(EVERY)[0], wanted, **CLOSE)


def test_neither_order_nor_cuts_move_a_gate() -> None:
    other = PrefixRouter()
    other.temperature = 0.2
    for name in reversed(TOKENS):
        for part in reversed(features(name).split(17, dim=1)):
            padded = torch.cat([part, torch.full_like(part, 7.0)], dim=1)
            real = torch.arange(padded.shape[1])[None] < part.shape[1]
            other.learn(name, SkillSums.of(padded, real))
    assert other.names == tuple(reversed(TOKENS))
    torch.testing.assert_close(other.gates(EVERY).flip(-1), router().gates(EVERY), **CLOSE)


def test_a_skill_taken_out_was_never_there() -> None:
    found = router()
    found.gates(EVERY)
    found.forget("bn")
    assert found.names == ("code", "a.b/c")
    assert torch.equal(found.gates(EVERY), router("code", "a.b/c").gates(EVERY))


def test_one_skill_has_every_token_and_equal_skills_share_them() -> None:
    assert bool((router("bn").gates(EVERY) == 1.0).all())
    equal = PrefixRouter()
    for name in ("one", "two", "three"):
        equal.learn(name, sums("bn"))
    torch.testing.assert_close(equal.gates(EVERY), torch.full((1, 155, 3), 1 / 3))


def test_the_largest_gates_stay_as_they_are() -> None:
    gates = router().gates(EVERY)
    assert gates.dtype == torch.float32
    least = gates == gates.amin(-1, keepdim=True)
    assert torch.equal(largest(gates, 2), gates.masked_fill(least, 0.0))


def test_mixed_precision_leaves_features_and_gates_alone() -> None:
    read, at = states(1, 6), torch.arange(6)[None]
    plain = router().gates(prefix_features(read, at)[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(router().gates(prefix_features(read, at)[0]), plain)


def work(rank: int, folder: str) -> None:
    found = PrefixRouter()
    for name in TOKENS:
        mine = torch.arange(TOKENS[name])[None] % 3 == 0
        found.learn(name, SkillSums.of(features(name), mine if rank else ~mine).reduced())
    save_file(found.tensors(), f"{folder}/{rank}.safetensors")


def test_two_processes_are_one(tmp_path: Path) -> None:
    in_two(work, str(tmp_path))
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    alike = router()
    alike.temperature = 1.0
    assert first.keys() == second.keys() == alike.tensors().keys()
    for key, value in alike.tensors().items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value)


def test_a_router_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    found = PrefixRouter()
    found.ridge = 0.03
    for name in TOKENS:
        found.learn(name, sums(name))
    found.tune({name: features(name) for name in TOKENS})
    save_file(found.tensors(), tmp_path / "router.safetensors")
    again = PrefixRouter()
    again.load(load_file(tmp_path / "router.safetensors"))
    assert again.names == found.names
    assert torch.equal(again.gates(EVERY), found.gates(EVERY))


def test_no_other_temperature_is_better() -> None:
    found = router()

    def cost(temperature: float) -> float:
        found.temperature = temperature
        right = [found.gates(features(name))[..., at] for at, name in enumerate(TOKENS)]
        return -sum(gates.double().log().mean().item() for gates in right)

    found.tune({name: features(name) for name in reversed(TOKENS)})
    tuned = found.temperature
    assert all(cost(tuned) < cost(tuned * factor) for factor in (0.5, 0.9, 1.1, 2.0))


BAD: dict[str, tuple[Callable[[], object], type[CrosstuneError], str]] = {
    "gates of another width": (lambda: router().gates(EVERY[..., 1:]), ModelError, "11 wide"),
    "a skill of another width": (
        lambda: router().learn("new", SkillSums.of(EVERY[..., 1:], torch.ones(1, 155))),
        ModelError,
        "11 wide",
    ),
    "NaN in gates": (lambda: router().gates(EVERY / 0.0), MeasurementError, "finite"),
    "NaN in sums": (
        lambda: SkillSums.of(EVERY * torch.nan, torch.ones(1, 155)),
        MeasurementError,
        "finite",
    ),
    "a skill without tokens": (
        lambda: router().learn("new", SkillSums.of(EVERY, torch.zeros(1, 155))),
        DataError,
        "`new` must have tokens",
    ),
    "more gates than skills": (lambda: largest(EVERY, 12), SettingsError, "skills, 11"),
    "no gate": (lambda: largest(EVERY, 0), SettingsError, "from 1"),
    "no skill": (lambda: PrefixRouter().gates(EVERY), MeasurementError, "Call `learn`"),
    "a skill not tuned for": (lambda: router().tune({"bn": EVERY}), DataError, "each skill"),
    "no token to tune on": (
        lambda: router("bn").tune({"bn": EVERY[:, :0]}),
        DataError,
        "each skill",
    ),
    "a row that goes on from nothing": (
        lambda: prefix_features(states(1, 2), places([3, 4])),
        MeasurementError,
        r"\[0\] tokens before first positions \[3\]",
    ),
    "a state with padding on the right": (
        lambda: prefix_features(
            states(1, 1), places([2]), prefix_features(states(1, 3), places([0, 1, 1]))[1]
        ),
        MeasurementError,
        "pad on the left",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_in_words(name: str) -> None:
    act, kind, words = BAD[name]
    with pytest.raises(kind, match=words):
        act()


def real_rows(data: Path) -> dict[str, list[str]]:
    """120 texts of each skill, long enough to be told apart."""

    def lines(path: str, field: str) -> list[str]:
        read = (data / path).read_text("utf-8").splitlines()
        return [json.loads(line)[field] for line in read]

    texts = {
        "stories": lines("english/tinystories_heldout.jsonl", "text"),
        "wikitext": (data / "english/wikitext-2/valid.txt").read_text("utf-8").splitlines(),
        "code": lines("code/mbpp.jsonl", "code"),
    }
    return {
        name: [text for text in found if len(text) > 200][:120] for name, found in texts.items()
    }


def test_a_real_prefix_names_its_skill_and_a_token_alone_does_not(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    read: dict[str, tuple[Tensor, Tensor]] = {}
    for name, texts in real_rows(shared / "data").items():
        rows = [Row(str(at), text) for at, text in enumerate(texts)]
        batch = collate(encode(rows, tokenizer, 128), 0)
        mask = batch["attention_mask"]
        found, _ = prefix_features(Stream.of(model).read(batch, [0])[0], positions(mask))
        read[name] = (found, mask.bool())

    def right_gates(means: float) -> list[float]:
        """The mean gate of the right skill from token 32 on in 30 rows, after 60 to learn from and 30 to tune on."""
        width = read["code"][0].shape[-1] // 2
        kept = torch.tensor([1.0, means, 1.0]).repeat_interleave(torch.tensor([width, width, 1]))
        router = PrefixRouter()
        for name, (found, mask) in read.items():
            router.learn(name, SkillSums.of(found[:60] * kept, mask[:60]))
        router.tune({name: (found * kept)[60:90][m[60:90]] for name, (found, m) in read.items()})
        return [
            router.gates(found[90:, 32:] * kept)[mask[90:, 32:]][:, at].mean().item()
            for at, (found, mask) in enumerate(read.values())
        ]

    whole, alone = right_gates(1.0), right_gates(0.0)
    assert min(whole) > 0.9, whole  # .95 to .97 seen
    assert max(alone) < 0.6, alone  # .35 to .52 seen


def test_wide_states_are_read_through_one_projection_that_keeps_lengths() -> None:
    states = torch.randn(2, 5, 1024, generator=torch.Generator().manual_seed(3))
    found = narrowed(states)
    assert found.shape == (2, 5, WIDEST)
    assert torch.equal(narrowed(states), found)
    torch.testing.assert_close(narrowed(3 * states), 3 * found)
    lengths = found.norm(dim=-1) / states.norm(dim=-1)
    assert bool(((lengths - 1).abs() < 0.2).all())
    assert torch.equal(narrowed(states[..., :WIDEST]), states[..., :WIDEST])


def test_a_device_without_float64_has_its_sums_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the CPU itself is called such a device: every float64 must come by way of `Tensor.cpu`."""
    asked: list[str] = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(prefix, "NO_FLOAT64", ("cpu",))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: asked.append("cpu") or cpu(self))
    plain = router().gates(EVERY)
    assert asked
    monkeypatch.undo()
    assert torch.equal(router().gates(EVERY), plain)
