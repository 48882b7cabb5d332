"""The two libraries that optimizers are taken from."""

from typing import Any, Literal

import torch

from optimlab import optimizers

LibraryName = Literal["torch", "optimlab"]

# Anything that has the classes of the recipes will do.
LIBRARIES: dict[LibraryName, Any] = {"torch": torch.optim, "optimlab": optimizers}
