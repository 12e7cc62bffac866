import subprocess
import sys
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


def test_a_ray_of_ones_own_leaves_no_folder_behind() -> None:
    script = (
        "import os\nfrom pipeline.runs.ray_runtime import connected_ray, session_folder\n"
        "with connected_ray(num_cpus=2):\n    folder = session_folder()\n    print(os.path.isdir(folder))\n"
        "print(os.path.exists(folder))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
