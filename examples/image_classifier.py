"""Train an image classifier with Adam and follow its loss in TensorBoard.

Two convolutions with pooling and a linear layer learn to tell ten classes apart, batch by batch,
epoch by epoch, with a look at the test pictures after each. By default the pictures are the real
handwritten digits inside scikit-learn (1797 of 8 x 8), so that nothing is downloaded; with
`--data DIR` they are Fashion-MNIST (70 000 of 28 x 28), from the four files `*-ubyte` or
`*-ubyte.gz` in that directory.

    python examples/image_classifier.py
    tensorboard --logdir optimlab-examples/tensorboard
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from common import Options, Result, conclude, parser, positive, start, track
from idx import read_pictures
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from optimlab.demo.digits import read_digits

BATCH_SIZE, PRINT_EVERY = 64, 100


class ClassifierOptions(Options):
    """The options of this example.

    Attributes:
        data: directory with Fashion-MNIST's files, ``None`` for the digits.
        epochs: how often all training pictures are seen.
    """

    data: Path | None
    epochs: int


class Classifier(nn.Module):
    """Two convolutions and a linear layer, for square grey pictures.

    Args:
        side: height and width of a picture.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(32 * (side // 4) ** 2, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (n, 1, side, side) to the scores of ten classes (n, 10)."""
        scores: Tensor = self.head(self.features(pictures).flatten(1))
        return scores


def read_data(options: ClassifierOptions) -> tuple[TensorDataset, TensorDataset]:
    """Return training and test pictures with their labels."""
    if options.data is not None:
        train, test = (read_pictures(options.data, part) for part in ("train", "t10k"))
        return TensorDataset(*train), TensorDataset(*test)
    digits = read_digits()
    return (
        TensorDataset(digits.train_images, digits.train_labels),
        TensorDataset(digits.test_images, digits.test_labels),
    )


def batches(data: TensorDataset, epochs: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield epoch, number within it (both from 1), pictures and labels of every batch."""
    loader = DataLoader(data, BATCH_SIZE, shuffle=True)
    for epoch in range(1, epochs + 1):
        for number, (pictures, labels) in enumerate(loader, start=1):
            yield epoch, number, pictures, labels


def train(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    data: tuple[TensorDataset, TensorDataset],
    writer: SummaryWriter,
    options: ClassifierOptions,
) -> list[float]:
    """Train for all epochs, or ``--steps`` batches, and return the loss of every batch."""
    training, test = data
    per_epoch = -(-len(training) // BATCH_SIZE)
    steps = min(options.steps, options.epochs * per_epoch)
    criterion = nn.CrossEntropyLoss()
    losses = []
    stream = batches(training, options.epochs)
    for step, (epoch, number, pictures, labels) in zip(
        track(steps, "training"), stream, strict=False
    ):
        loss = criterion(model(pictures.to(options.device)), labels.to(options.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        losses.append(loss.item())
        writer.add_scalar("train_loss", losses[-1], step)
        if number % PRINT_EVERY == 1:
            print(f"epoch {epoch:2}  batch {number:3} of {per_epoch}  loss {losses[-1]:.4f}")
        if number == per_epoch:
            print(f"epoch {epoch:2}  test accuracy {100 * accuracy(model, test, options):.1f} %")
    return losses


@torch.no_grad()
def accuracy(model: Classifier, data: TensorDataset, options: Options) -> float:
    """Return the share of pictures whose class the model finds."""
    found = 0
    for pictures, labels in DataLoader(data, batch_size=1000):
        guesses = model(pictures.to(options.device)).argmax(dim=1)
        found += int((guesses == labels.to(options.device)).sum())
    return found / len(data)


def run(options: ClassifierOptions) -> Result:
    """Train the classifier."""
    optim = start(options)
    training, test = data = read_data(options)
    model = Classifier(side=training.tensors[0].shape[-1]).to(options.device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    log = options.out / "tensorboard" / options.optim
    for earlier in log.glob("events.out.tfevents.*"):
        earlier.unlink()  # TensorBoard would draw both runs as one curve
    with SummaryWriter(str(log)) as writer:
        losses = train(model, optimizer, data, writer, options)
    right = accuracy(model, test, options)
    print(f"wrote {log}")
    steps = f"{len(losses)} step{'s' * (len(losses) > 1)}"
    return conclude(
        {"model": dict(model.named_parameters()), "losses": losses, "accuracy": right},
        f"{steps} of Adam took the loss from {losses[0]:.2f} to {losses[-1]:.2f}; "
        f"{100 * right:.1f} % of {len(test)} test pictures are classified right.",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example."""
    command_line = parser(__doc__, steps=None)
    help_data = "Fashion-MNIST's files, default: scikit-learn's digits"
    command_line.add_argument("--data", type=Path, metavar="DIR", help=help_data)
    command_line.add_argument("--epochs", type=positive, default=10, help="default: 10")
    options = command_line.parse_args(arguments, ClassifierOptions())
    try:
        run(options)
    except (FileNotFoundError, ValueError) as error:
        if options.data is None:
            raise
        command_line.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
