# shows: different bits
"""0.9 times a bfloat16 tensor in place: by itself, and in a list."""

import torch

from optimlab.lab.compare.bits import tensor_distance

buffer = torch.linspace(1, 2, 129).bfloat16()
alone, listed = buffer.clone(), [buffer.clone()]
alone.mul_(0.9)
torch._foreach_mul_(listed, 0.9)
rounded = torch.tensor(0.9).bfloat16().item()
print("in a list 0.9 acts as", rounded, torch.equal(listed[0], buffer * rounded))
found = tensor_distance(alone, listed[0])
print("different:" if found.differing else "equal:", found)
