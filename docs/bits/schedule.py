# shows: different bits
"""One decay of 0.9 a step: multiplied again and again, and as a power."""

import torch
from torch.optim import lr_scheduler

from optimlab.lab.compare.bits import tensor_distance

rates, weights = [], []
for kind in (lr_scheduler.ExponentialLR, lr_scheduler.LambdaLR):
    weight = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    weight.grad = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = kind(optimizer, 0.9 if kind is lr_scheduler.ExponentialLR else lambda t: 0.9**t)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    rates, weights = [*rates, scheduler.get_last_lr()[0]], [*weights, weight]
print("learning rates:", *rates)
found = tensor_distance(*weights)
print("different:" if found.differing else "equal:", found)
