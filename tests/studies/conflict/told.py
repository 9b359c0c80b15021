"""A run folder with the tables over seeds written by hand, so that the right sentences are known."""

from __future__ import annotations

import math
from pathlib import Path

from crosstune.foundation.records import Run, Table
from crosstune.interference.ledger import tables as ledger
from crosstune.studies.conflict import accounts, agreement, depth, retention, summary, tables
from crosstune.studies.frame.over_seeds import SEED

LN_V = math.log(512)


def cells(columns, **given):
    """A row under the given columns: what is not given is empty, 0 or not measured."""
    empty = {"string": "", "int64": 0, "float64": math.nan, "bool": False}
    return {column.name: given.get(column.name, empty[column.kind]) for column in columns}


def closing(task, measured, low, high, stage="2-bn", side="test", seeds=5):
    return cells(
        accounts._CLOSING,
        stage=stage,
        task=task,
        side=side,
        measured=measured,
        low=low,
        high=high,
        booked=measured + 1e-4,
        residual=1e-4,
        relative=1e-4,
        every=10,
        seeds=seeds,
    )


def at_seed(seed, nats, low, high, task="en", stage="2-bn", side="test"):
    return cells(
        TOTALS, seed=seed, stage=stage, task=task, side=side, nats=nats, low=low, high=high
    )


def component(name, nats, task="en", stage="2-bn"):
    return cells(
        accounts.COMPONENTS.columns,
        stage=stage,
        task=task,
        side="test",
        component=name,
        nats=nats,
        seeds=5,
    )


def site(where, corrected, *, resolved=True, conflict=False, pair="en – bn", stage="2-bn"):
    layer = int(where[1]) if where.startswith("L") else -1
    return cells(
        agreement._AGREEMENT,
        stage=stage,
        scope=agreement.WHOLE,
        pair=pair,
        where=where,
        layer=layer,
        component=where.split(" ")[-1],
        corrected=corrected,
        low=corrected - 0.1,
        high=corrected + 0.1,
        inner=corrected,
        inner_low=corrected - 0.1,
        inner_high=corrected + 0.1,
        resolved=resolved,
        conflict=conflict,
        agree=corrected > 0.2 and not conflict,
        states=12,
        blocks=16,
        seeds=5,
    )


def peak(words, kind="no peak", pair="en – bn", stage="2-bn"):
    return cells(
        depth._PEAKS, stage=stage, pair=pair, scope="all sites", kind=kind, words=words, seeds=5
    )


def moved(words, verdict="not shown", pair="en – bn", stage="2-bn"):
    return cells(
        depth._MOVEMENT,
        stage=stage,
        pair=pair,
        verdict=verdict,
        words=words,
        probes=12,
        seeds=5,
    )


def known(task, nats, stage="2-bn", side="test"):
    return cells(
        retention._RETENTION,
        stage=stage,
        task=task,
        side=side,
        nats=nats,
        low=nats - 0.1,
        high=nats + 0.1,
        uniform=LN_V,
        seeds=5,
    )


SCORES = (SEED, *tables.SCORES)
TOTALS = (SEED, *ledger.TOTALS)
TABLES = {
    "scores": SCORES,
    "closing": accounts._CLOSING,
    "forgetting_totals": TOTALS,
    "forgetting_components": accounts.COMPONENTS.columns,
    "agreement": agreement._AGREEMENT,
    "peaks_over_seeds": depth._PEAKS,
    "movement_over_seeds": depth._MOVEMENT,
    "retention": retention._RETENTION,
    "chance": summary._CHANCE,
    "references": summary._REFERENCES,
}


def run_with(folder: Path, **rows) -> Run:
    """A run whose tables hold these rows and, where none are given, harmless ones."""
    chance = [
        cells(summary._CHANCE, task=task, side=side, nats=4.5, uniform=LN_V)
        for task in ("en", "bn", "ar")
        for side in ("train", "test")
    ]
    references = [
        cells(
            summary._REFERENCES,
            task=task,
            side=side,
            rows=100,
            bytes_per_token=1.0 + 0.9 * (task != "bn"),
        )
        for task in ("en", "bn", "ar")
        for side in ("train", "test")
    ]
    given = {
        "scores": [cells(SCORES, seed=0, stage="0-base", task="en", side="test")],
        "closing": [closing("en", 0.5, 0.4, 0.6)],
        "forgetting_totals": [at_seed(seed, 0.5, 0.4, 0.6) for seed in range(5)],
        "forgetting_components": [component("attn.v", 0.5)],
        "agreement": [site("L0 attn.v", 0.5), site("L1 attn.v", 0.1)],
        "peaks_over_seeds": [peak("No peak: L0 attn.v, L1 attn.v cannot be told apart (p = 0.4).")],
        "movement_over_seeds": [moved("Movement is not shown.")],
        "retention": [known("en", 3.0)],
        "chance": chance,
        "references": references,
        **rows,
    }
    run = Run.create(folder, "", kind="conflict")
    for name, columns in TABLES.items():
        run.write_table(Table(name, columns, given[name]))
    return run
