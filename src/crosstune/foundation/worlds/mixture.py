"""A small real mixture model made in the run: a dense model's MLPs copied into experts that then learn several skills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from crosstune.foundation.data import Encoded, Task, TaskSettings, collate, encode, read_tasks
from crosstune.foundation.errors import ModelError, SettingsError
from crosstune.foundation.models import load_model, load_tokenizer, measuring, model_inputs
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.foundation.worlds.embedded import embedded_world
from crosstune.foundation.worlds.settings import WorldSettings

_STAGE = TrainingSettings(learning_rate=1e-3, steps=150)
_SENTENCES = 400  # of each toy language, where no tasks are given
_BATCH = 32  # rows that go through the model at once when loads are counted


@dataclass(frozen=True)
class MixtureWorld:
    """A mixture that has learned several skills.

    Attributes:
        model: The mixture, in eval mode.
        tokenizer: The dense model's.
        held_out: The test rows of each task, by its name.
        loads: `expert_loads` of these rows.
    """

    model: transformers.MixtralForCausalLM
    tokenizer: Any
    held_out: Mapping[str, Sequence[Encoded]]
    loads: Mapping[str, Tensor]


def mixture_world(
    output_folder: Path,
    folder: Path | None = None,
    tasks: Sequence[Task] | None = None,
    *,
    settings: TrainingSettings = _STAGE,
    seed: int = 0,
) -> MixtureWorld:
    """A dense model upcycled into four experts, two active, that has then learned several tasks in one stage.

    Args:
        output_folder: Where the stage's checkpoints lie, where its settings ask for any.
        folder: The dense model and its tokenizer; the embedded world's when not given.
        tasks: The skills; the embedded world's toy languages when not given.
        settings: The stage; by default 150 steps of 8 rows at 1e-3, 15 seconds of one core for stories260K.
        seed: Chooses routers and the order of rows.

    Returns:
        The mixture, and on what it can be tested.

    Raises:
        ModelError: The dense model is none that a Mixtral's blocks can hold.
    """
    folder = folder or embedded_world().folder
    tokenizer = load_tokenizer(folder)
    model = upcycled(load_model(folder, dtype="float32"), seed=seed)
    pad, tasks = tokenizer.pad_token_id, tasks or _toy_languages()
    held_out = {task.name: encode(task.test, tokenizer, settings.length) for task in tasks}
    rows = encode([row for task in tasks for row in task.train], tokenizer, settings.length)
    data = StageData(rows, pad, held_out)
    train_stage(model, data, settings, output_folder=output_folder, seed=seed)
    loads = {name: expert_loads(model, some, pad) for name, some in held_out.items()}
    return MixtureWorld(model.eval(), tokenizer, held_out, loads)


def _toy_languages() -> list[Task]:
    """A task for each of the embedded world's languages, no meaning on both sides."""
    world = WorldSettings()
    names = (world.language, *world.other_languages)
    settings = [TaskSettings(name=name, source=name, rows=_SENTENCES) for name in names]
    return read_tasks(settings, test_share=0.2, samples=None, seed=0)


def upcycled(
    dense: Any, *, experts: int = 4, active: int = 2, seed: int = 0
) -> transformers.MixtralForCausalLM:
    """A mixture whose experts are copies of the dense model's MLP: its logits are the dense model's, to rounding.

    The gates of the active experts sum to 1, so equal experts add up to the one MLP.

    Source: Komatsuzaki et al. 2023, *Sparse Upcycling*, arXiv 2212.05055, §3; in every layer instead of every other,
        and with the gates of the active experts summing to 1, as a Mixtral has them.

    Args:
        dense: A Llama or Mistral without biases; it is left as it is, and no memory is shared.
        experts: Experts of each layer.
        active: Experts that each token goes to.
        seed: Draws the routers, with the standard deviation `initializer_range` of the model's configuration.

    Returns:
        The mixture, of the same dtype, on the same device.

    Raises:
        ModelError: The model is none that a Mixtral's blocks can hold.
        SettingsError: `active` is not among 1 to `experts`.
    """
    _check_dense(dense)
    if not 1 <= active <= experts:
        raise SettingsError(
            "active",
            law=f"must be among 1 to {experts}, the number of experts",
            found=active,
            remedy="Use 2 of 4.",
        )
    own = transformers.MixtralConfig().to_dict().keys() - {"model_type", "architectures"}
    config = transformers.MixtralConfig(
        **{name: value for name, value in dense.config.to_dict().items() if name in own},
        num_local_experts=experts,
        num_experts_per_tok=active,
    )
    state = dense.state_dict()
    generator = Seeds(seed).torch("upcycled", "routers")
    for layer in range(config.num_hidden_layers):
        mlp = f"model.layers.{layer}.mlp"
        gate, up, down = (state.pop(f"{mlp}.{kind}_proj.weight") for kind in ("gate", "up", "down"))
        state[f"{mlp}.experts.gate_up_proj"] = torch.cat([gate, up]).expand(experts, -1, -1)
        state[f"{mlp}.experts.down_proj"] = down.expand(experts, -1, -1)
        drawn = torch.randn(experts, config.hidden_size, generator=generator)
        state[f"{mlp}.gate.weight"] = drawn * config.initializer_range
    with torch.random.fork_rng(devices=[]):  # grouped products refuse some widths and float64
        mixture: transformers.MixtralForCausalLM = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dense.dtype, experts_implementation="eager"
        )
    mixture.load_state_dict(state)
    return mixture.to(dense.device).train(dense.training)


def _check_dense(dense: Any) -> None:
    held = (transformers.LlamaForCausalLM, transformers.MistralForCausalLM)
    config = getattr(dense, "config", None)
    biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    if type(dense) not in held or biased:
        raise ModelError(
            "dense",
            law="must be a LlamaForCausalLM or MistralForCausalLM without biases, which a Mixtral's blocks can hold",
            found=type(dense).__name__ + " with " * bool(biased) + " and ".join(biased),
            remedy="Merge an adapter first; models of other families are not upcycled.",
        )


def expert_loads(model: nn.Module, encoded: Sequence[Encoded], pad_id: int) -> Tensor:
    """The share of routed (token, slot) pairs that each expert gets, over real tokens; each layer's sum to 1.

    Shapes: [layers with a router, experts], float64.

    Args:
        model: A mixture of a known family, in which routers are called ``mlp.gate``; it is left as it was.
        encoded: The rows; padding never counts.
        pad_id: The token that fills short rows.

    Returns:
        The shares.

    Raises:
        ModelError: The model has no router.
    """
    device = next(model.parameters()).device
    routers: list[Any] = [
        some for name, some in model.named_modules() if name.endswith(".mlp.gate")
    ]
    if not routers:
        raise ModelError(
            "model",
            law="must have routers, which are called `mlp.gate`",
            found=f"{type(model).__name__} without any",
            remedy="Use a mixture of experts, such as `upcycled` makes.",
        )
    counts = [torch.zeros(router.num_experts, dtype=torch.float64) for router in routers]
    seen: list[Tensor] = []

    def tap(router: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:
        seen.append(output[-1].cpu())

    with ExitStack() as stack, measuring(model), torch.no_grad():
        for router in routers:
            stack.callback(router.register_forward_hook(tap).remove)
        for start in range(0, len(encoded), _BATCH):
            batch = collate(encoded[start : start + _BATCH], pad_id)
            model(**model_inputs({name: value.to(device) for name, value in batch.items()}))
            real = batch["attention_mask"].flatten().bool()
            for count, chosen in zip(counts, seen, strict=True):
                count += chosen[real].flatten().bincount(minlength=len(count))
            seen.clear()
    return torch.stack([count / count.sum() for count in counts])
