"""Imports run one way: pipeline → stages → models; models know neither Ray nor files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "models": {"pipeline", "stages", "ray", "fsspec", "pyarrow", "tests", "benchmarks"},
    "stages": {"pipeline", "ray", "tests", "benchmarks"},
    "pipeline": {"tests", "benchmarks"},
}
DISK_MODULES = {"weights.py", "weight_files.py"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_run_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = imported(path) & FORBIDDEN[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_only_the_weights_modules_touch_disk() -> None:
    for path in sorted((ROOT / "models").rglob("*.py")):
        if path.name in DISK_MODULES:
            continue
        calls = {node.func.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
        assert "open" not in calls, f"{path.relative_to(ROOT)} opens a file"
        assert not imported(path) & {"pathlib", "os", "shutil"}, f"{path.relative_to(ROOT)} knows paths"
