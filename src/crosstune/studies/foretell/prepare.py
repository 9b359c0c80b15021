"""What every cell of a foretell study starts from: the model before, and the rows that are scored, learned and kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crosstune.circuits.samples import Samples, choose_samples
from crosstune.foundation.data import Task, check_enough, encode, read_tasks
from crosstune.foundation.errors import renamed
from crosstune.foundation.gradients.blocks import make_blocks
from crosstune.foundation.models import load_model, load_tokenizer, read_config
from crosstune.foundation.storage import fingerprint
from crosstune.foundation.training import StageData
from crosstune.studies.foretell.settings import ForetellSettings
from crosstune.studies.models import check_length, find_device, find_model

_FEW_HEADS = 16  # below this many heads of a block only a near-perfect correlation can be seen


@dataclass(frozen=True)
class Bench:
    """The parts of a study that no seed changes.

    Attributes:
        settings: The study's settings.
        before: Folder or hub id of the model before.
        tokenizer: Its tokenizer.
        old: The task that may be forgotten: `train` rows are scored, `test` rows no score sees.
        new: The task that is learned, from its `train` rows, some of which are scored.
        samples: The scored rows of the old and of the new task.
        warnings: Sentences that a user should read.
    """

    settings: ForetellSettings
    before: str
    tokenizer: Any
    old: Task
    new: Task
    samples: tuple[Samples, Samples]
    warnings: tuple[str, ...]

    @property
    def pad_id(self) -> int:
        """The token that fills short rows."""
        return int(self.tokenizer.pad_token_id)

    def fresh_model(self) -> Any:
        """The model before, on its device."""
        with renamed("path_or_id", "before"):
            return load_model(
                self.before,
                dtype=self.settings.dtype,
                device=find_device(self.settings.device),
                trust_remote_code=self.settings.trust_remote_code,
            )

    def stage_data(self) -> StageData:
        """What the training learns, and what it looks at on the way: the old task's rows that no score sees."""
        length = self.settings.training.length
        return StageData(
            train=encode(self.new.train, self.tokenizer, length),
            pad_id=self.pad_id,
            held_out={
                task.name: encode(task.test, self.tokenizer, length)
                for task in (self.old, self.new)
            },
            tokenizer=fingerprint(self.tokenizer.get_vocab()),
        )


def prepare(settings: ForetellSettings) -> Bench:
    """Read and split the tasks, choose the rows that are scored, and find the model before.

    Args:
        settings: The study's settings.

    Returns:
        What every cell starts from.
    """
    before = find_model(settings.before)
    trusted = settings.trust_remote_code
    with renamed("path_or_id", "before"):
        config = read_config(before, trust_remote_code=trusted)
        tokenizer = load_tokenizer(before, trust_remote_code=trusted)
    check_length("training.length", settings.training.length, config)
    tasks = {
        task.name: task
        for task in read_tasks(
            settings.tasks, test_share=settings.test_share, samples=None, seed=settings.data_seed
        )
    }
    old, new = tasks[settings.old_task], tasks[settings.new_task]
    check_enough([new], settings.training.batch_rows, "training.batch_rows")
    chosen = choose_samples(old, new, tokenizer, settings.circuit_settings())
    for side, rows in (("train", old.train), ("test", old.test)):
        # The ledger makes the same blocks; too few rows are better known before anything is scored.
        make_blocks(
            old.name,
            rows,
            tokenizer,
            settings.block_settings(),
            argument=f"tasks[{old.name!r}] ({side} rows)",
        )
    warnings = (*_few_heads(config), *_few_seeds(settings))
    return Bench(settings, before, tokenizer, old, new, chosen, warnings)


def _few_heads(config: Any) -> list[str]:
    heads = config.num_hidden_layers * config.num_attention_heads
    if heads > 2 * _FEW_HEADS:
        return []
    return [
        f"The model has {heads} query heads: only a high correlation can be told from chance, and the page says which."
    ]


def _few_seeds(settings: ForetellSettings) -> list[str]:
    if len(settings.seeds) > 1:
        return []
    return ["One seed: how far another training would forget elsewhere is not known."]
