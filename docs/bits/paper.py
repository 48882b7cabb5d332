# shows: different bits
"""Adam's first step as the paper writes it, and as torch computes it."""

import torch

from optimlab.lab.compare.bits import tensor_distance

torch.manual_seed(0)
weight, grad = torch.randn(1000, requires_grad=True), torch.randn(1000)
start = weight.detach().clone()
m, v = 0.1 * grad, 0.001 * grad**2
m_hat, v_hat = m / (1 - 0.9), v / (1 - 0.999)
paper = start - 0.01 * m_hat / (v_hat.sqrt() + 1e-8)
weight.grad = grad
torch.optim.Adam([weight], lr=0.01).step()
found = tensor_distance(paper, weight)
print("different:" if found.differing else "equal:", found)
