import numpy as np
import pytest
import torch

from models.evaluation.rescale import Line, LineTally, LogitLineTally, rescale_predicted_iou
from models.sam.build import build_sam
from models.sam.config import SAM_SIZES
from models.sam.prompts import Prompts


def test_the_line_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = rng.random(200)
    y = 0.7 * x + 0.1 + rng.normal(0, 0.05, 200)
    tally = LineTally()
    tally.add(x[:50].reshape(5, 10), y[:50].reshape(5, 10))
    tally.add(x[50:], y[50:])
    slope, offset = np.polyfit(x, y, 1)
    assert tally.line().slope == pytest.approx(slope) and tally.line().offset == pytest.approx(offset)


def test_predictions_that_tell_nothing_become_the_mean() -> None:
    alike, against = LineTally(), LineTally()
    alike.add(np.full(4, 0.3), np.array([0.0, 0.2, 0.4, 0.6]))
    against.add(np.array([0.0, 1.0]), np.array([0.9, 0.1]))
    assert alike.line() == Line(0.0, pytest.approx(0.3))
    assert against.line() == Line(0.0, pytest.approx(0.5))
    with pytest.raises(ValueError, match="no mask to fit"):
        LineTally().line()


def test_each_output_gets_its_own_line_and_masks_stay() -> None:
    torch.manual_seed(0)
    sam = build_sam(SAM_SIZES["debug"]).eval()
    prompts = Prompts(points=torch.tensor([[[5.0, 9.0]], [[30.0, 2.0]]]), labels=torch.ones(2, 1, dtype=torch.int64))
    embedding = torch.randn(1, 32, 4, 4)
    with torch.inference_mode():
        logits, before = sam.predict_masks(embedding, prompts, multimask_output=True)
        single = sam.predict_masks(embedding, prompts, multimask_output=False)[1]
    rescale_predicted_iou(sam, {1: Line(2.0, 0.5), 3: Line(0.0, 0.25)})
    with torch.inference_mode():
        same, after = sam.predict_masks(embedding, prompts, multimask_output=True)
        assert torch.equal(single, sam.predict_masks(embedding, prompts, multimask_output=False)[1])
    assert torch.equal(logits, same)
    assert torch.allclose(after[:, 0], 2 * before[:, 0] + 0.5, atol=1e-6)
    assert torch.equal(after[:, 1], before[:, 1])
    assert torch.allclose(after[:, 2], torch.full((2,), 0.25))


def test_where_a_head_ends_in_a_sigmoid_the_line_lies_before_it() -> None:
    logits = np.linspace(-4, 4, 101)
    tally = LogitLineTally()
    tally.add(1 / (1 + np.exp(-logits[:40])), 1 / (1 + np.exp(-(0.5 * logits[:40] - 1))))
    tally.add(1 / (1 + np.exp(-logits[40:])), 1 / (1 + np.exp(-(0.5 * logits[40:] - 1))))
    assert (tally.line().slope, tally.line().offset) == (pytest.approx(0.5, abs=1e-4), pytest.approx(-1, abs=1e-4))
    against = LogitLineTally()
    against.add(np.array([0.0, 1.0]), np.array([0.9, 0.1]))
    assert against.line() == Line(0.0, pytest.approx(0.0))
    with pytest.raises(ValueError, match="no mask to fit"):
        LogitLineTally().line()
