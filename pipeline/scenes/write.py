"""Writing scenes to a folder: pictures and one COCO annotation file."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

import cv2
import numpy as np

from models.masks.rle import areas, bounding_boxes, encode_masks
from pipeline.scenes.scene import check_size, render_scene

GENERATOR_VERSION = 1  # raised whenever a seed's scene changes
_JPEG_QUALITY = 95
_SETTINGS = "_scenes.json"
_ANNOTATIONS = "annotations.json"

Record = dict[str, Any]
_Made = TypeVar("_Made")


def write_scenes(
    output: str,
    count: int,
    seed: int = 0,
    width: int = 640,
    height: int = 480,
    num_workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write the scenes of seeds `seed` to `seed + count - 1` and return the path of their annotation file.

    OUTPUT/images/scene_<seed>.jpg are the pictures; OUTPUT/annotations.json is a COCO file whose segmentations are
    compressed run lengths and whose annotations also carry `parent_id`, `caption`, `colour`, `pattern`, `shape` and
    `relation`. The annotation file appears last and whole; a finished output is left as it is, an unfinished one is
    made anew. `progress` is told how many scenes are done. With `num_workers` above 1 scenes are rendered in other
    processes; the files are the same.

    Raises ValueError for a bad count, seed, size or number of workers, and for an output made with other settings.
    """
    check_request(output, count, seed, width, height, num_workers)
    folder = Path(output)
    settings = {"version": GENERATOR_VERSION, "count": count, "seed": seed, "width": width, "height": height}
    claim(folder, settings)
    target = folder / _ANNOTATIONS
    if not target.exists():
        images = folder / "images"
        images.mkdir(exist_ok=True)
        render = partial(_write_scene, images=images, width=width, height=height)
        with replacing(target) as stream:
            _write_annotations(stream, settings, rendered(render, range(seed, seed + count), num_workers), progress)
    elif progress is not None:
        progress(count)
    return target


def check_request(output: str, count: int, seed: int, width: int, height: int, num_workers: int) -> None:
    """Raise a one-line ValueError for what cannot be written."""
    if "://" in output:
        raise ValueError(f"output must be a local folder, got {output}; write to a folder and copy it there")
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}; ask for at least one scene")
    if num_workers < 1:
        raise ValueError(f"num_workers must be 1 or more, got {num_workers}; use 1 to render in this process")
    check_size(seed, width, height)


def claim(folder: Path, settings: Record) -> None:
    """Make `folder` this call's, or raise ValueError if it already belongs to another."""
    note = folder / _SETTINGS
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output {folder} is a file; name a folder")
    if note.exists():
        found = json.loads(note.read_text(encoding="utf-8"))
        changed = [f"{key} {found.get(key)} instead of {value}" for key, value in settings.items()
                   if found.get(key) != value]  # fmt: skip
        if changed:
            raise ValueError(f"output {folder} holds scenes with {', '.join(changed)}; choose another folder")
        return
    if (folder / "images").exists() or (folder / _ANNOTATIONS).exists() or any(folder.glob("clip_*")):
        raise ValueError(f"output {folder} holds images or annotations that are no scenes; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(note) as stream:
        json.dump(settings, stream)


@contextmanager
def replacing(target: Path) -> Iterator[TextIO]:
    """A text file that takes `target`'s place once it is complete and on the disk."""
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(target)


def rendered(render: Callable[[int], _Made], seeds: range, num_workers: int) -> Iterator[_Made]:
    """What `render` makes of each seed, in the order of the seeds; in other processes if `num_workers` is above 1."""
    if num_workers == 1:
        yield from map(render, seeds)
        return
    # Spawned, not forked: the caller may hold threads (OpenCV's, Ray's) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(render, seeds, chunksize=4)


def _write_scene(seed: int, images: Path, width: int, height: int) -> tuple[Record, list[Record]]:
    """Render one scene, write its picture, and return its image record and its segments' records."""
    scene = render_scene(seed, width, height)
    name = f"scene_{seed:08d}.jpg"
    done, data = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done, "JPEG encoding of a valid image cannot fail"
    temporary = images / f".{name}.tmp"
    temporary.write_bytes(data.tobytes())
    temporary.replace(images / name)
    counts = encode_masks(np.stack([item.mask for item in scene.objects]))
    segments = [
        {
            "parent": item.parent,
            "segmentation": {"size": [height, width], "counts": rle.decode("ascii")},
            "area": int(area),
            "bbox": [int(value) for value in box],
            "caption": item.caption,
            "colour": item.colour,
            "pattern": item.pattern,
            "shape": item.shape,
            "relation": item.relation,
        }
        for item, rle, area, box in zip(
            scene.objects, counts, areas(counts), bounding_boxes(counts, height), strict=True
        )
    ]
    image = {"file_name": f"images/{name}", "width": width, "height": height, "seed": seed, "caption": scene.caption}
    return image, segments


def _write_annotations(
    stream: TextIO,
    settings: Record,
    scenes: Iterator[tuple[Record, list[Record]]],
    progress: Callable[[int], None] | None,
) -> None:
    """Write the COCO file as the scenes arrive, so that memory does not grow with their segments."""
    images: list[Record] = []
    categories: dict[str, int] = {}
    next_id = 1
    stream.write('{"info": ' + json.dumps({"description": "MaskFoundry synthetic scenes", **settings}))
    stream.write(',\n"annotations": [')
    for image, segments in scenes:
        images.append({"id": len(images) + 1, **image})
        first = next_id
        for segment in segments:
            parent = segment.pop("parent")
            annotation = {
                "id": next_id,
                "image_id": images[-1]["id"],
                "category_id": categories.setdefault(segment["shape"], len(categories) + 1),
                "iscrowd": 0,
                "parent_id": None if parent is None else first + parent,
                **segment,
            }
            stream.write(("\n" if next_id == 1 else ",\n") + json.dumps(annotation))
            next_id += 1
        if progress is not None:
            progress(len(images))
    stream.write('],\n"images": ' + json.dumps(images))
    stream.write(',\n"categories": ' + json.dumps([{"id": i, "name": name} for name, i in categories.items()]) + "}\n")
