"""Ask storage again: a store is away for a moment now and then, and says so in errors of its own kinds."""

import time
from collections.abc import Callable
from typing import TypeVar

NUM_ATTEMPTS = 4  # each wait is twice the one before
FIRST_WAIT_SECONDS = 0.5
# what is missing, taken or forbidden stays so
FINAL_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)

Result = TypeVar("Result")


def retried(action: Callable[[], Result], num_attempts: int = NUM_ATTEMPTS) -> Result:
    """What `action` returns, which must bear being done twice. Raises its own error when it fails `num_attempts` times,
    or at once for one of FINAL_ERRORS."""
    for attempt in range(num_attempts):
        try:
            return action()
        except FINAL_ERRORS:
            raise
        except Exception:
            if attempt == num_attempts - 1:
                raise
            time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError("the loop returns or raises")
