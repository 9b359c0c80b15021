"""What the embedded world is made of: its languages, tokenizer, model and pretraining."""

from __future__ import annotations

from dataclasses import dataclass

from crosstune.foundation.errors import SettingsError

EMBEDDED = "embedded"
"""What a setting calls the embedded world's model."""


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """The embedded tiny model and the toy languages it lives with."""

    language: str = "toy:latin-svo"
    """Toy language the model is pretrained on."""

    other_languages: tuple[str, ...] = ("toy:bengali-sov", "toy:arabic-vso", "toy:devanagari-sov")
    """Toy languages the tokenizer also knows, so that none of them goes byte by byte."""

    vocabulary: int = 512
    """Entries of the byte-pair tokenizer; 256 of them are bytes."""

    hidden_size: int = 64
    """Width of the model."""

    layers: int = 4
    """Blocks of the model."""

    heads: int = 4
    """Query heads; there are half as many key and value heads."""

    context: int = 256
    """Most tokens the model can read at once."""

    sentences: int = 12_000
    """Sentences of the language to learn from; they start at meaning 100,000, away from those that tasks are made of."""

    steps: int = 400
    """Optimizer steps of pretraining."""

    batch: int = 32
    """Sentences per step."""

    learning_rate: float = 4e-3
    """Peak of the one-cycle schedule: a short rise, then a cosine to zero."""

    seed: int = 0
    """Chooses initial weights and the order of sentences."""

    def __post_init__(self) -> None:
        """Refuse a world that cannot be built."""
        if self.vocabulary < 300:
            raise SettingsError(
                "vocabulary",
                law="must be at least 300: 256 bytes, 2 special tokens and some pairs",
                found=self.vocabulary,
                remedy="Use 512.",
            )
        if self.heads % 2 or self.hidden_size % (2 * self.heads):
            raise SettingsError(
                "heads",
                law="must be even and divide `hidden_size` into even parts",
                found=f"{self.heads} heads for width {self.hidden_size}",
                remedy="Use 4 heads for a width of 64.",
            )
