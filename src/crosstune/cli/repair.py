"""`crosstune repair BEFORE AFTER`: two models and a file of rows a task, as the settings of the study `repair`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from crosstune.foundation.errors import SettingsError
from crosstune.studies.catalogue import find_study

SAYS = "Give back what a fine-tune forgot: one run of the study `repair` on two models."
# What the words above say, or what a pair of given models has no use for.
_ELSEWHERE = {
    "before",
    "after",
    "tasks",
    "learn",
    "dtype",
    "training",
    "ledger",
    "blocks",
    "seeds",
    "test_share",
}

_NAMED = {"--task": "NAME=ROWS", "--max_loss": "NAME=NATS"}
_SHORT = ("task", "max_loss", "granularity", "text", "group", "quick")
_QUICK: dict[str, Any] = {"baselines": [], "replay": False, "exchange_rates": []}


def parser() -> ArgumentParser:
    """The parser: two models, tasks and limits by name, and the settings of the study that a pair of models can use."""
    found = ArgumentParser(description=SAYS, exit_on_error=False)
    found.add_argument("--config", help="A YAML file with any settings of the study.")
    found.add_argument(
        "--print_config", nargs="?", const="", help="Print the whole settings as YAML, and stop."
    )
    found.add_argument("before", type=str, help="The model before: a folder, hub id or adapter.")
    found.add_argument("after", type=str, help="The model or adapter after.")
    for option, says in (
        ("task", "NAME=ROWS: a task to keep and where its rows are; at least two of them."),
        ("max_loss", "NAME=NATS: what a task may lose against AFTER, in nats per token."),
        ("granularity", "What shares a coefficient (component); several are compared."),
    ):
        found.add_argument(f"--{option}", type=str, action="append", help=says)
    found.add_argument(
        "--quick",
        action="store_true",
        help="Search only the limit that was asked for, or else a loss of 0.02: no sweep, baselines, replay or rollback.",
    )
    for option, says in (
        ("text", "Field of the rows that holds the text."),
        (
            "group",
            "Field of the rows that ties them together across tasks (document, translation).",
        ),
    ):
        found.add_argument(f"--{option}", type=str, help=says)
    found.add_class_arguments(
        find_study("repair").settings_class(), as_group=False, skip=set(_ELSEWHERE)
    )
    return found


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the study that the words say, as plain values by name."""
    rest = {name: value for name, value in given.items() if name not in _SHORT}
    fields = {name: given[name] for name in ("text", "group") if name in given}
    tasks = _named("task", given.get("task") or (), "en=rows.jsonl")
    if tasks:
        rest["tasks"] = [
            {"name": name, "source": source, **fields} for name, source in tasks.items()
        ]
    repair = dict(rest.get("repair", {}))
    if given.get("max_loss"):
        limits = _named("max_loss", given["max_loss"], "bn=0.02")
        repair["max_loss"] = {name: _nats(name, text) for name, text in limits.items()}
    if given.get("granularity"):
        repair["granularity"] = list(given["granularity"])
    if given.get("quick"):
        repair |= {**_QUICK, "budgets": [] if "max_loss" in repair else [0.02]}
        rest["rollback"] = "none"
    return {**rest, **({"repair": repair} if repair else {})}


def hint(words: Sequence[str]) -> str:
    """A hint at NAME=VALUE, where a task or limit was written with a space: a sentence with a space behind it, or nothing."""
    if list(words[:1]) != ["repair"]:
        return ""
    for option, value, following in zip(words, words[1:], [*words[2:], ""], strict=False):
        shape = _NAMED.get(option)
        if shape and "=" not in value and not value.startswith("-"):
            spaced = following and not following.startswith("-")
            meant = f"{option} {value}={following}" if spaced else f"{option} {shape}"
            return f"`{option}` must be {shape}, without a space: did you mean `{meant}`? "
    return ""


def _named(option: str, words: Sequence[str], example: str) -> dict[str, str]:
    """The values of the words `NAME=…` by name."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise SettingsError(
                f"--{option}",
                law=f"must be {_NAMED[f'--{option}']}",
                found=repr(word),
                remedy=f"Write it as `--{option} {example}`; `crosstune repair --help` names all words.",
            )
        if name in found:
            raise SettingsError(
                f"--{option}",
                law="must name each task once",
                found=f"{name} twice",
                remedy="Give the tasks different names.",
            )
        found[name] = value
    return found


def _nats(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SettingsError(
            f"--max_loss {name}",
            law="must be a number of nats per token",
            found=repr(text),
            remedy="Write it as `--max_loss bn=0.02`.",
        ) from error
