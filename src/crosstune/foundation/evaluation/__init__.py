"""What a model knows and writes: the one definition of the loss, scores of rows, retention, what chance gives."""

from __future__ import annotations

from crosstune.foundation.evaluation.chance import ChanceLines, chance_lines
from crosstune.foundation.evaluation.choices import ChoiceScores, score_choices
from crosstune.foundation.evaluation.generation import continuations, distinct_2, longest_repeat
from crosstune.foundation.evaluation.retention import RetentionMatrix
from crosstune.foundation.evaluation.scoring import (
    RowScores,
    labels_nats,
    logits_nats,
    score_rows,
    token_logits,
    token_nats,
)

__all__ = [
    "ChanceLines",
    "ChoiceScores",
    "RetentionMatrix",
    "RowScores",
    "chance_lines",
    "continuations",
    "distinct_2",
    "labels_nats",
    "logits_nats",
    "longest_repeat",
    "score_choices",
    "score_rows",
    "token_logits",
    "token_nats",
]
