"""``optimlab bench``: how long a step takes, against torch.optim and against the memory itself.

Needs the extra: ``pip install "optimlab[demo]"``. Modules in reading order: ``rules`` and
``workloads`` (what is measured), ``implementations`` (who carries it out), ``limit`` (how fast it
could be), ``timing`` (one interleaved run), ``phases`` (where the time goes), ``measure`` (these
together), ``memory`` (what a step needs besides its tensors), ``surroundings`` (where it was
measured), ``results`` (values, bits among them), ``tables``, ``report``, ``document`` and
``figure`` (what is shown), ``experiment`` (all of it in order). The options are in
``optimlab/cli/bench.py``.
"""
