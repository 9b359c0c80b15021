"""Tokenizers that cut bytes in unlike ways, a decoder's own texts in letters, and the same decoder with other keys and values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tests.foundation.models.decoders import decoder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from crosstune.foundation.data import Row

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJK"
"""Of a tiny decoder's 40 tokens all but padding, opening and closing."""


def _fast(model: models.Model, split: Any, decode: Any = None, *, opens: bool = True) -> Any:
    tokenizer = Tokenizer(model)
    if split:
        tokenizer.pre_tokenizer, tokenizer.decoder = split, decode
    if opens:
        opening = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=opening)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<p>")


def _pairs(pieces: list[str], *merges: tuple[str, str], **options: Any) -> models.BPE:
    pieces = ["<p>", "<s>", *pieces, *("".join(two) for two in merges)]
    return models.BPE({piece: at for at, piece in enumerate(pieces)}, [*merges], **options)


def byte_level(*merges: tuple[str, str], opens: bool = True) -> Any:
    """GPT-2's kind: letters for bytes."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = _pairs(pre_tokenizers.ByteLevel.alphabet(), *merges)
    return _fast(model, split, decoders.ByteLevel(), opens=opens)


def byte_fallback(*merges: tuple[str, str]) -> Any:
    """Llama's kind: words behind a mark, and bytes for characters that it does not know."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdehnorstw日é"]
    model = _pairs(pieces, *merges, byte_fallback=True, unk_token="<p>")
    decode = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback()])
    return _fast(model, pre_tokenizers.Metaspace(prepend_scheme="always"), decode)


def letters() -> Any:
    """One token a letter: what a tiny decoder says can be read again."""
    return _fast(_pairs(["</s>", *LETTERS]), None)


def tiny(seed: int = 0) -> Any:
    """A random Llama that looks far back: what it says depends on all it has read."""
    model = decoder("llama", seed=seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
        for layer in model.model.layers:
            layer.self_attn.v_proj.weight.mul_(3)
            layer.self_attn.o_proj.weight.mul_(3)
    return model


def turned(model: Any) -> Any:
    """The same function by other keys and values: values of all heads are turned, and back after attention; keys are doubled, queries halved."""
    other = copy.deepcopy(model)
    for layer in other.model.layers:
        attention = layer.self_attn
        turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
        with torch.no_grad():
            values = attention.v_proj.weight.unflatten(0, (-1, 4))
            attention.v_proj.weight.copy_((turn @ values).flatten(0, 1))
            back = attention.o_proj.weight.unflatten(1, (-1, 4)) @ turn.T
            attention.o_proj.weight.copy_(back.flatten(1))
            attention.k_proj.weight.mul_(2)
            attention.q_proj.weight.div_(2)
    return other


def sampled(count: int, seed: int) -> list[Row]:
    """Texts of 34 letters that the tiny decoder has written: it knows best how to go on from the whole of one."""
    generator, model = torch.Generator().manual_seed(seed), tiny()
    ids = torch.ones(count, 1, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(34):
            chances = model(ids).logits[:, -1, 3:].softmax(dim=-1)
            ids = torch.cat([ids, 3 + torch.multinomial(chances, 1, generator=generator)], dim=1)
    texts = ["".join(LETTERS[at - 3] for at in row) for row in ids[:, 1:].tolist()]
    return [Row(f"{seed}-{at}", text) for at, text in enumerate(texts)]
