# shows: different bits
"""A parameter that one batch does not use: without a gradient, or with one of zeros."""

import torch

from optimlab.lab.compare.bits import tensor_distance

results = []
for set_to_none in (True, False):
    weight = torch.linspace(-1, 1, 1000).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.square().sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    optimizer.step()  # nothing was computed in between
    results.append(weight)
found = tensor_distance(*results)
print("different:" if found.differing else "equal:", found)
