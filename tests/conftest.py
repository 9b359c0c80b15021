"""What every test may ask for: the shared real data and models, or a reason why they are missing."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout with real languages and tiny real models; skips where absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(
            "no real data: ../shared is not beside this checkout (the embedded twin has run)"
        )
    return SHARED


def pytest_collection_finish() -> None:
    """What is imported stays: the collections with which every training begins need not walk all of torch."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where torch sees no device; torch is imported only when asked."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(
                pytest.mark.skip(reason="needs a CUDA device, and torch sees none here")
            )
