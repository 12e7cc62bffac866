"""What ends a command with exit code 1: work that could not be finished, or cannot begin now."""

import errno

from stages.retry import FINAL_ERRORS

_FOR_GOOD = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


class RunError(RuntimeError):
    """The run could not be finished; one line says why and what to do. What was committed stays."""


class FencedError(RunError):
    """Another run has taken the round over; this one writes nothing more into it."""


class StoreError(OSError):
    """A file of the dataset could not be written or read; one line says which and why."""


class TrainingError(RuntimeError):
    """The training stopped; one line says where and why. The last checkpoint stays."""


class UnreadableError(RuntimeError):
    """Parts of a dataset that cannot be read to their end; the message names one."""


class GoneError(UnreadableError):
    """A file that a dataset names and that is no longer there."""


def store_failure(what: str, error: Exception, remedy: str) -> ValueError | RunError:
    """The error that ends a run which cannot begin: ValueError for what its user must mend (exit code 2), RunError for
    what may pass (exit code 1), so that a loop goes on asking. `what` names the field and its value."""
    cause = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
    for_good = isinstance(cause, OSError) and cause.errno in _FOR_GOOD
    if for_good or isinstance(cause, (*FINAL_ERRORS, ValueError, ImportError)):
        return ValueError(f"{what} ({error}); {remedy}")
    return RunError(f"{what} now ({error}); {remedy}, or run the same command again when the store answers")
