"""A stage killed with SIGKILL and resumed equals the stage that was never interrupted, to the bit on one machine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests import processes
from tests.foundation.training import tiny, toy
from transformers import TrainerCallback

from crosstune.foundation.errors import CheckpointError
from crosstune.foundation.training import (
    LoraSettings,
    NextToken,
    Objective,
    StageResult,
    StageTrainer,
    StoppingSettings,
    train_stage,
    with_lora,
)
from crosstune.foundation.training.loss import LossModule
from crosstune.foundation.training.trained import held, named_tensors

SETTINGS: dict[str, Any] = {
    "steps": 11,
    "accumulation": 2,
    "warmup": 2,
    "schedule": "cosine",
    "log_every": 2,
    "evaluate_every": 2,
    "checkpoint_every": 3,
    "early_stopping": StoppingSettings("other", patience=50),
}


class Diary(TrainerCallback):
    """A callback with state that every step adds to, and that can die while it is being written."""

    state_name = "diary"

    def __init__(self, die_when_saving_step: int | None = None) -> None:
        self.lines: list[str] = []
        self._fatal = die_when_saving_step
        self._step = 0

    def on_step_end(self, args, state, control, model, **_):
        self._step = state.global_step
        self.lines.append(f"{self._step} {model.lm_head.weight.double().sum().item().hex()}")

    def save_state(self, folder: Path) -> None:
        (folder / "lines.json").write_text(json.dumps(self.lines))
        if self._step == self._fatal:
            processes.die()

    def load_state(self, folder: Path) -> None:
        self.lines = json.loads((folder / "lines.json").read_text())


def train(
    folder: Path, diary: Diary, *, lora: bool = False, **changes: Any
) -> tuple[Any, StageResult]:
    model = tiny.model(attention_dropout=0.2)  # dropout: the random state must be restored as well
    trained = with_lora(model, LoraSettings(rank=2, dropout=0.1), seed=5) if lora else model
    result = train_stage(
        trained,
        tiny.data(21),
        tiny.settings(**{**SETTINGS, **changes}),
        output_folder=folder,
        callbacks=[diary],
        seed=5,
    )
    return trained, result


def comparable(history: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The log without the wall-clock line that ends it."""
    return [line for line in history if "train_runtime" not in line]


def test_killed_while_writing_a_checkpoint_and_resumed(tmp_path: Path) -> None:
    whole_diary, resumed_diary = Diary(), Diary()
    whole_model, whole = train(tmp_path / "whole", whole_diary)
    processes.killed(train, tmp_path / "killed", Diary(die_when_saving_step=6))
    assert (tmp_path / "killed" / "checkpoint-6").is_dir()

    model, result = train(tmp_path / "killed", resumed_diary)
    assert result.resumed_from == 3
    assert result.notes == (
        "checkpoint-6 was skipped: it has no manifest: writing it was interrupted.",
    )
    assert tiny.same_bits(tiny.weights(model), tiny.weights(whole_model))
    assert result.ledger.rows() == whole.ledger.rows()
    assert comparable(result.history) == comparable(whole.history)
    assert resumed_diary.lines == whole_diary.lines
    assert result.best_step == whole.best_step
    assert (result.cost.tokens, result.cost.rows) == (whole.cost.tokens, whole.cost.rows)


@pytest.mark.parametrize("stop", [3, 4])
def test_lora_stopped_and_resumed(tmp_path: Path, stop: int) -> None:
    class PowerCut(Diary):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == stop:
                raise KeyboardInterrupt

    whole_model, whole = train(tmp_path / "whole", Diary(), lora=True)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", PowerCut(), lora=True)
    model, result = train(tmp_path / "cut", Diary(), lora=True)
    assert result.resumed_from == 3
    assert tiny.same_bits(tiny.weights(model), tiny.weights(whole_model))
    assert result.ledger.rows() == whole.ledger.rows()


def test_a_finished_stage_is_taken_over_without_a_step(tmp_path: Path) -> None:
    early = {
        "early_stopping": StoppingSettings("other", patience=1),
        "learning_rate": 10.0,  # stops at step 4 or 6 of 11 over 24 seeds
        "schedule": "constant",
    }
    model, result = train(tmp_path, Diary(), **early)
    assert result.stopped_early
    assert result.steps < SETTINGS["steps"]
    diary = Diary()
    again, second = train(tmp_path, diary, **early)
    assert tiny.same_bits(tiny.weights(again), tiny.weights(model))
    assert second.ledger.rows() == result.ledger.rows()
    assert (second.steps, second.best_step) == (result.steps, result.best_step)
    assert len(diary.lines) == result.steps


def adapted(seed: int = 3, names: tuple[str, ...] = ("code", "bengali", "books")) -> Any:
    """A model with several adapters that all train."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for place, name in enumerate(names):
            config = LoraConfig(
                r=2 + place, target_modules=["q_proj", "down_proj"], lora_dropout=0.1
            )
            if place == 0:
                model = get_peft_model(tiny.model(attention_dropout=0.2), config, adapter_name=name)
            else:
                model.add_adapter(name, config)
    model.base_model.set_adapter(list(names))
    return model


class Wrapper(torch.nn.Module):
    """Somebody's own module around a model with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = tiny.model(tie_word_embeddings=True, attention_dropout=0.2)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, **inputs: Any) -> Any:
        outputs = self.inside(**inputs)
        outputs.logits = outputs.logits * self.scale
        return outputs


@pytest.mark.parametrize(
    ("make", "objective"),
    [(adapted, Objective), (Wrapper, Objective), (adapted, toy.objective)],
    ids=["three adapters", "a wrapper of a tied model", "three adapters and terms that learn"],
)
def test_what_is_trained_is_resumed_by_name(tmp_path: Path, make, objective) -> None:
    def run(folder: Path, *callbacks: TrainerCallback) -> tuple[dict[str, torch.Tensor], Any]:
        model, chosen = make(), objective()
        result = train_stage(
            model,
            tiny.data(),
            tiny.settings(checkpoint_every=3, evaluate_every=2, accumulation=2),
            output_folder=folder,
            callbacks=callbacks,
            objective=chosen,
        )
        ends = named_tensors(LossModule(model, chosen))
        return {name: value.detach().clone() for name, value in ends.items()}, result

    class PowerCut(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 4:
                raise KeyboardInterrupt

    whole, uninterrupted = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", PowerCut())
    resumed, result = run(tmp_path / "cut")
    assert result.resumed_from == 3
    assert tiny.same_bits(resumed, whole)
    assert result.ledger.rows() == uninterrupted.ledger.rows()
    assert comparable(result.history) == comparable(uninterrupted.history)
    again, finished = run(tmp_path / "cut")
    assert finished.resumed_from == 6
    assert tiny.same_bits(again, whole)


def test_a_stage_begins_with_new_parameters_beside_old_ones(tmp_path: Path) -> None:
    """The optimizer's state of the old ones goes on; of the new ones it begins; killed and resumed is the same."""

    def second_stage(folder: Path, steps: int, *callbacks: TrainerCallback) -> Any:
        model = adapted(names=("code",))
        train_stage(model, tiny.data(), first, output_folder=tmp_path / "first")
        torch.manual_seed(8)
        model.add_adapter("bengali", LoraConfig(r=3, target_modules=["q_proj"]))
        model.base_model.set_adapter(["code", "bengali"])
        data = dataclasses.replace(tiny.data(), optimizer_from=tmp_path / "first")
        chosen = tiny.settings(steps=steps, checkpoint_every=2, schedule="constant")
        trainer = StageTrainer(model, data, chosen, output_folder=folder, callbacks=callbacks)
        trainer.run()
        names = held(trainer.loss_module, trainer.optimizer)
        return {
            name: (value.detach().clone(), trainer.optimizer.state[value]["step"].item())
            for name, value in names.items()
        }

    first = tiny.settings(steps=4, checkpoint_every=4)
    whole = second_stage(tmp_path / "whole", 3)
    assert {steps for name, (_, steps) in whole.items() if ".code." in name} == {4 + 3}
    assert {steps for name, (_, steps) in whole.items() if ".bengali." in name} == {3}

    class PowerCut(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        second_stage(tmp_path / "cut", 3, PowerCut())
    resumed = second_stage(tmp_path / "cut", 3)
    assert resumed.keys() == whole.keys()
    for name, (value, steps) in whole.items():
        assert torch.equal(resumed[name][0], value)
        assert resumed[name][1] == steps


def test_what_froze_on_the_way_is_kept_and_stays_frozen(tmp_path: Path) -> None:
    class Freeze(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            if state.global_step == 2:
                model.get_parameter("lm_head.weight").requires_grad_(False)
            if state.global_step == self.until:
                raise KeyboardInterrupt

        def __init__(self, until: int = 0) -> None:
            self.until = until

    def run(folder: Path, until: int = 0) -> Any:
        model = tiny.model()
        chosen = tiny.settings(checkpoint_every=3)
        freeze = Freeze(until)
        train_stage(model, tiny.data(), chosen, output_folder=folder, callbacks=[freeze])
        return model

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", until=4)
    resumed = run(tmp_path / "cut")
    assert tiny.same_bits(tiny.weights(resumed), tiny.weights(whole))
    assert not resumed.lm_head.weight.requires_grad
    assert not torch.equal(resumed.lm_head.weight, tiny.model().lm_head.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": (NextToken(), toy.Hidden(), toy.Balance(4))}, r"terms\.balance.*experts.*3.*4"),
        ({"terms": (NextToken(), toy.Hidden())}, r"terms\.balance.*None now"),
        (
            {"terms": (NextToken(), toy.Hidden(lambda step: 0.1 * step), toy.Balance())},
            r"terms\.hidden",
        ),
        ({"second_model": tiny.model(seed=10, **toy.TEACHER)}, r"second_model: .*LlamaForCausalLM"),
    ],
)
def test_a_stage_with_other_terms_is_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    def run(objective: Objective) -> None:
        chosen = tiny.settings(steps=2, checkpoint_every=1)
        train_stage(tiny.model(), tiny.data(), chosen, output_folder=tmp_path, objective=objective)

    terms = (NextToken(), toy.Hidden(), toy.Balance())
    run(Objective(terms, toy.teacher()))
    with pytest.raises(CheckpointError, match=message):
        run(Objective(**{"terms": terms, "second_model": toy.teacher(), **changes}))


def test_a_stage_before_of_another_shape_is_refused_with_the_difference(tmp_path: Path) -> None:
    train_stage(
        tiny.model(),
        tiny.data(),
        tiny.settings(steps=1, checkpoint_every=1),
        output_folder=tmp_path / "first",
    )
    data = dataclasses.replace(tiny.data(), optimizer_from=tmp_path / "first")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: \(32, 16\).*\(32, 8\).* now"):
        train_stage(
            tiny.model(hidden_size=8), data, tiny.settings(), output_folder=tmp_path / "second"
        )
    nowhere = dataclasses.replace(tiny.data(), optimizer_from=tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="`optimizer_from` must be .* none in nothing"):
        train_stage(tiny.model(), nowhere, tiny.settings(), output_folder=tmp_path / "third")
