"""Replay filters on stored candidates: new thresholds, no model."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.replays.rewrite_parts import Rewrite, answer, part_items, rewrite_parts
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.filter_masks import FilterMasks
from stages.filter_settings import FilterSettings
from stages.rank_masks import RankMasks
from stages.record import LABEL_LINKS, SCHEMA, conform, set_columns


class ReplayPart:
    """Replays the filters over whole parts and puts each back as one."""

    def __init__(self, uri: str, round_number: int, settings: FilterSettings, links: dict[str, str]) -> None:
        self.uri = uri
        self.round_number = round_number
        self.filter = FilterMasks(settings, stored=None)
        self.pred_iou_thresh = settings.pred_iou_thresh
        self.links = links

    def __call__(self, batch: pa.Table) -> pa.Table:
        (item,) = batch.to_pylist()
        target = Round(Folder(self.uri), self.round_number)
        rows = target.read_file(item["file"])
        filtered, cut_short = self.replayed(rows)
        saved = target.save(item["part"], item["epoch"], filtered)
        return answer(item, saved, images=rows.num_rows, cut_short=cut_short)

    def replayed(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """The rows with what the rules decide now, and how many of them had candidates cut short."""
        floors = rows["predicted_iou_floor"].to_pylist()
        cut_short = sum(floor is not None and floor > np.float32(self.pred_iou_thresh) for floor in floors)
        if rows["fingerprints"][0].as_py()["text"] is not None:  # of equal scores the first generated one stays
            rows = RankMasks(None)(rows)
        filtered = self.filter(rows)
        later = dict.fromkeys(LABEL_LINKS)  # what names the masks that these rules keep comes after them
        links = {**rows["fingerprints"][0].as_py(), "filter": self.links["filter"], **later}
        fingerprints = pa.array([links] * rows.num_rows, SCHEMA.field("fingerprints").type)
        return conform(set_columns(filtered, {"fingerprints": fingerprints})), cut_short


@dataclass(frozen=True)
class Replayed:
    """`cut_short` images had more rejected candidates above the threshold than `store_floor.max_candidates`: what the
    new rules would have made of the rest is not known. `labelled` images got their tags anew."""

    images: int = 0
    cut_short: int = 0
    labelled: int = 0


def replay_round(
    target: Round, settings: FilterSettings, links: dict[str, str], quiet: bool, rewrite: Rewrite = rewrite_parts
) -> Replayed:
    """Bring every part, and the record, to the filter link of `links`; parts that have it are not touched. Needs what
    `rewrite` needs. The caller has made sure that the settings ask for no candidate below the store floor.
    """
    stale = [part for part in target.parts() if _filter_link(target, part) != links["filter"]]
    images = cut_short = 0
    work = ReplayPart(target.folder.uri, target.number, settings, links)
    if stale:
        for done in rewrite(target, part_items(target, stale), work, "filtering", quiet, num_cpus=1):
            images += done["images"][0].as_py()
            cut_short += done["cut_short"][0].as_py()
    _record_filter(target, settings, links, bool(stale))
    return Replayed(images, cut_short)


def _record_filter(target: Round, settings: FilterSettings, links: dict[str, str], has_replayed: bool) -> None:
    record = target.read_record()
    assert record is not None, "the record was written when the run began"
    # also where a run ended before its first part, or a replay between its last part and this
    if not has_replayed and record["fingerprints"]["filter"] == links["filter"]:
        return
    plain = settings.model_dump(mode="json")
    record["fingerprints"] = links
    record["settings"]["filter"] = {f"filter.{key}": value for key, value in plain.items()}
    record["recipe"]["filter"] = plain
    target.write_record(record)


def _filter_link(target: Round, part: int) -> str | None:
    fingerprints = target.read_part(part, ["fingerprints"])["fingerprints"]
    return fingerprints[0].as_py()["filter"] if len(fingerprints) else None
