from pathlib import Path

import pytest
import torch
from transformers import Sam2VideoModel

from models.sam2.model import Sam2
from models.sam2.weights import load_sam2, load_segmenter, save_sam2
from models.weight_files import write_text
from models.weights import CheckpointError, load_sam


def test_both_layouts_load_strictly(same_models: tuple[Sam2VideoModel, Sam2], tmp_path: Path) -> None:
    theirs, ours = same_models
    save_sam2(tmp_path / "ours.safetensors", ours, torch.float32)
    torch.save({"model": ours.state_dict()}, tmp_path / "published.pt")
    theirs.save_pretrained(tmp_path / "folder")
    for name in ("published.json", "folder/model.json"):
        write_text(tmp_path / name, ours.config.to_json())
    for name in ("ours.safetensors", "published.pt", "folder"):
        loaded, _ = load_segmenter(str(tmp_path / name))
        assert isinstance(loaded, Sam2) and loaded.config == ours.config and not loaded.training
        for key, value in ours.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key


def test_another_input_size_needs_no_other_weights(sam2: Sam2, tmp_path: Path) -> None:
    save_sam2(tmp_path / "debug.safetensors", sam2, torch.float32)
    loaded, _ = load_segmenter(str(tmp_path / "debug.safetensors"), 128)
    assert isinstance(loaded, Sam2)
    (image,) = loaded.embed(torch.zeros(1, 3, 128, 128))
    assert image.embedding.shape == (1, 32, 8, 8)


def test_what_does_not_fit_is_named(sam2: Sam2, tmp_path: Path) -> None:
    path = tmp_path / "debug.safetensors"
    save_sam2(path, sam2, torch.float32)
    with pytest.raises(CheckpointError, match="holds a SAM 2"):
        load_sam(str(path))
    with pytest.raises(CheckpointError, match="image_size: 100"):
        load_segmenter(str(path), 100)
    torch.save({key: value for key, value in sam2.state_dict().items() if key != "no_obj_ptr"}, tmp_path / "part.pt")
    write_text(tmp_path / "part.json", sam2.config.to_json())
    with pytest.raises(CheckpointError, match=r"1 missing \(no_obj_ptr\)"):
        load_segmenter(str(tmp_path / "part.pt"))


def test_an_embedded_sam_is_still_a_sam() -> None:
    assert type(load_segmenter("sam_tiny")[0]).__name__ == "Sam"


def test_a_sam_is_no_sam_2() -> None:
    with pytest.raises(CheckpointError, match=r"sam_tiny\.safetensors: these weights are not a SAM 2's"):
        load_sam2("sam_tiny")
