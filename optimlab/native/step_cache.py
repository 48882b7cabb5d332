"""A step, and how it is cached.

The first steps of an optimizer are planned: every property of every tensor is looked at, the rule
is read, and what the kernel needs is written down in launches. The second step and all after it
repeat that plan, in four short functions of :class:`CachedStep`, as long as nothing but the numbers
in the tensors, the gradients and the hyperparameters has changed:

1. **guard**: the optimizer, its groups and its lists of parameters are the same objects;
2. **compute numbers**: the scalars of the rule, for this step and these hyperparameters;
3. **run**: one call of the kernel, which looks at every tensor and then changes them, or nothing;
4. **move versions**: autograd must notice that what it saved is no longer there.

A step that cannot be repeated has changed nothing; the optimizer plans anew, or takes ATen's way.
"""

from __future__ import annotations

import ctypes
import os
import threading
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from optimlab.native import library
from optimlab.native.bytecode import Bytecode, read
from optimlab.native.guards import ANYTHING, Identity, nothing_open, start
from optimlab.native.launch import DTYPES, Launch, launches_of
from optimlab.native.ownership import Ownership
from optimlab.native.self_check import Capabilities
from optimlab.native.traced import FLAGS, Traced, traced

if TYPE_CHECKING:
    from optimlab.core.batch import Batch, Stepped

ALONE = 1 << 15
"""Up to so many elements one thread is faster than waking the others."""

MOST_STEPS = 1 << 24
"""From here on a step count in float32 stays where it is when 1 is added."""

MOST_TRACES = 8
"""So many traces a group has at most; where another way is taken at every step, the rule is run."""

_forked = False


def no_modes_active() -> bool:
    """Tell whether tensors are plain memory now: nothing intercepts or records operations."""
    return (
        not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and torch._C._functorch.maybe_current_level() is None
        and forward_ad._current_level < 0
    )


class Runner:
    """The kernel, with what it may be used for.

    Args:
        found: the kernel, and which of its instructions give ATen's bits here.
    """

    def __init__(self, found: Capabilities) -> None:
        assert found.kernel is not None
        self.kernel = found.kernel
        self._found = found
        self._alike = 1  # of how many threads it is known that they round and flush alike

    def serves(self, bytecode: Bytecode, dtype: torch.dtype) -> bool:
        """Tell whether a rule comes out with ATen's bits."""
        return bytecode.fits() and self._found.serves(bytecode.opcodes, dtype)

    def records(self, launches: Sequence[Launch]) -> ctypes.Array[library.Launch]:
        """Lay launches out for the kernel; from now on they are written to where they lie."""
        made = (library.Launch * len(launches))(*(launch.record for launch in launches))
        for launch, record in zip(launches, made, strict=True):
            record.joined = launch.dtype in self._found.joins
            launch.record = record
        return made

    def share(self, launches: Sequence[Launch]) -> bool:
        """Divide large launches among torch's threads; tell whether all calculate alike."""
        threads = 1 if _forked else torch.get_num_threads()
        if threads > self._alike:
            if not self.kernel.threads_are_alike(threads):
                return False
            self._alike = threads
        for launch in launches:
            launch.record.threads = threads
        return True

    def ended(self, status: int) -> bool:
        """Tell whether a step was made; if some threads had no part in it, look at them again."""
        if status == library.DONE_BY_FEWER:
            self._alike = 1
            return True
        return status == library.DONE


class CachedGroup:
    """The launches of a parameter group, and where the numbers of its rule come from.

    Args:
        runner: what carries the launches out.
        optimizer: whose group it is.
        group: the group.
        names: what the rule's state is called.
        launches: of all parameters that take part.

    Attributes:
        traces: of the rule, for the ways that it has gone; empty if it has to be run at every step.
        was_run: whether the rule itself was run in the last step.
    """

    def __init__(
        self,
        runner: Runner,
        optimizer: Stepped,
        group: dict[str, Any],
        names: tuple[str, ...],
        launches: Sequence[Launch],
    ) -> None:
        self.group = group
        self.params: list[Tensor] = group["params"]
        self.names = names
        self.launches = launches
        self.traces: list[Traced] = []
        self.was_run = True
        self._runner = runner
        self._attempts = 0
        flags = Identity([(group, lambda name: None if name in FLAGS else ANYTHING)])
        self._flags_stayed = runner.kernel.stayed(flags)
        self._names_are_ours = all(map(is_of_this_package, optimizer.state_spec.conditions))

    def holds(self, optimizer: Stepped, rule: Any) -> bool:
        """Tell whether the same parameters take part, with the same flags and kinds of state."""
        for trace in self.traces:
            if rule is not trace.rule or not trace.stayed():
                self.traces = [t for t in self.traces if rule is t.rule and t.stayed()]
                break
        if not self.traces and not self._flags_stayed():
            return False
        return self._names_are_ours or optimizer.state_spec.names(self.group) == self.names

    def compute(self, optimizer: Stepped) -> bool:
        """Write the numbers of the coming step; tell whether the kernel takes the rule."""
        self.was_run = False
        group = self.group
        for launch in self.launches:
            if launch.step > MOST_STEPS or launch.step % 1:
                return False
            for trace in self.traces:
                if launch.trace is not trace:
                    launch.take(trace)
                try:
                    if trace.compute(launch.code, launch.step, group):
                        break
                except (ArithmeticError, TypeError, KeyError):
                    pass  # the rule has to be run: it may be an error, which the rule will raise
            else:
                self.was_run = True
                if optimizer.state_spec.names(group) != self.names:
                    return False
                if not read_rule(self._runner, optimizer, launch):
                    return False
        return True

    def trace(self, optimizer: Stepped) -> None:
        """Trace the way that the rule went in the last step, when it had to be run."""
        if self.launches and self._attempts < MOST_TRACES:
            self._attempts += 1
            trace = traced(self._runner.kernel, optimizer, self.launches[0])
            if trace is not None:
                self.traces.insert(0, trace)


class CachedStep:
    """What one step of an optimizer leaves for the next.

    Args:
        runner: what carries the launches out.
        optimizer: whose step it is.
        groups: its groups.
        others: parameters that took no part.

    Attributes:
        launches: all of them, group by group.
        state: the optimizer's.
        escaped: a byte that is not 0 once somebody has asked for the state.
        ownership: whether nobody else can reach the state.
    """

    def __init__(
        self,
        runner: Runner,
        optimizer: Stepped,
        groups: Sequence[CachedGroup],
        others: Sequence[Tensor],
    ) -> None:
        self.groups = groups
        self.launches = [launch for group in groups for launch in group.launches]
        self.state: dict[Tensor, Any] = optimizer.state
        self.escaped = array("b", [0])
        self.ownership = Ownership()
        self._runner = runner
        self._param_groups = optimizer.param_groups
        self._turn = threading.Lock()
        self._params = list(chain.from_iterable(launch.params for launch in self.launches))
        self._written = list(chain.from_iterable(launch.written for launch in self.launches))
        self._counting = [launch for launch in self.launches if launch.counts_steps]
        self._large = [launch for launch in self.launches if launch.total > ALONE]
        lists = [self._param_groups, *(group.params for group in groups)]
        stayed = runner.kernel.stayed
        self._lists_stayed = stayed(Identity([(each, nothing_open) for each in lists]))
        self._state_stayed = stayed(Identity([(self.state, nothing_open)]))
        self._held = others, array("q", map(id, others))
        records = runner.records(self.launches)
        self._step_owned = runner.kernel.step(records, self._held[1], start(self.escaped))
        self._step = runner.kernel.step(records, self._held[1], None)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copy of an optimizer caches nothing: here are addresses

    def replay(self, optimizer: Stepped) -> bool:
        """Make a step, if everything but numbers and gradients is as it was.

        Returns:
            Whether it was made. If not, nothing was changed, and the optimizer has forgotten the
            cached step. Neither is it made where another thread, or the very step that is
            interrupted now, is at it.
        """
        changed: list[Tensor] = []
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if self._guard(optimizer) and self._compute(optimizer):
                changed = self._run()
                self._move_versions(changed)
                for group in self.groups:
                    if group.was_run:
                        group.trace(optimizer)
        finally:
            if not changed:
                optimizer.__dict__.pop("_cached_step", None)
            self._turn.release()
        return bool(changed)

    def _guard(self, optimizer: Stepped) -> bool:
        """Tell whether optimizer, groups and lists of parameters are the same objects."""
        attributes = optimizer.__dict__
        if self.escaped[0]:
            self.escaped[0] = 0
            self.ownership.end()
        if (
            not no_modes_active()
            or optimizer.defaults.get("differentiable") is not False
            or "grad_scale" in attributes
            or "found_inf" in attributes
            or attributes.get("state") is not self.state
            or optimizer.param_groups is not self._param_groups
            or not self._lists_stayed()
            or not (self.ownership.holds or self._state_stayed())
        ):
            return False
        rule = None if "update" in attributes else type(optimizer).update
        for group in self.groups:  # noqa: SIM110 - all() would cost a frame for each
            if not group.holds(optimizer, rule):
                return False
        return True

    def _compute(self, optimizer: Stepped) -> bool:
        """Write the scalars of the rule for this step; tell whether the kernel takes it."""
        for group in self.groups:  # noqa: SIM110 - as above
            if not group.compute(optimizer):
                return False
        return True

    def _run(self) -> list[Tensor]:
        """Make the step; return the tensors whose counters have to move, none if it was not made.

        The counters of state rest while nobody else has it.
        """
        if self._large and not self._runner.share(self._large):
            return []
        ownership = self.ownership
        if ownership.holds:
            changed, will_hold, status = self._params, True, self._step_owned()
        else:
            will_hold = not self.escaped[0] and ownership.recheck(self)
            changed, status = self._written, self._step()
        if status != library.DONE and not self._runner.ended(status):
            return []
        ownership.holds = will_hold and not self.escaped[0]
        for launch in self._counting:
            launch.step += 1
        return changed

    def _move_versions(self, changed: list[Tensor]) -> None:
        """Let autograd notice that what it saved is no longer there."""
        increment_version(changed)


def launch(runner: Runner, optimizer: Stepped, batch: Batch) -> list[Launch] | None:
    """Carry a batch out, if the kernel can.

    Returns:
        How it was carried out, or ``None`` if nothing was done.
    """
    if torch.is_grad_enabled() or batch.steps_stay_tensors or not no_modes_active():
        return None
    if not _takes(runner, optimizer, batch):
        return None
    launches = launches_of(optimizer, batch)
    if launches is None or not all(read_rule(runner, optimizer, each) for each in launches):
        return None
    large = [each for each in launches if each.total > ALONE]
    if large and not runner.share(large):
        return None
    if not runner.ended(runner.kernel.step(runner.records(launches), array("q"), None)()):
        return None
    increment_version(list(chain.from_iterable(each.written for each in launches)))
    for each in launches:
        each.step += each.counts_steps
        each.leave()
    return launches


def _takes(runner: Runner, optimizer: Stepped, batch: Batch) -> bool:
    """Tell whether the kernel takes the rule, before the tensors are looked at."""
    first = batch.members[0]
    dtypes = {member.param.dtype for member in batch.members}
    if not (dtypes.issubset(DTYPES) and first.param.is_cpu and runner.kernel.has_usual_mode()):
        return False
    try:
        coming = 1.0 if first.step is None else float(first.step.item()) + 1
        bytecode = read(optimizer, ("param", "grad", *batch.names), coming, batch.group)
    except Exception:  # noqa: BLE001 - if it is an error, the plain path meets it where it counts
        return False
    return all(runner.serves(bytecode, dtype) for dtype in dtypes)


def read_rule(runner: Runner, optimizer: Stepped, launch: Launch) -> bool:
    """Read the rule for the coming step; tell whether the kernel takes it."""
    if not (1 <= launch.step <= MOST_STEPS and launch.step.is_integer()):
        return False
    try:
        bytecode = read(optimizer, launch.names, launch.step, launch.group)
    except Exception:  # noqa: BLE001 - as above
        return False
    if not runner.serves(bytecode, launch.dtype):
        return False
    launch.write(bytecode.numbers)
    return True


def cache_step(
    runner: Runner,
    optimizer: Stepped,
    batches: Sequence[Batch],
    launches: Mapping[int, list[Launch]],
) -> CachedStep | None:
    """Cache a step, if the kernel has carried all of it out.

    Args:
        runner: what carried it out.
        optimizer: whose step it was.
        batches: one for each of its groups.
        launches: by place, how each of them was carried out.
    """
    made = [each for served in launches.values() for each in served]
    counts = [address for each in made for address in each.step_addresses]
    if (
        not made
        or any(batch.members and place not in launches for place, batch in enumerate(batches))
        or len(set(counts)) < len(counts)  # groups that share a count change it for one another
        or not is_of_this_package(type(optimizer).check)  # which a step from the cache skips
        or not _is_made_of_lists_and_dicts(optimizer)
    ):
        return None
    groups = [
        CachedGroup(runner, optimizer, batch.group, batch.names, launches.get(place, []))
        for place, batch in enumerate(batches)
    ]
    taking_part = {id(param) for each in made for param in each.params}
    others = [p for group in groups for p in group.params if id(p) not in taking_part]
    return CachedStep(runner, optimizer, groups, others)


def is_of_this_package(function: Any) -> bool:
    """Tell whether a method is one of this package's own."""
    return str(function.__module__).startswith(f"{__name__.partition('.')[0]}.")


def _is_made_of_lists_and_dicts(optimizer: Stepped) -> bool:
    """Tell whether whatever may change between steps is of the kinds that are guarded."""
    groups = optimizer.param_groups
    return (
        type(optimizer.state) in (dict, defaultdict)
        and type(groups) is list
        and all(type(group) is dict and type(group["params"]) is list for group in groups)
    )


def _note_fork() -> None:
    """Go on with one thread: a pool does not survive a fork, and would be waited for."""
    global _forked  # noqa: PLW0603 - there is one process
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
