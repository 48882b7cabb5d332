# shows: different bits
"""Moments kept in float32 beside bfloat16 weights, before and after a checkpoint."""

import torch

from optimlab.lab.compare.bits import tensor_distance

weight = torch.linspace(-1, 1, 1000).bfloat16().requires_grad_()
weight.grad = torch.linspace(1, 2, 1000).bfloat16()
optimizer = torch.optim.Adam([weight])
optimizer.step()
held = optimizer.state[weight]["exp_avg"] = torch.linspace(1, 2, 1000) / 10  # by hand, float32
optimizer.load_state_dict(optimizer.state_dict())
loaded = optimizer.state[weight]["exp_avg"]
print(held.dtype, "becomes", loaded.dtype)
found = tensor_distance(held, loaded.float())
print("different:" if found.differing else "equal:", found)
