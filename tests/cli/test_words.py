"""Words of a command: settings with their values, the rest, what was probably meant, and a help cut from a longer one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from jsonargparse import ArgumentParser, set_parsing_settings

from crosstune.cli.words import nearest, own_parser, short_help, split
from crosstune.foundation.errors import SettingsError


@dataclass(frozen=True)
class Inner:
    batch_rows: int = 8
    """Rows of a step."""


@dataclass(frozen=True)
class Chosen:
    many_seeds: tuple[int, ...] = (0, 1)
    """One cell each; a sentence that is long enough to need a second line in eighty columns."""
    training: Inner = field(default_factory=Inner)
    """How it is trained."""
    names: tuple[str, ...] = ()
    """Names."""


@pytest.fixture
def parser() -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    whole, found = ArgumentParser(exit_on_error=False), ArgumentParser(exit_on_error=False)
    found.add_argument("--config", help="A file.")
    found.add_argument("--all", action="store_true", help="Everything.")
    found.add_class_arguments(Chosen, as_group=False)
    whole.add_subcommands(dest="command").add_subcommand("run", found)
    return whole


def test_settings_are_told_from_other_words() -> None:
    words = [
        "run",
        "--many-seeds",
        "[1, 2]",
        "--max-loss=en-us=-1",
        "-x",
        "--training.batch-rows=3",
    ]
    words += ["--names", "-1", "--training.help", "--print-config"]
    given, others = split(words, Chosen, {"many_seeds", "training", "names"})
    assert given == {"many_seeds": "[1, 2]", "training.batch_rows": "3", "names": "-1"}
    assert others == ["run", "--max_loss=en-us=-1", "-x", "--training.help", "--print_config"]
    assert split(["--many-seeds", "1"], Chosen, set()) == ({}, ["--many_seeds", "1"])


@pytest.mark.parametrize("words", [["--names"], ["--names", "--training.batch_rows", "1"]])
def test_a_setting_without_a_value_is_named(words: list[str]) -> None:
    with pytest.raises(SettingsError, match="`--names` needs a value"):
        split(words, Chosen, {"names", "training"})


def test_the_nearest_command_or_option_is_named(parser: ArgumentParser) -> None:
    assert nearest(["rnu", "--config"], own_parser(parser, ["rnu"])) == "Did you mean `run`? "
    own = own_parser(parser, ["run", "--name"])
    assert nearest(["run", "name", "--config", "--name"], own) == "Did you mean `--names`? "
    assert nearest(["run", "--zzz"], own) == ""


def test_the_short_help_has_own_words_and_common_settings(parser: ArgumentParser) -> None:
    own = own_parser(parser, ["run"])
    names = {"many_seeds", "training", "names"}
    text = short_help("crosstune run", own, names, ("many_seeds", "training.batch_rows"))
    assert text.splitlines() == [
        "usage: crosstune run [--NAME VALUE ...]",
        "",
        "",
        "  --config                  A file.",
        "  --all                     Everything.",
        "  --many_seeds              One cell each; a sentence that is long enough to",
        "                            need a second line in eighty columns. (0, 1)",
        "  --training.batch_rows     Rows of a step. (8)",
        "  --help all                Every setting, with its type and default.",
    ]
