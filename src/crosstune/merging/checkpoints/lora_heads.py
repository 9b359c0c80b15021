"""Heads of an output projection under LoRA: there A moves in place of B, because a head is some of A's columns.

The joint adapter has checkpoint j as B_j A with B_j = [0 … s_j B_j … 0]: each uses other columns of B. So one
B = Σ_j B_j serves all of them, and checkpoint j is A with the rows of the others zero: the same products, and linear
in coefficients of A's columns, as B_j is in coefficients of B's rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from crosstune.foundation.errors import UnsupportedError
from crosstune.foundation.models import Anatomy
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.checkpoints.weights import all_names, in_memory


def by_input(ends: Endpoints) -> Endpoints:
    """The same endpoints, of whose output projections A differs in place of B; those of a full model as they are.

    The work model is left at `after`. The endpoints given are of no use any more: they would not move A back.
    """
    turned: dict[str, list[Tensor]] = {}
    for b_name in _output_factors(ends):
        a_name = b_name.replace(".lora_B.", ".lora_A.")
        factors = [ends.tensor(at, b_name) for at in range(ends.count + 1)]
        whole, used = _together(factors, b_name)
        a = _a(ends, a_name)
        turned[b_name] = [whole] * len(factors)
        turned[a_name] = [torch.where(rows[:, None], a, torch.zeros_like(a)) for rows in used]
    if not turned:
        return ends
    held = dict(ends.model.named_parameters())
    with torch.no_grad():
        for name, tensors in turned.items():
            held[name].copy_(tensors[-1])
    moved = {name for name in (*ends.names, *turned) if _differs(turned.get(name))}
    return replace(
        ends,
        names=tuple(name for name in all_names(ends.model) if name in moved),
        weights=tuple(
            {**end, **in_memory({name: tensors[at] for name, tensors in turned.items()})}
            for at, end in enumerate(ends.weights)
        ),
    )


def _output_factors(ends: Endpoints) -> Iterator[str]:
    """The B of every output projection that differs between the endpoints."""
    anatomy = Anatomy.of(ends.model)
    for name in ends.names:
        sites = {part.site for part in anatomy.parts_of(name)}
        if any(site.component == "attn.o" and site.factor == "B" for site in sites):
            yield name


def _together(factors: Sequence[Tensor], name: str) -> tuple[Tensor, list[Tensor]]:
    """The one B that holds the columns of all, and which columns each of them uses."""
    whole = torch.zeros_like(factors[-1])
    used = [factor.any(dim=0) for factor in factors]
    for factor, columns in zip(factors, used, strict=True):
        taken = columns & whole.any(dim=0)
        if not torch.equal(whole[:, taken], factor[:, taken]):
            raise UnsupportedError(
                "granularity",
                law="must not be by head where two checkpoints share a factor A of an output projection: a head is "
                "some of A's columns, and the two want the same A with different B",
                found=name,
                remedy="Use `component`, or merge the adapters into their base and give full models.",
            )
        whole[:, columns] = factor[:, columns]
    return whole, used


def _a(ends: Endpoints, name: str) -> Tensor:
    """The A of all; the work model's, where no checkpoint moves or trains it."""
    if name in ends.weights[-1]:
        return ends.tensor(ends.count, name)
    found: Tensor = dict(ends.model.named_parameters())[name]
    return found.detach().cpu()


def _differs(tensors: Sequence[Tensor] | None) -> bool:
    """True for what is left as it was, which differs anyway."""
    return tensors is None or any(not torch.equal(one, tensors[-1]) for one in tensors)
