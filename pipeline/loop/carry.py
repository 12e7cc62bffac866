"""Carry people's masks into a refreshed round, and count what changed: one task a part."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import Dataset, Part
from pipeline.errors import RunError
from pipeline.loop.churn import Churn, carry_over
from pipeline.progress import progress_bar
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.record import SCHEMA


class CarryPart:
    """Brings parts of a round that is not published yet up to date with `previous`, each replaced as a whole."""

    def __init__(self, previous: Dataset, round_number: int) -> None:
        self.previous = previous
        self.round_number = round_number

    def __call__(self, batch: pa.Table) -> pa.Table:
        churns = [
            self._carry(part, [Part(*place) for place in json.loads(places)])
            for part, places in zip(batch["part"].to_pylist(), batch["places"].to_pylist(), strict=True)
        ]
        return pa.table({"churn": [json.dumps(vars(churn)) for churn in churns]})

    def _carry(self, part: int, places: list[Part]) -> Churn:
        target = Round(Folder(self.previous.uri), self.round_number)
        rows = target.read_part(part)
        before = self._before(places, rows["image_id"].combine_chunks())
        kept, total = [], Churn()
        for row in rows.to_pylist():
            carried, churn = carry_over(row, before.get(row["image_id"]))
            total += churn
            if carried is not None:
                kept.append(carried)
        target.write_part(part, pa.Table.from_pylist(kept, schema=SCHEMA))
        return total

    def _before(self, places: list[Part], ids: pa.Array) -> dict[str, dict[str, Any]]:
        found = {}
        for place in places:
            rows = self.previous.read(place)
            for row in rows.filter(pc.is_in(rows["image_id"], value_set=ids)).to_pylist():
                found[row["image_id"]] = row
        return found


def carry_round(previous: Dataset, target: Round, quiet: bool) -> Churn:
    """Every part of `target`; `previous` is the dataset as readers see it. Needs a running Ray. Raises RunError."""
    import ray.data
    from ray.exceptions import RayError

    places: dict[str, Part] = {}  # of each image's newest row
    for place in previous.parts():
        ids = Round(target.folder, place.round).read_part(place.number, ["image_id"])["image_id"].to_pylist()
        places |= dict.fromkeys(ids, place)
    items = []
    for part in target.parts():
        ids = target.read_part(part, ["image_id"])["image_id"].to_pylist()
        wanted = sorted({(places[one].round, places[one].number) for one in ids if one in places})
        items.append({"part": part, "places": json.dumps(wanted)})
    total = Churn()
    if not items:
        return total
    matched: Any = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        CarryPart(previous, target.number), batch_size=1, batch_format="pyarrow", num_cpus=1
    )
    with progress_bar("matching", len(items), "parts", quiet) as update:
        try:
            for done, batch in enumerate(matched.iter_batches(batch_size=1, batch_format="pyarrow"), 1):
                total += Churn(**json.loads(batch["churn"][0].as_py()))
                update(done, f"{total.images:,} images")
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RunError(f"matching the masks failed: {reason}; run the same command to go on") from error
    return total
