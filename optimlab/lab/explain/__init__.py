"""Where two optimizers part, in which operation, and why.

Read ``explaining.py``, ``parting.py``, ``formulas.py`` and ``causes.py``.
"""
