"""What readers must see after whatever was done to a dataset: plain dictionaries and the rules of each command, written
down without the pipeline's own code."""

from dataclasses import dataclass, field, replace

from tests.pipeline.life.engine import candidates


@dataclass(frozen=True)
class Mask:
    """`cell` says which pixels; `is_human` that a person made it."""

    cell: int
    score: float | None
    keep: bool
    is_human: bool
    embedded: bool
    previous_id: str | None = None
    human_id: str | None = None


@dataclass(frozen=True)
class Row:
    """`content` is None of an image that failed; `embedded` says whether the row holds embeddings at all."""

    content: str | None
    change: int
    embedded: bool
    masks: dict[str, Mask]

    @property
    def kept(self) -> dict[str, Mask]:
        return {name: mask for name, mask in self.masks.items() if mask.keep}


@dataclass
class Annotated:
    """A round; those of an import have no weights. One that a refresh began and did not end is `unfinished`; of a run's
    own rounds `ended` says whether one came to its end there with something to show."""

    weights: int | None
    threshold: float | None
    rows: dict[str, Row] = field(default_factory=dict)
    of_refresh: bool = False
    unfinished: bool = False
    ended: bool = False


@dataclass
class Model:
    """Rounds by number, which of them readers see, and what was taken down (ids, and sha256 of contents)."""

    rounds: dict[int, Annotated] = field(default_factory=dict)
    published: set[int] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    contents: set[str] = field(default_factory=set)

    @property
    def next_number(self) -> int:
        return max(self.rounds, default=-1) + 1

    def visible(self) -> dict[str, Row]:
        """Of each image the newest published row, its kept masks alone."""
        seen: dict[str, Row] = {}
        for number in sorted(self.published):
            seen |= self.rounds[number].rows
        return {name: replace(row, masks=row.kept) for name, row in seen.items()}

    def newest_of_the_engine(self, withheld: set[int]) -> int | None:
        """The round that run and filter go on with; an import where there is nothing else."""
        settled = [number for number in sorted(self.rounds) if number not in withheld]
        made = [number for number in settled if self.rounds[number].weights is not None]
        return (made or settled or [None])[-1]

    def goes_on(self, number: int, weights: int, threshold: float) -> bool:
        """Whether a run that asks for a new round was begun before, in this one, and goes on there."""
        made = self.rounds[number]
        same = (made.weights, made.threshold) == (weights, threshold)
        return number > 0 and same and not made.of_refresh and not made.ended

    def to_annotate(self, number: int, names: list[str], changes: dict[str, int] | None, retry: bool) -> set[str]:
        """The images of a listing that are new in the round, changed or, with `retry`, failed."""
        rows = self.rounds[number].rows
        return {
            name
            for name in names
            if name not in rows
            or (changes is not None and rows[name].change != changes[name])
            or (retry and rows[name].content is None)
        }

    def labelled(self) -> set[str]:
        """Images whose published import is left alone."""
        imports = [self.rounds[number] for number in self.published if self.rounds[number].weights is None]
        return {name for one in imports for name, row in one.rows.items() if row.content is not None}

    def annotate(self, number: int, name: str, content: str | None, change: int) -> None:
        """An image that a run takes in; of a content that was taken down it does not come in."""
        made = self.rounds[number]
        made.rows.pop(name, None)
        if content in self.contents:
            return
        found = [] if content is None else candidates(content, made.weights or 0)
        masks = {}
        for index, (cell, score) in enumerate(found):
            keep = score > (made.threshold or 0)
            masks[f"{name}/{number}/{index}"] = Mask(cell, score, keep, False, keep)
        made.rows[name] = Row(content, change, content is not None, masks)

    def refilter(self, number: int, threshold: float) -> None:
        """The model's masks stand by the new threshold, people's stand; what is kept is embedded anew."""
        made = self.rounds[number]
        if made.threshold == threshold:
            return
        made.threshold = threshold
        for name, row in made.rows.items():
            masks = {}
            for mask_id, mask in row.masks.items():
                keep = mask.is_human or (mask.score or 0) > threshold
                masks[mask_id] = replace(mask, keep=keep, embedded=keep and row.content is not None)
            made.rows[name] = replace(row, masks=masks)

    def carry(self, number: int) -> None:
        """What ends a refresh: people's masks come along, and masks know those of the round before."""
        before, made = self.visible(), self.rounds[number]
        for name, row in list(made.rows.items()):
            old = before.get(name)
            if old is None:
                continue
            people = {mask_id: mask for mask_id, mask in old.masks.items() if mask.is_human}
            changed = row.content != old.content
            if (row.content is None and old.content is not None) or (changed and people):
                del made.rows[name]
                continue
            theirs = {} if changed else {mask.cell: i for i, mask in old.masks.items() if not mask.is_human}
            human = {mask.cell: i for i, mask in people.items()}
            masks = {
                i: replace(mask, previous_id=theirs.get(mask.cell), human_id=human.get(mask.cell))
                if mask.keep
                else mask
                for i, mask in row.masks.items()
            }
            both = old.embedded and row.embedded
            carried = {i: replace(mask, embedded=mask.embedded and both) for i, mask in people.items()}
            made.rows[name] = replace(row, masks=masks | carried)
        made.unfinished = False
        self.published.add(number)

    def drop(self, names: set[str]) -> None:
        """The images, and whatever has their content, go from every round."""
        ids, contents, size = set(names), set(), -1
        while size != len(ids) + len(contents):
            size = len(ids) + len(contents)
            for made in self.rounds.values():
                for name, row in made.rows.items():
                    if name in ids or row.content in contents:
                        ids.add(name)
                        contents |= {row.content} - {None}
        self.ids |= ids
        self.contents |= contents
        for made in self.rounds.values():
            made.rows = {n: r for n, r in made.rows.items() if n not in self.ids and r.content not in self.contents}
