"""Train under Lightning's Trainer, stop, and go on from the checkpoint in a new Trainer.

What one learns: `configure_optimizers` returns the optimizer and its scheduler, and the Trainer
does the rest: it calls `step` with a closure that computes the loss and the gradients, accumulates
gradients over batches and clips them before each step. A checkpoint holds model, optimizer,
scheduler and loops, but neither the generators of random numbers nor the place in an epoch. Between
two epochs, and with an order of the data that needs no random numbers, going on is exact.

    python examples/lightning_trainer.py
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from common import Options, Result, conclude, parser, start
from runs import Make, ending, same_bits
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from optimlab.demo.digits import read_digits

BATCH_SIZE, ACCUMULATED = 48, 3
STEPS_PER_EPOCH = 10


class Classifier(lightning.LightningModule):
    """A small network that learns handwritten digits.

    Args:
        make: makes the optimizer.
        epochs: how many epochs the schedule is for.
        seed: of the weights.
    """

    def __init__(self, make: Make, epochs: int, seed: int) -> None:
        super().__init__()
        self.make, self.epochs = make, epochs
        torch.manual_seed(seed)
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Compute the loss of a batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> Any:
        """Make the optimizer, and a scheduler that goes on after every step of it."""
        optimizer = self.make(self.parameters())
        scheduler = OneCycleLR(
            optimizer, max_lr=0.02, total_steps=STEPS_PER_EPOCH * self.epochs + 1
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def fit(
    model: Classifier, until: int, device: str, checkpoint: Path | None = None
) -> lightning.Trainer:
    """Train a model to the end of an epoch, counted from the beginning.

    Args:
        model: the model.
        until: the number of epochs that it will have been trained.
        device: ``"cpu"`` or ``"cuda"``.
        checkpoint: where to go on; by default at the beginning.

    Returns:
        The Trainer, which can save a checkpoint.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        max_epochs=until,
        accelerator=device,
        devices=1,
        accumulate_grad_batches=ACCUMULATED,
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    digits = read_digits()
    images = DataLoader(TensorDataset(digits.train_images, digits.train_labels), BATCH_SIZE)
    with warnings.catch_warnings():
        # Of images in memory, and of what Lightning itself uses of torch.
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        trainer.fit(model, images, ckpt_path=checkpoint)
    return trainer


def run(options: Options) -> Result:
    """Train without interruption, then once more with a stop half way."""
    optim = start(options)
    epochs = max(2, -(-options.steps // STEPS_PER_EPOCH))
    file, half = options.out / "lightning.ckpt", epochs // 2
    device = options.device.type

    def classifier() -> Classifier:
        def make(params: Iterable[Tensor]) -> Optimizer:
            optimizer: Optimizer = optim.RMSprop(params, centered=True, momentum=0.5)
            return optimizer

        return Classifier(make, epochs, options.seed)

    whole = classifier()
    result = ending(whole, fit(whole, epochs, device).optimizers[0])
    print(f"{epochs} epochs without interruption")
    fit(classifier(), half, device).save_checkpoint(file)
    resumed = classifier()
    other = ending(resumed, fit(resumed, epochs, device, file).optimizers[0])
    print(f"{half} epochs, then {epochs - half} more in a new Trainer, from {file}")

    same = same_bits(other, result)
    return conclude(result, f"under Lightning, the resumed run ends in {same}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    run(parser(__doc__, steps=100).parse_args(arguments, Options()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
