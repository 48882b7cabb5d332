# shows: different bits
# needs: AVX2 instructions
"""The same ten steps in processes that may use other instructions."""

import os
import subprocess
import sys

import torch

from optimlab.lab.compare.bits import tensor_distance

if len(sys.argv) == 1:
    bits = []
    for capability in ("avx512", "avx2", "default"):
        env = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        subprocess.run([sys.executable, __file__, "weight.pt"], env=env, check=True)
        bits.append(torch.load("weight.pt"))
    print("avx512 and avx2:", tensor_distance(bits[0], bits[1]))
    found = tensor_distance(bits[1], bits[2])
    print("different: default:" if found.differing else "equal: default:", found)
else:
    torch.manual_seed(0)
    weight = torch.randn(1000, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9)
    for _ in range(10):
        weight.grad = torch.randn(1000)
        optimizer.step()
    torch.save(weight.detach(), sys.argv[1])
