"""``optimlab bench``: how long a step takes, against torch.optim and against the memory itself.

Needs the extra: ``pip install "optimlab[demo]"``. Modules in reading order: ``rules`` and
``workloads`` (what is measured), ``implementations`` (who carries it out), ``limit`` (how fast it
could be), ``timing`` (one interleaved run), ``bits`` (the check that all computed the same),
``measure`` (these together), ``memory`` (what a step needs besides its tensors), ``surroundings``
(where it was measured), ``results``, ``tables``, ``report``, ``document`` and ``figure`` (what is
shown), ``experiment`` (all of it in order) and ``command`` (the command line).
"""
