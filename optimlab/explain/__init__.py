"""The command `optimlab explain`; its function is :func:`optimlab.instruments.explain.explain`."""

from optimlab.instruments.explain import explain

__all__ = ["explain"]
