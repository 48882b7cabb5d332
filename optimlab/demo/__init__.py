"""``optimlab demo``: real training, twice in lock step, with torch.optim and with optimlab.

Needs the extra: ``pip install "optimlab[demo]"``. Modules in reading order: ``recipes`` (what is
trained), ``digits`` (data and network), ``results`` (what is counted), ``training`` (the lock
step), ``checkpoint`` and ``resume`` (interrupting and going on), ``report`` and ``figure`` (what is
shown), ``experiment`` (all of it in order). The options are in ``optimlab/cli/demo.py``.
"""
