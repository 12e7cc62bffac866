"""Tagging against the common scripts, which cut, preprocess and encode one crop at a time.

    python -m benchmarks.tagging --data SCENES --checkpoint clip_small --vocabulary scenes --images 20

All see the same views of the same labelled masks, cut from pictures that are already decoded, with the same weights,
and alternate group by group of as many pictures as the stage takes at once. One script encodes the texts once, the
other, as the example in CLIP's README does, with every crop; that one gets the first masks of each group only.
On one thread seconds of the processor are measured, on several those of the clock. With `--processes` the pictures are
shared out among so many, each with a thread, as the stage's actors share them, and the scripts have as many threads.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from models.clip.model import Clip
from models.clip.regions import ViewSettings, normalise_views, region_view
from models.weights import load_clip
from pipeline.clip_training.views import read_labelled_views
from pipeline.recipes.vocabularies import read_vocabulary
from stages.embed_masks import Features, Regions
from stages.tag_settings import TagSettings
from stages.tagger import Tagger
from stages.tagging import read_tagging

MASKS_WITH_TEXTS = 8
IMAGES_AT_ONCE, VIEWS_AT_ONCE = 8, 32  # as the stage takes them on a CPU


@torch.inference_mode()
def one_at_a_time(clip: Clip, views: ViewSettings, regions: Sequence[Regions]) -> Features:
    """Features of all masks, each view encoded by itself."""
    found = []
    for picture in regions:
        for rle, bbox in zip(picture.rles, picture.boxes.tolist(), strict=True):
            parts = []
            for scale in views.scales:
                view = region_view(picture.image, rle, tuple(bbox), scale, views, clip.config)
                parts.append(F.normalize(clip.encode_image(normalise_views([view], clip.config)), dim=-1)[0])
            found.append(F.normalize(torch.stack(parts).mean(dim=0), dim=-1).numpy())
    return np.stack(found)


@torch.inference_mode()
def with_texts(clip: Clip, tagger: Tagger, regions: Regions) -> None:
    """The scores of each view of a picture's masks, from a pass of the whole CLIP over the view and all texts."""
    views = tagger.encoder.views
    texts = [
        template.replace("{}", word.name)
        for group in tagger.vocabulary.groups
        for word in group.words
        for template in group.templates
    ]
    tokens = tagger.tokenizer(texts)
    for rle, bbox in zip(regions.rles, regions.boxes.tolist(), strict=True):
        for scale in views.scales:
            view = region_view(regions.image, rle, tuple(bbox), scale, views, clip.config)
            clip(normalise_views([view], clip.config), tokens)


def seconds(now: Callable[[], float], work: Callable[[], Any]) -> tuple[float, Any]:
    started = now()
    result = work()
    return now() - started, result


_own: list[Tagger] = []  # a process's


def _start(settings: TagSettings) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _own.append(Tagger(read_tagging(settings, read_vocabulary(settings.vocabulary)), "cpu", VIEWS_AT_ONCE))


def _encode(regions: Sequence[Regions]) -> list[tuple[Features, Features]]:
    return _own[0].encoder.encode(regions)


def shared_out(settings: TagSettings, processes: int) -> Callable[[Sequence[Regions]], list[tuple[Features, Features]]]:
    """`MaskEncoder.encode` in several processes; the groups of pictures are of about as many masks each."""
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (settings,))

    def encode(regions: Sequence[Regions]) -> list[tuple[Features, Features]]:
        order = sorted(range(len(regions)), key=lambda index: -len(regions[index].rles))
        parts: list[list[int]] = [[] for _ in range(processes)]
        for index in order:
            min(parts, key=lambda part: sum(len(regions[one].rles) for one in part)).append(index)
        found: dict[int, tuple[Features, Features]] = {}
        for part, own in zip(parts, pool.map(_encode, [[regions[one] for one in part] for part in parts]), strict=True):
            found.update(zip(part, own, strict=True))
        return [found[index] for index in range(len(regions))]

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--checkpoint", default="clip_small")
    parser.add_argument("--vocabulary", default="scenes")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    threads = max(arguments.threads, arguments.processes)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    now = time.process_time if threads == 1 else time.perf_counter
    settings = TagSettings(checkpoint=arguments.checkpoint, vocabulary=arguments.vocabulary)
    tagger = Tagger(read_tagging(settings, read_vocabulary(arguments.vocabulary)), "cpu", VIEWS_AT_ONCE)
    pictures = [one for one in read_labelled_views([arguments.data], {"thing": "category"}) if one.masks]
    encode = tagger.encoder.encode if arguments.processes == 1 else shared_out(settings, arguments.processes)
    clip, _ = load_clip(arguments.checkpoint)  # as it is published: the tagger changes its own
    loop = together = texts = 0.0
    num_masks = num_same = num_words = num_with_texts = 0
    for start in range(0, min(arguments.images, len(pictures)), IMAGES_AT_ONCE):
        group = pictures[start : min(arguments.images, start + IMAGES_AT_ONCE)]
        regions = [
            Regions(one.pixels(), [m.rle or b"" for m in one.masks], np.array([m.bbox for m in one.masks], np.int32))
            for one in group
        ]
        if start == 0:
            encode(regions)
            one_at_a_time(clip, tagger.encoder.views, regions[:1])
        spent, found = seconds(now, lambda regions=regions: encode(regions))
        together += spent
        spent, alone = seconds(now, lambda regions=regions: one_at_a_time(clip, tagger.encoder.views, regions))
        loop += spent
        few = Regions(regions[0].image, regions[0].rles[:MASKS_WITH_TEXTS], regions[0].boxes[:MASKS_WITH_TEXTS])
        spent, _ = seconds(now, lambda few=few: with_texts(clip, tagger, few))
        texts += spent
        num_masks += len(alone)
        num_with_texts += len(few.rles)
        ends = np.cumsum([len(own) for _, own in found])[:-1]
        for (whole, own), other in zip(found, np.split(alone, ends), strict=True):
            for ours, theirs in zip(tagger.scores(whole, own), tagger.scores(whole, other), strict=True):
                num_same += int((ours.best()[0] == theirs.best()[0]).sum())
                num_words += len(own)
    each, crops, readme = together / num_masks, loop / num_masks, texts / num_with_texts
    kind = "of the processor" if threads == 1 else f"by the clock, {threads} threads,"
    if arguments.processes > 1:
        kind = f"by the clock, {arguments.processes} processes or threads,"
    print(f"{num_masks:,} masks; milliseconds {kind} a mask, and how much the batches save:")
    print(f"  batches across masks           {1e3 * each:8.2f}")
    print(f"  one crop at a time             {1e3 * crops:8.2f}  {crops / each:6.1f} times")
    print(f"  one crop at a time, with texts {1e3 * readme:8.2f}  {readme / each:6.1f} times")
    print(f"the same best word in {num_same:,} of {num_words:,} cases")


if __name__ == "__main__":
    main()
