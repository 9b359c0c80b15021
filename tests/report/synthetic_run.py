"""A run folder like those of the main study, with numbers drawn from a seed and known hostile names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.foundation.records.page import PAGE_FILE, Page, Section, Statement
from crosstune.foundation.storage import write_json

INNER = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")
HOSTILE = "<script>alert('task')</script> & a very long name of a language, 2024 edition"
SEEDS = (0, 42, 123)


def sites(layers: int) -> list[tuple[int, str, str]]:
    inside = [(n, c, f"L{n} {c}") for n in range(layers) for c in (*INNER, "norm")]
    return [(-1, "embed+head", "embed+head"), *inside, (-1, "norm", "norm")]


def axis(name: str, kind: Any = "string", unit: str = "") -> Column:
    return Column.axis(name, kind, unit=unit)


def measured(name: str, unit: str, about: str = "") -> tuple[Column, Column, Column]:
    return (*Column.interval(name, names=("low", "high"), unit=unit, about=about),)


PLACE = (axis("layer", "int64"), axis("component"), axis("where"))


def _sited(rng: np.random.Generator, layers: int, scale: float) -> list[dict[str, Any]]:
    rows = []
    for layer, component, where in sites(layers):
        depth = 0.3 if layer < 0 else math.exp(-(((layer / max(1, layers - 1)) - 0.75) ** 2) * 9)
        nats = float(
            scale * (depth + 0.35 * rng.normal()) * (3 if component == "embed+head" else 1)
        )
        half = abs(float(0.12 * scale * (1 + rng.random())))
        place = {"layer": layer, "component": component, "where": where}
        rows.append({**place, "nats": nats, "low": nats - half, "high": nats + half})
    return rows


def forgetting_sites(rng: np.random.Generator, tasks: tuple[str, ...], layers: int) -> Table:
    columns = (
        axis("stage"), axis("task"), axis("side"), *PLACE,
        *measured("nats", "nats per token", "Loss change booked under the component."),
        Column.label("share", "float64"), Column.label("n", "int64"),
    )  # fmt: skip
    rows = []
    for stage in tasks[1:]:
        for task in tasks:
            for side in ("train", "test"):
                sign = -1 if task == stage else 1
                for row in _sited(rng, layers, sign * 1.2 / layers):
                    share = abs(row["nats"]) / 3
                    rows.append(
                        {"stage": stage, "task": task, "side": side, **row, "share": share, "n": 32}
                    )
    return Table("forgetting_sites", columns, rows)


def forgetting_path(rng: np.random.Generator, tasks: tuple[str, ...], layers: int) -> Table:
    columns = (
        Column.axis("seed", "int64"), axis("start_step", "int64"), axis("stop_step", "int64"),
        axis("task"), *PLACE[:2], Column.value("nats", unit="nats per token"),
    )  # fmt: skip
    rows = []
    for seed in SEEDS:
        for task in tasks[:1]:
            for start in range(0, 200, 10):
                for layer, component, _ in sites(layers):
                    nats = float(0.4 / layers * math.exp(-start / 60) * (1 + rng.normal()))
                    rows.append(
                        {
                            "seed": seed, "start_step": start, "stop_step": start + 10, "task": task,
                            "layer": layer, "component": component, "nats": nats,
                        }
                    )  # fmt: skip
    return Table("forgetting_path", columns, rows)


def agreement_windows(rng: np.random.Generator, tasks: tuple[str, ...], layers: int) -> Table:
    columns = (
        axis("stage"), axis("start_step", "int64"), axis("stop_step", "int64"), axis("task_a"),
        axis("task_b"), *PLACE, *measured("corrected", "", "Corrected cosine, mean over the window."),
        Column.mask("resolved", of="corrected"),
        Column.value("naive"), Column.label("conflict", "bool"),
        Column.label("states", "int64"), Column.label("sd_states", "float64"),
    )  # fmt: skip
    rows = []
    for stage in tasks[1:]:
        for start in range(0, 200, 50):
            for index, (layer, component, where) in enumerate(sites(layers)):
                corrected = float(
                    np.clip(-0.5 + index / len(sites(layers)) + 0.3 * rng.normal(), -1.1, 1.1)
                )
                is_resolved = bool(rng.random() > 0.2)
                is_measured = bool(rng.random() > 0.03)
                value = corrected if is_measured else math.nan
                rows.append(
                    {
                        "stage": stage, "start_step": start, "stop_step": start + 50,
                        "task_a": tasks[0], "task_b": stage, "layer": layer,
                        "component": component, "where": where, "corrected": value,
                        "low": value - 0.2, "high": value + 0.2, "resolved": is_resolved,
                        "naive": 0.45 * value, "conflict": value < -0.4, "states": 12, "sd_states": 0.31,
                    }
                )  # fmt: skip
    return Table("agreement_windows", columns, rows)


def agreement_depth(rng: np.random.Generator, name: str, noise: float) -> Table:
    columns = (
        axis("seed", "int64"), axis("pair"), axis("step", "int64", "optimizer steps"),
        *measured("cosine", ""), Column.chance("chance", of="cosine", about="no shared signal."),
    )  # fmt: skip
    rows = []
    for seed in SEEDS:
        for pair, level in (("en, bn", -0.35), ("en, ar", 0.1), (f"bn, {HOSTILE}", 0.4)):
            for step in range(0, 201, 10):
                value = float(level + 0.1 * math.sin(step / 40) + noise * rng.normal())
                row = {"seed": seed, "pair": pair, "step": step, "cosine": value}
                rows.append({**row, "low": value - 0.1, "high": value + 0.1, "chance": 0.0})
    return Table(name, columns, rows)


def rollback(rng: np.random.Generator, tasks: tuple[str, ...], layers: int) -> Table:
    columns = (axis("stage"), axis("task"), *PLACE, *measured("nats", "nats per token"))
    rows = [
        {"stage": tasks[1], "task": task, **row}
        for task in tasks[:2]
        for row in _sited(rng, layers, -1 / layers)
    ]
    return Table("rollback", columns, rows)


def against(rng: np.random.Generator, layers: int) -> Table:
    columns = (
        *PLACE, Column.value("ledger", unit="nats"),
        *measured("rollback", "nats"), Column.axis("kind"),
    )  # fmt: skip
    rows = []
    for row in _sited(rng, layers, 1 / layers):
        back = row["nats"] * 0.8 + 0.02 * float(rng.normal())
        kind = "attention" if row["component"].startswith("attn") else "other"
        place = {name: row[name] for name in ("layer", "component", "where")}
        rows.append(
            {**place, "ledger": row["nats"], "rollback": back, "low": back - 0.03, "high": back + 0.03, "kind": kind}
        )  # fmt: skip
    return Table("ledger_and_rollback", columns, rows)


def retention(rng: np.random.Generator, tasks: tuple[str, ...]) -> Table:
    columns = (
        axis("stage"), axis("task"), axis("side"), *measured("nats_per_token", "nats per token"),
        Column.value("bits_per_byte"), Column.value("perplexity"),
        Column.value("change_percent", unit="%"), Column.label("n", "int64"),
    )  # fmt: skip
    rows = []
    for index, stage in enumerate(("base", *tasks)):
        for place, task in enumerate(tasks):
            for side in ("train", "test"):
                seen = place < index
                nats = float(
                    2.5 + 1.3 * (not seen) + 1.4 * max(0, index - place - 1) + 0.1 * rng.random()
                )
                is_measured = not (stage == "base" and place == 2)
                value = nats if is_measured else math.nan
                rows.append(
                    {
                        "stage": stage, "task": task, "side": side, "nats_per_token": value,
                        "low": value - 0.08, "high": value + 0.09, "bits_per_byte": value / 2.2,
                        "perplexity": math.exp(value), "change_percent": 100 * (value / 3.1 - 1), "n": 120,
                    }
                )  # fmt: skip
    return Table("retention", columns, rows)


def evaluation(rng: np.random.Generator, tasks: tuple[str, ...]) -> Table:
    columns = (
        axis("seed", "int64"), axis("stage"), axis("step", "int64"), axis("task"), axis("side"),
        Column.value("nats_per_token", unit="nats per token"),
    )  # fmt: skip
    rows = []
    for seed in SEEDS:
        for order, stage in enumerate(tasks):
            for step in range(0, 201, 20):
                for place, task in enumerate(tasks):
                    drift = -1.5 if place == order else 1.6 * (place < order)
                    nats = 4.0 + drift * (1 - math.exp(-step / 60)) + 0.12 * float(rng.normal())
                    rows.append(
                        {
                            "seed": seed, "stage": stage, "step": step, "task": task,
                            "side": "test", "nats_per_token": nats,
                        }
                    )  # fmt: skip
    return Table("evaluation", columns, rows)


def cost(tasks: tuple[str, ...]) -> Table:
    columns = (
        axis("stage"),
        axis("what"),
        Column.value("value"),
        Column.label("unit"),
    )
    rows = [
        {"stage": stage, "what": what, "value": value, "unit": unit}
        for stage in tasks
        for what, value, unit in (("wall-clock", 81.4, "s"), ("peak memory", 1.25e9, "bytes"))
    ]
    return Table("cost", columns, rows)


LOST = ("gained", "lost")
PICTURES = (
    Section("changes", "What each stage changed", "Rows: learned; columns: whose loss.", "heatmap", "forgetting_sites",
            x="task", y="stage", value="nats", where={"side": "test", "where": "embed+head"}, ends=LOST),
    Section("largest", "Where en lost most", "The three largest parts.", "bars", "forgetting_sites", y="where", value="nats",
            choose=("stage", "task", "side"), begin={"stage": "bn", "task": "en", "side": "test"}, order="size", most=3, ends=LOST),
)  # fmt: skip


def page() -> Page:
    return Page(
        "What English, Bengali and Arabic do to each other",
        f"stories260K, five layers, three seeds; one task is called {HOSTILE}",
        (
            Statement("The ledger closes: the components add up to the measured loss change.", "shown",
                      "Measured 6.208, booked 6.210 nats per token; residual 0.002 (tolerance 0.006)."),
            Statement("No component conflicts more than the others.", "not_shown",
                      "A peak larger than 0.31 is excluded; K = 16 blocks."),
            Statement("Whether the conflict moves through depth cannot be said.", "too_noisy",
                      "9 more seeds would be needed at this spread."),
            Statement("English ends above the loss of a uniform guess: over-confidence, not only lost knowledge.", "warning"),
            Statement(f"The tokenizer spells {HOSTILE} in bytes.", "info"),
        ),
        (
            Section("ledger", "Where English was forgotten", "Each bar is the change of the reference loss that is "
                    "booked under one component; together they are the measured change.", "bars",
                    "forgetting_sites", y="where", value="nats", choose=("stage", "task", "side"), order="size", ends=LOST,
                    note="Intervals: jackknife over 8 blocks of 4 rows, 95 %."),
            Section("ledger-map", "The same by layer and component", "Orange was lost, blue was gained.", "heatmap",
                    "forgetting_sites", x="component", y="layer", value="nats", choose=("stage", "task", "side"), ends=LOST),
            Section("path", "When it was forgotten", "The ledger's entries over time, all layers together.", "lines",
                    "forgetting_path", x="stop_step", value="nats", color="component", trace="seed", combine="sum"),
            Section("agreement", "Agreement over a window of states", "Corrected beside naive.", "heatmap",
                    "agreement_windows", x="component", y="layer", value="corrected", beside=("naive",),
                    choose=("stage", "start_step")),
            Section("agreement-time", "Agreement over time", "Layer by window.", "heatmap", "agreement_windows",
                    x="stop_step", y="where", value="corrected", choose=("stage",), where={"layer": 0}),
            Section("oscillation", "One state and a window", "Thin: at one state.", "lines", "agreement_curve",
                    x="step", value="cosine", color="pair", choose=("seed",), thin="agreement_states", aside=True),
            Section("rollback", "Put back", "Loss regained by putting a component back.", "bars", "rollback",
                    y="where", value="nats", color="task", order="size"),
            Section("both", "Ledger and rollback", "Each point is a component.", "scatter", "ledger_and_rollback",
                    x="ledger", y="rollback", color="kind"),
            Section("retention", "Retention", "Rows: after which stage. Columns: which task.", "matrix", "retention",
                    x="task", y="stage", value="nats_per_token", choose=("side",)),
            Section("curves", "Learning curves", "Held-out loss of every task in every stage.", "lines", "evaluation",
                    x="step", value="nats_per_token", color="task", facet="stage", trace="seed",
                    lines=(("uniform", 6.238), ("unigram", 5.1))),
            Section("movement", "Movement", "Slope of agreement on depth.", "lines", "movement", x="step", value="slope"),
            Section("cost", "Cost", "What it took.", "table", "cost", choose=("stage",), aside=True),
            Section("reading", "How to read this page", "Intervals condition on the data.", "text"),
        ),
        answer=Statement("Learning bn cost en 3.4 nats per token, most through embed+head.", "shown", "3.4 [3.1, 3.7]; 3 seeds."),
        pictures=PICTURES,
    )  # fmt: skip


def make_run(folder: Path, *, layers: int = 5, finished: bool = True) -> Run:
    """A run folder of three tasks whose page has every view and one section that was not measured."""
    rng = np.random.default_rng(7)
    tasks = ("en", "bn", HOSTILE)
    run = Run.create(folder, f'model: stories260K\ntasks: [en, bn, "{HOSTILE}"]\n', kind="conflict")
    for table in (
        forgetting_sites(rng, tasks, layers),
        forgetting_path(rng, tasks, layers),
        agreement_windows(rng, tasks, layers),
        agreement_depth(rng, "agreement_curve", 0.02),
        agreement_depth(rng, "agreement_states", 0.3),
        rollback(rng, tasks, layers),
        against(rng, layers),
        retention(rng, tasks),
        evaluation(rng, tasks),
        cost(tasks),
    ):
        run.add_rows(table, "all")
    run.measure(
        Measurement("residual", 0.002, -0.001, 0.005, 32, "nats per token", "ledger", seeds=SEEDS)
    )
    run.measure(
        Measurement(
            "rank correlation", 0.81, 0.6, 0.93, 42, "", "Spearman", chance=0.0, n_unit="sites"
        )
    )
    run.measure(Measurement.unmeasured("movement", "per step", "fewer than 10 probes"))
    write_json(run.folder / PAGE_FILE, page().to_json())
    if finished:
        run.finish()
    return run
