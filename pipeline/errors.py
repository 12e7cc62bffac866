"""What ends a command with exit code 1: work that began and could not be finished."""


class RunError(RuntimeError):
    """The run could not be finished; one line says why and what to do. What was committed stays."""


class StoreError(OSError):
    """A file of the dataset could not be written or read; one line says which and why."""


class TrainingError(RuntimeError):
    """The training stopped; one line says where and why. The last checkpoint stays."""


class UnreadableError(RuntimeError):
    """Parts of a dataset that cannot be read to their end; the message names one."""
