"""How many of what: `auto` resolved once, on the driver, from the machine."""

from dataclasses import dataclass

from pipeline.recipes.recipe import ResourceSettings
from pipeline.runs.ray_runtime import Node

CPU_ACTOR_BYTES = 4 << 30  # memory to leave each model on a CPU; a ViT-H in fp32 needs about that
TASK_CPUS = 0.5  # the slot of a decoding or filtering task: both are brief beside the model
TAG_GPUS = 0.2  # of a GPU to a CLIP beside a SAM
CAPTION_GPUS = 0.1
CPU_ACTORS_PER_FILTER = 4  # a model on a CPU takes ten times as long for an image as filtering its masks, and more
TASK_SHARE = 0.25  # of a node's CPUs that actors leave to such tasks; two CPUs, the least Ray is given, leave one slot


@dataclass(frozen=True)
class Resources:
    """`cpus_per_actor` are the slots an actor holds, `threads_per_actor` the threads its model uses. `filter_tasks` run
    at once: without a bound tasks that ask for next to no CPU start process after process, a second or more each.
    `tag_actors` share the GPUs with the others, where there are any, and take views of `tag_images` images at once."""

    sam_actors: int
    gpus_per_actor: float
    cpus_per_actor: float
    threads_per_actor: int
    images_per_batch: int
    crops_per_batch: int
    points_per_batch: int
    filter_tasks: int
    tag_actors: int
    tag_gpus: float
    caption_gpus: float
    tag_images: int
    views_per_batch: int
    device: str


def resolve_resources(
    settings: ResourceSettings, nodes: list[Node], tagging: bool = False, may_grow: bool = False
) -> Resources:
    """Raises ValueError when the recipe asks for more than the nodes have; where nodes may come, only if none of them
    holds an actor."""
    num_gpus = sum(node.num_gpus for node in nodes)
    available = (1.0 - TAG_GPUS - CAPTION_GPUS if tagging else 1.0) if num_gpus else 0.0
    gpus = available if settings.gpus_per_actor == "auto" else settings.gpus_per_actor
    hosts = [node for node in nodes if (node.num_gpus >= gpus if gpus else node.num_cpus)]
    if not hosts and not gpus:
        raise ValueError(
            "ray.address: no machine of the cluster has a CPU for work; start one, or set resources.gpus_per_actor and "
            "sam_actors to numbers, which an autoscaler goes by"
        )
    if not hosts:
        raise ValueError(f"resources.gpus_per_actor: {gpus:g} asked, no machine has that many; set 0 to run on the CPU")
    if gpus > available and tagging:
        raise ValueError(
            f"resources.gpus_per_actor: {gpus:g} leaves no room for the {TAG_GPUS + CAPTION_GPUS:g} of a GPU that tags "
            f"and captions take; set {available:g} or less"
        )
    room = sum(_models_on(node.num_gpus, gpus, available) if gpus else node.num_cpus for node in hosts)
    # on a CPU one thread a model, many models: threads of one model wait for each other at every layer
    fitting = room if gpus else sum(min(node.num_cpus, node.memory_bytes // CPU_ACTOR_BYTES) for node in hosts)
    actors = max(1, fitting) if settings.sam_actors == "auto" else settings.sam_actors
    if actors > room and not may_grow:
        raise ValueError(f"resources.sam_actors: {actors} asked, there is room for {room}; ask for fewer")
    node_cpus = min(node.num_cpus for node in hosts)
    per_node = max(1, min(-(-actors // len(hosts)), node_cpus))
    # on every node a quarter is left to decoding and filtering; a model on a CPU uses every core while those idle
    if gpus:  # any node may hold as many actors as its GPUs do
        share = (1 - TASK_SHARE) * min(
            node.num_cpus / min(actors, _models_on(node.num_gpus, gpus, available)) for node in hosts
        )
    else:
        share = (1 - TASK_SHARE) * node_cpus / per_node
    return Resources(
        sam_actors=actors,
        gpus_per_actor=gpus,
        cpus_per_actor=min(1.0, share) if gpus else share,
        threads_per_actor=1 if gpus else max(1, node_cpus // per_node),
        images_per_batch=(4 if gpus else 1) if settings.images_per_batch == "auto" else settings.images_per_batch,
        crops_per_batch=(4 if gpus else 1) if settings.crops_per_batch == "auto" else settings.crops_per_batch,
        points_per_batch=(256 if gpus else 64) if settings.points_per_batch == "auto" else settings.points_per_batch,
        filter_tasks=actors if gpus else -(-actors // CPU_ACTORS_PER_FILTER),
        tag_actors=_tag_actors(settings, actors, sum(node.num_gpus for node in hosts) if gpus else 0),
        tag_gpus=TAG_GPUS if gpus else 0.0,
        caption_gpus=CAPTION_GPUS if gpus else 0.0,
        tag_images=32 if gpus else 8,
        views_per_batch=(256 if gpus else 32) if settings.views_per_batch == "auto" else settings.views_per_batch,
        device="cuda" if gpus else "cpu",
    )


def _models_on(num_gpus: int, each: float, available: float) -> int:
    """How many models that hold `each` of a GPU fit; a share is of a single GPU, of which so much is `available`."""
    return num_gpus * int(available / each) if each <= available else int(num_gpus / each)


def _tag_actors(settings: ResourceSettings, sam_actors: int, num_gpus: int) -> int:
    """A CLIP keeps up with several SAMs; a GPU has one beside its SAMs."""
    if settings.tag_actors != "auto":
        return settings.tag_actors
    return min(sam_actors, num_gpus) if num_gpus else -(-sam_actors // CPU_ACTORS_PER_FILTER)
