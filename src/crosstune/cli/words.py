"""How the words of a command are read: settings by dotted name, hints at what was meant, and a help of what matters first."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Container, Sequence

from jsonargparse import ArgumentParser

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings.yaml import Words, known_name

_WIDTH = 80  # of the short help
_COLUMN = 28  # where its sentences begin
_LONG = 30  # characters from which a default is left to the long help

_ABOUT = re.compile(
    r" ?\((?:required, )?(?:type|default): .*\)$"
)  # what the parser adds to a help text


def own_parser(parser: ArgumentParser, words: Sequence[str]) -> ArgumentParser:
    """The parser of the command that the first words name, or of as much of it as is known."""
    for word in words[:2]:
        commands = parser._subcommands_action
        parser = commands._name_parser_map.get(word, parser) if commands else parser
    return parser


def options(parser: ArgumentParser) -> list[str]:
    """What a parser knows at its place: commands, or options."""
    if parser._subcommands_action:
        return list(parser._subcommands_action._name_parser_map)
    return [option for action in parser._actions for option in action.option_strings]


def split(
    words: Sequence[str], cls: type | None, names: Container[str]
) -> tuple[dict[str, Words], list[str]]:
    """The settings that were said, by dotted name, and all other words; a dash in the name of an option is an underscore.

    `names` are the fields of the settings class `cls` that the command takes.
    """
    given: dict[str, Words] = {}
    others: list[str] = []
    left = iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        name = known_name(cls, option[2:])
        if not option.startswith("--"):
            others.append(word)
        elif name.split(".")[0] not in names or name.endswith(".help"):
            others.append(f"--{option[2:].replace('-', '_')}{equals}{value}")
        else:
            said = value if equals else next(left, "--")
            if said.startswith("--"):
                raise SettingsError(
                    option, law="needs a value", found="none", remedy=f"Write `{option} VALUE`."
                )
            given[name] = Words(said)
    return given, others


def nearest(words: Sequence[str], parser: ArgumentParser) -> str:
    """A hint at the command or option that was probably meant: a sentence with a space behind it, or nothing."""
    known = options(parser)
    for word in (word.split("=")[0] for word in words):
        is_option = word.startswith("--")
        near = difflib.get_close_matches(word, known, n=1)
        if near and word not in known and is_option != bool(parser._subcommands_action):
            return f"Did you mean `{near[0]}`? "
    return ""


def short_help(
    command: str, parser: ArgumentParser, names: Container[str], common: Container[str]
) -> str:
    """The help of a command cut from that of all: its own words and, of its settings `names`, the common ones."""
    lines = [f"usage: {command} [--NAME VALUE ...]", ""]
    lines += [*textwrap.wrap(parser.description or "", _WIDTH), ""]
    flags = {
        one for action in parser._actions if action.nargs == 0 for one in action.option_strings
    }
    for entry in re.split(r"\n(?=  \S)|\n\n", parser.format_help()):
        name, *says = entry.split() or [""]
        setting = name.lstrip("-")
        if (
            entry.startswith("  ")
            and name != "-h,"
            and (setting in common or setting.split(".")[0] not in names)
        ):
            has_value = name.startswith("--") and name not in flags
            lines += _entry(name, " ".join(says[1:] if has_value else says))
    return "\n".join([*lines, *_entry("--help all", "Every setting, with its type and default.")])


def _entry(name: str, text: str) -> list[str]:
    """An entry of the short help: a default is told where it is short."""
    about = _ABOUT.search(text)
    default = about[0].partition("default: ")[2][:-1] if about else ""
    if default in ("", "null", "()", "{}", "False") or len(default) > _LONG:
        default = ""
    elif not default.startswith("("):
        default = f"({default})"
    says = f"{_ABOUT.sub('', text)} {default}"
    head = f"  {name} ".ljust(_COLUMN)
    return textwrap.wrap(head + says, _WIDTH, subsequent_indent=" " * _COLUMN)
