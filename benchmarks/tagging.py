"""Tagging against the common scripts, which cut, preprocess and encode one crop at a time.

    python -m benchmarks.tagging --data SCENES --checkpoint clip_small --vocabulary scenes --images 20

All see the same views of the same labelled masks with the same weights, alternate picture by picture on one thread, and
are measured in seconds of the processor. One script encodes the texts once, the other, as the example in CLIP's README
does, with every crop; that one gets the first masks of each picture only.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from models.clip.regions import normalise_views, region_view
from pipeline.clip_training.views import LabelledPicture, read_labelled_views
from pipeline.recipes.vocabularies import read_vocabulary
from stages.embed_masks import Features, Regions
from stages.tag_settings import TagSettings
from stages.tagger import Tagger, views_for

MASKS_WITH_TEXTS = 2


@torch.inference_mode()
def one_at_a_time(tagger: Tagger, settings: TagSettings, picture: LabelledPicture) -> Features:
    """Features of a picture's masks, each view encoded by itself."""
    views, config, pixels = views_for(settings), tagger.clip.config, picture.pixels()
    found = []
    for mask in picture.masks:
        parts = []
        for scale in views.scales:
            view = region_view(pixels, mask.rle or b"", mask.bbox, scale, views, config)
            parts.append(F.normalize(tagger.clip.encode_image(normalise_views([view], config)), dim=-1)[0])
        found.append(F.normalize(torch.stack(parts).mean(dim=0), dim=-1).numpy())
    return np.stack(found)


@torch.inference_mode()
def with_texts(tagger: Tagger, settings: TagSettings, picture: LabelledPicture) -> None:
    """The scores of each view of a picture's masks, from a pass of the whole CLIP over the view and all texts."""
    views, config, pixels = views_for(settings), tagger.clip.config, picture.pixels()
    texts = [
        template.replace("{}", word.name)
        for group in tagger.vocabulary.groups
        for word in group.words
        for template in group.templates
    ]
    tokens = tagger.tokenizer(texts)
    for mask in picture.masks:
        for scale in views.scales:
            view = region_view(pixels, mask.rle or b"", mask.bbox, scale, views, config)
            tagger.clip(normalise_views([view], config), tokens)


def batched(tagger: Tagger, picture: LabelledPicture) -> tuple[Features, Features]:
    boxes = np.array([mask.bbox for mask in picture.masks], np.int32)
    return tagger.encoder.encode([Regions(picture.pixels(), [mask.rle or b"" for mask in picture.masks], boxes)])[0]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--checkpoint", default="clip_small")
    parser.add_argument("--vocabulary", default="scenes")
    parser.add_argument("--images", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    settings = TagSettings(checkpoint=arguments.checkpoint, vocabulary=arguments.vocabulary)
    tagger = Tagger(settings, read_vocabulary(arguments.vocabulary), "cpu", 64)
    pictures = [one for one in read_labelled_views([arguments.data], {"thing": "category"}) if one.masks]
    batched(tagger, pictures[0])
    loop = together = texts = 0.0
    num_masks = num_same = num_words = num_with_texts = 0
    for picture in pictures[: arguments.images]:
        spent, (whole, own) = seconds(lambda picture=picture: batched(tagger, picture))
        together += spent
        spent, alone = seconds(lambda picture=picture: one_at_a_time(tagger, settings, picture))
        loop += spent
        few = dataclasses.replace(picture, masks=picture.masks[:MASKS_WITH_TEXTS])
        spent, _ = seconds(lambda few=few: with_texts(tagger, settings, few))
        texts += spent
        num_masks += len(own)
        num_with_texts += len(few.masks)
        for one, other in zip(tagger.scores(whole, own), tagger.scores(whole, alone), strict=True):
            num_same += int((one.best()[0] == other.best()[0]).sum())
            num_words += len(own)
    ours, crops, readme = together / num_masks, loop / num_masks, texts / num_with_texts
    print(f"{num_masks:,} masks; milliseconds of the processor a mask, and how much the batches save:")
    print(f"  batches across masks           {1e3 * ours:8.2f}")
    print(f"  one crop at a time             {1e3 * crops:8.2f}  {crops / ours:6.1f} times")
    print(f"  one crop at a time, with texts {1e3 * readme:8.2f}  {readme / ours:6.1f} times")
    print(f"the same best word in {num_same:,} of {num_words:,} cases")


if __name__ == "__main__":
    main()
