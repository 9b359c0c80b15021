"""The joint adapter is each of its ends by B alone; its rank, scale and modules are as small and plain as they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tests.interference import tiny
from tests.merging import pairs
from torch import Tensor

from crosstune.foundation.errors import CheckpointError, StorageError, UnsupportedError
from crosstune.foundation.storage import read_json, write_json
from crosstune.merging.checkpoints.adapters import Adapter, adapter_of, parameter_name
from crosstune.merging.checkpoints.joint_lora import Joint, has_lora_layers, join, open_base
from crosstune.merging.checkpoints.opening import Opening

ROUNDING = (
    1e-6  # float32 factors that a scale was folded into: 6e-8 for each of ten, of the largest
)
Q, V = (f"model.layers.0.self_attn.{word}_proj" for word in "qv")


def adapter(seed: int, **options: Any) -> Adapter:
    return adapter_of(pairs.adapted(pairs.base(), seed=seed, **options), "after")


def update(joint: Joint, end: int, path: str) -> Tensor:
    """scale · B A of one module at one end."""
    config = joint.config
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    a, b = (joint.ends[end][parameter_name(path, factor)].double() for factor in "AB")
    return scale * b @ a


def alone(one: Adapter, path: str) -> Tensor:
    factors = one.factors[path]
    return factors.scale * factors.b[..., 0].double() @ factors.a[0].double()


def same_a(joint: Joint) -> bool:
    first = joint.ends[0]
    return all(torch.equal(end[n], first[n]) for end in joint.ends for n in first if "lora_A" in n)


def test_ends_of_other_ranks_scales_and_modules() -> None:
    one = adapter(1, r=2, lora_alpha=3, target_modules=["q_proj"])
    two = adapter(
        2,
        r=5,
        lora_alpha=4,
        use_rslora=True,
        rank_pattern={"v_proj": 3},
        target_modules=["q_proj", "v_proj"],
    )
    joint = join((one, two), pairs.base())
    assert (joint.config.r, joint.config.lora_alpha) == (7, 7) and same_a(joint)
    assert not joint.config.rank_pattern and not joint.config.alpha_pattern
    assert joint.config.target_modules == {"q_proj", "v_proj"}
    for end, made in enumerate((one, two)):
        for path in (Q, V):
            wanted = alone(made, path) if path in made.factors else torch.zeros(8, 16).double()
            atol = ROUNDING * wanted.abs().max().item()
            torch.testing.assert_close(update(joint, end, path), wanted, rtol=0.0, atol=atol)


def test_a_common_scale_is_kept_and_then_every_factor_bit_for_bit() -> None:
    one, two = adapter(1), adapter(2)
    joint = join((one, two), pairs.base())
    assert (joint.config.r, joint.config.lora_alpha) == (4, 16)
    b = joint.ends[1][parameter_name(Q, "B")]
    assert torch.equal(b[:, 2:], two.factors[Q].b[..., 0]) and not b[:, :2].any()


def test_what_changes_nothing_takes_no_rank() -> None:
    after = adapter(2, use_rslora=True)
    fresh = adapter(1, fresh=True, r=7)
    for before in (None, fresh):
        joint = join((before, after), pairs.base())
        assert joint.config is after.config
        for path, factors in after.factors.items():
            assert torch.equal(joint.ends[1][parameter_name(path, "A")], factors.a[0])
            assert torch.equal(joint.ends[1][parameter_name(path, "B")], factors.b[..., 0])
            assert not joint.ends[0][parameter_name(path, "B")].any()


def test_a_stage_that_undid_its_adapter_keeps_the_one_before() -> None:
    before, after = adapter(1), adapter(2, fresh=True)
    joint = join((before, after), pairs.base())
    assert joint.config.r == 2
    torch.testing.assert_close(update(joint, 0, Q), alone(before, Q))
    assert not update(joint, 1, Q).any()


def test_ends_with_one_a_share_its_place() -> None:
    one = pairs.adapted(pairs.base(), seed=1)
    two = pairs.moved(one, ["lora_B"])
    joint = join((adapter_of(one, "before"), adapter_of(two, "after")), pairs.base())
    assert joint.config.r == 2
    torch.testing.assert_close(update(joint, 0, Q), alone(adapter_of(one, "before"), Q))
    torch.testing.assert_close(update(joint, 1, Q), alone(adapter_of(two, "after"), Q))


def test_three_ends_of_a_soup() -> None:
    made = [None, adapter(1), adapter(2, r=3)]
    joint = join(made, pairs.base())
    assert joint.config.r == 5 and same_a(joint) and not update(joint, 0, Q).any()
    for end in (1, 2):
        torch.testing.assert_close(update(joint, end, Q), alone(made[end], Q))  # type: ignore[arg-type]


def test_uneven_ranks_alone_become_one_rank_padded_with_zeros() -> None:
    uneven = adapter(1, rank_pattern={"q_proj": 5}, alpha_pattern={"v_proj": 1})
    joint = join((None, uneven), pairs.base())
    assert (joint.config.r, joint.config.lora_alpha) == (5, 5) and not joint.config.rank_pattern
    for path in (Q, V):
        torch.testing.assert_close(update(joint, 1, path), alone(uneven, path))


def test_a_scale_that_rounding_would_change_is_folded() -> None:
    one, two = adapter(1, r=49, lora_alpha=1), adapter(2, r=49, lora_alpha=1)
    joint = join((one, two), pairs.base())
    scale = joint.config.lora_alpha / joint.config.r
    assert scale in (1 / 49, 1.0)
    torch.testing.assert_close(update(joint, 1, Q), alone(two, Q))


def test_modules_in_some_layers_only_are_named_in_full() -> None:
    one = adapter(1, layers_to_transform=[0], target_modules=["q_proj"])
    two = adapter(2, layers_to_transform=[0], target_modules=["q_proj"])
    assert join((one, two), pairs.base()).config.target_modules == {Q}


def test_other_bare_parameters_are_refused() -> None:
    one, two = adapter(1), adapter(2)
    bare = LoraConfig(r=2, lora_alpha=8, target_parameters=["experts.down_proj"])
    with pytest.raises(UnsupportedError, match="must adapt the same bare parameters"):
        join((Adapter(bare, one.factors), two), pairs.base())


OPENING = Opening("cpu", "float32", trust_remote_code=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("bases")
    pairs.saved(pairs.base(), here / "base")
    pairs.saved(pairs.moved(pairs.base(), ["lm_head"]), here / "other")
    pairs.saved_adapter(here / "base", here / "one", seed=1)
    pairs.saved_adapter(here / "other", here / "elsewhere", seed=2)
    return here


def test_the_base_is_found_and_has_one_fingerprint_everywhere(folders: Path) -> None:
    one = folders / "one"
    live = pairs.vanilla(folders / "base", one)
    found = [
        open_base({"before": one, "after": one}, OPENING),
        open_base({"before": folders / "base", "after": one}, OPENING),
        open_base({"before": pairs.base(), "after": one}, OPENING),
        open_base({"before": folders / "base", "after": live}, OPENING),
        open_base({"before": live, "after": one}, OPENING),
    ]
    assert len({base.fingerprint for base in found}) == 1
    for base in found:
        assert not has_lora_layers(base.model)
        assert torch.equal(pairs.logits(base.model), pairs.logits(pairs.base()))
    assert has_lora_layers(live)


def test_another_base_is_refused_with_what_differs(folders: Path) -> None:
    live = pairs.vanilla(folders / "base", folders / "one")
    other = pairs.vanilla(folders / "other", folders / "elsewhere")
    for before in (other, folders / "other", pairs.moved(pairs.base(), ["lm_head"])):
        with pytest.raises(
            CheckpointError, match="1 of the base's tensors different: lm_head.weight"
        ):
            open_base({"before": before, "after": live}, OPENING)
    with pytest.raises(CheckpointError, match="`before` must be an adapter of the base of `after`"):
        open_base({"before": folders / "elsewhere", "after": folders / "one"}, OPENING)


def test_a_base_given_by_the_user_is_taken_and_the_difference_said(folders: Path) -> None:
    base = open_base({"before": folders / "other", "after": folders / "one"}, OPENING)
    assert base.source == folders / "other"
    assert len(base.notes) == 1 and "`after` is an adapter of" in base.notes[0]


def test_ends_of_other_kinds_are_refused(folders: Path) -> None:
    one = folders / "one"
    with pytest.raises(UnsupportedError, match=r"`between\[0\]` must be an adapter"):
        open_base({"before": one, "between[0]": folders / "base", "after": one}, OPENING)
    loose = pairs.adapted(pairs.base(), seed=1).get_base_model()
    with pytest.raises(UnsupportedError, match="LoRA layers outside a PEFT model"):
        open_base({"before": loose, "after": one}, OPENING)
    live = pairs.vanilla(folders / "base", one)
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        open_base({"before": tiny.llama(tied=True), "after": live}, OPENING)


def test_an_adapter_that_names_no_base_says_so(folders: Path, tmp_path: Path) -> None:
    adapter = pairs.saved_adapter(folders / "base", tmp_path / "nameless", seed=1)
    config = read_json(adapter / "adapter_config.json")
    write_json(adapter / "adapter_config.json", config | {"base_model_name_or_path": None})
    with pytest.raises(StorageError, match="no base_model_name_or_path"):
        open_base({"before": adapter, "after": adapter}, OPENING)
