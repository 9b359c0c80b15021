"""`measure_circuits`: from a model and rows of two tasks to scores of every pair of samples in every head, in one call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosstune.circuits.capture.capture import capture_factors
from crosstune.circuits.capture.factors import Factors
from crosstune.circuits.capture.labels import Labels
from crosstune.circuits.forecast import estimate
from crosstune.circuits.samples import Samples, check_length, choose_samples
from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.scoring.engine import BlockScores, score_layer
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import ModelError
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.models import HeadMap, check_finite, load_model, load_tokenizer
from crosstune.foundation.ranks import (
    from_first,
    gather_over_ranks,
    is_first,
    rank,
    wait_for_all,
    world_size,
)
from crosstune.foundation.settings.options import with_options
from crosstune.foundation.storage import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]


def measure_circuits(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None,
    task_a: object,
    task_b: object,
    *,
    settings: CircuitSettings | None = None,
    folder: str | Path | None = None,
    **options: Any,
) -> CircuitScores:
    """The interference of every sample of task A with every sample of task B, in every block of every attention head.

    The model is left exactly as it was. Figures depend on the rows alone, not on batches, padding, their order, or the
    number of processes, beyond rounding.

    Args:
        model: A decoder in memory, or the folder of one.
        tokenizer: Its tokenizer; None takes the one stored with the folder.
        task_a: The task whose Fisher normalises pair scores: rows in any form that `Task` takes, or a `Task`.
        task_b: The other task.
        settings: How to measure; the default is `CircuitSettings()`.
        folder: Where factors and scores are stored, so that a killed measurement goes on and a later one scores the same
            factors otherwise, whose scores (`.folder`) lie beside; with None they are in memory, or in a
            temporary folder where they do not fit.
        options: Single settings by name: ``rows=64, length=128, variants=("signed",), layers=(0, 5), …``.

    Returns:
        The scores, `[nA, nB, layers, heads]` per block and form, with summaries, top pairs and diagnostics.

    Raises:
        DataError: Too few rows for a Fisher, a row of both tasks, or a row with nothing to score.
        MeasurementError: A gradient is not finite, or a head's slice does not fit the budget.
        ModelError: The weights are not finite, or the attention cannot be mapped to heads.
        SettingsError: An option, layer or head is unknown or impossible.
        StorageError: The folder holds another measurement, or the disk is full.
        UnsupportedError: The model is sharded or quantised.
    """
    chosen = with_options(settings or CircuitSettings(), options)
    loaded, encoder = _loaded(model, tokenizer)
    heads = HeadMap.of(loaded)
    check_finite(loaded)
    check_length(loaded, chosen)
    chosen.check_places(heads.num_layers, heads.num_heads)
    a, b = choose_samples(task_a, task_b, encoder, chosen)
    if not (len(a) and len(b)):
        return CircuitScores.create(a.unmeasured, b.unmeasured, heads, chosen).finish()
    place = None if folder is None else Path(folder)
    sizes = (len(a), len(b), chosen.length)
    estimate(loaded, *sizes, chosen, timed=False, folder=place).check()
    with ExitStack() as stack:

        def captured(samples: Samples, labels: Labels = "text") -> Factors:
            found = capture_samples(
                loaded, samples, heads, pad_id(encoder), chosen, place, labels=labels
            )
            return stack.enter_context(found)

        true = captured(a, "sampled") if "true" in chosen.fishers else None
        beside = None if place is None else place / fingerprint([chosen, a.encoded, b.encoded])
        return score_factors(captured(a), captured(b), chosen, true=true, folder=beside)


def capture_samples(
    model: Any,
    samples: Samples,
    heads: HeadMap,
    pad: int,
    settings: CircuitSettings,
    folder: Path | None = None,
    labels: Labels = "text",
) -> Factors:
    """The factors of one task's samples, from one forward and backward pass, or from the folder; close them when done.

    Labels are `text` for the samples' own next tokens, `sampled` for tokens that the model draws.
    """
    found = capture_factors(
        model,
        samples.encoded,
        heads,
        pad_id=pad,
        settings=settings,
        labels=labels,
        folder=None if folder is None else folder / "factors",
    )
    return found.with_texts(samples.texts)


def score_factors(
    a: Factors,
    b: Factors,
    settings: CircuitSettings,
    *,
    true: Factors | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> CircuitScores:
    """The scores of two tasks whose factors are captured, stored in `folder / "scores"`; layers that are there are not scored again.

    `true` are A's factors at labels that the model drew, where a form asks for the true Fisher. `progress` is called with the number of
    layers that are done, and of how many.
    """
    place = None if folder is None else folder / "scores"
    # In a folder the first process writes the scores, and the others read them in the end; else every process holds them.
    scores = (
        CircuitScores.create(a.rows, b.rows, a.heads, settings, folder=place)
        if place is None or is_first()
        else None
    )

    def score(layer: int) -> dict[str, BlockScores]:
        drawn = None if true is None else true.layer(layer)
        return score_layer(a.layer(layer), b.layer(layer), settings, true=drawn, heads=a.heads)

    done = from_first(() if scores is None else scores.done)
    missing = [layer for layer in a.layers if layer not in done]
    size = world_size()
    for start in range(0, len(missing), size):
        mine = missing[start + rank() : start + rank() + 1]
        found = [(layer, score(layer)) for layer in mine]
        for layer, blocks in (pair for part in gather_over_ranks(found) for pair in part):
            if scores is not None:
                scores.put(layer, blocks)
        if progress:
            progress(min(start + size, len(missing)), len(missing))
    wait_for_all()
    if scores is not None:
        return scores.finish()
    assert place is not None
    return CircuitScores.open(place)


def _loaded(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    if isinstance(model, str | Path):
        return load_model(model), tokenizer or load_tokenizer(model)
    if tokenizer is None:
        raise ModelError(
            "tokenizer",
            law="must come with a model in memory",
            found="None",
            remedy="Give the model's tokenizer; only a stored model carries its own.",
        )
    return model, tokenizer
