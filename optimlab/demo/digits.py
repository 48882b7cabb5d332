"""The demo's data and network: scikit-learn's handwritten digits and a small CNN."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

TEST_IMAGES = 360
SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """1797 handwritten digits, split once and for all into 1437 for training and 360 for testing.

    Images are float32 of shape (n, 1, 8, 8) with values from -1 (paper) to 1 (ink), labels int64 of
    shape (n,).
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@cache
def read_digits() -> Digits:
    """Read the digits from scikit-learn's own files (nothing is downloaded)."""
    source = load_digits()
    images = torch.from_numpy(source.images).to(torch.float32).div(8).sub(1).unsqueeze(1)
    labels = torch.from_numpy(source.target).to(torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return Digits(images[train], labels[train], images[test], labels[test])


def build_network(seed: int) -> nn.Sequential:
    """Build the CNN (38 282 parameters), initialised from ``seed`` alone."""
    # Strided, not pooled: on CUDA, pooling's gradients may be added up in any order.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        for param in network.parameters():
            nn.init.kaiming_normal_(param) if param.dim() > 1 else nn.init.zeros_(param)
    return network


class Batches:
    """An endless stream of shuffled, augmented batches whose position can be saved and restored.

    Each epoch takes the training images in a new order and shifts every image by up to one pixel;
    order and shifts are drawn from one generator, so equal seeds give equal batches and a restored
    stream goes on with the batch that would have come next.
    """

    def __init__(self, digits: Digits, batch_size: int, seed: int) -> None:
        self.images, self.labels = digits.train_images, digits.train_labels
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.int64)

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.images) // self.batch_size)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the next batch: images (n, 1, 8, 8) and labels (n,), on the CPU."""
        if len(self.order) == 0:
            self.order = torch.randperm(len(self.images), generator=self.generator)
        chosen, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        return shift(self.images[chosen], self.generator), self.labels[chosen]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the position: images left in this epoch, in order, and the generator's state."""
        return {"order": self.order.clone(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position that ``state_dict`` returned."""
        self.order = state["order"].clone()
        self.generator.set_state(state["generator"])


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by -1, 0 or 1 pixel in each direction, filling with paper."""
    windows = nn.functional.pad(images, (1, 1, 1, 1), value=-1).unfold(2, 8, 1).unfold(3, 8, 1)
    down, right = torch.randint(0, 3, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right]
