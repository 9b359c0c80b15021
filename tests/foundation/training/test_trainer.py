"""The trainer's log is true, its evaluations are token-exact, and nothing that is not finite passes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.foundation.training import tiny
from torch.nn import functional
from transformers import TrainerCallback

from crosstune.foundation.errors import DataError, NonFiniteLossError
from crosstune.foundation.training import (
    LoraSettings,
    StageData,
    StageTrainer,
    train_stage,
    with_lora,
)
from crosstune.foundation.training.batches import StepBatches


def test_one_step_of_sgd_is_the_step_written_by_hand(tmp_path: Path) -> None:
    data = tiny.data(8, held_out=0)
    trained, by_hand = tiny.model(), tiny.model()
    chosen = tiny.settings(
        steps=1, accumulation=3, optimizer="sgd", learning_rate=0.5, clip=0.25, schedule="constant"
    )
    result = train_stage(trained, data, chosen, output_folder=tmp_path)

    total, count = torch.zeros(()), 0
    for row in data.train:
        logits = by_hand(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        total = total + functional.cross_entropy(logits, labels, reduction="sum")
        count += row.scored_tokens
    (total / count).backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in by_hand.parameters()))
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 0.5 * parameter.grad * (0.25 / norm)

    # float32: 6e-8 · √(1e3 sums behind a gradient) for the norm; ten times that for each entry.
    line = result.history[0]
    assert line["loss"] == pytest.approx(total.item() / count, rel=1e-5)
    assert line["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert line["grad_norm_clipped"] == 0.25 < line["grad_norm"]
    for name, value in tiny.weights(trained).items():
        torch.testing.assert_close(value, by_hand.get_parameter(name), rtol=1e-4, atol=1e-6)


def test_the_logged_learning_rate_is_the_one_the_step_was_taken_with(tmp_path: Path) -> None:
    class Reader(TrainerCallback):
        rates: list[float] = []  # noqa: RUF012

        def on_pre_optimizer_step(self, args, state, control, optimizer, **_):
            self.rates.append(optimizer.param_groups[0]["lr"])

    chosen = tiny.settings(steps=7, warmup=3, schedule="cosine")
    result = train_stage(
        tiny.model(), tiny.data(), chosen, output_folder=tmp_path, callbacks=[Reader()]
    )
    logged = [line["learning_rate"] for line in result.history if "learning_rate" in line]
    assert logged == Reader.rates
    assert logged[:3] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])


def test_the_optimizer_steps_micro_over_accumulation_times(tmp_path: Path) -> None:
    available = 17  # micro-batches of one row: an epoch

    class Counter(StageTrainer):
        micro = 0

        def training_step(self, *args, **keywords):
            self.micro += 1
            return super().training_step(*args, **keywords)

    for accumulation in range(1, 18):
        steps = available // accumulation
        chosen = tiny.settings(
            steps=steps, batch_rows=accumulation, accumulation=accumulation, log_every=100
        )
        trainer = Counter(
            tiny.model(num_hidden_layers=1),
            tiny.data(available, held_out=0),
            chosen,
            output_folder=tmp_path,
        )
        result = trainer.run()
        assert (result.steps, trainer.micro) == (steps, steps * accumulation), accumulation
        assert result.cost.rows == steps * accumulation


def test_a_poisoned_row_is_named_before_any_weight_moves(tmp_path: Path) -> None:
    poisoned = tiny.model()
    data = tiny.data(16, held_out=0)
    victim = StepBatches(16, steps=6, batch_rows=8, accumulation=2, seed=0).step_rows(1)[5]
    seen: list[dict[str, torch.Tensor]] = []

    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            with torch.no_grad():  # a token that only the victim reads
                model.get_input_embeddings().weight[31] = math.nan
            seen.append(tiny.weights(model))

    clean = [
        row
        if at == victim
        else replace(
            row,
            input_ids=[min(token, 30) for token in row.input_ids],
            labels=[min(label, 30) for label in row.labels],
        )
        for at, row in enumerate(data.train)
    ]
    ids = [*clean[victim].input_ids[:-1], 31]
    clean[victim] = replace(clean[victim], row_id="the-victim", input_ids=[31, *ids[1:]])
    with pytest.raises(NonFiniteLossError, match=r"optimizer step 2.*next_token.*the-victim"):
        train_stage(
            poisoned,
            StageData(clean, pad_id=0),
            tiny.settings(accumulation=2),
            output_folder=tmp_path,
            callbacks=[Poison()],
        )
    after = tiny.weights(poisoned)
    for name, value in seen[-1].items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_gradient_that_overflows_is_named_although_the_loss_is_finite(tmp_path: Path) -> None:
    class Overflow(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **_):
            model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)

    with pytest.raises(NonFiniteLossError, match=r"`gradient`.*step 1.*finite losses"):
        train_stage(
            tiny.model(),
            tiny.data(),
            tiny.settings(),
            output_folder=tmp_path,
            callbacks=[Overflow()],
        )


def test_looking_and_saving_do_not_change_training(tmp_path: Path) -> None:
    alone, watched = tiny.model(attention_dropout=0.2), tiny.model(attention_dropout=0.2)
    train_stage(alone, tiny.data(), tiny.settings(), output_folder=tmp_path / "alone")
    train_stage(
        watched,
        tiny.data(),
        tiny.settings(evaluate_every=1, checkpoint_every=2),
        output_folder=tmp_path / "watched",
    )
    assert tiny.same_bits(tiny.weights(alone), tiny.weights(watched))


def test_same_seed_same_bits_and_two_seeds_differ(tmp_path: Path) -> None:
    ends = []
    for seed in (0, 0, 1):
        some = tiny.model()
        train_stage(some, tiny.data(), tiny.settings(), output_folder=tmp_path, seed=seed)
        ends.append(tiny.weights(some))
    assert tiny.same_bits(ends[0], ends[1])
    assert not tiny.same_bits(ends[0], ends[2])


def test_lora_trains_its_factors_and_nothing_else(tmp_path: Path) -> None:
    adapted = with_lora(tiny.model(), LoraSettings(rank=2), seed=0)
    before = tiny.weights(adapted)
    result = train_stage(adapted, tiny.data(8), tiny.settings(steps=12), output_folder=tmp_path)
    moved = {name for name, value in tiny.weights(adapted).items() if not value.equal(before[name])}
    assert moved == {name for name in before if "lora_" in name}
    # The same eight rows at every step: 3 % less, and 0.4 % over seeds.
    assert tiny.losses(result.history)[-1] < tiny.losses(result.history)[0]


def test_gradient_checkpointing_computes_the_same(tmp_path: Path) -> None:
    plain, checkpointed = tiny.model(), tiny.model()
    train_stage(plain, tiny.data(), tiny.settings(), output_folder=tmp_path)
    chosen = tiny.settings(gradient_checkpointing=True, evaluate_every=3)
    train_stage(checkpointed, tiny.data(), chosen, output_folder=tmp_path)
    assert checkpointed.model.layers[0].gradient_checkpointing
    for name, value in tiny.weights(plain).items():
        torch.testing.assert_close(checkpointed.get_parameter(name), value)


def test_bfloat16_arithmetic_keeps_float32_weights_and_measurements(tmp_path: Path) -> None:
    some = tiny.model()
    chosen = tiny.settings(steps=2, precision="bfloat16", evaluate_every=2)
    result = train_stage(some, tiny.data(), chosen, output_folder=tmp_path)
    exact = train_stage(
        tiny.model(), tiny.data(), tiny.settings(steps=1), output_folder=tmp_path
    ).history[0]["loss"]
    first = tiny.losses(result.history)[0]
    assert first != exact
    assert first == pytest.approx(exact, rel=2e-2)  # bfloat16 keeps 8 bits: 2^-9 · √(100 roundings)
    assert all(value.dtype == torch.float32 for value in tiny.weights(some).values())
    look = StageTrainer(some, tiny.data(), tiny.settings(steps=2), output_folder=tmp_path)
    assert result.history[-2]["eval_other_loss"] == look.evaluate()["eval_other_loss"]


def test_a_held_out_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    class Ruin(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            if state.global_step == 2:
                model.lm_head.weight.data[0] = math.inf

    with pytest.raises(NonFiniteLossError, match=r"held_out\['other'\].*after optimizer step 2"):
        train_stage(
            tiny.model(),
            tiny.data(),
            tiny.settings(evaluate_every=2, steps=2, batch_rows=1),
            output_folder=tmp_path,
            callbacks=[Ruin()],
        )


def test_a_held_out_set_without_a_token_to_predict_is_refused(tmp_path: Path) -> None:
    nothing = [tiny.Encoded("empty", [1], [-100], 0, 0, False, unit="empty")]
    data = StageData(tiny.rows(8), 0, held_out={"empty": nothing})
    with pytest.raises(DataError, match="at least one token to predict"):
        train_stage(tiny.model(), data, tiny.settings(evaluate_every=1), output_folder=tmp_path)
