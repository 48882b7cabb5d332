"""The one error of the doctor."""


class CheckpointError(ValueError):
    """What was given cannot be examined; the message says why."""
