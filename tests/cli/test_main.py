"""The front door: help without a heavy library, settings from file and words, a whole run, and going on after a stop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.studies import small_study
from tests.studies.frame import tiny_study

import crosstune
from crosstune.cli import printing
from crosstune.cli.main import main
from crosstune.foundation import ranks
from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.studies.catalogue import find_study
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame.plan import Progress
from crosstune.studies.study import Study

HEAVY = ("torch", "pyarrow", "transformers", "altair", "scipy", "datasets", "pandas")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "conflict", "--help"],
        ["repair", "--help"],
        ["list"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_help_and_list_load_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from crosstune.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout


def test_importing_crosstune_takes_less_than_a_third_of_a_second() -> None:
    code = "import time; t = time.process_time(); import crosstune; print(time.process_time() - t)"
    command = [sys.executable, "-c", code]
    taken = [float(subprocess.check_output(command, text=True)) for _ in range(3)]
    assert min(taken) < 0.3


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> ConflictSettings:
    assert main(["run", "conflict", "--print_config", *words]) == 0
    return from_yaml(ConflictSettings, capsys.readouterr().out)


def test_words_win_over_the_file_and_the_file_over_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("seeds: [3]\ntraining: {steps: 7, batch_rows: 2}\n", encoding="utf-8")
    found = printed(
        ["--config", str(file), "--training.steps", "9", "--probe.burst=2", "--seeds=[1,2]"], capsys
    )
    assert (found.training.steps, found.training.batch_rows, found.seeds) == (9, 2, (1, 2))
    default = ConflictSettings().probe
    assert found.probe is not None and default is not None
    assert (found.probe.burst, found.probe.every) == (2, default.every)


def test_groups_lists_and_nothing_can_be_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = "[{name: a, source: 'toy:latin-svo'}, {name: b, source: 'toy:latin-sov', rows: 9}]"
    found = printed(
        ["--tasks", tasks, "--probe", "null", "--training.lora.rank", "3", "--windows", "true"],
        capsys,
    )
    assert [(task.name, task.rows) for task in found.tasks] == [("a", None), ("b", 9)]
    assert found.probe is None
    assert found.windows
    assert found.training.lora is not None
    assert found.training.lora.rank == 3
    assert printed([], capsys) == ConflictSettings()


def test_a_plan_is_printed_and_nothing_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[ConflictSettings] = []
    monkeypatch.setattr(Study, "plan", lambda self, settings: asked.append(settings) or "a plan")
    monkeypatch.setattr(printing, "plan", print)
    assert main(["plan", "conflict", "--workers", "2"]) == 0
    assert capsys.readouterr().out == "a plan\n"
    assert asked == [ConflictSettings(workers=2)]


def test_the_signal_of_a_scheduler_stops_a_run_as_an_interrupt_does() -> None:
    waits = (
        "import sys, time\n"
        "from crosstune.cli import main\n"
        "main._command = lambda *_: print('runs', flush=True) or time.sleep(60)\n"
        "sys.argv = ['crosstune', 'run']\n"
        "sys.exit(main.main())"
    )
    command = [sys.executable, "-c", waits]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"runs\n"
        child.terminate()
        assert child.wait() == 130


def test_a_run_is_stopped_gone_on_with_shown_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = small_study.values(tmp_path, probe=None, rollback="none", windows=True)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    words = ["run", "conflict", "--config", str(tmp_path / "study.yaml")]
    with monkeypatch.context() as patch:

        def stop(self: printing.ProgressLine, progress: Progress) -> None:
            if progress.doing == "stage 1-en finished":
                raise KeyboardInterrupt

        patch.setattr(printing.ProgressLine, "__call__", stop)
        assert main(words) == 130
    assert "goes on from there" in capsys.readouterr().err
    assert main(["list", str(tmp_path)]) == 0
    assert "conflict, 1 cell, not finished" in capsys.readouterr().out

    assert main(words) == 0
    told = capsys.readouterr()
    page = tmp_path / "run" / "report.html"
    *_, besides, last = lines = told.out.splitlines()
    assert last == f"Report: {page}" and "crosstune show RUN --all" in besides
    assert len(lines) <= 15 and max(map(len, lines[:-1])) <= 80
    drawn = page.stat().st_mtime_ns
    assert main(["show", str(tmp_path / "run"), "--draw", "false"]) == 0
    assert capsys.readouterr().out == told.out
    assert page.stat().st_mtime_ns == drawn
    assert crosstune.show(tmp_path / "run") in told.out
    assert main(["show", str(tmp_path / "run"), "--draw", "false", "--all"]) == 0
    assert crosstune.show(tmp_path / "run", all=True) in capsys.readouterr().out
    run = Run.open(tmp_path / "run")
    assert run.finished
    assert not run.has_table("agreement") and not run.has_table("rollback_means")
    assert main(["list", str(tmp_path)]) == 0
    assert "conflict, 1 cell, finished" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "names"), [([], "list"), (["run"], "conflict")])
def test_half_a_command_is_answered_by_its_help(
    words: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out.startswith("usage: crosstune") and f"\n    {names} " in told.out
    assert told.err == ""


@pytest.mark.parametrize("words", [["run", "conflict"], ["plan", "circuits"], ["repair"]], ids=str)
def test_help_names_what_matters_first_and_the_rest_when_asked(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*words, "--help"]) == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) <= 36 and max(map(len, short.splitlines())) <= 80
    with pytest.raises(SystemExit):
        main([*words, "--help", "all"])
    long = capsys.readouterr().out
    for word in (line.split()[0] for line in short.splitlines() if line.startswith("  --")):
        assert word in long
    assert "--workers" in long and "--workers" not in short and len(long.splitlines()) > 100
    for name in find_study(words[1]).settings_class().COMMON if words[1:] else ("task", "max_loss"):
        assert f"  --{name} " in short


def test_a_list_of_runs_that_nobody_named_may_be_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    assert "none yet" in capsys.readouterr().out


def test_only_the_first_process_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Study, "run", lambda self, settings, listener: None)
    monkeypatch.setattr(ranks, "is_first", lambda: False)
    assert main(["run", "conflict"]) == 0
    assert capsys.readouterr().out == ""


def test_a_study_in_a_file_has_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(Path(tiny_study.__file__))
    assert main(["run", file, "--print_config", "--parts=7", "--seeds=[1,2]"]) == 0
    found = from_yaml(tiny_study.TinySettings, capsys.readouterr().out)
    assert (found.parts, found.seeds, found.step) == (7, (1, 2), 10)
    assert main(["plan", file, "--seeds=[1,2]"]) == 0
    assert "whole study" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["run", file, "--help"])
    assert "Parts of a cell." in capsys.readouterr().out
    assert main(["run", file, "--partz=7"]) == 2
    told = capsys.readouterr().err
    assert "Did you mean `--parts`?" in told
    assert f"`crosstune run {file} --help all`" in told
