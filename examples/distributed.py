"""Train on two processes: with a copy of the model in each, then with half of it in each.

What one learns: under DistributedDataParallel every process has the whole model and an optimizer of
its own. Only gradients are exchanged, and because all processes then make the same step, their
copies stay equal to the bit. Under FSDP2 (`fully_shard`) the parameters are DTensors: every process
holds some rows of each, and the optimizer, which knows nothing of it, updates these and keeps state
for these. torch.distributed.checkpoint saves the shards under the names of the parameters, so that
any number of processes can load what two have saved.

    torchrun --standalone --nproc-per-node 2 examples/distributed.py

Without torchrun it starts these two processes itself.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from common import Options, Result, conclude, parser, start
from runs import Make, ending, same_bits
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from optimlab.demo.digits import read_digits

BATCH_SIZE = 64
PROCESSES = 2  # that this program starts itself
PATIENCE = timedelta(minutes=2)  # with a process that does not answer


def network(seed: int, device: torch.device) -> nn.Sequential:
    """Make a small network for handwritten digits, the same in every process."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 33), nn.Tanh(), nn.Linear(33, 10)).to(device)


def sharded(seed: int, device: torch.device) -> nn.Sequential:
    """Make the same network and leave every process its rows of the parameters."""
    model = network(seed, device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train(
    model: nn.Module, optimizer: Optimizer, steps: Iterable[int], device: torch.device
) -> float:
    """Train on this process's share of the batches that belong to some steps.

    Returns:
        The last loss of this process.
    """
    digits, rank = read_digits(), dist.get_rank()
    loss = torch.tensor(float("nan"))
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        batch = torch.randperm(len(digits.train_images), generator=generator)[:BATCH_SIZE]
        mine = batch[rank :: dist.get_world_size()]
        logits = model(digits.train_images[mine].to(device))
        loss = nn.functional.cross_entropy(logits, digits.train_labels[mine].to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def save(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Save model and optimizer, every process its part."""
    with as_intended():
        state_dict_saver.save(named(model, optimizer), checkpoint_id=folder)


def load(model: nn.Module, optimizer: Optimizer, folder: Path, *, alone: bool = False) -> None:
    """Load what any number of processes have saved.

    Args:
        model: the model, sharded or not.
        optimizer: its optimizer, which need not have state yet.
        folder: where it was saved.
        alone: whether this process loads without the others.
    """
    saved = named(model, optimizer)
    with as_intended():
        state_dict_loader.load(saved, checkpoint_id=folder, no_dist=alone)
    set_state_dict(
        model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"]
    )


@contextmanager
def as_intended() -> Iterator[None]:
    """Leave out warnings of what is meant: to replace an earlier run's files, to be alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected an existing checkpoint")
        warnings.filterwarnings("ignore", ".*assuming the intent is to (save|load) in a single")
        yield


def named(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Return all there is to save, under the names of the parameters."""
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer}


def changed(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Change every tensor of a nested value."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: changed(item, change) for key, item in value.items()}
    return [changed(item, change) for item in value] if isinstance(value, list) else value


def own(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """Put a tensor together from what the processes hold of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def with_copies(make: Make, options: Options) -> Result:
    """Train a copy of the model in every process."""
    count = dist.get_world_size()
    say(f"DDP    {options.steps} steps with a copy of the model in each of {count} processes")
    model = network(options.seed, options.device)
    optimizer = make(model.parameters())
    loss = train(DistributedDataParallel(model), optimizer, range(options.steps), options.device)
    result: Result = changed(ending(model, optimizer), Tensor.cpu)
    of_all: list[Any] = [None] * count
    dist.all_gather_object(of_all, result)
    same = {same_bits(result, of_one) for of_one in of_all}
    say(f"DDP    loss {loss:.6f}  all {count} processes ended in {', '.join(same)}")
    return result


def with_shards(make: Make, options: Options, folder: Path) -> Result:
    """Train a shard of the model in every process, save half way, and go on from what was saved."""
    half, device = options.steps // 2, options.device
    say(f"FSDP2  {options.steps} steps with some rows of the parameters in each process")
    model = sharded(options.seed, device)
    optimizer = make(model.parameters())
    train(model, optimizer, range(half), device)
    save(model, optimizer, folder)
    saved = changed(ending(model, optimizer), full)
    loss = train(model, optimizer, range(half, options.steps), device)
    result: Result = changed(ending(model, optimizer), own)
    say(f"FSDP2  loss {loss:.6f}  saved after step {half}")

    say(f"DCP    steps {half + 1} to {options.steps} once more, from what was saved")
    resumed = sharded(options.seed + 1, device)
    optimizer = make(resumed.parameters())
    load(resumed, optimizer, folder)
    train(resumed, optimizer, range(half, options.steps), device)
    same = same_bits(changed(ending(resumed, optimizer), own), result)
    say(f"DCP    resumed with new models: {same} of the first process")

    if dist.get_rank() == 0:
        alone = network(options.seed + 1, device)
        optimizer = make(alone.parameters())
        load(alone, optimizer, folder, alone=True)
        say(f"DCP    loaded by one process: {same_bits(ending(alone, optimizer), saved)}")
    return result


def say(line: str) -> None:
    """Print a line once, not once in every process."""
    if dist.get_rank() == 0:
        print(line, flush=True)


def run(options: Options) -> Result:
    """Train with copies and with shards of the model, in a process group that there is."""
    optim = start(options)

    def make(params: Iterable[Tensor]) -> Optimizer:
        optimizer: Optimizer = optim.Adam(params, lr=1e-2, amsgrad=True)
        return optimizer

    result = {
        "copies": with_copies(make, options),
        "shards": with_shards(make, options, options.out / "distributed"),
    }
    if dist.get_rank() == 0:
        conclude(result, "copies stay equal, and shards are saved, loaded and resumed, to the bit.")
    return result


def too_few_devices(options: Options) -> bool:
    """Tell whether the processes on this machine are more than its GPUs."""
    count = int(os.environ.get("LOCAL_WORLD_SIZE", PROCESSES))
    return options.device.type == "cuda" and torch.cuda.device_count() < count


def leave() -> None:
    """End the process group after a run that succeeded, all processes together.

    Threads of the group would else still be at work, for a process that is not done, in one that is
    about to end. What Python holds of models and tensors goes first.
    """
    gc.collect()
    dist.barrier()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run the example, in two processes if torchrun started none."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command_line = parser(__doc__, steps=100)
    options = command_line.parse_args(given, Options())
    if too_few_devices(options):
        command_line.error("--device cuda takes a GPU for each process: two, without torchrun")
    if not dist.is_torchelastic_launched():
        torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES))
        command = [sys.executable, "-m", *torchrun, __file__, *given]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        return subprocess.run(command, check=False, env=environment).returncode
    if options.device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(timeout=PATIENCE)
    try:
        run(options)
        leave()
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
