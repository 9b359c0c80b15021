"""The command line: parse, hand over, print. Help is instant, because nothing heavy is loaded for it."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from crosstune import __version__
from crosstune.cli import printing, repair
from crosstune.cli.words import nearest, options, own_parser, short_help, split
from crosstune.foundation.errors import CrosstuneError, SettingsError, StorageError
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.foundation.settings.yaml import Words
from crosstune.foundation.storage import read_json
from crosstune.studies.catalogue import STUDIES, find_study
from crosstune.studies.distill.again import COMMANDS as _AGAIN
from crosstune.studies.study import Study

_STOPPED = 130  # the shell's exit code for an interrupt
_OUTSIDE = "file"  # the parser's word for a study in a file, whose path it could not take for one


def build_parser(outside: Study | None = None) -> ArgumentParser:
    """The parser of `crosstune` with all its subcommands."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="crosstune",
        description="Measure, act on and prove the crosstalk when a model's learning crosses something else.",
        version=__version__,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True, dest="command")
    for verb, says in (("run", "Run a study."), ("plan", "Say what a study will cost.")):
        verb_parser = ArgumentParser(description=says, exit_on_error=False)
        commands.add_subcommand(verb, verb_parser, help=says)
        studies = verb_parser.add_subcommands(required=True, dest="study")
        for study in STUDIES:
            studies.add_subcommand(study.name, _study_parser(study), help=study.question)
        if outside is not None:
            studies.add_subcommand(_OUTSIDE, _study_parser(outside), help=outside.question)
    commands.add_subcommand("repair", repair.parser(), help=repair.SAYS)
    for verb, does in _AGAIN.items():
        says = str(inspect.getdoc(does)).splitlines()[0]
        own = ArgumentParser(description=says, exit_on_error=False)
        own.add_function_arguments(does, as_group=False, as_positional=True)
        commands.add_subcommand(verb, own, help=says)
    says = "Print what a run found and draw its page."
    show = ArgumentParser(description=says, exit_on_error=False)
    show.add_argument("run", type=str, help="The run folder.")
    show.add_argument("--all", action="store_true", help="Print every finding, figure and table.")
    show.add_argument("--draw", type=bool, default=True, help="Whether to draw report.html again.")
    commands.add_subcommand("show", show, help=says)
    listing = ArgumentParser(description="Name the studies and the runs.", exit_on_error=False)
    listing.add_argument(
        "folder", type=str, nargs="?", help="Where to look for runs, instead of in `runs`."
    )
    commands.add_subcommand("list", listing, help="Name the studies and the runs under a folder.")
    return parser


def _study_parser(study: Study) -> ArgumentParser:
    parser = ArgumentParser(description=study.question, exit_on_error=False)
    parser.add_argument("--config", help="A YAML file with any of the settings below.")
    parser.add_argument(
        "--print_config",
        nargs="?",
        const="",
        help="Print the whole settings as YAML, with what was given here, and stop.",
    )
    parser.add_class_arguments(study.settings_class(), as_group=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after the program's name; None takes them from the process.

    Returns:
        The exit code: 0, 2 for an error that the user can mend, 130 after an interrupt.
    """
    if argv is None:  # a scheduler's signal ends the workers too, as an interrupt does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(words, _outside(words))
    except CrosstuneError as error:
        printing.error(error)
        return 2
    except KeyboardInterrupt:
        printing.stopped(words)
        return _STOPPED


def _outside(words: Sequence[str]) -> Study | None:
    """The study in the file that the words name, if they do: ``run path/to/study.py``."""
    if words[:1] in (["run"], ["plan"]) and words[1:2] and words[1].endswith(".py"):
        return Study.of_file(words[1])
    return None


def _command(words: list[str], outside: Study | None) -> int:
    """Do what the words say; where they only begin a command, its help is the answer."""
    parser = build_parser(outside)
    if words in ([], ["run"], ["plan"]):
        with suppress(SystemExit):
            parser.parse_args([*words, "--help"])
        return 2
    spoken = words if outside is None else [words[0], _OUTSIDE, *words[2:]]
    own, study = own_parser(parser, spoken), _study_of(words, outside)
    cls = study.settings_class() if study else None
    names = {field.name for field in fields(cls)} if cls else set()
    names &= {option.lstrip("-").split(".")[0] for option in options(own)}
    if words[-1] in ("-h", "--help") and cls and cls.COMMON:
        command = " ".join(["crosstune", *words[:-1]])
        printing.text(short_help(command, own, names, cls.COMMON))
        return 0
    given, others = split(spoken[:-1] if spoken[-2:] == ["--help", "all"] else spoken, cls, names)
    try:
        arguments = parser.parse_args(others, defaults=False)
    except ArgumentError as error:
        raise SettingsError(
            "command",
            law="must be made of the documented words",
            found=" ".join(str(error).split()).rstrip("."),
            remedy=f"{repair.hint(words)}{nearest(others, own)}{_helps(words, study)}",
        ) from error
    return _dispatch(arguments, given, study)


def _study_of(words: list[str], outside: Study | None) -> Study | None:
    """The study that the first words ask for, if they do."""
    if words[0] in ("run", "plan"):
        return outside or next((one for one in STUDIES if one.name == words[1]), None)
    return find_study("repair") if words[0] == "repair" else None


def _helps(words: Sequence[str], study: Study | None) -> str:
    """Where the words of this command are named."""
    command = words[0]
    if command in ("run", "plan"):
        name = words[1] if study else STUDIES[0].name
        return f"`crosstune --help` and `crosstune {command} {name} --help all` name them all."
    every = {v: f"{v} --help" for v in ("show", "list", *_AGAIN)} | {"repair": "repair --help all"}
    return f"`crosstune {every.get(command, '--help')}` names them all."


def _dispatch(arguments: Namespace, given: dict[str, Words], study: Study | None) -> int:
    command = arguments.command
    if command == "list":
        return _list(arguments.list.get("folder"))
    if command in _AGAIN:
        printing.text(str(_AGAIN[command](**arguments[command].as_dict())))
        return 0
    if study is None:
        show = arguments.show
        return _show(Path(show.run), draw=show.get("draw", True), all=show.get("all", False))
    if command == "repair":
        return _study("run", study, repair.settings(arguments.repair.as_dict()), given)
    verb = arguments[command]
    return _study(command, study, verb[verb.study].as_dict(), given)


def _study(verb: str, study: Study, others: dict[str, Any], given: dict[str, Words]) -> int:
    """Run or plan a study with the settings of a file and, over them, those that were given in words."""
    file, prints = others.pop("config", None), others.pop("print_config", None) is not None
    settings: Any = from_yaml(
        study.settings_class(), Path(file) if file else "\n", {**_dotted(others), **given}
    )
    if prints:
        printing.text(to_yaml(settings))
    elif verb == "plan":
        printing.plan(study.plan(settings))
    else:
        with printing.ProgressLine() as line:
            run = study.run(settings, line)
        from crosstune.foundation import ranks  # torch, which the help does without

        if ranks.is_first():
            return _show(run.folder, draw=False, all=False)
    return 0


def _dotted(given: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested settings as plain values, by dotted name."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        inner = isinstance(value, Mapping)
        found.update(_dotted(value, f"{path}{name}.") if inner else {f"{path}{name}": value})
    return found


def _show(folder: Path, *, draw: bool, all: bool) -> int:
    # The report needs neither torch nor a model, and the help needs neither of them.
    from crosstune import report
    from crosstune.foundation.records import Run

    run = Run.open(folder)
    page = report.draw(run) if draw else folder / "report.html"
    printing.text(report.summary(run, all=all))
    printing.text(f"Report: {page}")
    return 0


def _list(asked: str | None) -> int:
    folder = Path(asked or "runs")
    if asked and not folder.is_dir():
        raise StorageError(
            asked,
            law="must be a folder with runs",
            found="a file" if folder.exists() else "no such folder",
            remedy="`crosstune list` without a word looks in `runs`.",
        )
    printing.text("Studies")
    for study in STUDIES:
        printing.text(f"  {study.name:<12} {study.question}")
    printing.text(f"\nRuns in {folder}")
    places = sorted(path.parent for path in folder.glob("**/run.json") if "cells" not in path.parts)
    for place in places:
        # Not through Run, which reads tables: a list is instant, as the help is.
        about = read_json(place / "run.json")
        cells = len(list(place.glob("cells/*/run.json")))
        state = "finished" if about["finished"] else "not finished"
        printing.text(f"  {place}  {about['kind']}, {cells} cell{'s' * (cells != 1)}, {state}")
    if not places:
        printing.text("  none yet; `make quickstart` or `crosstune run conflict` makes one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
