"""A dataset's life: any commands in any order, against plain dictionaries that say what readers must see."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pipeline.dataset import open_dataset
from pipeline.export.write import export
from pipeline.imports.write import import_labels
from pipeline.loop.rollback import restore, rollback
from pipeline.queries.query import query
from pipeline.queries.subset import write_subset
from pipeline.store.compact import compact
from pipeline.store.drop import drop_images
from pipeline.store.find_rounds import round_numbers
from pipeline.store.index import read_index
from pipeline.store.storage import Folder
from pipeline.store.verify import verify_dataset
from stages.mask_columns import embedding_hash
from tests.pipeline.life.engine import CELLS, HEIGHT, NUM_CELLS, WIDTH, Engine, Pictures, cell_rle, embedding
from tests.pipeline.life.model import Annotated, Mask, Model, Row

NAMES = [f"{letter}.png" for letter in "abcdef"]
THRESHOLDS = st.sampled_from([0.85, 0.92])
WEIGHTS = st.sampled_from([1, 1, 1, 2])
SOME = st.sets(st.sampled_from(NAMES), min_size=1, max_size=3)


def read_row(row: dict[str, Any]) -> Row:
    """A reader's row in the model's words; each embedding is checked to be its mask's own."""
    vectors = row["mask_embeddings"]
    masks = {}
    for index, (mask, rle) in enumerate(zip(row["masks"], row["rles"], strict=True)):
        vector = vectors[index] if vectors is not None else None
        if vector is not None:
            assert vector == embedding(rle)
            assert row["embedding_hashes"][index] == embedding_hash(rle, vector)
        score = mask["predicted_iou"]
        masks[mask["mask_id"]] = Mask(
            CELLS[rle],
            None if score is None else round(score, 2),
            mask["keep"],
            mask["source"] == "human",
            vector is not None,
            mask["previous_id"],
            mask["human_id"],
        )
    assert len(masks) == len(row["masks"])
    assert (row["status"] == "failed") == (row["content_sha256"] is None) == bool(row["error"])
    return Row(row["content_sha256"], 0, vectors is not None, masks)


def read(uri: str, number: int | None = None, candidates: bool = False, predicate: str | None = None) -> dict[str, Row]:
    dataset = open_dataset(uri, number, candidates=candidates)
    rows = list((dataset.filter(predicate) if predicate else dataset).rows())
    found = {row["image_id"]: read_row(row) for row in rows}
    assert len(found) == len(rows), "each image once"
    return found


def plain(rows: dict[str, Row]) -> dict[str, Row]:
    """Without what no reader sees."""
    return {name: Row(row.content, 0, row.embedded, row.masks) for name, row in rows.items()}


class Life(RuleBasedStateMachine):
    """`listed` are the images in the input."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = tempfile.TemporaryDirectory(prefix="life-")
        self.root = Path(self.kept.name)
        (self.root / "pictures").mkdir()
        self.uri = str(self.root / "dataset")
        self.pictures = Pictures(self.root / "pictures")
        self.engine = Engine(self.uri, self.pictures)
        self.model = Model()
        self.listed = set(NAMES[:3])
        self.num_outputs = 0
        for shade, name in enumerate(NAMES):
            self.pictures.put(name, shade)

    def teardown(self) -> None:
        if self.model.rounds:
            result = verify_dataset(self.uri)
            assert result.problems == []
            assert result.images == sum(len(made.rows) for made in self.model.rounds.values())
        self.kept.cleanup()

    @property
    def withheld(self) -> set[int]:
        return self.model.rounds.keys() - self.model.published

    def output(self) -> str:
        self.num_outputs += 1
        return str(self.root / f"output-{self.num_outputs}")

    @rule(name=st.sampled_from(NAMES), shade=st.one_of(st.none(), st.integers(0, 7)))
    def change_picture(self, name: str, shade: int | None) -> None:
        self.pictures.put(name, shade)

    @rule(names=SOME)
    def list_others(self, names: set[str]) -> None:
        self.listed = self.listed ^ names or names

    @rule(
        weights=WEIGHTS,
        threshold=THRESHOLDS,
        new_round=st.sampled_from([False, False, True]),
        retry=st.booleans(),
        max_chunks=st.sampled_from([1, 1000]),
    )
    def run(self, weights: int, threshold: float, new_round: bool, retry: bool, max_chunks: int) -> None:
        model, number = self.model, self.model.newest_of_the_engine(self.withheld)
        is_new = number is None or (new_round and not model.goes_on(number, weights, threshold))
        options = {"new_round": new_round, "retry_failed": retry, "max_chunks": max_chunks}
        if not is_new and model.rounds[number].weights != weights:
            with pytest.raises(ValueError, match=r"is an import|was made with other settings"):
                self.engine.run(self.pictures.listing(sorted(self.listed)), weights, threshold, **options)
            return
        if is_new:
            number = model.next_number
            model.rounds[number] = Annotated(weights, threshold)
            model.published.add(number)
        model.refilter(number, threshold)
        names = [name for name in sorted(self.listed) if name not in model.ids and name not in model.labelled()]
        expected = model.to_annotate(number, names, self.pictures.changes, retry)
        done = self.engine.run(self.pictures.listing(sorted(self.listed)), weights, threshold, **options)
        assert set(done) == expected if max_chunks > len(NAMES) else set(done) <= expected
        assert len(done) == len(set(done)) and bool(done) == bool(expected)
        for name in done:
            model.annotate(number, name, self.pictures.contents[name], self.pictures.changes[name])
        stand = [name for name in done if name in model.rounds[number].rows]
        has_something = not stand or any(self.pictures.contents[name] is not None for name in stand)
        model.rounds[number].ended |= set(done) == expected and has_something

    @precondition(lambda self: self.model.newest_of_the_engine(self.withheld) is not None)
    @rule(threshold=THRESHOLDS)
    def refilter(self, threshold: float) -> None:
        number = self.model.newest_of_the_engine(self.withheld)
        weights = self.model.rounds[number].weights
        if weights is not None:
            self.engine.refilter(threshold, weights)
            self.model.refilter(number, threshold)

    @precondition(lambda self: self.model.visible())
    @rule(weights=WEIGHTS, threshold=THRESHOLDS, is_killed=st.sampled_from([False, False, True]))
    def refresh(self, weights: int, threshold: float, is_killed: bool) -> None:
        model = self.model
        last = model.next_number - 1
        begun = model.rounds[last]
        resumed = begun.unfinished and (begun.weights, begun.threshold) == (weights, threshold)
        if not resumed:
            last += 1
            model.rounds[last] = Annotated(weights, threshold, of_refresh=True, unfinished=True)
        expected = model.to_annotate(last, sorted(model.visible()), None, False)
        number, done = self.engine.begin_refresh(weights, threshold, last if resumed else None)
        assert (number, set(done)) == (last, expected)
        for name in done:
            model.annotate(number, name, self.pictures.contents[name], self.pictures.changes[name])
        if not is_killed:
            model.carry(number)
            self.engine.end_refresh(number)

    @rule(names=SOME, data=st.data())
    def import_labels(self, names: set[str], data: st.DataObject) -> None:
        """Corrections of what readers see, and labels of images that they do not."""
        model, seen = self.model, self.model.visible()
        number, is_held = model.next_number, bool(model.published)
        rows, images, annotations = {}, [], []
        for image, name in enumerate(sorted(names)):
            before = seen.get(name)
            is_correction = before is not None and before.content is not None
            images.append({"id": image, "file_name": name, "source_id": name, "height": HEIGHT, "width": WIDTH})
            origins: list[str | None] = list(before.masks) if before and is_correction else []
            made: dict[str, Mask] = {}
            cells = data.draw(st.lists(st.integers(0, NUM_CELLS - 1), max_size=3, unique=True))
            for index, cell in enumerate(cells):
                origin = origins[index] if index < len(origins) else None
                mask = before.masks[origin] if before and origin else None
                if mask is not None and cell % 3:  # which nobody changed
                    cell = mask.cell
                same = mask is not None and mask.cell == cell
                one = {"image_id": image, "segmentation": {"size": [HEIGHT, WIDTH], "counts": cell_rle(cell).decode()}}
                annotations.append(one | ({"mask_id": origin} if origin else {}))
                score, is_embedded = (mask.score, mask.embedded) if mask and same else (None, False)
                links = (mask.previous_id, mask.human_id) if mask and same else (None, None)
                made[f"{name}/{number}/{index}"] = Mask(cell, score, True, True, is_embedded, *links)
            content = before.content if before and is_correction else self.pictures.contents[name]
            if name in model.ids or content in model.contents or (content is None and is_held):
                continue
            rows[name] = Row(content, 0, bool(is_correction and before and before.embedded), made if content else {})
        labels = self.root / "labels.json"
        labels.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
        import_labels(str(labels), self.uri, str(self.root / "pictures"), "human", quiet=True)
        model.rounds[number] = Annotated(None, None, rows)
        model.published.add(number)

    @precondition(lambda self: self.model.published)
    @rule()
    def roll_back(self) -> None:
        if len(self.model.published) < 2:
            with pytest.raises(ValueError, match="published"):
                rollback(self.uri)
        else:
            self.model.published.remove(max(self.model.published))
            rollback(self.uri)

    @precondition(lambda self: self.withheld)
    @rule(data=st.data())
    def publish_again(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.withheld)))
        if self.model.rounds[number].unfinished:
            with pytest.raises(ValueError, match="was never finished"):
                restore(self.uri, number)
        else:
            restore(self.uri, number)
            self.model.published.add(number)

    @precondition(lambda self: self.model.rounds)
    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1, max_size=1))
    def drop(self, names: set[str]) -> None:
        drop_images(self.uri, sorted(names), quiet=True)
        self.model.drop(names)

    @precondition(lambda self: self.model.rounds)
    @rule(images_per_part=st.integers(1, 6))
    def compact(self, images_per_part: int) -> None:
        compact(self.uri, images_per_part, quiet=True)

    @precondition(lambda self: self.model.published)
    @rule(predicate=st.sampled_from([None, "predicted_iou > 0.9"]))
    def write_subset(self, predicate: str | None) -> None:
        output, dataset = self.output(), open_dataset(self.uri)
        write_subset(dataset.filter(predicate) if predicate else dataset, output, quiet=True)
        seen = self.model.visible()
        if predicate:
            for name, row in seen.items():
                masks = {i: mask for i, mask in row.masks.items() if mask.score is not None and mask.score > 0.9}
                seen[name] = Row(row.content, 0, row.embedded, masks)
            seen = {name: row for name, row in seen.items() if row.masks}
        assert read(output) == plain(seen)
        assert verify_dataset(output).problems == []

    @precondition(lambda self: self.model.published)
    @rule()
    def export(self) -> None:
        """On from what the exports before wrote."""
        export(open_dataset(self.uri), str(self.root / "export"), "coco", pictures=False, quiet=True)
        content = json.loads((self.root / "export" / "annotations.json").read_text())
        names = {one["id"]: one["source_id"] for one in content["images"]}
        masks = {
            one["mask_id"]: (names[one["image_id"]], CELLS[one["segmentation"]["counts"].encode()])
            for one in content["annotations"]
        }
        seen = {name: row for name, row in self.model.visible().items() if row.content is not None}
        assert sorted(names.values()) == sorted(seen)
        assert masks == {i: (name, mask.cell) for name, row in seen.items() for i, mask in row.masks.items()}

    @invariant()
    def readers_see_what_they_must(self) -> None:
        model, folder = self.model, Folder(self.uri)
        assert round_numbers(folder) == sorted(model.rounds)
        index = read_index(folder)
        assert set(index.published) == model.published and set(index.withheld) == self.withheld
        if not model.rounds:
            return
        for number, made in model.rounds.items():
            assert read(self.uri, number, candidates=True) == plain(made.rows), f"round {number}"
        seen = model.visible()
        assert read(self.uri) == plain(seen)
        counts, _ = query(open_dataset(self.uri), "SELECT image_id, count(*) AS n FROM masks GROUP BY image_id")
        expected = {name: len(row.masks) for name, row in seen.items() if row.masks}
        assert dict(zip(counts["image_id"].to_pylist(), counts["n"].to_pylist(), strict=True)) == expected


def live(max_examples: int, steps: int, **options: Any) -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_readers_see_what_they_must_whatever_was_done() -> None:
    live(6, 10, derandomize=True, database=None)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_readers_see_what_they_must_in_long_lives() -> None:
    live(100, 50)
