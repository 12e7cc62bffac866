"""`maskfoundry plan`: time, workers and bytes for N images, from what a run measured."""

from dataclasses import dataclass

from pipeline.store.find_rounds import engine_rounds
from pipeline.store.rounds import Round
from pipeline.store.storage import Folder


@dataclass(frozen=True)
class Plan:
    """Extrapolated from `measured_images` of one run; `workers` are actors like that run's."""

    measured_images: int
    images_per_worker_second: float
    device: str
    images: int
    worker_hours: float
    workers: int
    hours: float
    masks: int
    bytes: int


def plan(dataset: str, images: int, hours: float | None = None) -> Plan:
    """What `images` would take with the dataset's newest measured run as the yardstick: on as many workers as it had,
    or on as many as finish within `hours`.

    Raises ValueError if no run of the dataset has annotated anything.
    """
    folder = Folder(dataset)
    numbers = engine_rounds(folder)
    target = Round(folder, numbers[-1]) if numbers else None
    record = target.read_record() if target else None
    runs = [run for run in (record or {"runs": []})["runs"] if run["images"] > run["failed"]]
    if target is None or not runs:
        raise ValueError(
            f"dataset: {dataset!r} holds no run that annotated anything; measure a few hundred images first"
        )
    run = max(runs, key=lambda one: one["images"])
    actors = run["resources"]["sam_actors"]
    # the model's own time: start-up, paid once a run, would be multiplied into every image
    per_image = run["stage_seconds"]["generate"] / (run["images"] - run["failed"])
    worker_hours = images * per_image / 3600
    workers = actors if hours is None else max(1, -int(-worker_hours // hours))
    stored = sum(target.count_bytes(part) for part in target.parts())
    held = sum(target.count_images(part) for part in target.parts())
    return Plan(
        measured_images=run["images"],
        images_per_worker_second=1 / per_image,
        device=run["resources"]["device"],
        images=images,
        worker_hours=worker_hours,
        workers=workers,
        hours=worker_hours / workers,
        masks=round(images * run["masks"] / run["images"]),
        bytes=round(images * stored / held),
    )
