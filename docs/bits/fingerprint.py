# shows: equal bits
"""Ten steps in fixed numbers: run it on both machines, compare what it prints."""

import hashlib

import torch

digests = []
for _ in range(2):
    weight = torch.linspace(-1, 1, 1000).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for step in range(10):
        weight.grad = (torch.arange(1000) * (step + 3) % 17 - 8) / 16  # exact in float32
        optimizer.step()
    digests.append(hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()[:12])
print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability(), digests[0])
print("equal: twice in this process" if digests[0] == digests[1] else "different: look here")
