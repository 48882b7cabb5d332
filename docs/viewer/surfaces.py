"""The surfaces of the step viewer: losses of two parameters, and where paths on them start.

Each loss is put together from additions, multiplications and divisions of single elements. IEEE 754
fixes the bits of those, so a run has the same gradients whether it is computed by itself or, as
the exporter does, beside many others in one tensor.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

POINTS = (
    (-2.0, -1.62),
    (-1.5, -1.31),
    (-1.0, -1.26),
    (-0.5, -0.79),
    (0.0, 0.08),
    (0.5, 0.93),
    (1.0, 1.12),
    (1.5, 1.44),
    (2.0, 1.47),
)
"""What the small network is fitted to: pairs of an input and a target."""


@dataclass(frozen=True)
class Surface:
    """A loss of two parameters.

    Attributes:
        title: what the reader picks.
        formula: the loss, written for people.
        about: what is special about it, in a sentence.
        names: of the two coordinates.
        loss: takes both coordinates, tensors of one shape, and returns the loss at each place.
        frame: what is drawn: left, right, bottom, top.
        starts: where paths begin, each with a name.
        noise: standard deviation of what is added to each gradient.
    """

    title: str
    formula: str
    about: str
    names: tuple[str, str]
    loss: Callable[[Tensor, Tensor], Tensor]
    frame: tuple[float, float, float, float]
    starts: tuple[tuple[str, float, float], ...]
    noise: float = 0.0

    def losses(self, params: Tensor) -> Tensor:
        """Return the loss at each place; ``params`` has the coordinates in its last dimension."""
        return self.loss(params[..., 0], params[..., 1])

    def gradients(self, params: Tensor, step: int) -> Tensor:
        """Return the gradients that an optimizer is given for a step, noise included.

        Args:
            params: places; the last dimension has the two coordinates.
            step: which step, from 1; the noise depends on it alone.
        """
        leaf = params.detach().clone().requires_grad_(True)
        self.losses(leaf).sum().backward()
        assert leaf.grad is not None
        return leaf.grad + self._noise(step) if self.noise else leaf.grad

    def _noise(self, step: int) -> Tensor:
        source = random.Random(step)
        return torch.tensor([source.gauss(0.0, self.noise) for _ in self.names])


def _bowl(x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (x * x) + 8 * (y * y)


def _valley(x: Tensor, y: Tensor) -> Tensor:
    along, across = 1 - x, y - x * x
    return 0.1 * (along * along) + across * across


def _saddle(x: Tensor, y: Tensor) -> Tensor:
    squared = y * y
    return 0.5 * (x * x) + 0.25 * (squared * squared) - 0.5 * squared


def _network(w1: Tensor, w2: Tensor) -> Tensor:
    """Return the mean square error of ``w2 * softsign(w1 * x)`` over the points."""
    total = torch.zeros_like(w1)
    for x, target in POINTS:
        hidden = w1 * x
        error = w2 * (hidden / (1 + hidden.abs())) - target
        total = total + error * error
    return total / len(POINTS)


def _round_bowl(x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (x * x) + 2 * (y * y)


SURFACES = {
    "bowl": Surface(
        "Elongated bowl",
        "f(x, y) = ½ x² + 8 y²",
        "Sixteen times as steep along y as along x: the same learning rate must serve both.",
        ("x", "y"),
        _bowl,
        (-3.2, 3.2, -2.4, 2.4),
        (("left, high", -2.5, 1.5), ("right, low", 2.5, -0.5), ("on the y axis", 0.0, 2.0)),
    ),
    "valley": Surface(
        "Rosenbrock’s valley",
        "f(x, y) = ⅒ (1 − x)² + (y − x²)²",
        "A curved valley with a nearly flat floor; the minimum is at (1, 1).",
        ("x", "y"),
        _valley,
        (-2.4, 2.4, -1.2, 2.4),
        (("left bank", -1.5, 0.5), ("far left", -1.2, 2.1), ("right slope", 1.8, -0.6)),
    ),
    "saddle": Surface(
        "Saddle",
        "f(x, y) = ½ x² + ¼ y⁴ − ½ y²",
        "Two minima at (0, 1) and (0, −1), with a saddle point between them at (0, 0).",
        ("x", "y"),
        _saddle,
        (-2.6, 2.6, -1.95, 1.95),
        (("beside the ridge", -2.0, 0.05), ("on the ridge", 2.0, 0.0), ("on a slope", 1.5, -1.7)),
    ),
    "network": Surface(
        "Network with two weights",
        "f(w1, w2) = mean of (w2 · softsign(w1 · x) − target)² over 9 points",
        "One hidden unit fitted to data: flipping the sign of both weights changes nothing, so "
        "there are two valleys.",
        ("w1", "w2"),
        _network,
        (-4.4, 4.4, -3.3, 3.3),
        (("flat side", -0.5, 2.5), ("near zero", 0.3, 0.1), ("wrong sign", 3.5, -2.0)),
    ),
    "noisy": Surface(
        "Noisy bowl",
        "f(x, y) = ½ x² + 2 y², and noise of standard deviation 1.5 on each gradient",
        "Every run is given the same noise, step by step, so that what differs is the optimizer.",
        ("x", "y"),
        _round_bowl,
        (-3.2, 3.2, -2.4, 2.4),
        (("left, high", -2.5, 1.5), ("right, low", 2.5, -0.5), ("at the minimum", 0.0, 0.0)),
        noise=1.5,
    ),
}
"""Every surface, by the key that it has in files and links."""
