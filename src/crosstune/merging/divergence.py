"""KL(teacher ‖ θ(w)) in nats per scored token: for users without labels, each checkpoint teaches what it knows.

`before` teaches the forgotten tasks and `after` the learned ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from crosstune.foundation.data import UNSCORED
from crosstune.foundation.errors import UnsupportedError
from crosstune.foundation.evaluation import token_logits
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.gradients.gradients import batch_of, evaluating
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.directions import wide
from crosstune.merging.evaluations import Item
from crosstune.merging.scoring import place_end


class Teachers:
    """What the two checkpoints say at every scored position of the validation rows.

    `learned` are the places of the tasks whose teacher is `after`; that of all others is `before`.
    """

    def __init__(
        self,
        ends: Endpoints,
        items: Sequence[Item],
        learned: Collection[int],
        *,
        settings: GradientSettings,
        most: int,
    ) -> None:
        model = ends.model
        vocabulary = int(model.config.vocab_size)
        scored = sum(row.scored_tokens for item in items for row in item.rows)
        if 4 * scored * vocabulary > most:
            raise UnsupportedError(
                "teacher_bytes",
                law=f"must hold {scored} scored tokens × {vocabulary} entries of float32",
                found=f"{most} bytes for {4 * scored * vocabulary}",
                remedy="Lower `rows` or `length`, or raise `teacher_bytes`.",
            )
        self._teachers: dict[int, Tensor] = {}
        for value in (0.0, 1.0):
            place_end(ends, value)
            with evaluating(model, settings), torch.no_grad():
                device = next(model.parameters()).device
                for place, item in enumerate(items):
                    if (item.task in learned) == (value == 1.0):
                        batch = batch_of(item.rows, pad_id(ends.tokenizer), device)
                        self._teachers[place] = _log_probabilities(model, batch).cpu()

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], place: int) -> Tensor:
        """The summed divergence of one batch from its teacher, a float64 scalar that can be differentiated."""
        student = _log_probabilities(model, batch)
        teacher = self._teachers[place].to(student.device)
        return (teacher.exp() * (teacher - student)).sum(dtype=torch.float64)


def _log_probabilities(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Log-probabilities at the positions that predict a scored token, [tokens, V]."""
    scored = batch["labels"][:, 1:] != UNSCORED
    return torch.log_softmax(wide(token_logits(model, batch)[:, :-1][scored]), dim=-1)
