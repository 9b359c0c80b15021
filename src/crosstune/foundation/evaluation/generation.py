"""What a model writes after a prompt: greedy continuations that depend on nothing but model and prompt, and how they repeat."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.models import measuring, positions


def continuations(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    new_tokens: int = 40,
    prefill: AbstractContextManager[Any] | None = None,
) -> list[str]:
    """Each prompt is continued by the most likely next token, again and again, as if it were alone.

    A continuation stops before the tokenizer's end-of-text token. Prompts that share a batch are padded on the left and
    their positions counted from their first real token, whatever side the tokenizer pads. Of equally likely
    tokens the one with the smaller id is taken.

    Args:
        model: A causal language model; it is left exactly as it was found, and so are the random states.
        tokenizer: Its tokenizer.
        prompts: Texts to go on from.
        new_tokens: The most tokens of a continuation.
        prefill: Entered around the forward pass that reads the prompts, and around no other.

    Returns:
        The continuations, without special tokens, in the order of the prompts; a prompt and its continuation, put
        together, read as one text.

    Raises:
        DataError: A prompt has no token.
        SettingsError: `new_tokens` is below 1, or more than the model's context leaves for the longest prompt.
    """
    if not prompts:
        return []
    encoded = [_ids(tokenizer, prompt) for prompt in prompts]
    _check_room(model, max(map(len, encoded)), new_tokens)
    device = next(model.parameters()).device
    with measuring(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        written = _greedy(
            model, encoded, tokenizer.eos_token_id, new_tokens, prefill or nullcontext()
        )
    return [_text(tokenizer, *ids) for ids in zip(encoded, written, strict=True)]


def _ids(tokenizer: Any, prompt: str) -> list[int]:
    ids: list[int] = tokenizer(prompt)["input_ids"]
    # Some tokenizers close every text; what follows the end of a text is another text.
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    if not ids:
        raise DataError(
            "prompts",
            law="must have at least one token to go on from",
            found=repr(prompt),
            remedy="Begin the prompt with a word.",
        )
    return ids


def _text(tokenizer: Any, prompt: list[int], written: list[int]) -> str:
    """What the new tokens add to the text: decoded alone, some tokenizers drop their first space."""
    begun: str = tokenizer.decode(prompt, skip_special_tokens=True)
    whole: str = tokenizer.decode(prompt + written, skip_special_tokens=True)
    if whole.startswith(begun):
        return whole[len(begun) :]
    return str(tokenizer.decode(written, skip_special_tokens=True))


def _check_room(model: nn.Module, longest: int, new_tokens: int) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    room = new_tokens if context is None else context - longest
    if not 1 <= new_tokens <= room:
        raise SettingsError(
            "new_tokens",
            law=f"must be at least 1 and fit the model's context of {context} tokens with the longest prompt",
            found=f"{new_tokens} after {longest} tokens of prompt",
            remedy="Ask for fewer tokens, or shorten the prompts.",
        )


def _greedy(
    model: nn.Module,
    prompts: list[list[int]],
    end: int | None,
    new_tokens: int,
    prefill: AbstractContextManager[Any],
) -> list[list[int]]:
    """The new tokens of each prompt, up to its first end-of-text token."""
    ids, mask = _padded(prompts, next(model.parameters()).device)
    position = positions(mask)
    cache, entered, written, around = None, ids, [], prefill
    for _ in range(new_tokens):
        with around:
            outputs = model(
                input_ids=entered,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
        around = nullcontext()
        cache = outputs.past_key_values
        entered = outputs.logits[:, -1:].argmax(-1)
        written.append(entered)
        position = position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        if end is not None and all((torch.cat(written, -1) == end).any(-1)):
            break
    found = torch.cat(written, -1).tolist()
    return [line[: line.index(end)] if end in line else line for line in found]


def _padded(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask with padding on the left; the padding's id is never attended to."""
    length = max(map(len, prompts))
    ids = [[0] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def distinct_2(texts: Sequence[str]) -> float:
    """The share of different ones among all pairs of neighbouring words, over all texts; 1 where nothing is said twice.

    Args:
        texts: What was written; a word is what white space parts.

    Returns:
        From 0 to 1; NaN where no text has two words.

    Source: Li, Galley, Brockett, Gao, Dolan 2016 (distinct-2), divided by pairs instead of words.
    """
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else math.nan


def longest_repeat(text: str) -> int:
    """How many words the longest run of words has that stands at two places of a text, which may overlap.

    Args:
        text: What was written; a word is what white space parts.

    Returns:
        0 where no word comes twice.
    """
    words = text.split()

    def all_differ(size: int) -> bool:
        runs = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
        return len(set(runs)) == len(runs)

    # A run that comes twice brings every shorter one along.
    return bisect_left(range(1, len(words) + 1), True, key=all_differ)
