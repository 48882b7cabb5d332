"""Where two optimizers diverge, in which operation, and why.

Read ``explaining.py``, ``divergence.py``, ``diagnosis.py`` and ``experiments.py``; what these try,
``expressions.py``, ``variants.py`` and ``evaluation.py``; and, for
a rule's own words, ``rules.py``.
"""
