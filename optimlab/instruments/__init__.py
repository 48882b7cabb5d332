"""Instruments for any ``torch.optim.Optimizer``: where two part, and what happens inside a step.

* :func:`optimlab.explain` (``explain.py``) finds the first operation at which two optimizers part.
* :func:`optimlab.trace` (``trace.py``) shows each operation of a step with its numbers.
* :func:`optimlab.watch` (``watch.py``) measures the updates of a run.

None of them changes a bit of what it looks at. Read ``recording.py``, ``registers.py`` and
``writing.py`` (the operations of a step, written down with names), then ``parting.py``,
``formulas.py`` and ``causes.py`` (where two recorded steps part, and why).
"""
