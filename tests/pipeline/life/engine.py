"""What makes rows in a dataset's life, without a model and without Ray: a picture's masks are a function of its bytes
and of the weights. All that plans, filters, commits and carries over is the pipeline's own."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from models.generator.settings import StoreFloor
from models.masks.rle import areas, bounding_boxes, encode_masks
from models.pinned_weights import PinnedWeights
from pipeline.dataset import open_dataset
from pipeline.loop.carry import carry_round
from pipeline.queries.query import query
from pipeline.recipes.recipe import Recipe
from pipeline.replays.replay import replay_round
from pipeline.runs.begin_run import Into, begin_run, check_record, choose_round
from pipeline.runs.chunks import plan_chunks
from pipeline.runs.commit import Committer
from pipeline.runs.fingerprint import Fingerprint, fingerprint
from pipeline.runs.left_alone import without_dropped, without_labelled
from pipeline.runs.resolve import ResolvedRun
from pipeline.sources.listing_schema import listing_table
from pipeline.store.find_rounds import engine_rounds, next_round
from pipeline.store.index import publish, withhold
from pipeline.store.lease import hold_lease
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.filter_masks import FilterMasks, StoredScores
from stages.filter_settings import FilterSettings
from stages.mask_columns import MaskColumns
from stages.record import SCHEMA, mask_structs, set_columns

HEIGHT, WIDTH, SIDE = 12, 16, 4
NUM_CELLS = (HEIGHT // SIDE) * (WIDTH // SIDE)
SCORES = (0.82, 0.86, 0.9, 0.94, 0.98)
EMBED = "the embeddings' link"


@cache
def cell_rle(cell: int) -> bytes:
    """A square in one cell of a grid, so that two masks are the same or do not touch."""
    y, x = divmod(cell, WIDTH // SIDE)
    mask = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    mask[0, y * SIDE : y * SIDE + 3, x * SIDE : x * SIDE + 3] = 1
    return encode_masks(mask)[0]


CELLS = {cell_rle(cell): cell for cell in range(NUM_CELLS)}


def embedding(rle: bytes) -> bytes:
    return hashlib.sha256(rle).digest()[:8]


def candidates(content: str, weights: int) -> list[tuple[int, float]]:
    """(cell, predicted IoU) of each."""
    rng = random.Random(f"{content} {weights}")
    cells = rng.sample(range(NUM_CELLS), rng.randrange(4))
    return list(zip(cells, rng.sample(SCORES, len(cells)), strict=True))


@dataclass
class Pictures:
    """A folder of pictures that change: `contents` holds each one's sha256, None where it cannot be read."""

    folder: Path
    contents: dict[str, str | None] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)

    def put(self, name: str, shade: int | None) -> None:
        """A picture of one shade of grey, None for one that is broken."""
        path = self.folder / name
        if shade is None:
            path.write_bytes(b"no picture")
        else:
            Image.new("L", (WIDTH, HEIGHT), shade).save(path)
        self.contents[name] = None if shade is None else hashlib.sha256(path.read_bytes()).hexdigest()
        self.changes[name] = self.changes.get(name, 0) + 1

    def uri(self, name: str) -> str:
        return str(self.folder.resolve() / name)

    def listing(self, names: list[str], etags: bool = True) -> pa.Table:
        tags = [str(self.changes[name]) if etags else None for name in names]
        columns = {"image_id": names, "uri": [self.uri(name) for name in names], "source_etag": tags}
        return listing_table(len(names), columns)


def in_process(
    target: Round, items: list[dict[str, Any]], work: Any, doing: str, quiet: bool, **options: Any
) -> Iterator[pa.Table]:
    for item in items:
        answer = work(pa.Table.from_pylist([item]))
        target.commit({answer["part"][0].as_py(): answer["saved"][0].as_py()})
        yield answer


def embedded(rows: pa.Table) -> pa.Table:
    """As the tag stage leaves them: each kept mask has its embedding."""
    masks = MaskColumns.of(rows)
    keeps, rles = masks.field("keep").to_pylist(), masks.flat["rles"].to_pylist()
    vectors = [embedding(rle) if keep else None for rle, keep in zip(rles, keeps, strict=True)]
    is_ok = np.array([status == "ok" for status in rows["status"].to_pylist()], bool)
    links = [one | {"embed": EMBED} for one in rows["fingerprints"].to_pylist()]
    marks = pa.array(links, SCHEMA.field("fingerprints").type)
    return set_columns(rows, masks.with_embeddings(vectors, is_ok).columns() | {"fingerprints": marks})


@dataclass
class Engine:
    """`maskfoundry run`, `filter` and `refresh` over `pictures` into the dataset at `uri`."""

    uri: str
    pictures: Pictures

    def recipe(self, threshold: float) -> Recipe:
        rules = FilterSettings(
            pred_iou_thresh=threshold,
            stability_score_thresh=0.9,
            crop_edge_tolerance=None,
            box_nms_thresh=None,
            crop_nms_thresh=None,
        )
        return Recipe(input=str(self.pictures.folder), output=self.uri, filter=rules)

    def mark(self, threshold: float, weights: int) -> Fingerprint:
        recipe = self.recipe(threshold)
        made = fingerprint(ResolvedRun(recipe, PinnedWeights(recipe.model.checkpoint, str(weights)), None, None, None))
        return Fingerprint(made.links | {"embed": EMBED}, made.content)

    def run(
        self,
        listing: pa.Table,
        weights: int,
        threshold: float,
        new_round: bool = False,
        retry_failed: bool = False,
        into: Into | None = None,
        max_chunks: int = 1000,
    ) -> list[str]:
        """The images that were annotated; with `max_chunks` the run is interrupted after so many."""
        folder, mark, recipe = Folder(self.uri), self.mark(threshold, weights), self.recipe(threshold)
        listing = without_dropped(listing, folder)
        if into is None:
            listing = without_labelled(listing, folder)
        target = into.target if into else choose_round(folder, mark, new_round, None)
        check_record(target, mark)
        done = []
        with begin_run(target, recipe, mark, str(weights), "run", into):
            self._replay(target, recipe, mark)
            committer = Committer(target, "run", mark.links)
            chunks = list(plan_chunks(listing, target.committed(), 2, retry_failed))
            status = "done" if len(chunks) <= max_chunks else "interrupted"
            committer.expect(chunks[:max_chunks])
            for chunk in reversed(chunks[:max_chunks]):  # the graph keeps no order
                for index in range(chunk.images.num_rows):
                    name = chunk.images["image_id"][index].as_py()
                    committer.add(self._generated(name, chunk.part, target.number, weights, recipe))
                    done.append(name)
            target.add_run({"status": status} | committer.tally.as_dict())
        return done

    def refilter(self, threshold: float, weights: int) -> None:
        folder = Folder(self.uri)
        target, mark = Round(folder, engine_rounds(folder)[-1]), self.mark(threshold, weights)
        with hold_lease(target, "filter"):
            self._replay(target, self.recipe(threshold), mark)

    def begin_refresh(self, weights: int, threshold: float, number: int | None) -> tuple[int, list[str]]:
        """The new round, or the one `number` that was begun, annotated and not seen yet; and its images."""
        folder = Folder(self.uri)
        names = query(open_dataset(self.uri), "SELECT image_id FROM images ORDER BY image_id")[0]["image_id"]
        target = next_round(folder) if number is None else Round(folder, number)
        withhold(folder, target.number)
        listing = self.pictures.listing(names.to_pylist(), etags=False)
        done = self.run(listing, weights, threshold, into=Into(target, {"refresh": {}}))
        return target.number, done

    def end_refresh(self, number: int) -> None:
        folder = Folder(self.uri)
        target = Round(folder, number)
        with hold_lease(target, "refresh"):
            churn = carry_round(open_dataset(self.uri), target, True, in_process)
            record = target.read_record()
            assert record is not None
            target.write_record(record | {"refresh": {"churn": churn.as_dict()}})
            publish(folder, number)

    def _replay(self, target: Round, recipe: Recipe, mark: Fingerprint) -> None:
        replay_round(target, recipe.filter, mark.links, True, in_process)
        parts = {part: target.read_part(part) for part in target.parts()}
        stale = [part for part, rows in parts.items() if rows["fingerprints"][0].as_py()["embed"] is None]
        for part in stale:
            target.write_part(part, embedded(parts[part]))
        record = target.read_record()
        assert record is not None
        if stale or record["fingerprints"] != mark.links:
            target.write_record(record | {"fingerprints": record["fingerprints"] | {"embed": EMBED}})

    def _generated(self, name: str, part: int, number: int, weights: int, recipe: Recipe) -> pa.Table:
        """One row with the column `part`, as the graph gives it."""
        content = self.pictures.contents[name]
        made = [] if content is None else candidates(content, weights)
        rles = [cell_rle(cell) for cell, _ in made]
        fields = {
            "mask_id": [f"{name}/{number}/{index}" for index in range(len(made))],
            "bbox": pa.array(bounding_boxes(rles, HEIGHT).tolist() if rles else [], pa.list_(pa.int32())),
            "area": areas(rles),
            "predicted_iou": [score for _, score in made],
            "stability_score": [1.0] * len(made),
            "crop_box": [[0, 0, WIDTH, HEIGHT]] * len(made),
            "source": ["auto"] * len(made),
            "stage": ["automatic"] * len(made),
        }
        row = {
            "image_id": name,
            "uri": self.pictures.uri(name),
            "source_etag": str(self.pictures.changes[name]),
            "content_sha256": content,
            "status": "failed" if content is None else "ok",
            "error": "decode: broken" if content is None else None,
            "width": WIDTH,
            "height": HEIGHT,
            "fingerprints": {},
        }
        columns = {key: pa.array([value], SCHEMA.field(key).type) for key, value in row.items()}
        masks = MaskColumns.made(mask_structs(fields, len(made)), rles, [len(made)])
        rows = pa.table(columns | masks.columns() | {"part": pa.array([part], pa.int32())})
        stored = StoredScores(StoreFloor(), recipe.min_predicted_iou)
        return embedded(FilterMasks(recipe.filter, stored)(rows))
