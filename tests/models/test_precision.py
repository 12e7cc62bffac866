import pytest
import torch

from models import precision
from models.precision import computing_in, products_in_tf32, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has_tiles", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_processor_has_matrix_tiles(
    has_tiles: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_matrix_tiles", lambda: has_tiles)
    assert resolve_precision("auto", CPU) == expected
    for name in ("fp32", "bf16", "fp16"):
        assert resolve_precision(name, CPU) == name


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_computed_in_it(name: precision.Precision, dtype: torch.dtype) -> None:
    with computing_in(name, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_convolutions_are_as_exact_as_products_of_matrices() -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    with computing_in("fp32", CPU):
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_training_may_round_and_leaves_nothing_behind() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with products_in_tf32():
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "highest"
