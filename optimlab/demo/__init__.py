"""``optimlab demo``: real training, twice in lock step, with torch.optim and with optimlab.

Needs the extra: ``pip install "optimlab[demo]"``. Modules in reading order: ``recipes`` (what is
trained), ``digits`` (data and network), ``training`` (the lock step), ``checkpoint`` and ``resume``
(interrupting and going on), ``differences`` (counting), ``results``, ``report`` and ``figure``
(what is shown), ``experiment`` (all of it in order) and ``command`` (the command line).
"""
