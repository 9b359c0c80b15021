"""What a stage trains is resumed by name: several adapters, wrappers, terms that learn, and new parameters beside old ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.foundation.training import tiny, toy
from transformers import TrainerCallback

from crosstune.foundation.errors import CheckpointError
from crosstune.foundation.training import (
    NextToken,
    StageTrainer,
    Terms,
    train_stage,
)
from crosstune.foundation.training.loss import LossModule
from crosstune.foundation.training.trained import named_tensors, optimized


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
    ("make", "terms"),
    [(adapted, Terms), (Wrapper, Terms), (adapted, toy.terms)],
    ids=["three adapters", "a wrapper of a tied model", "three adapters and terms that learn"],
)
def test_what_is_trained_is_resumed_by_name(tmp_path: Path, make, terms) -> None:
    def run(folder: Path, *callbacks: TrainerCallback) -> tuple[dict[str, torch.Tensor], Any]:
        model, chosen = make(), terms()
        result = train_stage(
            model,
            tiny.data(),
            tiny.settings(checkpoint_every=3, evaluate_every=2, accumulation=2),
            output_folder=folder,
            callbacks=callbacks,
            terms=chosen,
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
    assert tiny.comparable(result.history) == tiny.comparable(uninterrupted.history)
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
        names = optimized(trainer.loss_module, trainer.optimizer)
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
    taken_over = run(tmp_path / "cut")
    for model in (resumed, taken_over):
        assert tiny.same_bits(tiny.weights(model), tiny.weights(whole))
        assert not model.lm_head.weight.requires_grad
    assert not torch.equal(resumed.lm_head.weight, tiny.model().lm_head.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"members": (NextToken(), toy.Hidden(), toy.Balance(4))},
            r"terms\.balance.*experts.*3.*4",
        ),
        ({"members": (NextToken(), toy.Hidden())}, r"terms\.balance.*None now"),
        (
            {"members": (NextToken(), toy.Hidden(lambda step: 0.1 * step), toy.Balance())},
            r"terms\.hidden",
        ),
        ({"second_model": tiny.model(seed=10, **toy.TEACHER)}, r"second_model: .*LlamaForCausalLM"),
    ],
)
def test_a_stage_with_other_terms_is_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    def run(terms: Terms) -> None:
        chosen = tiny.settings(steps=2, checkpoint_every=1)
        train_stage(tiny.model(), tiny.data(), chosen, output_folder=tmp_path, terms=terms)

    terms = (NextToken(), toy.Hidden(), toy.Balance())
    run(Terms(terms, toy.teacher()))
    with pytest.raises(CheckpointError, match=message):
        run(Terms(**{"members": terms, "second_model": toy.teacher(), **changes}))


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


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
def test_half_precision_weights_are_resumed_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    """Whatever type the optimizer keeps its state in."""

    def run(folder: Path, until: int = 6) -> Any:
        class PowerCut(TrainerCallback):
            def on_step_begin(self, args, state, control, **_):
                if state.global_step == until:
                    raise KeyboardInterrupt

        model = tiny.model().bfloat16()
        chosen = tiny.settings(checkpoint_every=3, optimizer=optimizer)
        train_stage(
            model, tiny.data(held_out=0), chosen, output_folder=folder, callbacks=[PowerCut()]
        )
        return model

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", until=4)
    assert tiny.same_bits(tiny.weights(run(tmp_path / "cut")), tiny.weights(whole))


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    first = tiny.settings(steps=1, checkpoint_every=1)
    train_stage(tiny.model(), tiny.data(), first, output_folder=tmp_path / "first")
    data = dataclasses.replace(tiny.data(), optimizer_from=tmp_path / "first")
    with pytest.raises(
        CheckpointError, match="the optimizer: AdamW in the checkpoint, Adafactor now"
    ):
        train_stage(
            tiny.model(), data, tiny.settings(optimizer="adafactor"), output_folder=tmp_path / "2"
        )
