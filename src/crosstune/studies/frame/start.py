"""The model that a study starts from: its folder, tokenizer and configuration, the rows it can read, and fresh copies of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from crosstune.foundation import ranks
from crosstune.foundation.data import Encoded, Row, encode
from crosstune.foundation.errors import ModelError, renamed
from crosstune.foundation.models import load_model, load_tokenizer, read_config
from crosstune.foundation.storage import fingerprint, read_json
from crosstune.foundation.training import LoraSettings, StageData, with_lora
from crosstune.foundation.worlds import EMBEDDED, embedded_world
from crosstune.studies.frame.settings import StudySettings

_ADAPTER = "adapter_config.json"


class StartModel:
    """A whole model, or an adapter and the model it belongs to, as a setting of the study names it.

    Errors name that setting; `place` says where the model is when it names several.
    """

    def __init__(self, settings: StudySettings, setting: str, place: str | None = None) -> None:
        self.settings = settings
        self.setting = setting
        self.place = find_model(getattr(settings, setting) if place is None else place)
        adapter = Path(self.place) / _ADAPTER
        self.base = (
            str(read_json(adapter)["base_model_name_or_path"]) if adapter.is_file() else self.place
        )

    @property
    def device(self) -> str:
        """Where copies of it live."""
        return find_device(self.settings.device)

    @cached_property
    def config(self) -> Any:
        """The configuration of the whole model."""
        with renamed("path_or_id", self.setting):
            return read_config(self.base, trust_remote_code=self.settings.trust_remote_code)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        with renamed("path_or_id", self.setting):
            return load_tokenizer(self.base, trust_remote_code=self.settings.trust_remote_code)

    @property
    def pad_id(self) -> int:
        """The token that fills short rows."""
        return int(self.tokenizer.pad_token_id)

    def load(self, lora: LoraSettings | None = None, seed: int = 0) -> Any:
        """A fresh copy on the study's device, ready to be trained; `seed` decides the first values of new adapters."""
        with renamed("path_or_id", self.setting):
            model = load_model(
                self.base,
                dtype=self.settings.dtype,
                device=self.device,
                trust_remote_code=self.settings.trust_remote_code,
            )
        if self.base != self.place:
            return PeftModel.from_pretrained(model, self.place, is_trainable=True)
        return model if lora is None else with_lora(model, lora, seed)

    def stage_data(
        self,
        train: Sequence[Row],
        held_out: Mapping[str, Sequence[Row]],
        length: int,
        *,
        windows: bool = False,
    ) -> StageData:
        """What a training learns, and which named sets it evaluates on the way, in rows of `length` tokens.

        With `windows` the rest of longer rows is kept, in windows of their own.
        """

        def encoded(rows: Sequence[Row]) -> list[Encoded]:
            return encode(rows, self.tokenizer, length, window=windows)

        return StageData(
            train=encoded(train),
            pad_id=self.pad_id,
            held_out={name: encoded(rows) for name, rows in held_out.items()},
            tokenizer=fingerprint(self.tokenizer.get_vocab()),
        )


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
