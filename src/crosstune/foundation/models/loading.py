"""Reading and writing decoders as ordinary Hugging Face folders: safetensors only, whole, finite."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from crosstune.foundation.errors import ModelError, StorageError
from crosstune.foundation.storage import atomic_folder

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TOKENIZER = "tokenizer_config.json"
_HUB_SECONDS = 3.0  # in which the hub must answer
_DECODER_SUFFIXES = ("ForCausalLM", "LMHeadModel")


def load_model(
    path_or_id: str | Path,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """Return the decoder in a local folder or under a hub id, in eval mode, whole and finite.

    Args:
        path_or_id: A folder, or a hub id such as ``HuggingFaceTB/SmolLM2-135M``.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16``, ``float16`` or ``float64``.
        device: Where the weights go.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        The model.

    Raises:
        ModelError: Not a decoder, an unknown dtype, or weights that are not finite.
        StorageError: A folder or file is missing, or does not hold the whole model.
    """
    wanted, place = _dtype(dtype), check_device(device)
    where = _resolve(path_or_id)
    config = read_config(path_or_id, trust_remote_code=trust_remote_code)
    if Path(where).is_dir() and not list(Path(where).glob("*.safetensors")):
        raise StorageError(
            "path_or_id",
            law="must hold weights as safetensors",
            found=f"{where} without any *.safetensors",
            remedy="Save the model again with save_pretrained(); pickled weights are never read.",
        )
    model, info = _read(
        AutoModelForCausalLM,
        where,
        config=config,
        dtype=wanted,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported by _check_whole, with the name of the weight
        trust_remote_code=trust_remote_code,
    )
    _check_whole(info, where)
    model.to(place)
    check_finite(model)
    return model


def read_config(path_or_id: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Return the configuration of the decoder in a local folder or under a hub id; no weight is read.

    Args:
        path_or_id: As for `load_model`.
        trust_remote_code: Likewise.

    Returns:
        The configuration.

    Raises:
        ModelError: Not a decoder.
        StorageError: A folder or file is missing.
    """
    where = _resolve(path_or_id)
    config = _read(AutoConfig, where, trust_remote_code=trust_remote_code)
    _check_decoder(config, where)
    return config


def load_tokenizer(path_or_id: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer beside a model or adapter; one without a padding token pads with its end-of-text token.

    Args:
        path_or_id: As for `load_model`.
        trust_remote_code: Likewise.

    Returns:
        The tokenizer.

    Raises:
        ModelError: It has neither a padding nor an end-of-text token.
        StorageError: A folder or file is missing.
    """
    where = _resolve(path_or_id, or_else=_TOKENIZER)
    tokenizer = _read(AutoTokenizer, where, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                "path_or_id",
                law="must have a tokenizer with a padding or end-of-text token",
                found="neither",
                remedy="Set tokenizer.pad_token and save it again.",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_finite(model: nn.Module) -> None:
    """Raise unless every parameter is finite.

    Args:
        model: The model.

    Raises:
        ModelError: Names the first parameter that is not, and how many elements.
    """
    for name, parameter in model.named_parameters():
        wrong = parameter.numel() - int(torch.isfinite(parameter.detach()).sum())
        if wrong:
            raise ModelError(
                f"model.{name}",
                law="must be finite",
                found=f"{wrong} of {parameter.numel()} elements NaN or infinite",
                remedy="Use an earlier checkpoint, or a dtype with more range than float16.",
            )


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Write an ordinary Hugging Face folder that is there whole or not at all.

    An older model in the same place is replaced.

    Args:
        model: A transformers or PEFT model.
        tokenizer: Its tokenizer, or None.
        folder: Where it goes; anything there that is not a model is left alone.

    Returns:
        The folder's path.

    Raises:
        StorageError: The place holds something that is not a model.
    """
    target = Path(folder)
    if target.exists() and not _replaceable(target):
        raise StorageError(
            "folder",
            law="must be free, empty or hold a saved model",
            found=f"other content at {target}",
            remedy="Choose another folder.",
        )
    with atomic_folder(target, replace=True) as fresh:
        model.save_pretrained(fresh)
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
    return target


def _replaceable(target: Path) -> bool:
    if not target.is_dir():
        return False
    names = {path.name for path in target.iterdir()}
    return not names or bool(names & {"config.json", "adapter_config.json"})


def _dtype(name: str) -> Any:
    if name != "auto" and name not in DTYPES:
        raise ModelError(
            "dtype",
            law=f"must be auto, {', '.join(DTYPES)}",
            found=repr(name),
            remedy="auto keeps the dtype in which the model was saved.",
        )
    return DTYPES.get(name, name)


def check_device(name: str) -> torch.device:
    """The device of that name, if torch sees it here."""
    known = {"cpu"} | {str(torch.accelerator.current_accelerator())}
    kind = name.split(":")[0]
    if kind not in known:
        raise ModelError(
            "device",
            law="must be a device that torch sees here",
            found=repr(name),
            remedy=f"Use {' or '.join(sorted(known - {'None'}))}.",
        )
    return torch.device(name)


def _resolve(path_or_id: str | Path, or_else: str = "config.json") -> str:
    """Return the folder or hub id; what looks like a path must exist, and hold a config.json or the other file."""
    text = str(path_or_id)
    path = Path(text).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", or_else)):
            names = sorted(file.name for file in path.iterdir())
            raise StorageError(
                "path_or_id",
                law="must be a model folder with a config.json",
                found=f"{path} with {', '.join(names[:6]) or 'nothing in it'}",
                remedy="For a PEFT adapter, load its base model and put the adapter on with peft.",
            )
        return str(path)
    looks_like_path = isinstance(path_or_id, Path) or text.startswith((".", "/", "~"))
    if looks_like_path or text.count("/") > 1 or path.exists():
        raise StorageError(
            "path_or_id",
            law="must be an existing folder or a hub id",
            found=f"{text!r}, which is not a folder",
            remedy="Check the path.",
        )
    return text


def _read(auto: Any, where: str, **options: Any) -> Any:
    """Call `from_pretrained`, with what the library could not read said in our words."""
    try:
        with hub_or_cache(where):
            return auto.from_pretrained(where, **options)
    except (OSError, ValueError, SafetensorError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise StorageError(
            "path_or_id",
            law="must be readable by transformers",
            found=f"{where!r}: {first_line}",
            remedy="Check the name or path, the network, and whether the model needs trust_remote_code.",
        ) from error


@contextmanager
def hub_or_cache(where: str) -> Iterator[None]:
    """Inside, where the hub does not answer at once, its libraries look in their cache alone, as if HF_HUB_OFFLINE were set.

    They would otherwise ask for every file six times, half a minute long. A folder needs no hub.
    """
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not (Path(where).is_dir() or _hub_answers())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _hub_answers() -> bool:
    """Whether the hub answers one short question; a refusal, and a certificate that only Python does not know, are answers."""
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=_HUB_SECONDS):
            return True
    except HTTPError:
        return True
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False


def _check_decoder(config: Any, where: str) -> None:
    architectures = tuple(config.architectures or ())
    decoder = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or hasattr(config, "auto_map")
    named = not architectures or any(name.endswith(_DECODER_SUFFIXES) for name in architectures)
    if getattr(config, "is_encoder_decoder", False) or not decoder or not named:
        raise ModelError(
            "path_or_id",
            law="must be a decoder with a language-model head",
            found=f"{config.model_type} ({', '.join(architectures) or 'no architecture named'}) at {where!r}",
            remedy="Use a causal language model, such as Llama, Qwen or GPT-2.",
        )


def _check_whole(info: Any, where: str) -> None:
    missing = sorted(info["missing_keys"])
    mismatched = [key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]]
    if missing or mismatched:
        raise StorageError(
            "path_or_id",
            law="must hold every weight of the model",
            found=f"{len(missing)} missing and {len(mismatched)} of another shape at {where!r}, "
            f"first {(missing + mismatched)[0]}",
            remedy="A missing weight would be random; fetch or save the model again.",
        )


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of every parameter's name, shape, dtype and bits.

    Args:
        model: Any model.

    Returns:
        16 hexadecimal digits.
    """
    return tensors_fingerprint(model.named_parameters())


def tensors_fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes, dtypes and bits, in the order given: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in named:
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()[:16]
