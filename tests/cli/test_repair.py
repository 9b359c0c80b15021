"""`crosstune repair BEFORE AFTER`: words become the settings of the study, and mistakes are named as the user wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosstune.cli.main import main
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.settings import from_yaml
from crosstune.studies.repair.settings import RepairStudySettings

TASKS = ["--task", "en=en.jsonl", "--task", "bn=hub/bangla"]


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> RepairStudySettings:
    assert main(["repair", "old", "new", "--print_config", *words]) == 0
    return from_yaml(RepairStudySettings, capsys.readouterr().out)


def test_two_models_and_rows_are_a_study(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(TASKS, capsys)
    assert (found.before, found.after, found.cell_names) == ("old", "new", ("pair",))
    assert found.tasks == (
        TaskSettings(name="en", source="en.jsonl"),
        TaskSettings(name="bn", source="hub/bangla"),
    )


def test_limits_granularities_fields_and_any_setting(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TASKS, "--max_loss", "bn=0.02", "--granularity", "component", "--granularity=tensor"]
    others = ["--group", "doc", "--text", "body", "--repair.rows", "32", "--output", "here"]
    found = printed([*words, *others, "--between", "[mid]"], capsys)
    assert dict(found.repair.max_loss) == {"bn": 0.02}
    assert found.repair.granularity == ("component", "tensor")
    assert found.repair.rows == 32
    assert (found.output, found.between) == ("here", ("mid",))
    assert {(task.group, task.text) for task in found.tasks} == {("doc", "body")}


def test_quick_asks_for_one_limit_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed([*TASKS, "--quick"], capsys)
    repair = found.repair
    assert (repair.budgets, repair.exchange_rates, repair.methods) == ((0.02,), (), ("component",))
    assert not repair.replay
    assert found.rollback == "none"
    limited = printed([*TASKS, "--quick", "--max_loss", "bn=0.1"], capsys).repair
    assert (limited.budgets, dict(limited.max_loss)) == ((), {"bn": 0.1})
    own = printed([*TASKS, "--quick", "--repair.budgets", "[0.3]"], capsys).repair
    assert own.budgets == (0.3,)


def test_a_file_may_name_the_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "repair.yaml"
    file.write_text("tasks: [{name: a, source: a.txt}, {name: b, source: b.txt}]\n", "utf-8")
    assert printed(["--config", str(file)], capsys).task_names == ("a", "b")


def test_a_file_may_say_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "repair.yaml"
    file.write_text("repair: {rows: 16, folds: 2}\n", encoding="utf-8")
    found = printed([*TASKS, "--config", str(file), "--max_loss", "bn=0.1"], capsys)
    assert (found.repair.rows, found.repair.folds) == (16, 2)
    assert dict(found.repair.max_loss) == {"bn": 0.1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "`tasks` must be named where `after` is given, in words by `--task en=en.jsonl"),
        (["--task", "en.jsonl"], "`--task` must be NAME=ROWS; found 'en.jsonl'"),
        ([*TASKS, "--task", "en=again"], "`--task` must name each task once; found en twice"),
        (["--task", "en=a"], "`tasks` must be at least two"),
        ([*TASKS, "--max_loss", "bn"], "`--max_loss` must be NAME=NATS"),
        ([*TASKS, "--max_loss", "bn=little"], "`--max_loss bn` must be a number of nats"),
        ([*TASKS, "--max_loss", "fr=0.1"], "`repair.max_loss` must name tasks (en, bn)"),
        ([*TASKS, "--granularity", "atom"], "`repair.granularity` must be of global"),
        ([*TASKS, "--maxloss", "bn=1"], "Did you mean `--max_loss`?"),
        ([*TASKS, "--repair.rowz", "3"], "Did you mean `repair.rows`?"),
        ([*TASKS, "--maxloss", "bn=1"], "`crosstune repair --help all` names them all."),
        ([*TASKS, "--max-loss", "bn"], "`--max_loss` must be NAME=NATS"),
        ([*TASKS, "--seeds", "1"], "unrecognized arguments: --seeds 1"),
        (["--task", "en.jsonl"], "`crosstune repair --help` names all words."),
        (["--task", "en", "a"], "NAME=ROWS, without a space: did you mean `--task en=a`? "),
        ([*TASKS, "--max_loss", "bn", "0.1"], "did you mean `--max_loss bn=0.1`? "),
        ([*TASKS, "--max_loss", "bn", "--x"], "did you mean `--max_loss NAME=NATS`? "),
        ([*TASKS, "--repair.seed", "3"], "`repair.seed` must be left out: in a study it follows"),
        (["--task", "../en=a", "--task", "bn=b"], "`tasks[0].name` must be"),
    ],
)
def test_a_mistake_is_named(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repair", "old", "new", "--output", str(tmp_path / "run"), *words]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert message in told.err
    assert "conflict" not in told.err
    assert told.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "help_of"),
    [
        (["run", "repair", "--sedes", "1"], "`crosstune run repair --help all`"),
        (["plan", "conflict", "--sedes", "1"], "`crosstune plan conflict --help all`"),
        (["show", "a", "b"], "`crosstune show --help` names"),
        (["repare"], "`crosstune --help` names"),
    ],
)
def test_an_error_points_to_the_help_of_its_own_command(
    words: list[str], help_of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert help_of in capsys.readouterr().err


def test_a_command_without_models_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", *TASKS]) == 2
    assert "before" in capsys.readouterr().err
