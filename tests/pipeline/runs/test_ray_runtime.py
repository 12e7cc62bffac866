from typing import Any

import pytest
import ray

from pipeline.errors import RunError
from pipeline.runs.ray_runtime import connected_ray


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nmore of it")  # as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", busy)
    message = r"^Ray does not start .* \(The current node timed out .*\.\); when it is .* again$"
    with pytest.raises(RunError, match=message), connected_ray():
        pass
