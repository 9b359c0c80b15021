"""Tokenizers that cut bytes in unlike ways, a decoder's own texts in letters, and the same decoder with other keys and values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tests.foundation.models.decoders import decoder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from crosstune.foundation.data import Row

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJK"  # of 40 tokens all but the special ones


def _fast(pieces: list[str], *merges: tuple[str, str], opens: bool = True, **kept: Any) -> Any:
    pieces = ["<p>", "<s>", *pieces, *("".join(two) for two in merges)]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, [*merges], byte_fallback="<0x00>" in pieces, unk_token="<p>")
    tokenizer = Tokenizer(model)
    if opens:
        opening = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
        kept["post_processor"] = opening
    for name, value in kept.items():
        setattr(tokenizer, name, value)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<p>")


def byte_level(*merges: tuple[str, str], opens: bool = True) -> Any:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    kept = {"pre_tokenizer": split, "decoder": decoders.ByteLevel(), "opens": opens}
    return _fast(split.alphabet(), *merges, **kept)


def byte_fallback(*merges: tuple[str, str]) -> Any:
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdehnorstw日é"]
    split = pre_tokenizers.Metaspace(prepend_scheme="always")
    decode = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback()])
    return _fast(pieces, *merges, pre_tokenizer=split, decoder=decode)


def letters() -> Any:
    return _fast(["</s>", *LETTERS])


def tiny(seed: int = 0) -> Any:
    """A random Llama that looks far back: what it says depends on all it has read."""
    model = decoder("llama", seed=seed)
    model.lm_head.weight.data *= 2
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight.data *= 9
    return model


def scaled(model: Any) -> Any:
    """The same function by other keys and values, which queries and outputs undo."""
    other = copy.deepcopy(model)
    for one in (layer.self_attn for layer in other.model.layers):
        for made, undone, by in ((one.k_proj, one.q_proj, 2.0), (one.v_proj, one.o_proj, -3.0)):
            made.weight.data *= by
            undone.weight.data /= by
    return other


def sampled(count: int, seed: int) -> list[Row]:
    """Texts of 34 letters that the tiny decoder has written: it knows best how to go on from the whole of one."""
    generator, model = torch.Generator().manual_seed(seed), tiny()
    ids = torch.ones(count, 1, dtype=torch.int64)
    for _ in range(34):
        chances = model(ids).logits[:, -1, 3:].softmax(dim=-1).detach()
        ids = torch.cat([ids, 3 + torch.multinomial(chances, 1, generator=generator)], dim=1)
    texts = ["".join(LETTERS[at - 3] for at in row) for row in ids[:, 1:].tolist()]
    return [Row(f"{seed}-{at}", text) for at, text in enumerate(texts)]
