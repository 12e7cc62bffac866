"""How many of what: `auto` resolved once, on the driver, from the machine."""

from dataclasses import dataclass

from pipeline.ray_runtime import Machine
from pipeline.recipe import ResourceSettings

CPU_ACTOR_BYTES = 4 << 30  # memory to leave each model on a CPU; a ViT-H in fp32 needs about that
TASK_CPUS = 0.5  # the slot of a decoding or filtering task: both are brief beside the model


@dataclass(frozen=True)
class Resources:
    """`cpus_per_actor` are the slots an actor holds, `threads_per_actor` the threads its model uses."""

    sam_actors: int
    gpus_per_actor: float
    cpus_per_actor: float
    threads_per_actor: int
    images_per_batch: int
    crops_per_batch: int
    points_per_batch: int
    device: str


def resolve_resources(settings: ResourceSettings, machine: Machine) -> Resources:
    """Raises ValueError when the recipe asks for more than the machine has."""
    available = 1.0 if machine.num_gpus else 0.0
    gpus = available if settings.gpus_per_actor == "auto" else settings.gpus_per_actor
    if gpus > machine.num_gpus:
        raise ValueError(
            f"resources.gpus_per_actor: {gpus:g} asked, the machine has {machine.num_gpus}; set 0 to run on the CPU"
        )
    # on a CPU one thread a model, many models: threads of one model wait for each other at every layer
    fitting = int(machine.num_gpus / gpus) if gpus else min(machine.num_cpus, machine.memory_bytes // CPU_ACTOR_BYTES)
    actors = max(1, fitting) if settings.sam_actors == "auto" else settings.sam_actors
    if gpus and actors * gpus > machine.num_gpus:
        raise ValueError(
            f"resources.sam_actors: {actors} × {gpus:g} GPUs asked, the machine has {machine.num_gpus}; ask for fewer"
        )
    if actors > machine.num_cpus:
        raise ValueError(
            f"resources.sam_actors: {actors} asked, the machine has {machine.num_cpus} CPUs; ask for fewer"
        )
    # actors leave a slot for decoding and filtering, and on a CPU use every core while those idle
    cpus = min(1.0, (machine.num_cpus - TASK_CPUS) / actors) if gpus else (machine.num_cpus - TASK_CPUS) / actors
    threads = 1 if gpus else max(1, machine.num_cpus // actors)
    return Resources(
        sam_actors=actors,
        gpus_per_actor=gpus,
        cpus_per_actor=cpus,
        threads_per_actor=threads,
        images_per_batch=(4 if gpus else 1) if settings.images_per_batch == "auto" else settings.images_per_batch,
        crops_per_batch=(4 if gpus else 1) if settings.crops_per_batch == "auto" else settings.crops_per_batch,
        points_per_batch=(256 if gpus else 64) if settings.points_per_batch == "auto" else settings.points_per_batch,
        device="cuda" if gpus else "cpu",
    )
