"""The microscope: each operation of a step, with names and the numbers at chosen elements."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.record.provenance import Provenance, provenance
from optimlab.lab.record.recording import Recording
from optimlab.lab.record.writing import Operation
from optimlab.lab.trace.worked import Index, TracedStep

Elements: TypeAlias = Mapping[int | Tensor, Iterable[int | Index]]

_FIRST_PARAMETERS = 3


class Trace:
    """What :func:`optimlab.trace` has seen; prints itself as a worked example.

    Attributes:
        steps: the traced steps, one entry for each step and parameter that took part in it.
    """

    def __init__(self, optimizer: Optimizer, elements: Elements | None = None) -> None:
        self.steps: list[TracedStep] = []
        self._optimizer = optimizer
        self._elements = _indices(parameters(optimizer), elements)
        self._count = 0
        self._provenance: dict[int, Provenance] = {}
        self._recording = Recording(optimizer, self._look, self._finished, self._begin)

    def __enter__(self) -> Trace:
        self._recording.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._recording.__exit__(*exception)

    def _begin(self, optimizer: Optimizer) -> None:
        self._count += 1
        self._provenance = provenance(optimizer)  # before the step counts on

    def _look(self, tensor: Tensor, parameter: int | None) -> list[Any] | None:
        """Read the numbers at the chosen elements; a single number stands for all of them."""
        if parameter is not None and parameter not in self._elements:
            return None
        indices, shape = self._elements.get(parameter or 0, ([()], ()))
        return numbers_at(tensor, indices, shape)

    def _finished(self, operations: list[Operation]) -> None:
        params = parameters(self._optimizer)
        for number, (indices, shape) in self._elements.items():
            mine = [o for o in operations if o.parameter == number and o.computes]
            if mine:
                dtype, texts = params[number].dtype, self._provenance.get(number, Provenance())
                seen = (self._count, number, shape, dtype, tuple(indices), tuple(mine), texts)
                self.steps.append(TracedStep(*seen))

    def __str__(self) -> str:
        if not self.steps:
            return "no step was traced"
        name = type(self._optimizer).__name__
        return "\n\n".join(text for step in self.steps for text in step.worked(name))

    def as_json(self) -> dict[str, Any]:
        """Return the trace as a value that the json module can write; see :meth:`to_json`."""
        return {
            "schema": "optimlab.trace/1",
            "optimizer": type(self._optimizer).__name__,
            "torch": str(torch.__version__),
            "steps": [step.as_json() for step in self.steps],
        }

    def to_json(self) -> str:
        """Return the trace as JSON, for a viewer.

        The document has ``schema`` (``"optimlab.trace/1"``), ``optimizer``, ``torch`` and
        ``steps``. A step has ``step``, ``parameter``, ``shape``, ``dtype``, ``elements`` (a list of
        indices) and ``operations``. An operation has

        * ``operation``, its name as a method of tensors; ``function``, ATen's overload; ``code``;
        * ``in_place``, whether it overwrites its first operand;
        * ``operands`` and ``results``: each with ``name``, ``dtype``, ``shape`` and ``values``, one
          for each of the elements, or ``null`` for a tensor of another shape;
        * ``scalars``: each with ``argument``, ``origin`` (how it comes from hyperparameters, ``""``
          where that is not known) and ``value``.

        A value has ``decimal``, the shortest that reads back as the same number; ``hex``, the exact
        number as C's and Python's hexadecimal floating point; and, for floating-point tensors,
        ``bits``. All three are strings, so that NaN and infinity are no exception. A complex number
        has lists of two in their place.
        """
        return json.dumps(self.as_json(), indent=1)


def trace(optimizer: Optimizer, elements: Elements | None = None) -> Trace:
    """Look at each operation of an optimizer's steps, with names and numbers at chosen elements.

    Use it as a context. Steps inside it are recorded under a dispatch mode of torch, whatever class
    of optimizer it is; model and closure run as always, and are not recorded. A traced step ends in
    the bits of an untraced one. It takes many times as long: :func:`optimlab.watch` is for runs.

    Args:
        optimizer: any optimizer.
        elements: indices to look at, by parameter: its number, counted through all groups, or the
            tensor itself. By default the first element of each of the first three parameters.

    Returns:
        Trace: print it to read the steps as a worked example; it has ``steps`` and ``to_json()``.

    Raises:
        IndexError: if there is no such parameter or element.
        TypeError: if ``elements`` does not map parameters to indices.

    Example:
        >>> import torch, optimlab
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> weight.grad = torch.tensor([0.5, 0.0])
        >>> optimizer = optimlab.SGD([weight], lr=0.25, weight_decay=0.5)
        >>> with optimlab.trace(optimizer, {weight: [1]}) as traced:
        ...     optimizer.step()
        >>> print(traced)
        SGD, step 1, parameter 0 [2], element [1]
          grad_2 = add(grad, param, alpha=0.5) = 0 + 0.5 * 2 = 1  # weight_decay
          param = add(param, grad_2, alpha=-0.25) = 2 + -0.25 * 1 = 1.75  # -lr
    """
    return Trace(optimizer, elements)


def numbers_at(
    tensor: Tensor, indices: Sequence[Index], shape: tuple[int, ...]
) -> list[Any] | None:
    """Read elements of a tensor as Python's numbers, ``None`` if it has not the parameter's shape.

    Complex numbers, the last of whose dimensions is 2, become tuples of two; a tensor of one
    element stands for all indices.
    """
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tuple(tensor.shape) == shape:
        return [tensor[index].item() for index in indices]
    if tuple(tensor.shape) == (*shape, 2):
        return [tuple(tensor[index].tolist()) for index in indices]
    return [tensor.item()] * len(indices) if tensor.numel() == 1 else None


def _indices(params: list[Tensor], elements: Any) -> dict[int, tuple[list[Index], tuple[int, ...]]]:
    if elements is None:
        chosen = [n for n, param in enumerate(params) if param.numel()][:_FIRST_PARAMETERS]
        elements = {number: [(0,) * params[number].dim()] for number in chosen}
    if not isinstance(elements, Mapping):
        kind = type(elements).__name__
        raise TypeError(f"elements is a dict such as {{0: [1, 2]}}, by parameter, and not a {kind}")
    found = {}
    for key, wanted in elements.items():
        number = _number(params, key)
        if not isinstance(wanted, Iterable):
            raise TypeError(f"elements of parameter {number} are a list such as [0], not {wanted}")
        indices = [(index,) if isinstance(index, int) else tuple(index) for index in wanted]
        for index in indices:
            if params[number][index].dim():
                raise IndexError(f"{list(index)} is no element of {tuple(params[number].shape)}")
        found[number] = (indices, tuple(params[number].shape))
    return found


def _number(params: list[Tensor], key: int | Tensor) -> int:
    for number, param in enumerate(params):
        if param is key or number is key:
            return number
    raise IndexError(f"the optimizer has {len(params)} parameters, and not {key}")
