"""The model that a study starts from: its folder, tokenizer and configuration, the rows it can read, and fresh copies of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from peft import PeftModel

from crosstune.foundation.data import Encoded, Row, encode
from crosstune.foundation.errors import renamed
from crosstune.foundation.models import load_model, load_tokenizer, read_config
from crosstune.foundation.storage import fingerprint, read_json
from crosstune.foundation.training import LoraSettings, StageData, with_lora
from crosstune.studies.frame.models import find_device, find_model
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
