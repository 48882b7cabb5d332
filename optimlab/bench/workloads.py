"""The sets of tensors that are stepped: the parameters of networks, and extremes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Workload:
    """The shapes of all parameters of one optimizer, float32."""

    title: str
    shapes: tuple[Shape, ...]

    @property
    def elements(self) -> int:
        """How many numbers all parameters have together."""
        return sum(map(prod, self.shapes))

    def __str__(self) -> str:
        return described(self.title, len(self.shapes), self.elements)


def described(title: str, tensors: int, elements: int) -> str:
    """Put a workload into words."""
    counted = "1 tensor" if tensors == 1 else f"{tensors:,} tensors"
    return f"{title}: {counted}, {elements:,} elements"


def _mlp() -> Iterator[Shape]:
    yield from ((256, 784), (256,), (10, 256), (10,))


def _resnet50() -> Iterator[Shape]:
    yield from ((64, 3, 7, 7), (64,), (64,))
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            yield from ((width, inputs, 1, 1), (width,), (width,))
            yield from ((width, width, 3, 3), (width,), (width,))
            yield from ((4 * width, width, 1, 1), (4 * width,), (4 * width,))
            if block == 0:  # the shortcut has to change the number of channels
                yield from ((4 * width, inputs, 1, 1), (4 * width,), (4 * width,))
            inputs = 4 * width
    yield from ((1000, inputs), (1000,))


def _gpt2_small() -> Iterator[Shape]:
    width = 768
    norm = ((width,), (width,))
    yield from ((50257, width), (1024, width))
    for _ in range(12):
        yield from norm
        yield from ((width, 3 * width), (3 * width,), (width, width), (width,))
        yield from norm
        yield from ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    yield from norm


WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "mlp": Workload("MLP", tuple(_mlp())),
        "small": Workload("Small tensors", ((64, 64), (64,)) * 200),
        "tiny": Workload("Tiny tensors", ((7, 7), (9,)) * 1000),
        "resnet50": Workload("ResNet-50", tuple(_resnet50())),
        "gpt2": Workload("GPT-2 small", tuple(_gpt2_small())),
        "large": Workload("One large tensor", ((5000, 5000),)),
    }
)
QUICK = ("mlp", "small", "tiny", "large")

TENSOR_COUNTS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
ELEMENT_COUNTS = (*(n * 10**power for power in range(3, 8) for n in (1, 3)), 10**8)


def scaling(*, quick: bool) -> Mapping[str, Sequence[Workload]]:
    """Return two series of workloads: ever more tensors, and ever more elements.

    Args:
        quick: whether to stop at a tenth.
    """
    share = 10 if quick else 1
    tensors = [count for count in TENSOR_COUNTS if count <= TENSOR_COUNTS[-1] // share]
    elements = [count for count in ELEMENT_COUNTS if count <= ELEMENT_COUNTS[-1] // share]
    return {
        "tensors": [Workload("Tensors of 256 elements", ((256,),) * count) for count in tensors],
        "elements": [Workload("One tensor", ((count,),)) for count in elements],
    }
