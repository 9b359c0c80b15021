"""Capture: the right rows in the right order, the kernel that does not mix rows, memory foreseen, no trace left."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.circuits.drawn import assert_close, captured, gradients, rows
from tests.foundation.models.decoders import decoder
from tests.foundation.models.test_measuring import trace
from tests.interference import tiny
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from crosstune.circuits.capture.capture import (
    attention_kernel,
    capture_factors,
    difference,
    factor_bytes,
    rounding,
)
from crosstune.circuits.capture.hooks import Pass
from crosstune.circuits.capture.scope import Scope
from crosstune.circuits.capture.shards import Shard
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import (
    MeasurementError,
    ModelError,
    SettingsError,
    UnsupportedError,
)
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.models import HeadMap

ROWS = rows()
ROUNDING = (
    1e-5  # float32: 1e3 terms a layer in another order, 1.2e-7 * sqrt(1e3), times a condition of ~3
)


def test_rows_keep_their_order_and_losses() -> None:
    model = tiny.llama()
    factors = captured(model, ROWS)
    losses = score_rows(model, ROWS, pad_id=0).nats
    assert [row.row_id for row in factors.rows] == [row.row_id for row in ROWS]
    torch.testing.assert_close(
        torch.tensor([row.loss for row in factors.rows], dtype=torch.float64),
        losses,
        rtol=ROUNDING,
        atol=0.0,
    )
    assert factors.kernel == "default" and 0 <= factors.difference < ROUNDING


def test_the_bytes_are_foreseen() -> None:
    for model in (tiny.llama(), decoder("gpt2"), tiny.llama().bfloat16()):
        for options in ({}, {"blocks": ("k", "o")}, {"layers": (1,)}, {"precision": "model"}):
            settings = CircuitSettings(batch_tokens=30, **options)
            expected = factor_bytes(model, ROWS, HeadMap.of(model), settings)
            assert captured(model, ROWS, **options).bytes == expected


def test_a_single_row_has_no_others_in_its_batch() -> None:
    for some in (ROWS[:1], ROWS):
        factors = captured(tiny.llama(), some, batch_tokens=1)
        assert math.isnan(factors.difference) and factors.kernel == "default"


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(SettingsError, match="`layers`"):
        captured(tiny.llama(), ROWS, layers=(2,))


@pytest.mark.parametrize("flag", ["is_quantized", "hf_quantizer"])
def test_weights_that_are_not_whole_are_refused(flag: str) -> None:
    model: Any = tiny.llama()
    heads = HeadMap.of(model)
    setattr(model, flag, True)
    with pytest.raises(UnsupportedError, match="quantised"):
        capture_factors(model, ROWS, heads, pad_id=0, settings=CircuitSettings())


def test_a_model_whose_attention_cannot_be_mapped_is_refused() -> None:
    model = tiny.llama()
    model.model.layers[1].self_attn.k_proj.weight = model.model.layers[0].self_attn.k_proj.weight
    with pytest.raises(ModelError, match="k"):
        captured(model, ROWS)


def hooks_of(model: Any) -> list[Any]:
    return [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("precision", ["float32", "model"])
def test_no_trace_is_left(fails: bool, precision: str) -> None:
    model: Any = tiny.llama(dropout=0.3).half().train()  # numpy reads float16
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.model.layers[0].eval().self_attn.q_proj.weight.requires_grad_(False)
    model(
        torch.tensor([ROWS[0].input_ids]), labels=torch.tensor([ROWS[0].input_ids])
    ).loss.backward()
    heads = HeadMap.of(model)
    if fails:
        model.model.norm.register_forward_hook(lambda module, args, x: x * math.nan)
    before, hooks = trace(model), hooks_of(model)
    try:
        settings = CircuitSettings(precision=precision, batch_tokens=30)
        with capture_factors(model, ROWS, heads, pad_id=0, settings=settings, labels="sampled"):
            assert not fails
    except MeasurementError:
        assert fails
    assert trace(model) == before and hooks_of(model) == hooks


def test_half_precision_is_evaluated_as_it_is_asked() -> None:
    model: Any = tiny.llama().bfloat16()
    wide, same = captured(model, ROWS), captured(model, ROWS, precision="model")
    assert wide.layer(0).batches[0].shared("q").dtype == torch.float32
    assert same.layer(0).batches[0].shared("q").dtype == torch.bfloat16
    rough = gradients(same)
    for place, exact in gradients(captured(model.float(), ROWS)).items():
        # bfloat16: 0.004 a step; some 30 roundings forward and back, each up to 2.5 steps elsewhere, and a condition of 2
        assert (rough[place] - exact).norm() < 0.12 * exact.norm()


class TestDrawnLabels:
    """For the true Fisher."""

    def test_they_do_not_depend_on_batches_or_order(self) -> None:
        model = tiny.llama().double()
        one = gradients(captured(model, ROWS, labels="sampled"))
        other = gradients(captured(model, ROWS[::-1], labels="sampled", batch_tokens=1))
        assert_close(
            {place: value.flip(0) for place, value in other.items()}, one, ROUNDING
        )  # float64 passes, kept in float32

    def test_they_depend_on_the_seed_and_are_not_the_text(self) -> None:
        model = tiny.llama()
        one, same, other = (
            captured(model, ROWS, labels="sampled", seed=seed) for seed in (1, 1, 2)
        )
        assert one.rows == same.rows and one.labels == "sampled"
        assert one.rows != other.rows and one.rows != captured(model, ROWS).rows

    def test_their_gradients_average_to_nothing(self) -> None:
        """E over labels of the model's own distribution of ∇ log p is zero: the score identity."""
        model = tiny.llama().eval()
        scope = Scope.of(HeadMap.of(model), CircuitSettings(layers=(1,), blocks=("v",)))

        def gradient(seed: int | None) -> torch.Tensor:
            found = Pass(model, scope, 0, seed)(ROWS[3:4]).layers[1]
            return torch.einsum("nto,nti->oi", found["delta.v"], found["x"])

        drawn = torch.stack([gradient(seed) for seed in range(80)])
        # The squared mean of 80 draws is their variance over 80, give or take; the text's gradient is no draw.
        noise = drawn.var(0).sum() / 80
        assert drawn.mean(0).square().sum() < 3 * noise < gradient(None).square().sum()


def next_row(out: Any) -> Any:
    """Attention that adds something of the next row."""
    return out + 0.1 * out.roll(1, dims=0)


def a_little_of_the_next_row(out: Any) -> Any:
    """A leak that changes gradients by some 5 %: below the root of a bfloat16 step, .088, and above four of them, .031."""
    return out + 0.02 * out.roll(1, dims=0)


def longest_row(out: Any) -> Any:
    """Attention that stretches with the longest row of the batch, whatever the rows say."""
    return out * (1 + 0.1 * out.shape[1])


def planted(fault: Any, rescued: bool = False) -> Any:
    """A model with a faulty attention, unless, where it can be rescued, the math kernel is forced."""

    def forward(module: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> Any:
        out, weights = sdpa_attention_forward(module, query, key, value, *rest, **options)
        forced = not torch.backends.cuda.flash_sdp_enabled()
        return (out if rescued and forced else fault(out)), weights

    AttentionInterface.register("planted", forward)
    AttentionMaskInterface.register("planted", sdpa_mask)
    model = tiny.llama()
    model.config._attn_implementation = "planted"
    return model


def test_a_kernel_that_mixes_rows_is_seen_and_another_one_taken() -> None:
    factors = captured(planted(next_row, rescued=True), ROWS)
    assert factors.kernel == "math" and factors.difference > 1e-2
    assert_close(
        gradients(factors), gradients(captured(tiny.llama(), ROWS)), 10 * ROUNDING
    )  # q and k: softmax cancels to a tenth


def test_rows_go_alone_where_they_depend_on_the_shape_of_their_batch() -> None:
    model = planted(longest_row)
    factors = captured(model, ROWS)
    assert factors.kernel == "alone" and factors.difference > 1e-2
    singles = captured(model, ROWS, batch_tokens=1)
    # The same passes, so the same float32 factors within one machine; sums over other padding, in float64.
    assert_close(gradients(factors), gradients(singles), 1e-6)
    assert [row.loss for row in factors.rows] == [row.loss for row in singles.rows]


def test_a_model_that_mixes_rows_whatever_the_kernel_is_refused_unless_rows_go_alone() -> None:
    with pytest.raises(MeasurementError, match=r"row 'r\d'.*what other rows.*batch_tokens=1"):
        captured(planted(next_row), ROWS)
    alone = captured(planted(next_row), ROWS, batch_tokens=1)
    assert len(alone.batches) == len(ROWS)


def test_a_leak_between_rows_without_padding_is_seen() -> None:
    """Kernels are chosen by shape: what batches with padding do says nothing of those without."""

    def of_two(out: Any) -> Any:
        return out + 0.1 * out.roll(1, dims=0) if len(out) == 2 else out

    size = 2 * len(ROWS[0].input_ids)
    with pytest.raises(MeasurementError, match="what other rows"):
        captured(planted(of_two), [ROWS[0], *ROWS], batch_tokens=size)


def test_a_leak_into_the_first_row_alone_is_seen() -> None:
    def into_the_first(out: Any) -> Any:
        leaked = 0.3 * out[-1:].detach() * (len(out) > 1)
        return torch.cat([out[:1] + leaked, out[1:]])

    assert captured(planted(into_the_first), ROWS).kernel == "alone"


def test_rows_go_alone_where_half_precision_would_hide_a_leak() -> None:
    try:
        kernel = captured(
            planted(a_little_of_the_next_row).bfloat16(), ROWS, precision="model"
        ).kernel
    except MeasurementError:
        kernel = "refused"  # another draw of weights makes more of it than rounding could
    assert kernel in ("alone", "refused")
    clean = captured(tiny.llama().bfloat16(), ROWS, precision="model")
    assert clean.kernel == "default"


def test_the_kernel_is_remembered(tmp_path: Any) -> None:
    first = captured(planted(next_row, rescued=True), ROWS, tmp_path)
    again = captured(planted(next_row, rescued=True), ROWS, tmp_path)
    assert (again.kernel, again.difference) == ("math", first.difference)


def test_windows_and_duplicates_of_a_row_are_rows_of_their_own() -> None:
    some: list[Encoded] = [ROWS[0], ROWS[0], ROWS[2]]
    found = gradients(captured(tiny.llama(), some))
    assert_close(
        {p: v[1:2] for p, v in found.items()}, {p: v[:1] for p, v in found.items()}, 10 * ROUNDING
    )


def shard(**tensors: torch.Tensor) -> Shard:
    return Shard(torch.zeros(1), {0: tensors})


def test_the_largest_relative_difference_of_any_tensor_counts() -> None:
    alone = shard(x=torch.ones(1, 2, 2), z=torch.full((1, 2, 2), 3.0))
    # The row is the second of two and padded by one place.
    among = shard(x=torch.ones(2, 3, 2), z=torch.full((2, 3, 2), 3.0))
    assert difference(among, 1, alone) == 0.0
    among.layers[0]["z"][1, 0, 0] = 3.6
    # 0.6 beside the norm of four threes.
    assert math.isclose(difference(among, -1, alone), 0.6 / 6, rel_tol=1e-6)
    assert difference(among, 0, alone) == 0.0


def test_what_is_nothing_alone_may_be_nothing_else() -> None:
    alone = shard(x=torch.zeros(1, 2, 2))
    assert difference(shard(x=torch.zeros(1, 2, 2)), 0, alone) == 0.0
    assert difference(shard(x=torch.ones(1, 2, 2)), 0, alone) == math.inf


def test_a_gradient_that_is_nothing_by_itself_is_noise_beside_others_of_its_layer() -> None:
    zeros, ones = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    alone = shard(x=100 * ones, **{"delta.q": zeros, "delta.v": ones})
    among = shard(x=100 * ones, **{"delta.q": zeros + 1e-7, "delta.v": ones})
    assert math.isclose(difference(among, 0, alone), 1e-7, rel_tol=1e-3)


def test_the_coarsest_arithmetic_decides() -> None:
    one = shard(x=torch.zeros(1, dtype=torch.float32), z=torch.zeros(1, dtype=torch.bfloat16))
    assert rounding(one, tf32=False) == 2**-3.5  # bfloat16 keeps 7 bits
    single = shard(x=torch.zeros(1))
    assert rounding(single, tf32=False) == 2**-11.5
    assert rounding(single, tf32=True) == 2**-5
    double = shard(x=torch.zeros(1, dtype=torch.float64))
    assert rounding(double, tf32=False) == 2**-11.5, "norms and losses are float32 in any model"


def test_the_math_kernel_is_chosen_inside_only() -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    with attention_kernel("math"):
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
    with attention_kernel("default"):
        assert torch.backends.cuda.flash_sdp_enabled() == before
    assert torch.backends.cuda.flash_sdp_enabled() == before
