"""A command that is killed at any change that it makes to the store, and the same command again: the dataset is then
the undisturbed one's, and in between readers see each image once, as it was or as it becomes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from models.masks.rle import encode_masks
from pipeline.dataset import open_dataset
from pipeline.imports.write import import_labels
from pipeline.loop.rollback import restore, rollback
from pipeline.queries.subset import write_subset
from pipeline.runs.chunks import plan_chunks
from pipeline.runs.commit import Committer
from pipeline.sources.listing_schema import listing_table
from pipeline.store.compact import compact
from pipeline.store.drop import drop_images
from pipeline.store.find_rounds import round_numbers
from pipeline.store.index import publish, read_index
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.shards import Shard
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.record import SCHEMA, set_columns
from tests.pipeline.store.crash_points import DeathError, Moment, Process, running

Rows = dict[str, dict[str, Any]]
NOT_COMPARED = ("run_id", "extra")


def image_rows(names: list[str], version: str) -> pa.Table:
    """What a graph gives for these images, with content of their own."""
    masks = np.zeros((1, 8, 8), np.uint8)
    masks[0, 2:5, 2:6] = 1
    rows = []
    for name in names:
        mask = {"mask_id": f"{name}/0", "bbox": [2, 2, 4, 3], "area": 12, "keep": True, "tags": [], "iscrowd": False}
        row = {"image_id": name, "uri": f"/in/{name}", "source_etag": version, "content_sha256": f"sha of {name}"}
        row |= {"width": 8, "height": 8, "status": "ok", "tags": [], "masks": [mask], "raw_rles": [None]}
        rows.append(row | {"rles": encode_masks(masks), "fingerprints": {"generate": "g", "filter": "f"}})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def run(uri: str, names: str, version: str = "1", shard: Shard | None = None) -> None:
    """The cycle of a run, with rows in place of the graph."""
    target = Round(Folder(uri), 0, shard)
    listed = listing_table(len(names), {"image_id": [*names], "uri": [*names], "source_etag": [version] * len(names)})
    with hold_lease(target, "run"):
        target.forget_lost_parts()
        target.create_record({"round": 0, "shards": shard.count if shard else None, "runs": [], "fingerprints": {}})
        publish(target.folder, 0)
        plan = plan_chunks(shard.take(listed) if shard else listed, target.committed(), 2, False, shard)
        committer = Committer(target, "run", {"generate": "g", "filter": "f"})
        for chunk in plan:
            committer.expect([chunk])
            rows = image_rows(chunk.images["image_id"].to_pylist(), version)
            committer.add(rows.append_column("part", pa.array([chunk.part] * rows.num_rows, pa.int32())))
        target.add_run({"started": "now", "images": committer.tally.images})


def replay(uri: str, caption: str) -> None:
    """A replay of filters or labels: the workers' new rows are made here."""
    target = Round(Folder(uri), 0)
    with hold_lease(target, "filter"):
        for part in target.parts():
            rows = target.read_part(part)
            if rows["caption"][0].as_py() != caption:
                new = set_columns(rows, {"caption": pa.array([caption] * rows.num_rows)})
                target.commit({part: target.save(part, target.epoch(part), new)})
        target.write_record((target.read_record() or {}) | {"caption": caption})


def take_back(uri: str) -> None:
    if 0 in read_index(Folder(uri)).published and len(read_index(Folder(uri)).published) > 1:
        rollback(uri)


def undo(uri: str) -> None:
    if 1 in read_index(Folder(uri)).withheld:
        restore(uri, 1)


def labels(uri: str) -> str:
    """Corrections of two images, as COCO."""
    images = [{"id": number, "file_name": name, "width": 8, "height": 8} for number, name in enumerate("bc")]
    boxes = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0,
         "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]]} for number in range(2)
    ]  # fmt: skip
    path = Path(uri).parent / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]}))
    return str(path)


def correct(uri: str) -> None:
    """An import; if the one before came to its end, this one changes nothing that readers see."""
    import_labels(labels(uri), uri, None, "human", quiet=True)


def select(uri: str) -> None:
    out = str(Path(uri).parent / "subset")
    if not read_index(Folder(out)).published:
        write_subset(open_dataset(uri).filter("area > 1"), out, quiet=True)


@dataclass(frozen=True)
class Case:
    """`before` makes the dataset, `command` is killed. An import that came to its end makes, once more, one more round
    of the same rows."""

    before: Callable[[str], None]
    command: Callable[[str], None]
    makes_a_round: bool = False


def made(uri: str) -> None:
    run(uri, "abcde")


def in_shards(uri: str) -> None:
    for number in (1, 2):
        run(uri, "abcdefgh", shard=Shard(number, 2))


def twice(uri: str) -> None:
    made(uri)
    correct(uri)


def taken_back(uri: str) -> None:
    twice(uri)
    rollback(uri)


def of_the_version_before(uri: str) -> None:
    """Plain names and no log, as that version wrote them, and a merge that it was killed in."""
    made(uri)
    folder = Folder(uri)
    for part, file in Round(folder, 0).files().items():
        shutil.move(folder.path(f"round=000/{file}"), folder.path(f"round=000/part-{part:06d}.parquet"))
    merged = pa.concat_tables([image_rows(["a", "b"], "1"), image_rows(["c", "d"], "1")])
    old = Folder(f"{uri}-old")
    Round(old, 0).write_part(3, set_columns(merged, {"round": pa.array([0] * 4, pa.int32())}))
    shutil.move(Round(old, 0).part_path(3), folder.path("round=000/part-000003.parquet"))
    folder.write_json("round=000/_merge.json", {"merged": 3, "sources": [0, 1]})
    for name in ("round=000/_log", "_index"):
        shutil.rmtree(folder.path(name))


CASES = {
    "first run": Case(lambda uri: None, made),
    "run with new and changed images": Case(made, partial(run, names="abcdefg", version="2")),
    "run of a shard": Case(in_shards, partial(run, names="abcdefghijkl", shard=Shard(1, 2))),
    "replay": Case(made, partial(replay, caption="new")),
    "compact": Case(made, partial(compact, images_per_part=100, quiet=True)),
    "compact of shards": Case(in_shards, partial(compact, images_per_part=100, quiet=True)),
    "drop": Case(twice, partial(drop_images, images=["b", "/in/e"], quiet=True)),
    "import": Case(made, correct, makes_a_round=True),
    "rollback": Case(twice, take_back),
    "undo": Case(taken_back, undo),
    "subset": Case(made, select),
    "run on a dataset of the version before": Case(of_the_version_before, partial(run, names="abcdefg", version="2")),
    "compact on a dataset of the version before": Case(
        of_the_version_before, partial(compact, images_per_part=100, quiet=True)
    ),
}


def seen(uri: str) -> Rows:
    """What readers see of a dataset, image by image; raises where one stands twice."""
    if not round_numbers(Folder(uri)):
        return {}
    rows: Rows = {}
    for row in open_dataset(uri).rows():
        assert row["image_id"] not in rows, f"{row['image_id']} stands twice"
        rows[row["image_id"]] = {name: value for name, value in row.items() if name not in NOT_COMPARED}
    return rows


def without_round(rows: Rows) -> Rows:
    return {
        name: {**row, "round": None, "masks": [{**mask, "mask_id": None} for mask in row["masks"]]}
        for name, row in rows.items()
    }


def check_at_rest(uri: str) -> None:
    """Nothing is left over, and other tools read what MaskFoundry reads."""
    assert verify_dataset(uri).problems == []
    for number in round_numbers(Folder(uri)):
        folder = Path(uri) / f"round={number:03d}"
        mine = Round(Folder(uri), number).committed()["image_id"].to_pylist()
        assert sorted(pd.read_parquet(folder)["image_id"] if mine else []) == sorted(mine)
        assert list(folder.glob(".*.tmp")) == []


def crash_everywhere(case: Case, folder: Path, moments: tuple[Moment, ...], step: int = 1) -> int:
    """How many crash points there were; each was recovered from by the same command."""
    base = folder / "base"
    with running(Process()):
        case.before(str(base / "dataset"))
    base.mkdir(exist_ok=True)
    undisturbed = Path(shutil.copytree(base, folder / "undisturbed"))
    process = Process()
    with running(process):
        case.command(str(undisturbed / "dataset"))
    before, after = seen(str(base / "dataset")), seen(str(undisturbed / "dataset"))
    check_at_rest(str(undisturbed / "dataset"))
    points = 0
    for moment in moments:
        for number in range(1, process.changes + 1, step):
            work = Path(shutil.copytree(base, folder / "work"))
            uri = str(work / "dataset")
            with running(Process(number, moment)), pytest.raises(DeathError):
                case.command(uri)
            between = seen(uri)
            for name in before.keys() | after.keys():
                allowed = [rows.get(name) for rows in (before, after)]
                assert between.get(name) in allowed, f"{moment} change {number}: {name}"
            with running(Process()):
                case.command(uri)
            found, expected = seen(uri), after
            if case.makes_a_round:
                found, expected = without_round(found), without_round(after)
            assert found == expected, f"{moment} change {number}"
            check_at_rest(uri)
            shutil.rmtree(work)
            points += 1
    return points


@pytest.mark.parametrize("name", CASES)
def test_a_command_killed_at_any_change_is_finished_by_the_same_command(name: str, tmp_path: Path) -> None:
    assert crash_everywhere(CASES[name], tmp_path, ("before", "half"), step=3) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_every_crash_point(name: str, tmp_path: Path) -> None:
    points = crash_everywhere(CASES[name], tmp_path, ("before", "after", "half"))
    print(f"{name}: {points} crash points")
