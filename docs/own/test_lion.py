"""Lion is the plain loop, bit for bit, and resumes to the bit."""

import torch
from lion import Lion, Reference

import optimlab


def test_lion_is_the_plain_loop(optimizer_parity):
    """Compare all steps bit for bit."""
    optimizer_parity(Lion, Reference, dtypes=["float32", "float64"])


class Training:
    """A run that `prove_resume` can interrupt."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(8, 8)
        self.optimizer = Lion(self.model.named_parameters(), lr=0.01)

    def step(self):
        self.optimizer.zero_grad()
        self.model(torch.ones(1, 8)).square().sum().backward()
        self.optimizer.step()

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, saved):
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])

    def tensors(self):
        return {**dict(self.model.named_parameters()), **self.optimizer.state_dict()}


def test_a_run_with_lion_resumes_to_the_bit():
    """Interrupt a run and go on in a new process."""
    assert optimlab.prove_resume(Training, steps=6, at=3).equal
