"""Four threads and a signal handler act on optimizers while these step.

    python tests/programs/stress.py --library optimlab --seconds 60 --seed 0

It ends with 0 if nothing crashed, hung, raised or gave other bits than it should, and says how
often each thing was done. It goes in rounds, each from a seed of its own, through these scenes:

`own`: every thread, the main one among them, steps an optimizer of its own and does to it what
programs do (:data:`OWN`). Moves, after which a tensor has the same numbers at another address, come
in between: from the other threads while the owner waits, from the signal handler at any moment of
the main thread. So each program's end depends on its seed alone, and is compared with the same
program under torch.optim, undisturbed.

`interrupted`: the main thread steps, and the signal handler does to the same optimizer whatever
there is to do (:data:`INTERRUPTING`), also within a step.

`shared`: all threads and the handler act on one optimizer at the same time (:data:`SHARED`), also
by steps of their own. What comes out depends on chance; nothing may crash.

`freed`: as `shared`, with one thread that steps, and moves that free the memory that they move
from. torch gives no such promise: an operation of ATen goes on to use the addresses it began with,
which is why `shared` keeps that memory and shares none with other processes. So this scene is
played where the native kernel serves, and with nothing that makes it leave a step to ATen.

`counted`: two threads step one SGD whose gradients are all one. In turns, every step counts; at the
same time, one thread may write over what another wrote, as in torch, and nothing else.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import gc
import importlib
import io
import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
import torch.multiprocessing
from torch import Tensor

import optimlab
from optimlab.lab.parity import compare_tensors

THREADS = 4
SIGNAL_EVERY = 0.002  # seconds
SWITCH_EVERY = 0.0002  # seconds between threads, in place of Python's 0.005
DISTURBED_FOR = 0.3  # seconds
HANGS_AFTER = 120  # seconds beyond those that were asked for

Rule: TypeAlias = "tuple[str, dict[str, Any]]"
SERVED: tuple[Rule, ...] = (
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "amsgrad": True}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True}),
)
"""What the native kernel carries out."""
RULES: tuple[Rule, ...] = (*SERVED, ("Adam", {"lr": 0.01, "foreach": True}))
SMALL = ((), (3,), (40,), (7, 5), (3,), (2000,))
LARGE = (40_000,)
DTYPES = (torch.float32, torch.float32, torch.float64)

Chance: TypeAlias = random.Random
Kept: TypeAlias = list[Tensor]

done: list[str] = []
"""What was done; a list, because another thread may come in between the bytecodes that count."""


# Moves: the same numbers at another address. Each returns what has the old memory.


def give_data(tensor: Tensor) -> Tensor:
    """Give the tensor a copy of its data."""
    old = tensor.data
    tensor.data = old.clone()
    return old


def set_storage(tensor: Tensor) -> Tensor:
    """Set the tensor to the storage of a copy."""
    old = tensor.detach()
    with torch.no_grad():
        tensor.set_(old.clone())  # type: ignore[call-overload]
    return old


MOVES: tuple[Callable[[Tensor], Tensor], ...] = (give_data, set_storage)


class Trained:
    """Parameters and their optimizer, with a source of gradients.

    Attributes:
        lock: held by who acts on it, or moves it, where only one may.
        kept_gradients: that were taken away while others may have been asking for them.
    """

    def __init__(self, library: Any, seed: str, rules: Sequence[Rule] = RULES) -> None:
        self.chance = random.Random(seed)
        self.numbers = torch.Generator().manual_seed(self.chance.randrange(2**31))
        name, options = self.chance.choice(rules)
        self.dtype = self.chance.choice(DTYPES)
        self.params: list[Tensor] = []
        groups = [
            {"params": [self.new_param(size) for size in sizes]} for sizes in (SMALL, [LARGE])
        ]
        self.optimizer: Any = getattr(library, name)(groups, **options)
        self.lock = threading.RLock()
        self.kept_gradients: list[Tensor | None] = []

    def new_param(self, size: Sequence[int]) -> Tensor:
        param = self.random(size).requires_grad_()
        self.params.append(param)
        return param

    def random(self, size: Sequence[int]) -> Tensor:
        return torch.randn(size, generator=self.numbers, dtype=self.dtype)

    def renew_gradients(self, chance: float = 1.0) -> None:
        for param in self.params:
            if self.chance.random() < chance:
                param.grad = self.random(param.shape)

    def step(self) -> None:
        self.optimizer.step()
        done.append("step")

    def tensors(self, largest: int) -> list[Tensor]:
        """Return parameters, gradients and state of at most so many elements."""
        found = [*self.params, *[param.grad for param in self.params if param.grad is not None]]
        for held in list(self.optimizer.state.values()):
            found += [value for value in list(held.values()) if isinstance(value, Tensor)]
        return [tensor for tensor in found if tensor.numel() <= largest]

    def move(self, chance: Chance, largest: int = LARGE[0], kept: Kept | None = None) -> None:
        """Move one tensor, and keep the memory that it had."""
        move = chance.choice(MOVES)
        with self.lock:  # torch is not ready for two threads that move one tensor
            old = move(chance.choice(self.tensors(largest)))
        if kept is not None:
            kept.append(old)
        done.append(f"move: {move.__name__}")

    def share_memory(self, chance: Chance) -> None:
        """Move one tensor to memory that other processes can have, which frees its own."""
        chance.choice(self.tensors(LARGE[0])).data.share_memory_()
        done.append("move: share_memory_")

    def end(self) -> list[Tensor]:
        """Return everything that the optimizer has come to, in order."""
        states = [self.optimizer.state[param] for param in self.params]
        return [
            *[param.detach() for param in self.params],
            *[torch.as_tensor(held[name]) for held in states for name in sorted(held)],
            *[torch.tensor(group["lr"]) for group in self.optimizer.param_groups],
        ]


Action: TypeAlias = Callable[[Trained, Chance, Kept], None]

# What a program does to an optimizer of its own; the outcome depends on `chance` alone.


def free_gradients(trained: Trained, chance: Chance, kept: Kept) -> None:
    trained.optimizer.zero_grad()
    trained.renew_gradients(0.5)


def change_lr(trained: Trained, chance: Chance, kept: Kept) -> None:
    for group in trained.optimizer.param_groups:
        group["lr"] = chance.uniform(0.001, 0.1)


def add_key(trained: Trained, chance: Chance, kept: Kept) -> None:
    chance.choice(trained.optimizer.param_groups)["note"] = "a key of the user's"


def remove_keys(trained: Trained, chance: Chance, kept: Kept) -> None:
    for group in trained.optimizer.param_groups:
        group.pop("note", None)


def add_group(trained: Trained, chance: Chance, kept: Kept) -> None:
    if len(trained.optimizer.param_groups) < 6:
        param = trained.new_param(chance.choice(SMALL))
        trained.optimizer.add_param_group({"params": [param], "lr": 0.02})


def swap_state(trained: Trained, chance: Chance, kept: Kept) -> None:
    for held in list(trained.optimizer.state.values()):
        for name, value in list(held.items()):
            if isinstance(value, Tensor) and chance.random() < 0.5:
                held[name] = value.clone()


def swap_parameters(trained: Trained, chance: Chance, kept: Kept) -> None:
    first, second = [param for param in trained.params if param.shape == (3,)][:2]
    first.data, second.data = second.data, first.data


def load_own_state(trained: Trained, chance: Chance, kept: Kept) -> None:
    trained.optimizer.load_state_dict(trained.optimizer.state_dict())


def go_on_with_a_copy(trained: Trained, chance: Chance, kept: Kept) -> None:
    both = trained.params, trained.optimizer
    trained.params, trained.optimizer = copy.deepcopy(both)


def hand_to_thread(trained: Trained, chance: Chance, kept: Kept) -> None:
    """Let another thread save the state, and load what it saved."""
    buffer = io.BytesIO()
    with without_signals():
        saver = threading.Thread(target=torch.save, args=(trained.optimizer.state_dict(), buffer))
        saver.start()
        saver.join()
    buffer.seek(0)
    trained.optimizer.load_state_dict(torch.load(buffer))


def hand_to_queue(trained: Trained, chance: Chance, kept: Kept) -> None:
    """Put the state into a queue, whose thread moves it to shared memory, and load it again."""
    with without_signals():
        queue = torch.multiprocessing.get_context("spawn").Queue()
        queue.put(trained.optimizer.state_dict())
        trained.optimizer.load_state_dict(queue.get())
        queue.close()
        queue.join_thread()


def collect_garbage(trained: Trained, chance: Chance, kept: Kept) -> None:
    gc.collect(chance.randrange(3))


def move_any(trained: Trained, chance: Chance, kept: Kept) -> None:
    trained.move(chance)


def share_any(trained: Trained, chance: Chance, kept: Kept) -> None:
    trained.share_memory(chance)


OWN: tuple[Action, ...] = (
    *(free_gradients, change_lr, add_key, remove_keys, add_group, swap_state, swap_parameters),
    *(load_own_state, go_on_with_a_copy, hand_to_thread, hand_to_queue, collect_garbage),
    *(move_any, share_any),
)


@contextmanager
def without_signals() -> Iterator[None]:
    """Let the signal handler wait until threads that know of no lock are done.

    A connection to a local socket, by which the queue's receiver asks for memory, cannot be resumed
    when a signal interrupts it: Python takes it for made.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def threads(count: int) -> ThreadPoolExecutor:
    """Return threads that leave signals to the main one."""
    block = (signal.SIG_BLOCK, {signal.SIGALRM})
    return ThreadPoolExecutor(count, initializer=signal.pthread_sigmask, initargs=block)


def run(trained: Trained, steps: int, between: Callable[[], None]) -> list[Tensor]:
    """Run the program of one thread, and return what it ends with."""
    for _ in range(steps):
        with trained.lock:
            trained.renew_gradients(0.8)
            if trained.chance.random() < 0.5:
                action = trained.chance.choice(OWN)
                action(trained, trained.chance, [])
                done.append(action.__name__)
            trained.step()
        between()
    return trained.end()


def move_if_free(trained: Trained, chance: Chance) -> None:
    """Move something of another thread's, unless that thread acts; also from a signal handler.

    A thread may take its own lock again: the handler gets into the main thread's steps.
    """
    if trained.lock.acquire(blocking=False):
        try:
            (trained.share_memory if chance.random() < 0.1 else trained.move)(chance)
        finally:
            trained.lock.release()


def own(library: Any, seed: int) -> None:
    """Compare each thread's end with that of the same program under torch.optim, undisturbed."""
    chance = random.Random(seed)
    torch.set_num_threads(chance.choice((1, 1, 1, 2)))
    seeds = [f"{seed}, thread {place}" for place in range(THREADS)]
    running = [Trained(library, each) for each in seeds]
    together = threading.Barrier(THREADS)

    def train(place: int) -> list[Tensor]:
        others = random.Random(place)
        together.wait()
        return run(running[place], 25, lambda: move_if_free(others.choice(running), others))

    with threads(THREADS - 1) as pool:
        futures = [pool.submit(train, place) for place in range(1, THREADS)]
        with signals(lambda: move_if_free(running[0], chance)):
            ends = [train(0)]
        ends += [future.result() for future in futures]
    torch.set_num_threads(1)
    for each, end in zip(seeds, ends, strict=True):
        undisturbed = run(Trained(torch.optim, each), 25, lambda: None)
        for place, (found, expected) in enumerate(zip(end, undisturbed, strict=True)):
            mismatch = compare_tensors(found, expected)
            assert mismatch is None, f"{each}, tensor {place}: {mismatch}"


# What anybody does to an optimizer that others are stepping.


def renew_one_gradient(trained: Trained, chance: Chance, kept: Kept) -> None:
    param = chance.choice(trained.params)
    param.grad = torch.randn(param.shape, dtype=param.dtype)


def free_one_gradient(trained: Trained, chance: Chance, kept: Kept) -> None:
    # Kept in every scene: torch takes no more care of a gradient that another thread asks for while
    # its last reference goes. A new gradient in its place is another matter.
    param = chance.choice(trained.params)
    trained.kept_gradients.append(param.grad)
    param.grad = None


def swap_one_state(trained: Trained, chance: Chance, kept: Kept) -> None:
    held = chance.choice(list(trained.optimizer.state.values()))
    name, value = chance.choice(list(held.items()))
    held[name] = value.clone()


def swap_one_parameter(trained: Trained, chance: Chance, kept: Kept) -> None:
    param = chance.choice(trained.params[: len(SMALL)])
    with trained.lock:
        kept.append(param.data)
        param.data = torch.randn(param.shape, dtype=param.dtype)


def change_one_lr(trained: Trained, chance: Chance, kept: Kept) -> None:
    chance.choice(trained.optimizer.param_groups)["lr"] = chance.uniform(0.001, 0.01)


def move_small(trained: Trained, chance: Chance, kept: Kept) -> None:
    trained.move(chance, 2000, kept)


def step_too(trained: Trained, chance: Chance, kept: Kept) -> None:
    trained.step()


def save(trained: Trained, chance: Chance, kept: Kept) -> None:
    torch.save(trained.optimizer.state_dict(), io.BytesIO())


def copy_all(trained: Trained, chance: Chance, kept: Kept) -> None:
    copy.deepcopy(trained.optimizer)


FREEING: tuple[Action, ...] = (
    *(renew_one_gradient, free_one_gradient, swap_one_state, swap_one_parameter, change_one_lr),
    *(move_small, collect_garbage),
)
SHARED: tuple[Action, ...] = (
    *(*FREEING, step_too, save, copy_all, add_key, remove_keys, add_group, load_own_state),
)
INTERRUPTING: tuple[Action, ...] = (*SHARED, move_any, share_any)

# What Python raises where two change and read the same at a time, in torch and here.
REFUSALS: dict[type[Exception], tuple[str, ...]] = {
    RuntimeError: ("changed size during iteration", "mutated during iteration"),
    KeyError: ("",),  # state of which another thread has made a part
    IndexError: ("empty sequence",),
    ValueError: ("parameter group", "zip()"),  # there are more than when the state was asked for
    AttributeError: ("'NoneType' object has no attribute",),  # a gradient that was there before
    TypeError: ("NoneType",),
}


def attempt(what: str, action: Callable[[], None]) -> None:
    """Do something that may meet with another thread's doing, as Python code in threads may."""
    try:
        action()
    except tuple(REFUSALS) as error:
        if not any(text in str(error) for text in REFUSALS[type(error)]):
            raise
        done.append(f"{what}: refused, {type(error).__name__}")
    else:
        done.append(what)


def disturb(
    trained: Trained, seed: int, actions: Sequence[Action], others: int, *, keeps: bool
) -> None:
    """Step in the main thread, while others and the signal handler act on the same optimizer."""
    for _ in range(4):
        trained.renew_gradients()
        trained.step()
    stop = threading.Event()
    kept: Kept = []

    def act(chance: Chance) -> None:
        action = chance.choice(actions)
        memory = kept if keeps else []
        attempt(f"{action.__name__}, in a step", lambda: action(trained, chance, memory))

    def go_on_acting(place: int) -> None:
        chance = random.Random(f"{seed}, thread {place}")
        while not stop.is_set():
            act(chance)

    interrupting = random.Random(f"{seed}, handler")
    with threads(THREADS) as pool:
        futures = [pool.submit(go_on_acting, place) for place in range(others)]
        try:
            with signals(lambda: act(interrupting)):
                until = time.monotonic() + DISTURBED_FOR
                while time.monotonic() < until:
                    attempt("step, while others act", trained.step)
        finally:
            stop.set()
        for future in futures:
            future.result()


def interrupted(library: Any, seed: int) -> None:
    """Let the signal handler do anything within the main thread's steps, and nobody else."""
    disturb(Trained(library, str(seed)), seed, INTERRUPTING, 0, keeps=False)


def shared(library: Any, seed: int) -> None:
    """Let every thread do anything, keeping the memory that ATen may be using."""
    disturb(Trained(library, str(seed)), seed, SHARED, THREADS - 1, keeps=True)


def freed(library: Any, seed: int) -> None:
    """Let the kernel's memory be freed while it uses it."""
    disturb(Trained(library, str(seed), SERVED), seed, FREEING, THREADS - 1, keeps=False)


def counted(library: Any, seed: int) -> None:
    """Count the steps that two threads take with one optimizer, in turns and at the same time."""
    steps = 150
    for turns in (threading.Lock(), nullcontext()):
        params = [torch.zeros(size, requires_grad=True) for size in (*SMALL, LARGE)]
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer = library.SGD(params, lr=1.0)

        def step(optimizer: Any, turns: AbstractContextManager[Any]) -> None:
            for _ in range(steps):
                with turns:
                    optimizer.step()
                done.append("step, of two threads")

        with threads(2) as pool:
            for future in [pool.submit(step, optimizer, turns) for _ in range(2)]:
                future.result()
        for param in params:
            taken = -param.detach()
            least = 1 if isinstance(turns, nullcontext) else 2 * steps
            assert torch.equal(taken, taken.round())
            assert least <= taken.min() <= taken.max() <= 2 * steps, f"{taken.min()} steps counted"


@contextmanager
def signals(handle: Callable[[], None]) -> Iterator[None]:
    """Interrupt the main thread again and again, but not the handler."""

    def take(*_: Any) -> None:
        handle()
        signal.setitimer(signal.ITIMER_REAL, SIGNAL_EVERY)

    before = signal.signal(signal.SIGALRM, take)
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_EVERY)
    try:
        yield
    finally:
        # First ignored: a signal that is under way would start the timer anew.
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def play(name: str, seconds: float, seed: int) -> None:
    """Play the scenes, and print before each where it begins, and at the end what was done."""
    sys.setswitchinterval(SWITCH_EVERY)
    gc.freeze()  # only what is made here is to be collected, which is soon done
    faulthandler.enable()
    faulthandler.dump_traceback_later(seconds + HANGS_AFTER, exit=True)
    scenes = [own, interrupted, shared, counted]
    if name == "optimlab" and optimlab.info().native:
        scenes.append(freed)
    library = importlib.import_module(name)
    until = time.monotonic() + seconds
    for number in itertools.count(seed):
        for scene in scenes:
            print(f"{BEGINS}{number}, {scene.__name__}", flush=True)
            scene(library, number)
        if time.monotonic() > until:
            break
    for what, times in sorted(Counter(done).items()):
        print(f"{times:>9,}  {what}")


BEGINS = "seed "


def main() -> int:
    """Play in a process of its own, and tell how that ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--library", default="optimlab", help="a module that has SGD, Adam, ...")
    parser.add_argument("--seconds", type=float, default=60, help="go on for so long")
    parser.add_argument("--seed", type=int, default=0, help="of the first round; 1 more in each")
    parser.add_argument("--here", action="store_true", help="play in this process")
    args = parser.parse_args()
    if args.here:
        play(args.library, args.seconds, args.seed)
        return 0
    where = "its start"
    with subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--here"], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            if line.startswith(BEGINS):
                where = line.strip()
            else:
                print(line, end="")
    if process.returncode:
        print(f"{args.library}: ended with {process.returncode} in {where}", file=sys.stderr)
    return int(process.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
