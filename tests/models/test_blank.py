import subprocess
import sys

import torch
from torch import nn

from models.blank import blank


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)
        self.scale = nn.Parameter(0.1 * torch.randn(2, 5))
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, 6), std=0.02))


def test_shapes_are_those_of_fresh_weights_without_values() -> None:
    with blank():
        model = Layers()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {"table.weight": (3, 4), "scale": (2, 5), "token": (1, 6)}
    assert all(value.is_meta for value in model.state_dict().values())
    assert not any(value.is_meta for value in Layers().state_dict().values())


def test_loading_a_model_loads_no_compiler() -> None:
    script = """
import sys
from models.sam2.weights import load_segmenter
from models.weights import load_captioner, load_clip
load_segmenter("sam_tiny", None), load_clip("clip_small"), load_captioner("captioner_small")
print("torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "False\n"
