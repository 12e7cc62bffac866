"""Name what a round holds again where that has changed: no SAM, and where features are stored, no picture."""

import numpy as np
import pyarrow as pa

from pipeline.pictures import decode, read_bytes
from pipeline.replays.rewrite_parts import answer, part_items, rewrite_parts
from pipeline.runs.fingerprint import Fingerprint
from pipeline.runs.resolve import ResolvedRun
from pipeline.runs.resources import Resources
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.allowed_places import AllowedPlaces
from stages.caption_masks import CaptionMasks
from stages.captioning import Captioning
from stages.decode_image import describe
from stages.embed_masks import Features, Regions
from stages.mask_columns import without_embeddings
from stages.rank_masks import RankMasks
from stages.record import LABEL_LINKS, SCHEMA, conform, set_columns
from stages.tag_masks import kept_masks, regions_of, stored_features, tag_rows
from stages.tagger import Tagger
from stages.tagging import Tagging


class RelabelParts:
    """An actor that names what whole parts hold again and puts each back as one."""

    def __init__(
        self,
        uri: str,
        round_number: int,
        tagging: Tagging,
        captioning: Captioning | None,
        links: dict[str, str],
        views_per_batch: int,
        device: str,
        direction: np.ndarray | None,
        places: AllowedPlaces,
    ) -> None:
        self.target = Round(Folder(uri), round_number)
        self.store_embeddings = tagging.settings.store_embeddings
        self.places = places
        self.links = {link: links.get(link) for link in LABEL_LINKS}
        self.tagger = Tagger(tagging, device, views_per_batch)
        self.caption = None
        if captioning is not None:
            self.caption = CaptionMasks(captioning, tagging, device, 1, keep_features=True)
        self.rank = RankMasks(direction)

    def __call__(self, batch: pa.Table) -> pa.Table:
        (item,) = batch.to_pylist()
        rows = self.relabelled(self.target.read_file(item["file"]).combine_chunks())
        return answer(item, self.target.save(item["part"], item["epoch"], rows), images=rows.num_rows)

    def relabelled(self, rows: pa.Table) -> pa.Table:
        """A part's rows with the names that they get now."""
        before = rows["fingerprints"][0].as_py()
        if not (self._only_text_differs(before) and _all_features_stored(rows)):
            rows = self._name(rows, before)
        rows = self.rank(rows)
        fingerprints = pa.array([before | self.links] * rows.num_rows, SCHEMA.field("fingerprints").type)
        rows = set_columns(rows, {"fingerprints": fingerprints})
        return conform(rows if self.store_embeddings else without_embeddings(rows))

    def _only_text_differs(self, before: dict[str, str | None]) -> bool:
        return all(before[link] == self.links[link] for link in LABEL_LINKS if link != "text")

    def _name(self, rows: pa.Table, before: dict[str, str | None]) -> pa.Table:
        """The rows with tags and captions anew, and their features."""
        if before["text"] is not None:  # of equally large masks the first generated one is captioned
            rows = RankMasks(None)(rows)
        reusable = before["embed"] == self.links["embed"]
        features: dict[int, tuple[Features, Features]] = {}
        kept = {}
        errors = rows["error"].to_pylist()
        for index, status in enumerate(rows["status"].to_pylist()):
            if status != "ok":
                continue
            kept[index] = kept_masks(rows, index)
            stored = stored_features(rows, index) if reusable else None
            try:
                features[index] = stored or self._encode(rows, index, kept[index])
                if (errors[index] or "").startswith("tag: "):
                    errors[index] = None
            except Exception as error:  # its picture may be gone or changed: the masks stay, the reason is kept
                errors[index] = f"tag: {describe(error)}"
        rows = tag_rows(rows, self.tagger, features, kept, keep_features=True)
        if self.caption is not None:
            rows = self.caption(rows)
        return set_columns(rows, {"error": pa.array(errors, pa.string())})

    def _encode(self, rows: pa.Table, index: int, kept: np.ndarray) -> tuple[Features, Features]:
        row = {name: rows[name][index].as_py() for name in ("uri", "content_sha256", "decode", "height", "width")}
        pixels = decode(row, read_bytes(row, self.places))
        return self.tagger.encoder.encode([Regions(pixels, *regions_of(rows, index, kept))])[0]


def _all_features_stored(rows: pa.Table) -> bool:
    statuses = rows["status"].to_pylist()
    return all(status != "ok" or stored_features(rows, index) is not None for index, status in enumerate(statuses))


def relabel_round(
    target: Round, resolved: ResolvedRun, wanted: Fingerprint, resources: Resources, quiet: bool, places: AllowedPlaces
) -> int:
    """Bring every part to the label links of `wanted`, which is the fingerprint of `resolved`; parts that have them are
    not touched. The number of images in the others, whose pictures are read again from `places` where their features
    are not stored. Needs a running Ray, and the parts at the filter link."""
    labels, recipe = resolved.labels, resolved.recipe
    if labels is None:
        return 0
    links = {link: wanted.links.get(link) for link in LABEL_LINKS}
    stale = [part for part in target.parts() if _label_links(target, part) not in (links, None)]
    if not stale:
        return 0
    from ray.data import ActorPoolStrategy

    settings = {
        "uri": target.folder.uri,
        "round_number": target.number,
        "tagging": labels.tagging,
        "captioning": labels.captioning,
        "links": wanted.links,
        "views_per_batch": resources.views_per_batch,
        "device": resources.device,
        "direction": resolved.direction,
        "places": places,
    }
    answers = rewrite_parts(
        target,
        part_items(target, stale),
        RelabelParts,
        "tagging",
        quiet,
        fn_constructor_kwargs=settings,
        compute=ActorPoolStrategy(size=min(len(stale), resources.sam_actors)),
        num_cpus=resources.cpus_per_actor,
        num_gpus=resources.tag_gpus,
    )
    images = sum(done["images"][0].as_py() for done in answers)
    record = target.read_record()
    assert record is not None, "a round with parts has a record"
    plain = recipe.model_dump(mode="json")
    record["fingerprints"] = wanted.links
    record["settings"] = wanted.content
    record["recipe"] |= {"tag": plain["tag"], "caption": plain["caption"]}
    record["recipe"]["generate"]["text"] = recipe.generate.text
    target.write_record(record)
    return images


def _label_links(target: Round, part: int) -> dict[str, str | None] | None:
    """Those of a part's rows, None for one without rows."""
    fingerprints = target.read_part(part, ["fingerprints"])["fingerprints"]
    return {link: fingerprints[0].as_py()[link] for link in LABEL_LINKS} if len(fingerprints) else None
