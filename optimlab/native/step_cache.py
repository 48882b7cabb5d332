"""A step, and how it is cached.

The first step of an optimizer that the kernel serves is planned: every property of every tensor is
looked at, the rule is read, and what the kernel needs is written down in launches (``launch.py``).
Later steps repeat that plan, in four short functions of :class:`CachedStep`, as long as the guards
hold: numbers may have changed, in tensors, gradients and hyperparameters, and so may the memory of
tensors, which is taken up anew.

1. **guard**: nothing intercepts operations or scales gradients, and the rule, the groups, the lists
   of parameters and the dicts of state are the same objects;
2. **compute numbers**: the scalars of the rule, for this step and these hyperparameters;
3. **run**: one call of the kernel, which looks at every tensor and then changes them, or nothing;
4. **move versions**: autograd must notice that what it saved is no longer there.

A step that cannot be repeated has changed nothing; the optimizer plans anew, or takes the for-loop.
"""

from __future__ import annotations

import threading
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.autograd.graph import increment_version

from optimlab.native.guards import IdentityGuards, address_of
from optimlab.native.launch import (
    MOST_STEPS,
    SINGLE_THREAD_LIMIT,
    Launch,
    no_modes_active,
    read_rule,
)
from optimlab.native.ownership import Ownership
from optimlab.native.self_check import Capabilities
from optimlab.native.tracing import FLAGS, SpecialisedTrace, specialise

if TYPE_CHECKING:
    from optimlab.core.batch import Batch, Stepped

MOST_ATTEMPTS = 8
"""So often a group's rule is specialised; a way that no trace went is read at every step after."""


class CachedStep:
    """What one step of an optimizer leaves for the next.

    Args:
        capable: the kernel, and what it may be used for.
        optimizer: whose step it is.
        groups: its groups.
        others: parameters that took no part.

    Attributes:
        groups: the groups.
        launches: all of them, group by group.
        state: the optimizer's.
        escaped: a byte that is not 0 once somebody has asked for the state.
        ownership: whether nobody else can reach the state.
    """

    def __init__(
        self,
        capable: Capabilities,
        optimizer: Stepped,
        groups: Sequence[CachedGroup],
        others: Sequence[Tensor],
    ) -> None:
        assert capable.kernel is not None
        self.groups = groups
        self.launches = [launch for group in groups for launch in group.launches]
        self.state: dict[Tensor, Any] = optimizer.state
        self.escaped = array("b", [0])
        self.ownership = Ownership()
        self._kernel = kernel = capable.kernel
        self._lock = threading.Lock()
        self._rule = vars(optimizer).get("update", type(optimizer).update)
        self._param_groups = optimizer.param_groups
        self._params = list(chain.from_iterable(launch.params for launch in self.launches))
        self._written = list(
            chain.from_iterable(launch.written_tensors for launch in self.launches)
        )
        lists = [self._param_groups, *(each.group["params"] for each in groups)]
        same: list[Any] = [(each, None) for each in lists]
        same += [(each.group, FLAGS) for each in groups]
        self._same_groups = kernel.same_objects(IdentityGuards(same))
        self._same_state_dicts = kernel.same_objects(IdentityGuards([(self.state, None)]))
        records = [launch.record for launch in self.launches]
        self._large = [record for record in records if record.total > SINGLE_THREAD_LIMIT]
        self._others = others, array("q", map(id, others))
        self._step_owned = kernel.step(records, self._others[1], address_of(self.escaped))
        self._step = kernel.step(records, self._others[1], None)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copy of an optimizer caches nothing: here are addresses

    def replay(self, optimizer: Stepped) -> bool:
        """Make a step, if the guards hold.

        Returns:
            Whether it was made. If not, nothing was changed. Where another thread, or the very step
            that is interrupted now, is making one, the cached step is kept; else the optimizer has
            forgotten it.
        """
        changed: list[Tensor] = []
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self.escaped[0]:
                self.escaped[0] = 0
                self.ownership.note_escape()
            if self._guard(optimizer) and self._compute(optimizer):
                changed = self._run()
                self._move_versions(changed)
        finally:
            if not changed:
                optimizer.__dict__.pop("_cached_step", None)
            self._lock.release()
        return bool(changed)

    def _guard(self, optimizer: Stepped) -> bool:
        """Tell whether no mode, flag or scaling calls for another way, and objects are the same.

        The objects are the rule, the groups with their parameters, and the dicts of state.
        """
        attributes = optimizer.__dict__
        return bool(
            no_modes_active()
            and optimizer.defaults.get("differentiable") is False
            and "grad_scale" not in attributes
            and "found_inf" not in attributes
            and attributes.get("state") is self.state
            and attributes.get("update", type(optimizer).update) is self._rule
            and optimizer.param_groups is self._param_groups
            and self._same_groups()
            and (self.ownership.holds or self._same_state_dicts())
        )

    def _compute(self, optimizer: Stepped) -> bool:
        """Write the scalars of the rule for this step; tell whether the kernel takes it."""
        for group in self.groups:  # noqa: SIM110 - all() would cost a frame for each
            if not group.compute(optimizer):
                return False
        return True

    def _run(self) -> list[Tensor]:
        """Make the step; return the tensors whose counters have to move, none if it was not made.

        The counters of state rest while nobody else has it.
        """
        ownership = self.ownership
        if self._large and not self._kernel.share(self._large):
            return []
        if ownership.holds:
            changed, will_hold, status = self._params, True, self._step_owned()
        else:
            will_hold = not self.escaped[0] and ownership.recheck(self)
            changed, status = self._written, self._step()
        if not self._kernel.was_made(status):
            return []
        ownership.holds = will_hold and not self.escaped[0]
        return changed

    def _move_versions(self, changed: list[Tensor]) -> None:
        """Let autograd notice that what it saved is no longer there."""
        increment_version(changed)


class CachedGroup:
    """The launches of a parameter group, and where the numbers of its rule come from.

    Args:
        capable: the kernel, and what it may be used for.
        optimizer: whose group it is.
        batch: the group, as it was stepped.
        launches: of all parameters that take part.

    Attributes:
        group: the group.
        launches: the launches.
        traces: of the rule, for the ways that it has gone; none if it is read at every step.
    """

    def __init__(
        self, capable: Capabilities, optimizer: Stepped, batch: Batch, launches: Sequence[Launch]
    ) -> None:
        self.group = batch.group
        self.launches = launches
        self.traces: list[SpecialisedTrace] = []
        self._capable = capable
        self._state_names = batch.names
        self._attempts = 0
        self._names_are_ours = all(map(is_of_this_package, optimizer.state_spec.conditions))

    def compute(self, optimizer: Stepped) -> bool:
        """Write the numbers of the coming step; tell whether the kernel takes the rule."""
        group, asks_names = self.group, not self._names_are_ours
        for launch in self.launches:
            code = launch.code
            if code[0] > MOST_STEPS:
                return False
            for each in self.traces:
                if launch.trace is not each:
                    launch.write(each.numbers, each)
                try:
                    if each.compute(code, group):
                        break
                except (ArithmeticError, TypeError, KeyError):
                    pass  # the rule has to be read: it may be an error, which the rule will raise
            else:
                asks_names = True
                if not self._read(optimizer, launch):
                    return False
        if not (asks_names and self.launches):
            return True
        names: tuple[str, ...] = optimizer.state_spec.names(group)
        return names == self._state_names

    def _read(self, optimizer: Stepped, launch: Launch) -> bool:
        """Read the rule for the coming step, and trace it for those after it."""
        kind = launch.names, launch.dtype, launch.step
        program = read_rule(self._capable, optimizer, *kind, self.group)
        if program is None:
            return False
        launch.write(program)
        if self._attempts < MOST_ATTEMPTS:
            self._attempts += 1
            traced = specialise(optimizer, launch)
            if traced is not None:
                self.traces.insert(0, traced)
        return True


def cache_step(
    capable: Capabilities,
    optimizer: Stepped,
    batches: Sequence[Batch],
    launches: Mapping[int, list[Launch]],
) -> CachedStep | None:
    """Cache a step, if the kernel has executed all of it.

    Args:
        capable: the kernel, and what it may be used for.
        optimizer: whose step it was.
        batches: one for each of its groups.
        launches: by place, how each of them was executed.
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
        CachedGroup(capable, optimizer, batch, launches.get(place, []))
        for place, batch in enumerate(batches)
    ]
    taking_part = {id(param) for each in made for param in each.params}
    params = chain.from_iterable(batch.group["params"] for batch in batches)
    others = [param for param in params if id(param) not in taking_part]
    return CachedStep(capable, optimizer, groups, others)


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
