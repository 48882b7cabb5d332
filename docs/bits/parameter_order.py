# shows: different bits
"""The same parameters in another order, without and with clipping by their norm."""

import torch

from optimlab.lab.compare.bits import tensor_distance

for clips in (False, True):
    results = []
    for order in (1, -1):
        torch.manual_seed(0)
        weights = [torch.randn(30, requires_grad=True) for _ in range(300)]
        optimizer = torch.optim.Adam(weights[::order])
        for _ in range(5):
            for weight in weights:
                weight.grad = torch.randn(30)
            if clips:
                torch.nn.utils.clip_grad_norm_(weights[::order], max_norm=1.0)
            optimizer.step()
        results.append(torch.cat(weights))
    found = tensor_distance(*results)
    if not clips:
        print("not clipped:", found)
print("different: clipped:" if found.differing else "equal: clipped:", found)
