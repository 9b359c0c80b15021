"""A mixture teaches a dense student: `python benchmarks/trials/distill_mixture.py OUT [--seeds 0 1]` compares the student-aware gate with others.

stories260K becomes a mixture of four experts, two active, that learns stories, code and old books (150 steps). A piece of the dense
model, 2 of its 5 layers, then learns from it: distribution, states and attention alone, or with what a gate over the last layer's
experts offers. The gate is the router's own, the teacher's, uniform, or the teacher's of other tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from crosstune.distillation import DistillationTrainer, student_from
from crosstune.distillation.routing import Gate, StudentAwareRouter
from crosstune.foundation.data import TaskSettings, encode, read_tasks
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.models import load_model
from crosstune.foundation.training import StageData
from crosstune.foundation.worlds import mixture_world
from crosstune.studies.frame.over_seeds import mean_over_seeds

SHARED = Path(__file__).resolve().parents[3] / "shared"
SOURCES = {
    "stories": ("english/tinystories_heldout.jsonl", "text"),
    "code": ("code/mbpp.jsonl", "code"),
    "books": ("english/books.jsonl", "text"),
}
TRAINING = {"steps": 200, "batch_rows": 8, "learning_rate": 3e-3, "length": 128}
OF_THE_GATE = ("routing.expert_importance", "routing.load_balancing")
Whole = Callable[[StudentAwareRouter, Gate], torch.Tensor]


def _shuffled(router: StudentAwareRouter, gate: Gate) -> torch.Tensor:
    order = torch.randperm(len(gate.whole), generator=torch.Generator().manual_seed(0))
    return router.offers.own[order]  # type: ignore[union-attr]


GATES: Mapping[str, Whole | None] = {
    "student-aware": None,
    "teacher's": lambda router, gate: router.offers.own,  # type: ignore[union-attr]
    "uniform": lambda router, gate: torch.full_like(gate.whole, 1.0 / router.offers.count),
    "shuffled": _shuffled,
}


def replaced(router: StudentAwareRouter, whole: Whole) -> None:
    """Let another gate choose among the offers."""
    own = router.gate

    def gate(seen: Any, where: Any) -> Gate:
        found = own(seen, where)
        values = whole(router, found)
        largest, chosen = values.topk(router.active(seen.step), dim=-1)
        return found._replace(
            whole=values, chosen=chosen, weights=largest / largest.sum(dim=-1, keepdim=True)
        )

    router.gate = gate  # type: ignore[method-assign]


def main() -> None:
    """Make the teacher, train the students, print their held-out bits per byte."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    given = parser.parse_args()
    folder, data = SHARED / "models" / "stories260K", SHARED / "data"
    chosen = [
        TaskSettings(name=name, source=str(data / path), text=field, rows=400)
        for name, (path, field) in SOURCES.items()
    ]
    tasks = read_tasks(chosen, test_share=0.2, samples=None, seed=0)
    world = mixture_world(given.out / "teacher", folder, tasks)
    for part in (world.model, world.tokenizer):  # for recipes/distill-mixture.yaml
        part.save_pretrained(given.out / "teacher")
    pad = world.tokenizer.pad_token_id
    held_out = {name: rows[:40] for name, rows in world.held_out.items()}
    train = encode([row for task in tasks for row in task.train], world.tokenizer, 128)

    def bits(model: Any) -> dict[str, float]:
        return {
            n: score_rows(model, some, pad_id=pad).bits_per_byte.value
            for n, some in held_out.items()
        }

    print("teacher", {name: round(value, 3) for name, value in bits(world.model).items()})
    for name, load in world.loads.items():
        print(
            f"loads of the last layer on {name}: {[round(share, 2) for share in load[-1].tolist()]}"
        )
    found: dict[str, list[float]] = {}
    for seed in given.seeds:
        for arm in ("none", *GATES):
            student = student_from(load_model(folder), layers=2, rows=train[:64]).model
            terms = ("kd", "hidden", "attention", *(["routing"] if arm != "none" else []))
            learns = GATES.get(arm) is None  # another gate has nothing to learn of itself
            trainer = DistillationTrainer(
                student,
                world.model,
                world.tokenizer,
                StageData(train, pad),
                training=TRAINING,
                terms=terms,
                alphas={} if learns else dict.fromkeys(OF_THE_GATE, 0.0),
                seed=seed,
                output=str(given.out / f"{arm}-{seed}"),
            )
            trainer.progress.quiet = True
            # One gate shuffles among the tokens of a batch.
            trainer.stage.check_parity = arm != "shuffled"
            if (whole := GATES.get(arm)) is not None:
                routers = [
                    m for m in trainer.stage.terms.members if isinstance(m, StudentAwareRouter)
                ]
                replaced(routers[0], whole)
            trainer.run()
            ends = bits(student)
            found.setdefault(arm, []).append(sum(ends.values()) / len(ends))
            told = ", ".join(f"{name} {value:.3f}" for name, value in ends.items())
            print(f"seed {seed}, gate {arm}: {told}", flush=True)
            if arm == "student-aware" and seed == given.seeds[0]:
                print(trainer.ledger_at(-1))
    if found:
        print(
            "| gate | bits per byte, mean of three | less that without a router |\n| --- | --- | --- |"
        )
    for arm, values in found.items():
        mean = mean_over_seeds(values)
        more = mean_over_seeds([a - b for a, b in zip(values, found["none"], strict=True)])
        print(
            f"| {arm} | {mean.value:.4f} | {more.value:+.4f} [{more.low:+.4f}, {more.high:+.4f}] |"
        )


if __name__ == "__main__":
    main()
