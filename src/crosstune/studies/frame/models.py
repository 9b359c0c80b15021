"""The model that a study begins with: where it is, on which device it lives, and how long its rows may be."""

from __future__ import annotations

from typing import Any

import torch

from crosstune.foundation import ranks
from crosstune.foundation.errors import ModelError
from crosstune.foundation.worlds import EMBEDDED, embedded_world


def find_model(name: str) -> str:
    """The folder or hub id of a model; the embedded one is made on first use, by the first process alone."""
    if name != EMBEDDED:
        return name
    if not ranks.is_first():
        ranks.wait_for_all()  # the first process makes the world, once
    folder = embedded_world().folder
    if ranks.is_first():
        ranks.wait_for_all()
    return str(folder)


def find_device(name: str) -> str:
    """The device of a setting; `auto` is an accelerator where there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_length(argument: str, length: int, config: Any, *, windows: str = "") -> None:
    """Refuse rows of more tokens than the model can read, as the setting `argument` says.

    `windows` is the setting by which the rest of longer rows is kept, where there is one.
    """
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise ModelError(
            argument,
            law=f"must not exceed what the model can read ({most} tokens)",
            found=length,
            remedy="Set it to that or less; "
            + (
                f"`{windows}: true` keeps the rest of long rows."
                if windows
                else "long rows are cut."
            ),
        )
