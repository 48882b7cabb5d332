# shows: different bits
"""Adam by the for-loop, on lists (foreach), and in one kernel (fused)."""

import torch

from optimlab.lab.compare.bits import tensor_distance

torch.manual_seed(0)
start, grads, weights = torch.randn(1003), torch.randn(10, 1003), []
for flags in ({"foreach": False}, {"foreach": True}, {"fused": True}):
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.1, eps=1e-3, **flags)
    for grad in grads:
        weight.grad = grad
        optimizer.step()
    weights.append(weight)
print("for-loop and foreach:", tensor_distance(weights[0], weights[1]))
found = tensor_distance(weights[0], weights[2])
print("different: for-loop and fused:" if found.differing else "equal: all three:", found)
