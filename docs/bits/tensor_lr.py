# shows: different bits
"""Adam with lr=0.01, and with the same number in a tensor."""

import torch

from optimlab.lab.compare.bits import tensor_distance

torch.manual_seed(0)
start, grad, results = torch.randn(1000), torch.randn(1000), []
for lr in (0.01, torch.tensor(0.01)):
    weight = start.clone().requires_grad_()
    weight.grad = grad
    torch.optim.Adam([weight], lr=lr).step()
    results.append(weight)
print("the tensor holds", torch.tensor(0.01).item())
found = tensor_distance(*results)
print("different: after one step:" if found.differing else "equal: after one step:", found)
