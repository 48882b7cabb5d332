# shows: different bits
"""GradScaler multiplies the loss, and divides the gradients again."""

import torch

from optimlab.lab.compare.bits import tensor_distance

torch.manual_seed(0)
x, weights = torch.randn(1000), []
for scale in (1.0, 2.0**16, 60000.0):
    weight = torch.ones(1000, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale((weight * x).sum()).backward()
    scaler.step(optimizer)
    weights.append(weight)
print("by 65536:", tensor_distance(weights[0], weights[1]))
found = tensor_distance(weights[0], weights[2])
print("different: by 60000:" if found.differing else "equal: by 60000:", found)
