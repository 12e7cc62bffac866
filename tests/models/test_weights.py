import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch

from models import weight_files
from models.published import PUBLISHED
from models.sam.build import build_sam
from models.sam.checkpoints import to_hugging_face
from models.sam.config import SAM_SIZES
from models.sam.model import Prompts, Sam
from models.weights import CheckpointError, available_models, convert, load_sam, save_sam, verify_checkpoint

DEBUG = SAM_SIZES["debug"]


@pytest.fixture
def sam() -> Sam:
    torch.manual_seed(0)
    sam = build_sam(DEBUG).eval().requires_grad_(False)
    for parameter in sam.parameters():
        parameter.normal_(std=0.2)
    return sam


@pytest.fixture
def file(sam: Sam, tmp_path: Path) -> Path:
    save_sam(tmp_path / "sam.safetensors", sam, DEBUG, torch.float32)
    return tmp_path / "sam.safetensors"


def masks_of(sam: Sam) -> torch.Tensor:
    size = sam.config.image_size
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    prompts = Prompts(points=torch.tensor([[[9.0, 20.0]]]), labels=torch.ones(1, 1))
    return sam.predict_masks(sam.encode_images(images), prompts, True)[0]


def refused(checkpoint: str | Path) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as raised:
        load_sam(str(checkpoint))
    message = str(raised.value)
    assert "\n" not in message
    return message


# ---- what ships with the repository


def test_the_embedded_model_is_ready_to_use() -> None:
    sam, sha256 = load_sam("sam_tiny")
    path = weight_files.EMBEDDED_FOLDER / "sam_tiny.safetensors"
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not sam.training
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in sam.parameters())
    with safetensors.safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
        assert stored.get_tensor("image_encoder.pos_embed").dtype == torch.float16
    assert metadata["license"] == "Apache-2.0"
    assert "synthetic" in metadata["provenance"]
    assert path.stat().st_size < 12e6
    logits = masks_of(sam)
    side = 4 * sam.config.embedding_size
    assert logits.shape == (1, 3, side, side)
    assert logits.isfinite().all()


def test_models_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path))
    (tmp_path / PUBLISHED["sam_vit_l"].filename).touch()
    records = {record.name: record for record in available_models()}
    tiny = records["sam_tiny"]
    assert (tiny.family, tiny.origin, tiny.on_disk) == ("sam", "embedded", True)
    assert tiny.sha256 == load_sam("sam_tiny")[1]
    assert records["sam_vit_b"].location == "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
    assert not records["sam_vit_b"].on_disk
    assert records["sam_vit_l"].location == str(tmp_path / "sam_vit_l_0b3195.pth")
    assert records["sam_vit_l"].on_disk


# ---- files and folders


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saved_weights_come_back(sam: Sam, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "new" / "sam.safetensors"
    save_sam(path, sam.state_dict(), DEBUG, dtype, notes={"license": "Apache-2.0"})
    loaded, sha256 = load_sam(str(path))
    assert loaded.config == DEBUG
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for key, value in sam.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.to(dtype).float())
    assert os.listdir(path.parent) == ["sam.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["sam.pth", "sam.pt", "again.safetensors", "folder"])
def test_every_layout_gives_the_same_masks(sam: Sam, file: Path, tmp_path: Path, name: str) -> None:
    convert(str(file), tmp_path / name)
    loaded, _ = load_sam(str(tmp_path / name))
    assert torch.equal(masks_of(loaded), masks_of(sam))
    convert(str(tmp_path / name), tmp_path / "back.safetensors")
    assert torch.equal(masks_of(load_sam(str(tmp_path / "back.safetensors"))[0]), masks_of(sam))
    layout = "hugging_face" if name == "folder" else "official"
    assert verify_checkpoint(str(tmp_path / name)).layout == layout


def test_conversion_keeps_values_and_notes(sam: Sam, tmp_path: Path) -> None:
    save_sam(tmp_path / "a.safetensors", sam, DEBUG, torch.float16, notes={"license": "Apache-2.0"})
    convert(str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    stored = weight_files.read_weights(tmp_path / "b.safetensors")
    assert stored.metadata["license"] == "Apache-2.0"
    assert {value.dtype for value in stored.state.values()} == {torch.float16}


def test_conversion_to_an_unknown_ending_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="unknown ending; use"):
        convert(str(file), tmp_path / "sam.onnx")


@pytest.mark.parametrize("wrapped", [False, True])
def test_sizes_are_read_from_a_json_beside_the_file(sam: Sam, tmp_path: Path, wrapped: bool) -> None:
    torch.save({"model": sam.state_dict()} if wrapped else sam.state_dict(), tmp_path / "own.pth")
    assert "decoder_num_heads: shapes do not tell it" in refused(tmp_path / "own.pth")
    (tmp_path / "own.json").write_text(DEBUG.to_json())
    assert torch.equal(masks_of(load_sam(str(tmp_path / "own.pth"))[0]), masks_of(sam))
    (tmp_path / "own.json").write_text('{"image_sise": 64}')
    assert "own.pth: SAM sizes: unknown key 'image_sise'; did you mean 'image_size'?" in refused(tmp_path / "own.pth")


@pytest.mark.parametrize("layout", ["official", "hugging face"])
def test_sizes_of_published_layouts_are_read_off_the_shapes(tmp_path: Path, layout: str) -> None:
    config = dataclasses.replace(SAM_SIZES["vit_t"], image_size=256, encoder_depth=3, encoder_global_attn_indexes=(2,))
    torch.manual_seed(0)
    state = build_sam(config).state_dict()
    torch.save(state if layout == "official" else to_hugging_face(state), tmp_path / "sam.pth")
    loaded, _ = load_sam(str(tmp_path / "sam.pth"))
    assert loaded.config == config


def test_another_input_size_interpolates_the_positions(sam: Sam, file: Path) -> None:
    loaded, sha256 = load_sam(str(file), image_size=96)
    assert (loaded.config.image_size, loaded.config.embedding_size) == (96, 6)
    assert masks_of(loaded).shape == (1, 3, 24, 24)
    same, same_sha256 = load_sam(str(file), image_size=64)
    assert sha256 == same_sha256
    assert torch.equal(masks_of(same), masks_of(sam))
    with pytest.raises(CheckpointError, match="image_size: 100 is not a positive multiple of patch_size"):
        load_sam(str(file), image_size=100)


def test_verifying_reports_and_finds_what_is_broken(sam: Sam, file: Path) -> None:
    found = verify_checkpoint(str(file))
    assert (found.path, found.layout, found.config) == (file, "official", DEBUG)
    assert found.num_parameters == sum(parameter.numel() for parameter in sam.parameters())
    sam.mask_decoder.iou_token.weight[0, 0] = float("nan")
    save_sam(file, sam, DEBUG, torch.float32)
    with pytest.raises(CheckpointError, match=r"1 tensors hold NaN or infinity \(mask_decoder\.iou_token\.weight\)"):
        verify_checkpoint(str(file))


# ---- mistakes


def test_an_unknown_name_suggests_the_nearest() -> None:
    assert "unknown model 'sam_vit_x'; the nearest names are sam_vit_" in refused("sam_vit_x")
    assert "sam_tiny" in refused("zzz")


@pytest.mark.parametrize("path", ["nowhere/sam", "nowhere.pth", "~/nowhere.safetensors"])
def test_a_missing_file_is_named(path: str) -> None:
    assert refused(path) == f"checkpoint: there is no file or folder {path}"


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    assert "has no model.safetensors" in refused(tmp_path)


def test_keys_and_shapes_that_do_not_fit_are_named(sam: Sam, tmp_path: Path) -> None:
    state = sam.state_dict()
    for index in range(4):
        del state[f"mask_decoder.output_hypernetworks_mlps.{index}.layers.0.bias"]
    state["surprise"] = torch.zeros(1)
    state["mask_decoder.iou_token.weight"] = torch.zeros(2, 32)
    save_sam(tmp_path / "sam.safetensors", state, DEBUG, torch.float32)
    message = refused(tmp_path / "sam.safetensors")
    assert "4 missing (mask_decoder.output_hypernetworks_mlps.0.layers.0.bias, " in message
    assert "mlps.2.layers.0.bias, …); 1 unexpected (surprise); " in message
    assert "1 of another shape (mask_decoder.iou_token.weight (2, 32) instead of (1, 32))" in message


class Exploit:
    """Unpickling this writes a file: what a hostile checkpoint would do."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.target), "w")


def test_a_pickle_that_could_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "more": Exploit(tmp_path / "ran")}, tmp_path / "bad.pth")
    assert "bad.pth: refused, as it holds more than plain weights" in refused(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"weight": torch.zeros(1), "epoch": 3}, {"model": {"epoch": 3}}])
def test_a_file_of_other_things_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert "expected names and tensors" in refused(tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["sam.pth", "sam.safetensors"])
@pytest.mark.parametrize("num_bytes", [0, 5, 3000])
def test_a_damaged_file_is_refused(file: Path, tmp_path: Path, name: str, num_bytes: int) -> None:
    if name.endswith(".pth"):
        convert(str(file), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:num_bytes])
    assert str(tmp_path / name) in refused(tmp_path / name)
