# shows: different bits
"""Tensors that the usual comparisons call the same."""

import torch

from optimlab.lab.compare.bits import tensor_distance

ours = torch.tensor([0.1, 0.3, 0.0])
theirs = torch.tensor([0.1, 0.3 * (1 + 2**-23), -0.0])
print("printed: ", ours[1], theirs[1])
print("allclose:", torch.allclose(ours, theirs))
print("-0.0 == 0.0:", torch.equal(ours[2], theirs[2]))
found = tensor_distance(ours, theirs)
print("different:" if found.differing else "equal:", found)
