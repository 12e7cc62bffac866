"""Which kind of labels a JSON file holds, told by its content and not by its name."""

from typing import Any, Literal

from pipeline.labels.notes import shown

Kind = Literal["coco", "sa1b", "label-studio", "amg"]


def recognise(content: Any, where: str) -> Kind:
    """The kind of a JSON file's content. Raises ValueError for one that cannot be imported, which says what it is."""
    if isinstance(content, dict):
        return _of_record(content, where)
    if isinstance(content, list):
        return _of_list(content, where)
    raise ValueError(f"labels {where}: holds {shown(content)}, and no labels; give COCO, SA-1B or Label Studio's JSON")


def _of_record(content: dict[str, Any], where: str) -> Kind:
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(content.get("videos"), list):
        raise _refused(where, "YouTube-VIS or another file about videos", "masks of images are imported")
    if "images" in content:
        if isinstance(first, dict) and "segments_info" in first:
            raise _refused(
                where, "COCO panoptic, whose masks are PNGs", "export instances (`export --layout coco` writes such)"
            )
        if "annotations" not in content:
            raise _refused(where, "a COCO file of images alone", "its annotations are missing")
        return "coco"
    if "image" in content and "annotations" in content:
        return "sa1b"
    if "masklet" in content:
        raise _refused(where, "a video's masklets (SA-V)", "masks of images are imported")
    if "shapes" in content and "imagePath" in content:
        raise _refused(where, "LabelMe's JSON", "convert it to COCO")
    if "_via_img_metadata" in content:
        raise _refused(where, "a project of the VGG annotator (VIA)", "export it as COCO")
    if "data" in content and "annotations" in content:
        raise _refused(where, "one task of Label Studio", "export the whole project as JSON")
    names = ", ".join(shown(name) for name in list(content)[:8])
    raise ValueError(
        f"labels {where}: images is not a list of records; it holds {names or 'nothing'}; give a COCO JSON"
    )


def _of_list(content: list[Any], where: str) -> Kind:
    records = [one for one in content if isinstance(one, dict)]
    if any("data" in one and "annotations" in one for one in records):
        return "label-studio"
    if any("annotation_id" in one and "annotator" in one for one in records):
        raise _refused(
            where, "Label Studio's JSON-MIN, which lacks the brushes' sizes", "export the project as JSON, not JSON-MIN"
        )
    if any("data" in one and "predictions" in one for one in records):
        raise _refused(where, "tasks for Label Studio that nobody has worked on", "export the project as JSON")
    if any("image_id" in one and ("segmentation" in one or "bbox" in one) for one in records):
        raise _refused(
            where,
            "COCO results, which name their images by numbers",
            "put them into the COCO file of those images, as its annotations",
        )
    if records and all("segmentation" in one for one in records):
        return "amg"
    if not content:
        raise _refused(where, "an empty list", "it holds no image")
    raise ValueError(f"labels {where}: not Label Studio's JSON, nor a list of masks; export the project as JSON")


def _refused(where: str, kind: str, remedy: str) -> ValueError:
    return ValueError(f"labels {where}: is {kind}; {remedy}")
