"""The native kernel: a step on CPU in one pass over memory, to ATen's bits, and how it is cached.

**What is cached.** The first steps of an optimizer are planned: every property of every parameter,
gradient and state tensor is looked at, the rule is read on symbols and encoded (``bytecode.py``),
and what the kernel needs is written down in launches (``launch.py``). All later steps repeat the
plan (``step_cache.py``), which takes microseconds where planning takes milliseconds.

**What can change between two steps**, and what is asked at every step:

=============================================  ====================================================
a group, its parameters, its hyperparameters   ``guards.py``: the same objects in the same order;
                                               floats that the rule only computes with may change
a parameter: memory, shape, strides, dtype,    ``kernel/guards.c``, in the call that also runs
class, lazy negation                           the program
its gradient                                   as the parameter; it may lie in other memory, if
                                               nothing is written there
its state and step count: another dict,        likewise, unless nobody can have reached it
another tensor, other memory                   (``ownership.py``)
rounding and flushing of a thread              ``kernel/float_mode.h``, of each thread that computes
modes that intercept operations, autograd,     ``step_cache.no_modes_active`` and the optimizer's
scaling, hooks, profilers                      own attributes
=============================================  ====================================================

**Why no address is ever out of date.** Where tensors lie is asked, and the arithmetic done, in one
call into C, which keeps Python's lock from the first address to the last element. No other thread
of Python and no signal handler runs in between; all gradients are held meanwhile. Whatever happens
before is seen by the guards, whatever comes after finds the step made. (An operation of torch that
another thread is in the middle of, without the lock, can race with a step, as it can with torch's.)

**What is not asked.** State that its optimizer alone can reach; numbers of a rule that is declared
pure, which are computed from its trace (``traced.py``) as long as what the rule compares or
converts has stayed. The first program of each kind is compared with ATen before any is used
(``self_check.py``); instructions that give other bits here are never used.

Read it in this order: ``step_cache.py``, ``launch.py``, ``guards.py`` with ``kernel/guards.c``,
``ownership.py``, ``bytecode.py``, ``kernel/interpreter.c`` with what it includes.
"""

from __future__ import annotations

import threading

from optimlab.native.self_check import capabilities
from optimlab.native.step_cache import Runner

_first_use = threading.Lock()
_found: list[Runner] = []


def runner() -> Runner | None:
    """Return what carries out launches, or ``None`` where the kernel is not to be used.

    At first use, that is also while another thread, or the very code that a signal handler has
    interrupted, compares the kernel with ATen.
    """
    if not _found and _first_use.acquire(blocking=False):
        try:
            capable = capabilities()
            if capable.kernel is not None:
                _found.append(Runner(capable))
        finally:
            _first_use.release()
    return _found[0] if _found else None
