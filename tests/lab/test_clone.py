"""Clones of optimizers share nothing with the original, and what they share inside stays shared."""

import torch
from beside import assert_equal

import optimlab
from optimlab.lab.compare.snapshot import parameters
from optimlab.lab.lockstep.clone import clone_optimizer, give_gradients


def test_copies_share_nothing_with_the_original_but_inside_themselves() -> None:
    lr = torch.tensor(0.1)
    params = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))]
    original = optimlab.SGD([{"params": [param], "lr": lr} for param in params], momentum=0.9)
    give_gradients(params, [torch.ones(2), torch.ones(3)])
    original.step()
    made = clone_optimizer(original)
    assert made.param_groups[0]["lr"] is made.param_groups[1]["lr"]
    assert made.param_groups[0]["lr"] is not lr
    assert_equal(made.state_dict(), original.state_dict())
    addresses = {param.data_ptr() for param in parameters(original)}
    assert not addresses & {param.data_ptr() for param in parameters(made)}


def test_an_optimizer_with_tensors_that_a_computation_made_is_copied() -> None:
    lr = torch.tensor(0.05, requires_grad=True) * 2
    weight = torch.nn.Parameter(torch.ones(2))
    original = optimlab.SGD([weight], lr=lr, momentum=0.9)
    original.state[weight]["momentum_buffer"] = lr * torch.ones(2)
    made = clone_optimizer(original)
    assert made.param_groups[0]["lr"].item() == lr.item()
    (copy,) = parameters(made)
    assert made.state[copy]["momentum_buffer"].tolist() == (lr * torch.ones(2)).tolist()
