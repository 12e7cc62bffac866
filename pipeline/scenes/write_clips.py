"""Writing clips to a folder: frames or an mp4, and one annotation file a clip in SA-V's form."""

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from models.masks.rle import encode_masks
from pipeline.scenes.clip import Clip, ClipFrame
from pipeline.scenes.scene import MIN_AREA
from pipeline.scenes.write import Record, check_request, claim, rendered, replacing

CLIP_VERSION = 1  # raised whenever a seed's clip changes
_FPS = 24
_JPEG_QUALITY = 95


def write_clips(
    output: str,
    count: int,
    num_frames: int = 24,
    seed: int = 0,
    width: int = 256,
    height: int = 256,
    mp4: bool = False,
    num_workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write the clips of seeds `seed` to `seed + count - 1` and return their folder.

    A clip is OUTPUT/clip_<seed>/00000.jpg, 00001.jpg … (with `mp4` OUTPUT/clip_<seed>.mp4, H.264) and then
    OUTPUT/clip_<seed>.json, whose fields are those of SA-V's annotations: `masklet[frame][object]` is a run length
    ({"size": [h, w], "counts": …}) of what is seen of the object, empty where nothing is. Beside them stand
    `masklet_visibility[frame][object]`, how much of the object is seen, and `masklet_category`, `masklet_caption` and
    `masklet_moves`. Objects of which no frame shows 30 pixels are left out. A finished clip is left as it is.

    Raises ValueError as `write_scenes`, for less than one frame, and for odd sides with `mp4`.
    """
    check_request(output, count, seed, width, height, num_workers)
    if num_frames < 1:
        raise ValueError(f"frames must be 1 or more, got {num_frames}; ask for at least one frame")
    if mp4 and (width % 2 or height % 2):
        raise ValueError(f"width and height must be even for mp4, got {width}x{height}; choose even sides")
    folder = Path(output)
    size = {"width": width, "height": height, "frames": num_frames, "mp4": mp4}
    claim(folder, {"clip_version": CLIP_VERSION, "count": count, "seed": seed, **size})
    write = partial(_write_clip, folder=folder, num_frames=num_frames, width=width, height=height, mp4=mp4)
    for done, _ in enumerate(rendered(write, range(seed, seed + count), num_workers), start=1):
        if progress is not None:
            progress(done)
    return folder


def _write_clip(seed: int, folder: Path, num_frames: int, width: int, height: int, mp4: bool) -> None:
    name = f"clip_{seed:08d}"
    target = folder / f"{name}.json"
    if target.exists():
        return
    clip = Clip(seed, width, height)
    frames = list(clip.frames(num_frames))
    if mp4:
        _write_mp4(folder / f"{name}.mp4", frames)
    else:
        _write_frames(folder / name, frames)
    with replacing(target) as stream:
        json.dump(clip_record(name, clip, frames), stream)


def clip_record(name: str, clip: Clip, frames: list[ClipFrame]) -> Record:
    """The annotation of a clip's frames, as `write_clips` says."""
    sizes = np.array([np.bincount(f.owners.ravel() + 1, minlength=len(clip.objects) + 1)[1:] for f in frames])
    shown = np.flatnonzero((sizes >= MIN_AREA).any(axis=0))
    sizes = sizes[:, shown]
    present = sizes > 0
    objects = [clip.objects[index] for index in shown]
    masklet: list[list[Record]] = []
    for frame in frames:
        rles = encode_masks(frame.owners[None] == shown[:, None, None])
        masklet.append([{"size": [clip.height, clip.width], "counts": rle.decode("ascii")} for rle in rles])
    return {
        "video_id": name,
        "video_duration": len(frames) / _FPS,
        "video_frame_count": len(frames),
        "video_height": clip.height,
        "video_width": clip.width,
        "video_resolution": clip.height * clip.width,
        "fps": _FPS,
        "seed": clip.seed,
        "masklet_num": len(objects),
        "masklet_id": list(range(len(objects))),
        "masklet_type": ["synthetic"] * len(objects),
        "masklet_first_appeared_frame": present.argmax(axis=0).tolist(),
        "masklet_frame_count": present.sum(axis=0).tolist(),
        "masklet_visibility_changes": (present[1:] != present[:-1]).sum(axis=0).tolist(),
        "masklet_size_abs": (sizes.sum(axis=0) / np.maximum(present.sum(axis=0), 1)).tolist(),
        "masklet_category": [item.noun for item in objects],
        "masklet_caption": [item.caption for item in objects],
        "masklet_moves": [item.moves for item in objects],
        "masklet_visibility": [[round(float(value), 4) for value in frame.visibility[shown]] for frame in frames],
        "masklet": masklet,
    }


def _write_frames(folder: Path, frames: list[ClipFrame]) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    for stale in (temporary, folder):  # without its annotation a folder may be half a clip
        shutil.rmtree(stale, ignore_errors=True)
    temporary.mkdir()
    for index, frame in enumerate(frames):
        done, data = cv2.imencode(".jpg", frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert done, "JPEG encoding of a valid image cannot fail"
        (temporary / f"{index:05d}.jpg").write_bytes(data.tobytes())
    temporary.rename(folder)


def _write_mp4(path: Path, frames: list[ClipFrame]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with av.open(str(temporary), "w", format="mp4") as container:
        # One thread and no time stamps of the day: the same frames are the same bytes.
        stream: Any = container.add_stream("libx264", rate=Fraction(_FPS), options={"crf": "18", "threads": "1"})
        stream.height, stream.width = frames[0].owners.shape
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="rgb24")))
        container.mux(stream.encode())
    temporary.replace(path)
