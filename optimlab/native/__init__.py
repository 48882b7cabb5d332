"""The native kernel: a step on CPU in one pass over memory, to ATen's bits, and how it is cached.

**What is cached.** The first step of an optimizer that the kernel serves is planned: its tensors
are looked at, the rule is read on symbols and encoded (``bytecode.py``), and what the kernel needs
is written down in launches (``launch.py``). Later steps repeat the plan, as long as its guards hold
(``step_cache.py``), which takes microseconds where planning takes milliseconds.

**What can change between two steps**, and where it is checked at each of them. ``guards.py`` only
builds the records with which ``kernel/guards.c`` compares:

=============================================  ====================================================
the rule, the dict of all state, modes that    ``step_cache.py``, ``_guard``
intercept operations, differentiable, scaling
groups, their parameters, flags and names;     ``kernel/guards.c``, in a call that ``_guard`` makes
a parameter's dict of state                    before: the same objects in the same order
hyperparameters                                ``tracing.py``: floats may change where the rule
                                               computes with them; else it is read anew
a parameter: memory, shape, strides, dtype,    ``kernel/guards.c``, in the call that also runs
class, lazy negation                           the program; other memory is taken up
its gradient                                   as the parameter; it may be another tensor, but
                                               nothing that is written may lie in its memory
the number in its step count                   likewise (``counts_alike``)
its state and step count: another tensor,      likewise. Neither this nor the dict of state is
other memory                                   compared while nobody can have reached them
                                               (``ownership.py``)
rounding and flushing of a thread              ``kernel/float_mode.h``, of each thread that computes
hooks, profilers                               the wrapper around the optimizer's step
=============================================  ====================================================

**Why no address is ever out of date.** Where tensors lie is asked, and the arithmetic done, in one
call into C, which keeps Python's lock from the first address to the last element. No other thread
of Python and no signal handler runs in between; all gradients are held meanwhile. Whatever happens
before is seen by the guards, whatever comes after finds the step made. (An operation of torch that
another thread is in the middle of, without the lock, can race with a step, as it can with torch's.)

**What is not checked, and why that is sound.** State that its optimizer alone can reach: nobody
could have changed it. The numbers of a rule that is declared pure, which are computed from its
trace: by the operations that the rule did, as long as what it compared or converted has stayed.
Instructions: each was compared with ATen at first use (``self_check.py``); one that gives other
bits here is never used, and what has none is left to ATen.

Read it in this order: ``step_cache.py``, ``launch.py``, ``guards.py`` with ``kernel/guards.c``,
``ownership.py``, ``tracing.py``, ``bytecode.py``, ``kernel/interpreter.c`` with what it includes;
then ``library.py`` and ``self_check.py``, which load the kernel and compare it with ATen.
"""

from __future__ import annotations

import threading

from optimlab.native.self_check import Capabilities, capabilities

_first_use = threading.Lock()
_found: list[Capabilities] = []


def usable() -> Capabilities | None:
    """Return the kernel with what it may be used for, or ``None`` where it is not to be used.

    The first call compares the kernel with ATen. Until that is done, calls from other threads, and
    from a signal handler that interrupts it, return ``None``.
    """
    if not _found and _first_use.acquire(blocking=False):
        try:
            found = capabilities()
            if found.kernel is not None:
                _found.append(found)
        finally:
            _first_use.release()
    return _found[0] if _found else None
