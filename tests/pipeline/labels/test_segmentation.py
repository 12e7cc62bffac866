import resource
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from models.masks.rle import decode_masks, encode_masks
from pipeline.labels.mask import INVERTED, ODD_AREA, ODD_BOX, ROW_MAJOR, read_mask
from pipeline.labels.segmentation import (
    AS_TEXT,
    BROKEN_POLYGON,
    BROKEN_RUNS,
    FAR_POLYGON,
    FLAT,
    LONG_POLYGON,
    OTHER_RUNS,
    PAIRS,
    PYTHON_BYTES,
    RUNS_LIST,
    SPECK,
    UNKNOWN_FORM,
    BrokenMaskError,
    compressed_counts,
    read_segmentation,
)

HEIGHT, WIDTH = 48, 64
OBJECT = np.zeros((HEIGHT, WIDTH), bool)
OBJECT[5:15, 20:50] = True
RLE = encode_masks(OBJECT[None])[0]
TEXT = RLE.decode()
SIZE = {"size": [HEIGHT, WIDTH]}
SAID = {"bbox": [20, 5, 30, 10], "area": 300}
POLYGON = [20, 5, 50, 5, 50, 15, 20, 15]


def runs(flat: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [2]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


COLUMNS, ROWS = runs(OBJECT.flatten("F")), runs(OBJECT.flatten("C"))


@pytest.mark.parametrize(
    ("segmentation", "remarks"),
    [
        ([POLYGON], []),
        (POLYGON, [FLAT]),
        ([[[20, 5], [50, 5], [50, 15], [20, 15]]], [PAIRS]),
        ([[20, 5], [50, 5], [50, 15], [20, 15]], [PAIRS, FLAT]),
        ([[str(one) for one in POLYGON]], [AS_TEXT]),
        ([POLYGON, [1, 1, 2, 2]], [SPECK]),
        ({**SIZE, "counts": TEXT}, []),
        ({"counts": TEXT + "\n"}, []),
        ({**SIZE, "counts": COLUMNS}, []),
        ({"size": [48.0, 64.0], "counts": [float(one) for one in COLUMNS]}, []),
        ({**SIZE, "counts": str(RLE)}, [PYTHON_BYTES]),
        ({**SIZE, "counts": [*COLUMNS[:-1], 1, 0, COLUMNS[-1] - 1]}, []),  # a run of no length
        ([{**SIZE, "counts": TEXT}], [RUNS_LIST]),
    ],
)
def test_every_form_without_doubt_is_the_same_mask(segmentation: Any, remarks: list[str]) -> None:
    found = read_segmentation(segmentation, HEIGHT, WIDTH)
    assert found.rle == RLE and list(found.remarks) == remarks


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], BROKEN_POLYGON),
        ([[1, 2, 3, 4, 5, 6, 7]], BROKEN_POLYGON),
        ([[1, 2, 3, 4, 5, float("nan")]], BROKEN_POLYGON),
        ([[1, 2, 3, 4, 5, float("inf")]], BROKEN_POLYGON),
        ([[True, 2, 3, 4, 5, 6]], BROKEN_POLYGON),
        ([[1, 2, 3, 4, 5, None]], BROKEN_POLYGON),
        ([None], BROKEN_POLYGON),
        ([[0, 0, 1e8, 0, 1e8, 1e8]], FAR_POLYGON),
        ([[0, 0, -1e8, 0, 5, 5]], FAR_POLYGON),
        ([[0, 0, 1e300, 0, 5, 5]], FAR_POLYGON),
        ([[0, 0, 10**400, 0, 5, 5]], FAR_POLYGON),
        ([[0, 0, 600, 600] * 4000], LONG_POLYGON),
        ({**SIZE, "counts": COLUMNS[:-1]}, BROKEN_RUNS),
        ({**SIZE, "counts": [-1, HEIGHT * WIDTH + 1]}, BROKEN_RUNS),
        ({**SIZE, "counts": [10**30]}, BROKEN_RUNS),
        ({**SIZE, "counts": [1.5, HEIGHT * WIDTH - 1.5]}, BROKEN_RUNS),
        ({**SIZE, "counts": []}, BROKEN_RUNS),
        ({**SIZE, "counts": ""}, BROKEN_RUNS),
        ({**SIZE, "counts": "é"}, BROKEN_RUNS),
        ({**SIZE, "counts": "zzzz~~~"}, BROKEN_RUNS),
        ({**SIZE, "counts": "b'\\x'"}, BROKEN_RUNS),
        ({**SIZE, "counts": None}, BROKEN_RUNS),
        ({**SIZE, "counts": {"a": 1}}, BROKEN_RUNS),
        ({"size": [WIDTH, HEIGHT], "counts": TEXT}, OTHER_RUNS),
        ({"size": None, "counts": TEXT}, OTHER_RUNS),
        (SIZE, UNKNOWN_FORM),
        ("polygon", UNKNOWN_FORM),
        (7, UNKNOWN_FORM),
    ],
)
def test_what_cannot_be_read_has_a_reason_and_one_line(segmentation: Any, reason: str) -> None:
    with pytest.raises(BrokenMaskError) as raised:
        compressed_counts(segmentation, HEIGHT, WIDTH)
    assert raised.value.reason == reason and "\n" not in str(raised.value)


def test_a_polygon_from_far_outside_costs_no_memory() -> None:
    """In a process of its own, which may hold 2 GB: pycocotools alone asks for more, and dies by a signal."""
    script = (
        "from pipeline.labels.segmentation import compressed_counts\n"
        "for side in (1e6, 1e8, 2e9, 1e18, 1e300):\n"
        "    try: compressed_counts([[-164, -222, 2 * side, 3.5 * side, 226, 237, 272, 384]], 48, 64)\n"
        "    except ValueError as error: print(error)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, preexec_fn=limit, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout.count("outside the picture of 64 x 48") == 5, done.stderr[-300:]


@settings(deadline=None)
@given(
    mask=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)),
    zeros=st.lists(st.integers(0, 30), max_size=4),
)
def test_runs_of_no_length_change_no_mask(mask: np.ndarray, zeros: list[int]) -> None:
    """Pairs of them may stand anywhere; what is stored is what pycocotools would have written."""
    counts = runs(mask.flatten("F"))
    for place in zeros:
        at = place % (len(counts) + 1)
        counts[at:at] = [0, 0]
    size = mask.shape
    assert compressed_counts({"size": list(size), "counts": counts}, *size) == encode_masks(mask[None])[0]


@settings(deadline=None)
@given(points=st.lists(st.tuples(st.integers(-90, 150), st.integers(-90, 150)), min_size=3, max_size=8))
def test_polygons_are_drawn_as_pycocotools_draws_them(points: list[tuple[int, int]]) -> None:
    polygon = [float(value) for point in points for value in point]
    expected = coco_mask.merge(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH))
    assert compressed_counts([polygon], HEIGHT, WIDTH) == expected["counts"]


@pytest.mark.parametrize(
    ("counts", "said", "expected", "remarks"),
    [
        (COLUMNS, SAID, OBJECT, []),
        (COLUMNS, {"bbox": [19.4, 5.3, 31.9, 9], "area": 280.5}, OBJECT, []),  # rounding, a box's last pixel
        (COLUMNS, {"bbox": [0, 0, 0, 0], "area": 0}, OBJECT, []),  # says nothing
        (COLUMNS, {"bbox": [0.3, 0.1, 0.4, 0.2]}, OBJECT, []),  # shares, which say nothing about pixels
        (COLUMNS, {"bbox": [float("nan")] * 4, "area": "large"}, OBJECT, []),
        (COLUMNS, {"bbox": [1, 30, 10, 10], "area": 100}, OBJECT, [ODD_BOX]),
        (COLUMNS, {"area": 20}, OBJECT, [ODD_AREA]),
        (ROWS, SAID, OBJECT, [ROW_MAJOR]),
        ([0, *COLUMNS], SAID, OBJECT, [INVERTED]),
        ([0, *ROWS], SAID, OBJECT, None),  # both at once: not one reading alone
    ],
)
def test_run_lengths_are_held_against_the_annotations_box_and_area(
    counts: list[int], said: dict[str, Any], expected: np.ndarray, remarks: list[str] | None
) -> None:
    found = read_mask({"segmentation": {**SIZE, "counts": counts}, **said}, HEIGHT, WIDTH)
    if remarks is None:
        assert list(found.remarks) == [ODD_BOX]
    else:
        assert list(found.remarks) == remarks
        assert np.array_equal(decode_masks([found.rle], HEIGHT, WIDTH)[0], expected)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"segmentation": [], "bbox": [5, 6, 20, 10]}, "left out: box without a mask"),
        ({"segmentation": {}, "bbox": [5, 6, 20, 10]}, "left out: box without a mask"),
        ({"keypoints": [5, 5, 2], "bbox": [5, 6, 20, 10]}, "left out: keypoints without a mask"),
        ({"segments_info": [{"id": 1}]}, "left out: panoptic segments"),
        ({"segmentation": None}, "left out: annotation without a mask"),
        ({"segmentation": [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]}, "left out: mask without a pixel"),
        ({"segmentation": [[100, 100, 120, 100, 120, 120]]}, "left out: mask without a pixel"),
        ({"segmentation": [[5, 5, 15, 5, 25, 5]]}, "left out: mask without a pixel"),
        ({"segmentation": {**SIZE, "counts": [HEIGHT * WIDTH]}}, "left out: mask without a pixel"),
    ],
)
def test_what_holds_no_mask_says_why(annotation: dict[str, Any], reason: str) -> None:
    with pytest.raises(BrokenMaskError) as raised:
        read_mask(annotation, HEIGHT, WIDTH)
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("flag", "crowd"),
    [
        (0, False),
        (1, True),
        ("0", False),
        ("1", True),
        (None, False),
        (True, True),
        (1.0, True),
        (2, None),
        ("x", None),
    ],
)
def test_iscrowd_is_read_as_it_is_meant(flag: Any, crowd: bool | None) -> None:
    found = read_mask({"segmentation": [POLYGON], "iscrowd": flag}, HEIGHT, WIDTH)
    assert found.is_crowd is bool(crowd)
    assert list(found.remarks) == ([] if crowd is not None else ["read as no crowd: iscrowd is neither 0 nor 1"])
