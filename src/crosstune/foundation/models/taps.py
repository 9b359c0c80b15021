"""Taps: what went into each module of a model, and the gradient that came back to its output, in one forward and backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crosstune.foundation.models.measuring import ask_gradients_of, requires_grad_kept


class Tap(NamedTuple):
    """One call of a module; everything else about its parameters' gradients follows from it.

    Attributes:
        module: A module that owns parameters, and whose children own none, or that is around such a one.
        names: Those of its parameters that were asked for: attribute → name in the model.
        inputs: Its positional arguments, detached.
        keywords: Its keyword arguments, detached.
        gradients: For each floating tensor it returned, the gradient of the sum; None where the sum
            does not depend on it.
    """

    module: nn.Module
    names: Mapping[str, str]
    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any]
    gradients: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Capture:
    """What one forward and backward pass let be seen.

    Attributes:
        values: What the forward pass returned, detached.
        taps: The calls of the modules, in order.
        missed: Parameters whose gradient may not follow from the taps alone: something beside their
            module used them, their module was called twice, or what it took or gave was overwritten.
    """

    values: Tensor
    taps: tuple[Tap, ...]
    missed: tuple[str, ...]


def capture(
    model: nn.Module,
    names: Sequence[str],
    forward: Callable[[], Tensor],
    *,
    factor: float = 1.0,
    around: Mapping[str, str] | None = None,
) -> Capture:
    """The taps of every module that owns a named parameter; no gradient of a parameter is formed.

    The sum of what `forward` returns is differentiated, so a row's share of a tap depends on no other
    row. No trace is left: hooks are removed and `requires_grad` is put back.

    Args:
        model: The model; what it calls again in the backward pass, to save memory, is not tapped again.
        names: The parameters, by their names in ``model.named_parameters()``.
        forward: Runs the model and returns the values whose sum is differentiated.
        factor: What the sum is multiplied by.
        around: Parameters that are tapped at another module than their owner, by its name: at the wrapper
            that adapts them, whose calls show the gradient of the weight that is in effect.

    Returns:
        The values and the taps.
    """
    known = dict(model.named_parameters())
    wanted = {name: known[name] for name in names}
    recorder = _Recorder()
    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(requires_grad_kept(model))
        ask_gradients_of(model, wanted)
        for module, held in _tapped(model, wanted, around or {}).items():
            stack.enter_context(recorder.at(module, held, [wanted[n] for n in held.values()]))
        values = forward()
        recorder.closed = True
        outputs = [output for call in recorder.calls for output in call.outputs]
        # A parameter asks for a gradient only outside its own module, so one that has it was used elsewhere.
        found = torch.autograd.grad(
            values,
            [*outputs, *wanted.values()],
            torch.full_like(values, factor),
            allow_unused=True,
        )
    gradients = iter(found[: len(outputs)])
    taps = tuple(call.tap([next(gradients) for _ in call.outputs]) for call in recorder.calls)
    elsewhere = zip(wanted, found[len(outputs) :], strict=True)
    missed = {name for name, gradient in elsewhere if gradient is not None}
    missed |= {name for call in recorder.doubtful() for name in call.names.values()}
    return Capture(values.detach(), taps, tuple(name for name in names if name in missed))


def _tapped(
    model: nn.Module, wanted: Mapping[str, nn.Parameter], around: Mapping[str, str]
) -> dict[nn.Module, dict[str, str]]:
    """Every module that is tapped: attribute → name of a parameter."""
    found = _owners(model, {name: wanted[name] for name in wanted if name not in around})
    for name, path in around.items():
        found.setdefault(model.get_submodule(path), {})[name.rpartition(".")[2]] = name
    return found


def _owners(
    model: nn.Module, wanted: Mapping[str, nn.Parameter]
) -> dict[nn.Module, dict[str, str]]:
    """Every module that owns wanted parameters and has no parameters below it: attribute → name."""
    names = {id(parameter): name for name, parameter in wanted.items()}
    found: dict[nn.Module, dict[str, str]] = {}
    for module in model.modules():
        own = {a: p for a, p in module._parameters.items() if p is not None}
        held = {attribute: names[id(p)] for attribute, p in own.items() if id(p) in names}
        if held and len(list(module.parameters())) == len(own):
            found[module] = held
    return found


@dataclass
class _Call:
    """A call of a module, before the backward pass."""

    module: nn.Module
    names: Mapping[str, str]
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: list[Tensor]

    def __post_init__(self) -> None:
        self._versions = self._count_writes()

    @property
    def overwritten(self) -> bool:
        """True where something wrote into an input or an output after the call."""
        return self._versions != self._count_writes()

    def tap(self, gradients: Sequence[Tensor | None]) -> Tap:
        return Tap(self.module, self.names, self.inputs, self.keywords, tuple(gradients))

    def _count_writes(self) -> list[int]:
        seen = (*self.inputs, *self.keywords.values(), *self.outputs)
        return [value._version for value in seen if isinstance(value, Tensor)]


class _Recorder:
    """Hooks that write down each call of the modules they are set at."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.closed = False
        """Whether the forward pass is over: what is called now is only computed again."""

    def doubtful(self) -> list[_Call]:
        """Calls that may not show a batch: overwritten ones, and those of a module called again."""
        times = Counter(call.module for call in self.calls)
        return [call for call in self.calls if call.overwritten or times[call.module] > 1]

    @contextmanager
    def at(
        self, module: nn.Module, names: Mapping[str, str], held: Sequence[nn.Parameter]
    ) -> Iterator[None]:
        """Record the calls of a module inside; within a call, its parameters ask for no gradient."""

        def before(module: nn.Module, inputs: Any) -> None:
            for parameter in held:
                parameter.requires_grad_(False)

        def after(module: nn.Module, inputs: Any, keywords: Any, output: Any) -> Any:
            for parameter in held:
                parameter.requires_grad_(True)
            several = isinstance(output, tuple)
            seen = [_seen(value) for value in (output if several else (output,))]
            if not self.closed:
                self.calls.append(
                    _Call(
                        module,
                        names,
                        tuple(_detached(value) for value in inputs),
                        {name: _detached(value) for name, value in keywords.items()},
                        [value for value in seen if _is_floating(value)],
                    )
                )
            return tuple(seen) if several else seen[0]

        handles = [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _seen(value: Any) -> Any:
    """The value under another name: its gradient is that of what comes after the module, and of nothing in it."""
    if not _is_floating(value):
        return value
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_().clone()
