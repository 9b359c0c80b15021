"""The study from outside: its command, its recipes, code that stays code, and experts that plain PEFT loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.recipes.test_recipes import CHECKOUT
from tests.studies import small_study

from crosstune.cli.main import main
from crosstune.experts import ExpertMixture, check_served
from crosstune.foundation.data import TaskSettings, read_rows
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.worlds import embedded_world
from crosstune.studies.frame.plan import silent
from crosstune.studies.skills.settings import SkillStudySettings
from crosstune.studies.skills.study import Skills

CODE = "def min_cost(cost, m, n): \r\n\ttc = [[0 for x in range(C)] for x in range(R)] \r\n\ttc[0][0] = cost[0][0]"


def recipe(name: str) -> SkillStudySettings:
    return from_yaml(SkillStudySettings, CHECKOUT / "recipes" / f"{name}.yaml")


def stand_in(task: TaskSettings, folder: Path) -> TaskSettings:
    """The task with thirty short rows of its fields from a local file."""
    file = folder / f"{task.name}.jsonl"
    fields = ("text", "code", "instruction", "input", "output", "response", "doc")
    lines = [{name: f"{name} {at} {task.name}" for name in fields} for at in range(30)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return replace(task, source=str(file), test_source=None, split="train")


@pytest.mark.parametrize("name", ["skills-real-tiny", "skills-gemma-3-270m"])
def test_a_recipe_runs_shrunk_on_stand_ins(name: str, tmp_path: Path) -> None:
    settings = recipe(name)
    training = TrainingSettings(steps=2, batch_rows=4, length=64)
    tasks = tuple(stand_in(task, tmp_path) for task in settings.tasks)
    shrunk = replace(
        settings,
        model=small_study.model(tmp_path),
        dtype="float32",
        output=str(tmp_path / "run"),
        tasks=tasks,
        seeds=(0,),
        orders=1,
        arms=settings.arms[:1],
        evaluation_rows=4,
        workers=1,
        learning=replace(
            settings.learning,
            training=training,
            novelty=replace(settings.learning.novelty, min_rows=8),
        ),
    )
    assert Skills(shrunk).run(silent).finished


def test_code_is_read_as_code_by_the_split_of_its_authors(shared: Path) -> None:
    """The original put every character of MBPP's text on a line of its own, and learned what it evaluated."""
    task = next(one for one in recipe("skills-real-tiny").tasks if one.name == "code")
    place = str(shared / "data" / "code" / "mbpp.jsonl")
    learned = read_rows(task, place, task.split)
    evaluated = read_rows(task, place, task.test_split, numbered="test ")
    assert (len(learned), len(evaluated)) == (974 - 510, 500)
    assert (learned[0].id, evaluated[0].id) == ("line 511", "test line 11")
    whole = read_rows(task, place, "train")
    assert CODE in whole[0].text


def test_every_expert_of_a_run_is_loaded_by_plain_peft_and_takes_the_rules_of_servers(
    run: Run, tmp_path: Path
) -> None:
    world = embedded_world().folder
    place = (
        run.folder / "cells" / "seed-0-order-0" / "checkpoints" / "prefix" / "learned" / "mixture"
    )
    mixture = ExpertMixture.load(place, load_model(world), load_tokenizer(world))
    ids = torch.arange(3, 40)[None]
    for name, expert in mixture.bank.experts.items():
        plain = PeftModel.from_pretrained(load_model(world), place / "experts" / expert.adapter)
        with torch.no_grad(), mixture.answering(name):
            assert torch.equal(plain(input_ids=ids).logits, mixture(input_ids=ids).logits)
        assert check_served(mixture.export(tmp_path / expert.adapter, name)) == []
    mean = mixture.export(tmp_path / "mean", dict.fromkeys(mixture.bank.experts, 0.5))
    assert check_served(mean) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--known", "fr"], "`known` must name tasks"),
        (["--arms", "[uniform]"], "arms"),
        (["--learning.router.top", "0"], "top"),
        (["--learning.training.length", "4096"], "learning.training.length"),
    ],
)
def test_mistakes_are_named_as_they_were_written(
    words: list[str], said: str, tmp_path: Path, capsys: Any
) -> None:
    assert main(["run", "skills", "--output", str(tmp_path / "run"), *words]) == 2
    assert said in capsys.readouterr().err
