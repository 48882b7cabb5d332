# shows: different bits
"""SGD in double precision, with a learning rate that went through float32 once."""

import numpy as np
import torch

from optimlab.lab.compare.bits import tensor_distance

start, results = torch.linspace(-1, 1, 1000, dtype=torch.float64), []
for lr in (0.1, float(np.float32(0.1))):
    weight = start.clone().requires_grad_()
    weight.grad = start.flip(0)
    torch.optim.SGD([weight], lr=lr).step()
    results.append(weight)
    print("lr =", lr)
found = tensor_distance(*results)
print("different:" if found.differing else "equal:", found)
