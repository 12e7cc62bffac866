"""One run over videos: list, plan what is left, track, commit chunk by chunk."""

import hashlib
import json
import time
import uuid
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline.errors import RunError
from pipeline.progress import progress_bar
from pipeline.runs.attempted import MAX_FRUITLESS_RUNS, fruitless_in_a_row
from pipeline.runs.attempts import RayAttempts
from pipeline.runs.begin_run import Into, begin_run, check_record, choose_round, first_look
from pipeline.runs.check_nodes import check_nodes
from pipeline.runs.chunks import Chunk, Plan, plan_chunks
from pipeline.runs.fingerprint import SCHEMA_VERSION, Fingerprint, flat, label_content
from pipeline.runs.graph import TAG_CPUS
from pipeline.runs.growing import resources_for
from pipeline.runs.known_ids import with_known_ids
from pipeline.runs.left_alone import without_dropped
from pipeline.runs.ray_runtime import connected_ray
from pipeline.runs.resources import Resources
from pipeline.runs.run import interruptible
from pipeline.runs.settle import settled
from pipeline.sources.notes import ListingNotes
from pipeline.sources.places import dataset_places, input_places
from pipeline.sources.videos import list_videos
from pipeline.store.index import publish
from pipeline.store.lease import Lease
from pipeline.store.masklet_round import KIND, MaskletRound
from pipeline.store.storage import Folder
from pipeline.video.commit import MaskletCommitter, VideoTally
from pipeline.video.recipe import VideoRecipe
from pipeline.video.resolve import ResolvedVideoRun, resolve_video
from stages.name_masklets import NameMasklets
from stages.track_video import TrackVideos


@dataclass(frozen=True)
class VideoRunSummary:
    """What one run did. `total_videos` counts the whole round, earlier runs included; `listing` says what the input
    holds besides its videos (`ListingNotes`), `fruitless_runs` in how many of the round's last runs in a row, this one
    included, every video failed."""

    run_id: str
    output: str
    round: int
    status: str
    seconds: float
    total_videos: int
    listing: dict[str, Any]
    tally: VideoTally
    fruitless_runs: int = 0

    @property
    def may_go_on(self) -> bool:
        """Whether the same command, given again, may do more: the exit code is 1 then."""
        return self.status != "done" or 0 < self.fruitless_runs < MAX_FRUITLESS_RUNS

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "tally"} | self.tally.as_dict()


def run_video(
    recipe: VideoRecipe, retry_failed: bool = False, new_round: bool = False, quiet: bool = False
) -> VideoRunSummary:
    """Write (or go on with) a round of masklets at `recipe.output`; as `pipeline.runs.run.run`, of videos.

    Raises ValueError for wrong input or configuration before anything is written, and RunError when the graph fails;
    what was committed by then stays, and the same call goes on from there.
    """
    with settled(recipe) as recipe:
        return _run_video(recipe, retry_failed, new_round, quiet)


def _run_video(recipe: VideoRecipe, retry_failed: bool, new_round: bool, quiet: bool) -> VideoRunSummary:
    started = time.time()
    notes, folder = ListingNotes(), Folder(recipe.output)
    listing = list_videos(recipe.input, recipe.include, recipe.exclude, notes)
    with first_look(folder):
        listing = with_known_ids(listing, folder, notes, "video_id")
    resolved = resolve_video(recipe)
    wanted = video_fingerprint(resolved)
    with first_look(folder):
        listing = without_dropped(listing, folder)
        target = MaskletRound(folder, choose_round(folder, wanted, new_round, None).number)
        check_record(target, wanted)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    num_cpus = None if recipe.resources.num_cpus == "auto" else recipe.resources.num_cpus
    with ExitStack() as stack:
        nodes = stack.enter_context(connected_ray(recipe.ray.address, num_cpus))
        resources = resources_for(recipe, nodes)
        if recipe.ray.address is not None:
            places = dataset_places(recipe.output, input_places(recipe.input))
            check_nodes(resolved.checkpoints(), listing, resources.gpus_per_actor, quiet, places)
        into = Into(target, {"kind": KIND})
        lease = stack.enter_context(begin_run(target, recipe, wanted, resolved.weights.sha256, run_id, into))
        publish(folder, target.number)
        plan = plan_chunks(listing, target.committed(), recipe.run.commit_every, retry_failed)
        committer = MaskletCommitter(target, run_id, wanted.links)
        try:
            with interruptible():
                _stream(resolved, resources, plan, committer, lease, quiet)
            status = "done"
        except KeyboardInterrupt:
            committer.commit_unfinished()
            status = "interrupted"
        summary = VideoRunSummary(
            run_id=run_id,
            output=recipe.output,
            round=target.number,
            status=status,
            seconds=time.time() - started,
            total_videos=target.committed().num_rows,
            listing=notes.as_dict(),
            tally=committer.tally,
        )
        before = (target.read_record() or {}).get("runs", [])
        if committer.tally.videos:
            summary = replace(summary, fruitless_runs=fruitless_in_a_row([*before, summary.as_dict()]))
        begun = datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")
        target.add_run(summary.as_dict() | {"started": begun, "resources": asdict(resources)})
    return summary


def video_fingerprint(resolved: ResolvedVideoRun) -> Fingerprint:
    """Hashes one link, `generate`, as nothing of a masklet is replayed; reads no file. How many objects are followed at
    once is not in it."""
    recipe = resolved.recipe
    track = recipe.track.model_dump(mode="json", exclude={"objects_at_once", "checkpoint"})
    content = flat(
        {
            "schema_version": SCHEMA_VERSION,
            "weights_sha256": resolved.weights.sha256,
            "model": {"image_size": recipe.model.image_size},
            "video": recipe.video.model_dump(mode="json"),
            "generate": recipe.generate.model_dump(mode="json", exclude_none=True),
            "filter": recipe.filter.model_dump(mode="json"),
            "track": track | {"weights_sha256": resolved.tracker and resolved.tracker.sha256},
            **({} if resolved.labels is None else label_content(resolved.labels)),
        }
    )
    link = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Fingerprint({"generate": link, "filter": link}, {"generate": content, "filter": {}})


def _stream(
    resolved: ResolvedVideoRun, resources: Resources, plan: Plan, committer: MaskletCommitter, lease: Lease, quiet: bool
) -> None:
    from ray.exceptions import RayError

    total = plan.num_images
    if total == 0:
        return
    with ExitStack() as stack:
        update = stack.enter_context(progress_bar("tracking", total, "videos", quiet))
        attempts = RayAttempts()
        stack.callback(attempts.close)
        try:
            for chunks in plan.in_groups(resources.sam_actors):
                committer.expect(chunks)
                graph = _graph(resolved, resources, chunks, committer.target.number, attempts)
                for rows in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                    committer.add(rows)
                    seen = committer.seen
                    lease.progress = {"images": committer.tally.videos, "of": total, "failed": seen.failed}
                    update(seen.videos, f"{seen.masklets:,} masklets · {seen.failed:,} failed")
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RunError(
                f"the graph failed: {reason}; {committer.tally.videos} videos are committed, run again to go on"
            ) from error
    if committer.unfinished:
        raise RunError(f"{committer.unfinished} videos did not come back; run again to go on")


def _graph(
    resolved: ResolvedVideoRun, resources: Resources, chunks: list[Chunk], round_number: int, attempts: RayAttempts
) -> Any:
    """The Ray Dataset whose rows are masklets, a block a video, in no order."""
    import ray.data
    from ray.data import ActorPoolStrategy

    recipe, labels = resolved.recipe, resolved.labels
    blocks = []
    for chunk in chunks:
        videos = chunk.images.append_column("part", pa.array([chunk.part] * chunk.images.num_rows, pa.int32()))
        blocks += [videos.slice(index, 1) for index in range(videos.num_rows)]
    masklets = ray.data.from_blocks(blocks).map_batches(
        TrackVideos,
        fn_constructor_kwargs={
            "weights": resolved.weights,
            "tracker_weights": resolved.tracker,
            "image_size": recipe.model.image_size,
            "video": recipe.video,
            "generate": recipe.generate,
            "filter_settings": recipe.filter,
            "track": recipe.track,
            "points_per_batch": resources.points_per_batch,
            "device": resources.device,
            "num_threads": resources.threads_per_actor,
            "round_number": round_number,
            "attempts": attempts,
            "video_timeout": recipe.run.video_timeout,
        },
        compute=ActorPoolStrategy(size=min(resources.sam_actors, len(blocks))),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=resources.cpus_per_actor,
        num_gpus=resources.gpus_per_actor,
    )
    if labels is None:
        return masklets
    return masklets.map_batches(
        NameMasklets,
        fn_constructor_kwargs={
            "video": recipe.video,
            "tagging": labels.tagging,
            "captioning": labels.captioning,
            "views_per_batch": resources.views_per_batch,
            "device": resources.device,
            "num_threads": resources.threads_per_actor,
        },
        compute=ActorPoolStrategy(size=min(resources.tag_actors, len(blocks))),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=TAG_CPUS,
        num_gpus=resources.tag_gpus,
    )
