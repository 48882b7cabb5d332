# shows: different bits
"""Adam with differentiable=True: the step count is a tensor, the formula is spelt otherwise."""

import torch

from optimlab.lab.compare.bits import tensor_distance

torch.manual_seed(0)
start, grad, results = torch.randn(1000), torch.randn(1000), []
for differentiable in (False, True):
    weight = start.clone().requires_grad_()
    copy = weight.clone() if differentiable else weight  # autograd wants no leaf
    copy.grad = grad
    torch.optim.Adam([copy], lr=0.01, differentiable=differentiable).step()
    results.append(copy)
found = tensor_distance(*results)
print("different: after one step:" if found.differing else "equal: after one step:", found)
