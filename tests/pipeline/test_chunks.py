import pyarrow as pa

from pipeline.chunks import plan_chunks
from pipeline.listing import LISTING


def listing(*images: tuple[str, str]) -> pa.Table:
    return pa.table(
        [[name for name, _ in images], [f"file:///{name}" for name, _ in images], [etag for _, etag in images]],
        schema=LISTING,
    )


def committed(*rows: tuple[str, str, str, int]) -> pa.Table:
    schema = pa.schema(
        [("image_id", pa.string()), ("source_etag", pa.string()), ("status", pa.string()), ("part", pa.int32())]
    )
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


def planned(*args, **kwargs) -> list[tuple[int, list[str], bool]]:
    return [(one.part, one.images["image_id"].to_pylist(), one.exists) for one in plan_chunks(*args, **kwargs)]


def test_a_fresh_run_cuts_the_listing_into_numbered_groups() -> None:
    images = listing(*((f"{index}.png", "e") for index in range(5)))
    assert planned(images, committed(), 2, False) == [
        (0, ["0.png", "1.png"], False),
        (1, ["2.png", "3.png"], False),
        (2, ["4.png"], False),
    ]


def test_resume_takes_what_is_not_committed_into_new_parts() -> None:
    images = listing(("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"))
    done = committed(("a", "1", "ok", 0), ("c", "1", "failed", 3))
    assert planned(images, done, 64, False) == [(4, ["b", "d"], False)]


def test_changed_and_failed_images_are_redone_in_their_own_part() -> None:
    images = listing(("a", "2"), ("b", "1"), ("c", "1"))
    done = committed(("a", "1", "ok", 0), ("b", "1", "ok", 0), ("c", "1", "failed", 1), ("gone", "1", "ok", 1))
    assert planned(images, done, 64, False) == [(0, ["a"], True)]
    assert planned(images, done, 64, True) == [(0, ["a"], True), (1, ["c"], True)]


def test_nothing_left() -> None:
    assert planned(listing(("a", "1")), committed(("a", "1", "ok", 0)), 64, True) == []
