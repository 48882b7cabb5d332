"""The operations of a step of any optimizer, written down with names, without changing one.

Read ``recording.py``, ``registers.py`` and ``writing.py``.
"""
