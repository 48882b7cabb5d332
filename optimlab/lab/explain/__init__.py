"""Where two optimizers part, in which operation, and why.

Read ``explaining.py``, ``divergence.py``, ``formulas.py`` and ``causes.py``.
"""
