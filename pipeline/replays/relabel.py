"""Name what a round holds again where that has changed: no SAM, and where features are stored, no picture."""

import numpy as np
import pyarrow as pa

from pipeline.pictures import decode, read_bytes
from pipeline.recipes.fingerprint import Fingerprint
from pipeline.recipes.labelling import vocabulary_of
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.texts import direction_of
from pipeline.replays.rewrite_parts import rewrite_parts
from pipeline.runs.resources import Resources
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder
from stages.allowed_places import AllowedPlaces
from stages.caption_masks import CaptionMasks
from stages.caption_settings import CaptionSettings
from stages.decode_image import describe
from stages.embed_masks import Features, Regions
from stages.mask_columns import without_embeddings
from stages.rank_masks import RankMasks
from stages.record import LINKS, SCHEMA, conform, set_columns
from stages.tag_masks import kept_masks, regions_of, stored_features, tag_rows
from stages.tag_settings import TagSettings
from stages.tagger import Tagger
from stages.vocabulary import Vocabulary

LABEL_LINKS = LINKS[2:]


class RelabelParts:
    """An actor that names what whole parts hold again and puts each back as one."""

    def __init__(
        self,
        uri: str,
        round_number: int,
        settings: TagSettings,
        vocabulary: Vocabulary,
        caption: CaptionSettings | None,
        links: dict[str, str],
        views_per_batch: int,
        device: str,
        direction: np.ndarray | None,
        places: AllowedPlaces,
    ) -> None:
        self.target = Round(Folder(uri), round_number)
        self.settings = settings
        self.places = places
        self.links = {link: links.get(link) for link in LABEL_LINKS}
        self.tagger = Tagger(settings, vocabulary, device, views_per_batch)
        self.caption = None
        if caption is not None:
            self.caption = CaptionMasks(caption, settings, vocabulary, device, 1, keep_features=True)
        self.rank = RankMasks(direction)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.table({"images": [self._relabel(part) for part in batch["id"].to_pylist()]})

    def _relabel(self, part: int) -> int:
        rows = self.target.read_part(part).combine_chunks()
        before = rows["fingerprints"][0].as_py()
        if not (self._only_text_differs(before) and _all_features_stored(rows)):
            rows = self._name(rows, before)
        rows = self.rank(rows)
        marks = pa.array([before | self.links] * rows.num_rows, SCHEMA.field("fingerprints").type)
        rows = set_columns(rows, {"fingerprints": marks})
        rows = rows if self.settings.store_embeddings else without_embeddings(rows)
        self.target.write_part(part, conform(rows))
        return int(rows.num_rows)

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
    target: Round, recipe: Recipe, mark: Fingerprint, resources: Resources, quiet: bool, places: AllowedPlaces
) -> int:
    """Bring every part to the label links of `mark`; parts that have them are not touched. The number of images in the
    others, whose pictures are read again from `places` where their features are not stored. Needs a running Ray, and
    the parts at the mark's filter link."""
    if recipe.tag is None:
        return 0
    wanted = {link: mark.links.get(link) for link in LABEL_LINKS}
    stale = [part for part in target.parts() if _label_links(target, part) not in (wanted, None)]
    if not stale:
        return 0
    from ray.data import ActorPoolStrategy

    settings = {
        "uri": target.folder.uri,
        "round_number": target.number,
        "settings": recipe.tag,
        "vocabulary": vocabulary_of(recipe),
        "caption": recipe.caption,
        "links": mark.links,
        "views_per_batch": resources.views_per_batch,
        "device": resources.device,
        "direction": direction_of(recipe),
        "places": places,
    }
    answers = rewrite_parts(
        stale,
        RelabelParts,
        "tagging",
        quiet,
        fn_constructor_kwargs=settings,
        compute=ActorPoolStrategy(size=min(len(stale), resources.sam_actors)),
        num_cpus=resources.cpus_per_actor,
        num_gpus=resources.tag_gpus,
    )
    images = sum(answer["images"][0].as_py() for answer in answers)
    record = target.read_record()
    assert record is not None, "a round with parts has a record"
    plain = recipe.model_dump(mode="json")
    record["fingerprints"] = mark.links
    record["settings"] = mark.content
    record["recipe"] |= {"tag": plain["tag"], "caption": plain["caption"]}
    record["recipe"]["generate"]["text"] = recipe.generate.text
    target.write_record(record)
    return images


def _label_links(target: Round, part: int) -> dict[str, str | None] | None:
    """Those of a part's rows, None for one without rows."""
    marks = target.read_part(part, ["fingerprints"])["fingerprints"]
    return {link: marks[0].as_py()[link] for link in LABEL_LINKS} if len(marks) else None
