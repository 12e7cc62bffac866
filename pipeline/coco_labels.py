"""Labelled images: a COCO-style annotation file and the pictures that it describes, image by image."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.labels.crowds import AS_MASKS, CROWD, is_brush, only_crowds
from pipeline.labels.layout import ANNOTATIONS, coco_path, picture_places
from pipeline.labels.mask import read_mask
from pipeline.labels.notes import Notes, shown
from pipeline.labels.orientation import STORED, UNTOLD, cannot_be_told, only_stored_fits, turn_mask
from pipeline.labels.references import Identity, Record, check_references, parse_coco
from pipeline.labels.segmentation import BrokenMaskError
from pipeline.labels.values import as_flag, as_identity, as_size, as_text
from stages.decode_image import describe
from stages.decode_pixels import DecodeSettings, decode_image, read_header

NO_SIZE = "left out: image without a size"
NO_NAME = "left out: image without a file name"
NO_MASK = "left out: image without a mask that can be used"
OTHER_SIZE = "left out: picture of another size than its labels"
UNREADABLE = "left out: picture that cannot be read"


@dataclass(frozen=True)
class LabelledImage:
    """One image's masks as COCO compressed run lengths, by annotator (0 where the file names none), none empty."""

    path: Path
    height: int
    width: int
    segments: dict[int | str, list[bytes]]


class LabelledSet:
    """The images of an annotation file that have masks, in its order; each one's masks are read when it is due.

    Masks and images that cannot be used are left out. `notes` counts them by reason for the last pass over the images.
    Crowd regions (`iscrowd`) are no masks of one object and are left out, unless that is how a brush's masks are
    marked. `num_without_masks` images of the file have none. Raises ValueError at the end of a pass without an image.
    """

    def __init__(
        self,
        source: Path,
        images: list[tuple[Record, Path]],
        annotations: dict[Identity, list[Record]],
        num_without_masks: int,
        notes: Notes,
    ) -> None:
        self.source = source
        self.num_without_masks = num_without_masks
        self.notes = notes
        self._images = images
        self._annotations = annotations
        self._file_notes = notes  # of the file as a whole, which each pass begins with

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[LabelledImage]:
        self._begin()
        found = 0
        for record, path in self._images:
            if (image := self._image(record, path)) is not None:
                found += 1
                yield image
        if not found:
            raise self._nothing()

    def pictures(self, settings: DecodeSettings) -> Iterator[tuple[LabelledImage, np.ndarray]]:
        """The images with their pixels, as `read_pixels` gives them; a picture that it refuses is left out."""
        found = 0
        for image in self:
            try:
                pixels = read_pixels(image, settings)
            except ValueError as error:
                self.notes.add(UNREADABLE, shown(str(error)))
                continue
            found += 1
            yield image, pixels
        if not found:
            raise self._nothing()

    def _begin(self) -> None:
        self.notes = Notes()
        self.notes.update(self._file_notes)

    def _nothing(self) -> ValueError:
        return ValueError(f"{self.source}: none of its images can be used; {'; '.join(self.notes.lines())}")

    def _image(self, record: Record, path: Path) -> LabelledImage | None:
        (height, width), identity = as_size(record) or (0, 0), as_identity(record["id"])
        assert height and identity is not None, "checked by read_labels"
        turned = 1
        header = _header(path)
        if header is not None:
            upright, orientation = header
            if only_stored_fits((height, width), upright, orientation):
                turned = orientation
            elif (height, width) != upright:
                how = f" (EXIF orientation {orientation})" if orientation != 1 else ""
                size, said = f"{upright[1]} x {upright[0]}{how}", f"{width} x {height}"
                self.notes.add(OTHER_SIZE, f"{path}: the picture is {size}, its labels say {said}")
                return None
            if cannot_be_told(upright, orientation):
                self.notes.add(UNTOLD, str(path))
        segments: dict[int | str, list[bytes]] = {}
        for annotation in self._annotations[identity]:
            where = f"annotation {shown(annotation.get('id'))} of {path.name}"
            try:
                mask, annotator = read_mask(annotation, height, width), _annotator(annotation)
            except BrokenMaskError as error:
                self.notes.add(error.reason, f"{where}: {error}")
                continue
            for remark in mask.remarks:
                self.notes.add(remark, where)
            rle = mask.rle
            if turned != 1:
                rle = turn_mask(rle, height, width, turned)
                self.notes.add(STORED, where)
            segments.setdefault(annotator, []).append(rle)
        if not segments:
            self.notes.add(NO_MASK, path.name)
            return None
        return LabelledImage(path, *((height, width) if turned == 1 else (width, height)), segments)


def read_labels(data: str, images: str | None = None, limit: int | None = None) -> LabelledSet:
    """Opens a labelled set: `data` is a COCO JSON file, or a folder with one under a name that a tool gives it.

    Pictures are looked for by their `file_name` in the folder `images`; without it where `picture_places` says.
    `limit` takes the first so many images that have masks. Segmentations may be polygons, run lengths or compressed
    run lengths; an annotation may name its `annotator`.

    Raises ValueError with one line for a file that is missing, no JSON or not COCO, for images and masks that
    `check_references` refuses, for pictures that are missing, and if no image has a mask.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: {limit} images; give at least 1")
    source = coco_path(data)
    labels, notes = check_references(read_coco(source), str(source)), Notes()
    annotations = _without_crowds(labels.annotations, notes)
    if not annotations:
        raise ValueError(
            f"{source}: none of its {len(labels.images)} images has a mask; give a file with segmentations"
        )
    labelled = [record for identity, record in labels.images.items() if identity in annotations]
    folders = [Path(one) for one in picture_places(source.as_posix())]
    if images is not None:
        folders = [Path(images).expanduser()]
    pictures = _find_pictures(labelled[:limit], folders, source, notes)
    return LabelledSet(source, pictures, annotations, len(labels.images) - len(labelled), notes)


def read_pixels(image: LabelledImage, settings: DecodeSettings) -> np.ndarray:
    """The picture, (H, W, 3) uint8 RGB. Raises ValueError if it is unreadable, or of another size than its labels."""
    try:
        decoded = decode_image(image.path.read_bytes(), settings)
    except Exception as error:  # a picture may be broken in any way: the line says which one and how
        raise ValueError(f"{image.path}: cannot be read ({describe(error)}); mend it or leave it out") from error
    height, width = decoded.pixels.shape[:2]
    if (height, width) != (image.height, image.width):
        how = f" (EXIF orientation {decoded.orientation})" if decoded.orientation != 1 else ""
        raise ValueError(
            f"{image.path}: the picture is {width} x {height}{how}, its labels say {image.width} x {image.height}; "
            "give the picture that was labelled"
        )
    return decoded.pixels


def read_coco(source: Path) -> Record:
    """A COCO file's content, its images and annotations lists of records. Raises ValueError if it is none."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ValueError(
            f"labels {source}: cannot be read ({describe(error)}); give a folder with {ANNOTATIONS}, or a COCO JSON"
        ) from None
    return parse_coco(data, str(source))


def _without_crowds(annotations: dict[Identity, list[Record]], notes: Notes) -> dict[Identity, list[Record]]:
    """The annotations that are masks of one object; images of which none is left are not among them."""
    only = only_crowds(one for some in annotations.values() for one in some)
    left: dict[Identity, list[Record]] = {}
    for identity, some in annotations.items():
        for one in some:
            where = f"annotation {shown(one.get('id'))} of image {shown(identity)}"
            if is_brush(one, only):
                notes.add(AS_MASKS, where)
            elif as_flag(one.get("iscrowd")):
                notes.add(CROWD, where)
                continue
            left.setdefault(identity, []).append(one)
    return left


def _find_pictures(records: list[Record], folders: list[Path], source: Path, notes: Notes) -> list[tuple[Record, Path]]:
    found, missing = [], []
    problem = ""
    for record in records:
        name, size = as_text(record.get("file_name")), (record.get("height"), record.get("width"))
        if as_size(record) is None:
            problem = f"image {shown(record['id'])}: height is {shown(size[0])}, width {shown(size[1])}; give pixels"
            notes.add(NO_SIZE, problem)
        elif name is None:
            problem = f"image {shown(record['id'])} has no file_name; COCO files need one"
            notes.add(NO_NAME, problem)
        elif (path := _picture_path(name, folders)) is None:
            missing.append(name)
        else:
            found.append((record, path))
    if missing:
        where = " or ".join(str(folder) for folder in folders)
        raise ValueError(
            f"{source}: {len(missing)} of {len(records)} images are not in {where} ({shown(missing[0])}); "
            "put them there, or name their folder"
        )
    if not found:
        raise ValueError(f"{source}: {problem}")
    return found


def _picture_path(name: str, folders: list[Path]) -> Path | None:
    for folder in folders:
        path = folder / name
        if os.path.isfile(path):  # False for a name that no file can have
            return path
    return None


def _header(path: Path) -> tuple[tuple[int, int], int] | None:
    """The picture's (height, width) as it is shown, and its EXIF orientation; None where only decoding can tell."""
    try:
        return read_header(path)
    except Exception:  # a picture may be broken in any way: reading its pixels says how
        return None


def _annotator(annotation: Record) -> int | str:
    annotator = as_identity(annotation.get("annotator", 0))
    if annotator is None:
        detail = f"annotator is {shown(annotation['annotator'])}, no number or text; name one person an annotation"
        raise BrokenMaskError("left out: annotator that is no name", detail)
    return annotator
