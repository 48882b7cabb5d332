# shows: different bits
"""Sums and a step of Adam in float32, with one thread and with two."""

import torch

from optimlab.lab.compare.bits import tensor_distance

torch.manual_seed(0)
x, start, sums, weights = torch.randn(300_000), torch.randn(300_000), [], []
for threads in (1, 2):
    torch.set_num_threads(threads)
    weight = start.clone().requires_grad_()
    weight.grad = x
    torch.optim.Adam([weight]).step()
    weights.append(weight)
    sums.append(torch.stack([(x * start.roll(i)).sum() for i in range(10)]))
print("the step:", tensor_distance(*weights))
found = tensor_distance(*sums)
print("different: sums:" if found.differing else "equal: sums:", found)
