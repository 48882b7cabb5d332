"""Train the same network twice in lock step, once per library, and compare the bits.

Both runs start from the same seed and see the same batches. After every step all parameters and
all optimizer state of the two runs are compared as integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from optimlab.demo.digits import Batches, Digits, build_network
from optimlab.demo.libraries import LIBRARIES, LibraryName
from optimlab.demo.recipes import RECIPES, Settings
from optimlab.demo.results import Count, Epoch


class Run:
    """One training run: a network, a library's optimizer and the loss of every step so far."""

    def __init__(self, settings: Settings, library: LibraryName) -> None:
        self.device = torch.device(settings.device)
        self.network = build_network(settings.seed).to(self.device)
        recipe = RECIPES[settings.recipe]
        optimizer_class = getattr(LIBRARIES[library], recipe.class_name)
        self.optimizer: torch.optim.Optimizer = optimizer_class(
            self.network.parameters(), **recipe.arguments
        )
        self.losses: list[float] = []

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Train on one batch."""
        self.optimizer.zero_grad()
        logits = self.network(images.to(self.device))
        loss = nn.functional.cross_entropy(logits, labels.to(self.device))
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.losses.append(loss.item())

    @torch.no_grad()
    def accuracy(self, digits: Digits) -> float:
        """Return the share of the test images that the network classifies correctly."""
        guesses = self.network(digits.test_images.to(self.device)).argmax(dim=1).cpu()
        return int((guesses == digits.test_labels).sum()) / len(guesses)

    def tensors(self) -> dict[str, Tensor]:
        """Return every parameter and every tensor of optimizer state, by name (not copied)."""
        named: dict[str, Tensor] = {}
        for name, param in self.network.named_parameters():
            named[name] = param.detach()
            state = self.optimizer.state.get(param, {})
            named.update((f"{name}/{key}", value) for key, value in state.items())
        return named

    def state_dict(self) -> dict[str, Any]:
        """Return network, optimizer and losses as a checkpoint stores them."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": list(self.losses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` of a run of either library returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])


class LockStep:
    """Two runs, one per library, that take each step on the same batch.

    Attributes:
        first_difference: Number of the first step after which a bit differed, counted from 1.
    """

    def __init__(self, settings: Settings, digits: Digits) -> None:
        self.settings, self.digits = settings, digits
        self.runs = {library: Run(settings, library) for library in LIBRARIES}
        self.batches = Batches(digits, settings.batch_size, settings.seed)
        self.first_difference: int | None = None
        self.taken = 0
        self.steps = settings.epochs * self.batches.per_epoch
        self.half = self.steps // 2  # after so many the training is interrupted

    def step(self) -> Count:
        """Take one step in both runs and compare them."""
        images, labels = self.batches.draw()
        for run in self.runs.values():
            run.step(images, labels)
        self.taken += 1
        count = Count.of(self.runs["optimlab"].tensors(), self.runs["torch"].tensors())
        if count.elements_differing and self.first_difference is None:
            self.first_difference = self.taken
        return count

    def train(self, half_way: Callable[[LockStep], None]) -> Iterator[Epoch]:
        """Train to the end, calling ``half_way`` once in between, and yield after each epoch."""
        size, runs = self.batches.per_epoch, self.runs.items()
        for number in range(1, self.settings.epochs + 1):
            counts = []
            for _ in range(size):
                if self.taken == self.half:
                    half_way(self)
                counts.append(self.step())
            yield Epoch(
                **vars(Count.total(counts)),
                epoch=number,
                training_loss={library: fmean(run.losses[-size:]) for library, run in runs},
                test_accuracy={library: run.accuracy(self.digits) for library, run in runs},
            )


@contextmanager
def reproducible() -> Iterator[None]:
    """Make equal inputs give equal gradients, and use one thread: the network is that small.

    CUDA needs ``CUBLAS_WORKSPACE_CONFIG`` in the environment besides; the command sets it.
    """
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
