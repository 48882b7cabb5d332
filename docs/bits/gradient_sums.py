# shows: different bits
"""The gradient of a mean over 64 samples: at once, and in four quarters."""

import torch

from optimlab.lab.compare.bits import tensor_distance

torch.manual_seed(0)
x, y, grads = torch.randn(64, 100), torch.randn(64), []
for parts in (1, 4):
    weight = torch.zeros(100, requires_grad=True)
    for part, wanted in zip(x.chunk(parts), y.chunk(parts), strict=True):
        loss = (part @ weight - wanted).square().mean() / parts
        loss.backward()  # adds to weight.grad
    grads.append(weight.grad)
found = tensor_distance(*grads)
print("different:" if found.differing else "equal:", found)
