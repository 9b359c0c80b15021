"""What a model knows: the one definition of the loss, scores of rows, what was retained, what chance gives."""

from __future__ import annotations

from crosstune.foundation.evaluation.scoring import RowScores, score_rows, token_nats

__all__ = ["RowScores", "score_rows", "token_nats"]
