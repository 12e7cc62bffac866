"""A run goes by what its files held when it began, whatever becomes of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline.runs.run
from models.captioner.model import Captioner, CaptionerConfig
from models.clip.config import CLIP_SIZES
from models.generator.settings import GenerateSettings
from models.pinned_weights import PinnedWeights
from models.sam.clip_prompt import ClipPrompt
from models.weights import CheckpointError, load_clip, load_sam, save_captioner, save_clip_prompt, save_sam
from pipeline.errors import RunError
from pipeline.recipes.load_recipe import validate_recipe, validate_video_recipe
from pipeline.recipes.recipe import Recipe
from pipeline.runs import chunks
from pipeline.runs.fingerprint import fingerprint
from pipeline.runs.resolve import ResolvedRun, resolve
from pipeline.runs.run import run
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from pipeline.video.resolve import resolve_video
from pipeline.video.run import video_fingerprint
from stages.attempts import AttemptCounts
from stages.caption_masks import CaptionMasks
from stages.filter_settings import FilterSettings
from stages.generate_masks import GenerateMasks
from stages.tag_masks import TagMasks
from stages.track_video import TrackVideos
from stages.video_settings import TrackSettings, VideoSettings
from tests.stages.tag_cases import save_tiny_clip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that a recipe can name: two SAMs, a CLIP, words, a captioner and a projection."""
    monkeypatch.setenv("MASKFOUNDRY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "words.yaml").write_text(words("ball", "tree"))
    sam, _ = load_sam("sam_tiny")
    save_sam(folder / "sam.safetensors", sam, sam.config, torch.float16)
    save_sam(folder / "other.safetensors", sam, sam.config, torch.float16, {"note": "another file"})
    sha256 = load_clip(save_tiny_clip(folder / "clip.safetensors"))[1]
    sizes = CaptionerConfig(embed_dim=24, vocab_size=540, context_length=16, width=16, num_heads=2, num_layers=1)
    save_captioner(folder / "captioner.safetensors", Captioner(sizes), torch.float32, {"clip_sha256": sha256})
    projection = ClipPrompt(CLIP_SIZES["debug"].embed_dim, sam.config.prompt_embed_dim)
    save_clip_prompt(folder / "prompt.safetensors", projection.state_dict(), torch.float32)
    return folder


def words(*names: str) -> str:
    return f"groups: {{thing: {{templates: ['a {{}}'], words: [{', '.join(names)}]}}}}"


def recipe(files: Path, input_folder: Path, text: str | None = None, **changes: Any) -> Recipe:
    model = {"checkpoint": str(files / "sam.safetensors")}
    content: dict[str, Any] = {
        "input": str(input_folder),
        "output": str(files.parent / "out"),
        "model": model if text is None else model | {"clip_prompt": str(files / "prompt.safetensors")},
        "generate": {"points_per_side": 4, "text": text},
        "filter": {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
        "tag": {
            "checkpoint": str(files / "clip.safetensors"),
            "vocabulary": str(files / "words.yaml"),
            "threshold": 0.01,
        },
        "resources": {"sam_actors": 1},
        "run": {"commit_every": 1},
    }
    return validate_recipe(content | changes)


def all_of(files: Path) -> ResolvedRun:
    caption = {"captioner": str(files / "captioner.safetensors")}
    return resolve(recipe(files, files, text="a red ball", caption=caption))


def test_the_fingerprint_reads_no_file(files: Path) -> None:
    resolved = all_of(files)
    before = fingerprint(resolved)
    assert list(before.links) == ["generate", "filter", "embed", "tag", "caption", "text"]
    again = fingerprint(all_of(files))
    (files / "words.yaml").write_text(words("car", "bus"))
    edited = fingerprint(all_of(files))
    shutil.rmtree(files)
    assert fingerprint(resolved) == before == again
    assert resolved.labels is not None
    assert [word.name for word in resolved.labels.tagging.vocabulary.groups[0].words] == ["ball", "tree"]
    same = {link for link in before.links if edited.links[link] == before.links[link]}
    assert same == {"generate", "filter", "embed"}, "other words change the tags, and what follows from them"


def test_the_fingerprint_of_videos_reads_no_file(files: Path) -> None:
    sections = {name: value for name, value in recipe(files, files).model_dump(mode="json").items() if name == "tag"}
    content = {"kind": "video", "input": "in", "output": "out", "model": {"checkpoint": str(files / "sam.safetensors")}}
    resolved = resolve_video(validate_video_recipe(content | sections))
    before = video_fingerprint(resolved)
    shutil.rmtree(files)
    assert video_fingerprint(resolved) == before
    assert resolved.checkpoints().keys() == {str(files / "sam.safetensors"), str(files / "clip.safetensors")}


def generate(resolved: ResolvedRun) -> None:
    GenerateMasks(resolved.weights, None, GenerateSettings(), 0.0, 0.0, 64, 1, "cpu", 1, 0, AttemptCounts(), None)


def track(resolved: ResolvedRun) -> None:
    settings = GenerateSettings(), FilterSettings(), TrackSettings()
    TrackVideos(resolved.weights, None, None, VideoSettings(), *settings, 64, "cpu", 1, 0, AttemptCounts(), None)


def tag(resolved: ResolvedRun) -> None:
    assert resolved.labels is not None
    TagMasks(resolved.labels.tagging, 8, "cpu", 1, keep_features=False)


def caption(resolved: ResolvedRun) -> None:
    assert resolved.labels is not None and resolved.labels.captioning is not None
    CaptionMasks(resolved.labels.captioning, resolved.labels.tagging, "cpu", 1, keep_features=False)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("sam", generate),
        ("sam", track),
        ("clip", tag),
        ("clip", caption),
        ("captioner", caption),
    ],
)
def test_an_actor_loads_the_weights_of_the_fingerprint_or_none(
    files: Path, name: str, stage: Callable[[ResolvedRun], None]
) -> None:
    resolved = all_of(files)
    stage(resolved)
    path = files / f"{name}.safetensors"
    path.write_bytes(_with_another_note(path))
    message = rf"^{path}: is another file \(sha256 \w+\) than the one that this run began with \(\w+\); put that one"
    with pytest.raises(CheckpointError, match=message):
        stage(resolved)


def _with_another_note(path: Path) -> bytes:
    """The same tensors in another file: its header is a JSON object with room for spaces behind it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip() + b" " * 8
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@pytest.fixture
def a_graph_an_image(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Graphs of one image, as a run of very many images has several; and a way to act before the second of them."""
    for name, value in {"MIN_IMAGES_PER_GRAPH": 1, "IMAGES_PER_ACTOR": 0, "FIRST_GRAPH": 1}.items():
        monkeypatch.setattr(chunks, name, value)
    build_graph, built = pipeline.runs.run.build_graph, []

    def before_the_second(act: Callable[[], None]) -> None:
        def build(*arguments: Any) -> Any:
            built.append(arguments)
            if len(built) == 2:
                act()
            return build_graph(*arguments)

        monkeypatch.setattr(pipeline.runs.run, "build_graph", build)

    return before_the_second


@pytest.fixture
def two_photos(drawn_photos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("0.png", "1.png"):
        shutil.copy2(drawn_photos / name, folder / name)
    return folder


def rows(files: Path) -> dict[str, dict[str, Any]]:
    target = Round(Folder(str(files.parent / "out")), 0)
    return {row["image_id"]: row for part in target.parts() for row in target.read_part(part).to_pylist()}


@pytest.mark.usefixtures("ray_session")
def test_words_that_somebody_edits_meanwhile_are_of_the_next_run(
    files: Path, two_photos: Path, a_graph_an_image: Callable[[Callable[[], None]], None]
) -> None:
    a_graph_an_image(lambda: [(files / "words.yaml").write_text(words("car", "bus"))])
    assert run(recipe(files, two_photos), quiet=True).tally.images == 2

    def names() -> list[set[str]]:
        return [{tag["name"] for mask in row["masks"] for tag in mask["tags"]} for row in rows(files).values()]

    links = {row["fingerprints"]["tag"] for row in rows(files).values()}
    assert len(links) == 1 and all(found and found <= {"ball", "tree"} for found in names())
    again = run(recipe(files, two_photos), quiet=True)
    assert (again.tally.images, again.replayed.labelled) == (0, 2)
    assert all(found and found <= {"car", "bus"} for found in names())
    assert links.isdisjoint(row["fingerprints"]["tag"] for row in rows(files).values())


@pytest.mark.usefixtures("ray_session")
def test_weights_that_somebody_replaces_meanwhile_end_the_run_and_make_no_row(
    files: Path, two_photos: Path, a_graph_an_image: Callable[[Callable[[], None]], None]
) -> None:
    sam = files / "sam.safetensors"
    original = sam.read_bytes()
    a_graph_an_image(lambda: shutil.copyfile(files / "other.safetensors", sam))
    with pytest.raises(RunError, match=r"is another file \(sha256 .*; 1 images are committed, run again to go on$"):
        run(recipe(files, two_photos), quiet=True)
    assert len(rows(files)) == 1
    with pytest.raises(ValueError, match="was made with other settings \\(weights_sha256: "):
        run(recipe(files, two_photos), quiet=True)
    sam.write_bytes(original)
    assert run(recipe(files, two_photos), quiet=True).tally.images == 1


def test_weights_are_checked_by_their_hash() -> None:
    weights = PinnedWeights("sam_tiny", "a")
    assert weights.checked("model", "a") == "model"
    with pytest.raises(CheckpointError, match=r"^sam_tiny: is another file"):
        weights.checked("model", "b")
