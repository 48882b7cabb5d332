# shows: different bits
# needs: AVX2 instructions
"""1000 bfloat16 elements as one tensor, and one by one."""

import torch

from optimlab.lab.compare.bits import tensor_distance

weight, grad = torch.linspace(1, 2, 1000).bfloat16(), torch.linspace(-1, 1, 1000).bfloat16()
together = weight.add(grad, alpha=-0.1)  # what SGD computes
pairs = zip(weight.split(1), grad.split(1), strict=True)
single = torch.cat([one.add(other, alpha=-0.1) for one, other in pairs])
rounded_twice = weight + (-0.1 * grad.float()).bfloat16()
print("one by one is rounded twice:", torch.equal(single, rounded_twice))
found = tensor_distance(together, single)
print("different:" if found.differing else "equal:", found)
