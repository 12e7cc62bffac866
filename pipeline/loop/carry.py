"""Carry people's masks into a refreshed round, and count what changed: one task a part."""

import json
from dataclasses import astuple
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import Dataset, Part
from pipeline.loop.churn import Churn, carry_over
from pipeline.replays.rewrite_parts import Rewrite, answer, part_items, rewrite_parts
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import SCHEMA


class CarryPart:
    """Brings parts of a round that is not published yet up to date with `previous`, each replaced as a whole."""

    def __init__(self, previous: Dataset, round_number: int) -> None:
        self.previous = previous
        self.round_number = round_number

    def __call__(self, batch: pa.Table) -> pa.Table:
        (item,) = batch.to_pylist()
        target = Round(Folder(self.previous.uri), self.round_number)
        places = [Part(*place) for place in json.loads(item["places"])]
        rows, churn = self.carried(target.read_file(item["file"]), places)
        saved = target.save(item["part"], item["epoch"], rows)
        return answer(item, saved, images=rows.num_rows, churn=json.dumps(vars(churn)))

    def carried(self, rows: pa.Table, places: list[Part]) -> tuple[pa.Table, Churn]:
        """A part's rows with people's masks; those before are in `places`."""
        before = self._before(places, rows["image_id"].combine_chunks())
        kept, total = [], Churn()
        for row in rows.to_pylist():
            carried, churn = carry_over(row, before.get(row["image_id"]))
            total += churn
            if carried is not None:
                kept.append(carried)
        return pa.Table.from_pylist(kept, schema=SCHEMA), total

    def _before(self, places: list[Part], ids: pa.Array) -> dict[str, dict[str, Any]]:
        found = {}
        for place in places:
            rows = self.previous.read(place)
            for row in rows.filter(pc.is_in(rows["image_id"], value_set=ids)).to_pylist():
                found[row["image_id"]] = row
        return found


def carry_round(previous: Dataset, target: Round, quiet: bool, rewrite: Rewrite = rewrite_parts) -> Churn:
    """Every part of `target`; `previous` is the dataset as readers see it. Needs what `rewrite` needs, and raises what
    it raises."""
    places: dict[str, Part] = {}  # of each image's newest row
    for place in previous.parts():
        ids = Round(target.folder, place.round).read_file(place.file, ["image_id"])["image_id"].to_pylist()
        places |= dict.fromkeys(ids, place)
    items = part_items(target, target.parts())
    for item in items:
        ids = target.read_file(item["file"], ["image_id"])["image_id"].to_pylist()
        wanted = sorted({places[one] for one in ids if one in places})
        item["places"] = json.dumps([astuple(place) for place in wanted])
    total = Churn()
    if items:
        work = CarryPart(previous, target.number)
        for done in rewrite(target, items, work, "matching", quiet, num_cpus=1):
            total += Churn(**json.loads(done["churn"][0].as_py()))
    return total
