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
from crosstune.foundation.errors import ModelError, SettingsError
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

Told = Callable[[str, int, int], None]


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
        folder: Where factors and scores are kept, so that a killed measurement goes on and a later one asks the same
            factors other questions, whose scores (`.folder`) lie beside; None keeps them in memory, or in a
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
    loaded, spelled = _opened(model, tokenizer)
    heads = HeadMap.of(loaded)
    check_finite(loaded)
    check_length(loaded, chosen)
    check_places(heads, chosen)
    a, b = choose_samples(task_a, task_b, spelled, chosen)
    if not (len(a) and len(b)):
        return CircuitScores.create(a.unmeasured, b.unmeasured, heads, chosen).finish()
    place = None if folder is None else Path(folder)
    sizes = (len(a), len(b), chosen.length)
    estimate(loaded, *sizes, chosen, timed=False, folder=place).check()
    with ExitStack() as stack:

        def captured(samples: Samples, labels: Labels = "text") -> Factors:
            found = capture_samples(
                loaded, samples, heads, pad_id(spelled), chosen, place, labels=labels
            )
            return stack.enter_context(found)

        true = captured(a, "sampled") if "true" in fishers(chosen) else None
        asked = None if place is None else place / fingerprint([chosen, a.encoded, b.encoded])
        return score_factors(captured(a), captured(b), chosen, true=true, folder=asked)


def capture_samples(
    model: Any,
    samples: Samples,
    heads: HeadMap,
    pad: int,
    settings: CircuitSettings,
    folder: Path | None = None,
    labels: Labels = "text",
) -> Factors:
    """The factors of one task's samples, from one forward and backward pass; those in the folder are taken from there.

    Args:
        model: The model.
        samples: The samples.
        heads: The model's heads.
        pad: The token that fills short rows.
        settings: Which layers and blocks, and how they are evaluated.
        folder: Where factors are kept, in a folder of their own for each key.
        labels: `text` for the samples' own next tokens, `sampled` for tokens that the model draws.

    Returns:
        The factors; close them when done.
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
    told: Told | None = None,
) -> CircuitScores:
    """The scores of two tasks whose factors are captured; layers that were scored before are not scored again.

    Args:
        a: The factors of task A.
        b: The factors of task B, of the same model.
        settings: Which forms.
        true: A's factors at labels that the model drew, where a form asks for the true Fisher.
        folder: Where the scores are kept, in a folder `scores` of their own.
        told: Told what is done, how many layers are, and of how many.

    Returns:
        The scores.
    """
    place = None if folder is None else folder / "scores"
    # In a folder the first process keeps the scores, and the others read them in the end; else every process does.
    scores = (
        CircuitScores.create(a.rows, b.rows, a.heads, settings, a.layers, folder=place)
        if place is None or is_first()
        else None
    )
    done = from_first(() if scores is None else scores.done)
    missing = [layer for layer in a.layers if layer not in done]
    size = world_size()
    for start in range(0, len(missing), size):
        own = missing[start + rank() : start + rank() + 1]
        found = [(layer, _layer(a, b, true, layer, settings)) for layer in own]
        for layer, blocks in (pair for part in gather_over_ranks(found) for pair in part):
            if scores is not None:
                scores.put(layer, blocks)
        if told:
            told("scoring", min(start + size, len(missing)), len(missing))
    wait_for_all()
    if scores is not None:
        return scores.finish()
    assert place is not None
    return CircuitScores.open(place)


def fishers(settings: CircuitSettings) -> set[str]:
    """Every Fisher that a form asks for."""
    return {form.fisher for form in (*settings.forms, *settings.average_forms)}


def check_places(heads: HeadMap, settings: CircuitSettings) -> None:
    """The layers and heads that are asked for are there."""
    for argument, asked, count in (
        ("layers", settings.layers, heads.num_layers),
        ("heads", settings.heads, heads.num_heads),
    ):
        beyond = [place for place in asked or () if place >= count]
        if beyond:
            raise SettingsError(
                argument,
                law=f"must be 0 to {count - 1} for this model",
                found=", ".join(map(str, beyond)),
                remedy="See Anatomy.of(model).describe().",
            )


def _layer(
    a: Factors, b: Factors, true: Factors | None, layer: int, settings: CircuitSettings
) -> dict[str, BlockScores]:
    return score_layer(
        a.layer(layer),
        b.layer(layer),
        (len(a.rows), len(b.rows)),
        settings,
        true=None if true is None else true.layer(layer),
        heads=a.heads,
    )


def _opened(model: Any, tokenizer: Any) -> tuple[Any, Any]:
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
