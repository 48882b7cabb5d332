"""The actions that random programs consist of."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from beside import Options, Side
from graphs_on_cpu import let_graphs_be_captured_on_cpu
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from torch import Tensor

from optimlab.lab.lockstep.clone import clone, save_and_load
from random_programs import choices
from random_programs.choices import Made, tensor_of
from random_programs.machine import Machine, OtherError, is_under_way
from random_programs.statements import FAULTS, UNFUSED, carry_out

Action: TypeAlias = Callable[..., None]


def action(kind: Any = rule, /, **strategies: st.SearchStrategy[Any]) -> Callable[[Action], Any]:
    """Make a rule of a method, and count how often it is carried out."""

    def enter(function: Action) -> Any:
        @functools.wraps(function)
        def counted(program: Program, *args: Any, **kwargs: Any) -> None:
            program.count(function.__name__)
            function(program, *args, **kwargs)

        return kind(**strategies)(counted)

    return enter


class Program(Machine):
    """What may be done, in any order; called by hand as well as drawn."""

    # Making optimizers.

    @action(
        initialize,
        optimizer=choices.made,
        **choices.tensors,
        groups=st.integers(1, 3),
        named=st.booleans(),
        graphs_on_cpu=st.booleans(),
    )
    def make(
        self,
        optimizer: Made,
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[torch.dtype] = (torch.float32,),
        layouts: Sequence[str] = ("contiguous",),
        groups: int = 1,
        named: bool = False,
        graphs_on_cpu: bool = False,
    ) -> None:
        """Make both optimizers; if they refuse the options, without them."""
        name, options = optimizer
        if graphs_on_cpu:
            let_graphs_be_captured_on_cpu(self._patch)
        for side in self.sides:
            side.name = name
            side.params = _new_params(shapes, dtypes, layouts)

        def made(side: Side, options: Options) -> None:
            params: list[Any] = side.params
            if named:
                params = [(f"tensor{place}", param) for place, param in enumerate(params)]
            count = min(groups, len(params)) if named else groups
            self._construct(
                side, options, [{"params": params[place::count]} for place in range(count)]
            )

        if self._both(lambda side: made(side, options)) is not None:
            assert self._both(lambda side: made(side, {})) is None
        self._keep()

    @action(optimizer=choices.made_anew)
    def make_anew(self, optimizer: Made) -> None:
        """Make both optimizers anew, over the same parameters."""
        for side in self.sides:
            side.name = optimizer[0]
        if self._both(lambda side: self._construct(side, optimizer[1])) is not None:
            self._recover()

    @action(way=st.sampled_from(choices.WAYS))
    def resume(self, way: str) -> None:
        """Go on in other optimizers with the same state; or come back, if they refuse it."""
        if way.startswith("in ") and any(param.is_complex() for param in self.ours.params):
            return
        saved = [clone(side.optimizer.state_dict()) for side in self.sides]
        source = {"of ours": self.ours, "of theirs": self.theirs}.get(way)
        shared = None if source is None else source.optimizer.state_dict()

        def resumed(side: Side) -> None:
            side.kept.clear()  # torch goes on with the very tensors that it loads
            if way == "deepcopy":
                side.optimizer = copy.deepcopy(side.optimizer)
            elif way == "pickle":
                side.optimizer = pickle.loads(pickle.dumps(side.optimizer))
            elif shared is not None:
                self._construct(side, self.options)
                # torch goes on with what it loads: with its own it may, for ours are to be copies.
                own = side is self.ours or source is self.theirs
                side.optimizer.load_state_dict(shared if own else clone(shared))
            else:
                state_dict = side.optimizer.state_dict()
                if way != "as it is":
                    state_dict = saved[self.sides.index(side)]
                if way == "through a file":
                    state_dict = save_and_load(state_dict)
                if way.startswith("in "):
                    _convert(side, getattr(torch, way[3:]))
                if way != "into this instance":
                    self._construct(side, self.options)
                side.optimizer.load_state_dict(state_dict)

        if self._both(resumed) is not None:
            self._recover()

    @action(
        **choices.tensors,
        options=choices.of_groups,
        repeats=st.booleans(),
    )
    def add_group(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[torch.dtype],
        layouts: Sequence[str],
        options: Options,
        repeats: bool,
    ) -> None:
        """Add a parameter group, possibly with a parameter that is in it twice."""
        # torch's foreach Nesterov momentum, which writes to gradients, adds to one gradient twice.
        repeats = repeats and self.ours.name != "SGD"

        def added(side: Side) -> None:
            params: list[Any] = _new_params(shapes, dtypes, layouts)
            for param in params:
                param.requires_grad_(not side.optimizer.defaults["differentiable"])
            params += params[:1] * repeats
            if "param_names" in side.optimizer.param_groups[0]:
                params = [(f"more{place}", param) for place, param in enumerate(params)]
            side.optimizer.add_param_group({**self._of_group(side, options), "params": params})

        if len(self.ours.params) > 12 or self._both(added) is not None:
            self._recover()

    # Steps.

    @action(gradients=choices.gradients, seed=choices.seeds, times=choices.times)
    def step(self, gradients: Sequence[str | None], seed: int, times: int = 1) -> None:
        """Step with fresh gradients, of the given kinds in turn."""
        self._step(gradients, seed, times)

    @action(times=choices.times)
    def step_again(self, times: int) -> None:
        """Step with the gradients that there are."""
        self._step(times=times)

    @action(statement=choices.changes, **choices.given)
    def step_with_closure(
        self, gradients: Sequence[str | None], seed: int, statement: str, at: int
    ) -> None:
        """Step with a closure that sets the gradients and does something else."""

        def call(side: Side) -> Any:
            def closure() -> float:
                assert torch.is_grad_enabled()
                self._give(side, gradients, seed)
                carry_out(statement, side, at)
                self._leave_out(side)
                return 0.25

            return side.optimizer.step(closure)

        self._step(call=call, changes=statement != "pass")

    @action(when=st.sampled_from(["pre", "post"]), statement=choices.changes, **choices.given)
    def step_with_hook(
        self, when: str, statement: str, at: int, gradients: Sequence[str | None], seed: int
    ) -> None:
        """Step with a hook that does something else."""

        def call(side: Side) -> Any:
            register: Any = getattr(side.optimizer, f"register_step_{when}_hook")

            def hook(*_: Any) -> None:
                carry_out(statement, side, at)

            handle = register(hook)
            try:
                return side.optimizer.step()
            finally:
                handle.remove()

        self._step(gradients, seed, call=call, changes=statement != "pass")

    # Doing something to both.

    @action(statement=choices.statements, at=choices.places)
    def do(self, statement: str, at: int) -> None:
        """Carry a statement out; what it changes stays, unless it is refused."""
        if self._both(lambda side: carry_out(statement, side, at)) is not None:
            self._recover()

    @action(statement=choices.changes, **choices.given)
    def do_in_training(
        self, statement: str, at: int, gradients: Sequence[str | None], seed: int
    ) -> None:
        """Carry a statement out once steps have become quiet, and go on with them."""
        self._step(gradients[:1], seed, 4)
        self.do(statement, at)
        self._step(gradients, seed + 4, 3)

    @action(
        entry=choices.entries,
        at=choices.places,
    )
    def set_option(self, entry: tuple[str, Any], at: int) -> None:
        """Change an option of the group of a parameter."""

        def change(side: Side) -> None:
            groups = side.optimizer.param_groups
            groups[at % len(groups)].update(self._of_group(side, dict([entry])))

        self._both(change)

    @action(statement=choices.detours, **choices.given)
    def detour(self, statement: str, at: int, gradients: Sequence[str | None], seed: int) -> None:
        """Carry a statement out, step twice, and come back."""
        if statement in UNFUSED and self._is_fused():
            return
        good = self._good
        self._at = at
        if self._both(lambda side: carry_out(statement, side, at)) is None:
            self._step(gradients, seed, 2)
        self._good = good
        self._at = None
        self._recover()

    @action(damage=choices.damages, **choices.given)
    def load(self, damage: str, at: int, gradients: Sequence[str | None], seed: int) -> None:
        """Load a state dict that something is wrong with, step twice, and come back."""
        self.detour(f"{damage}; optimizer.load_state_dict(saved)", at, gradients, seed)

    @action(fault=choices.faults, **choices.given)
    def fail_and_go_on(
        self, fault: str, at: int, gradients: Sequence[str | None], seed: int
    ) -> None:
        """Step with what lets an operation fail; mend it, and go on from where that left both."""
        if "held" in fault and self._is_fused():
            return
        self._at = at
        for side in self.sides:
            self._give(side, gradients, seed)
        self._at = None
        done = [carry_out(fault, side, at) for side in self.sides]
        if not all(done):
            return
        self._present = self._copies()
        try:
            error = self._both(lambda side: side.optimizer.step())
        except OtherError:
            self._recover()
            return
        for side in self.sides:
            carry_out(FAULTS[fault], side, at)
        if error is None or not is_under_way(error):
            self._recover()
        else:
            self._present = self._copies()
            self._step(gradients, seed)


def _new_params(
    shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype], layouts: Sequence[str]
) -> list[Tensor]:
    params = [
        tensor_of(layouts[place % len(layouts)], place + 1, shape, dtypes[place % len(dtypes)])
        for place, shape in enumerate(shapes)
    ]
    return [
        torch.nn.Parameter(param) if place % 2 else param.requires_grad_()
        for place, param in enumerate(params)
    ]


def _convert(side: Side, dtype: torch.dtype) -> None:
    """Put parameters of another dtype in the place of those that there are."""
    others = {id(param): param.detach().to(dtype).requires_grad_() for param in side.params}
    side.params = list(others.values())
    for group in side.optimizer.param_groups:
        group["params"] = [others[id(param)] for param in group["params"]]
