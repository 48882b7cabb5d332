# shows: different bits
"""One seed, and one more layer drawn before the weights that are compared."""

import torch

from optimlab.lab.compare.bits import tensor_distance

torch.manual_seed(0)
plain = torch.nn.Linear(10, 10)
torch.manual_seed(0)
torch.nn.Linear(10, 10)  # drawn, and never used: a head that was replaced, say
after = torch.nn.Linear(10, 10)
found = tensor_distance(plain.weight, after.weight)
print("different:" if found.differing else "equal:", found)
