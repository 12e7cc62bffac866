"""Whether each node of an existing cluster has what the work needs, asked before a million images find out."""

import socket
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from models.weight_files import CheckpointError, read_checkpoint
from pipeline.progress import progress_bar
from stages.allowed_places import AllowedPlaces
from stages.decode_image import describe
from stages.read_source import source_etag


def check_nodes(
    weights: Mapping[str, str], listing: pa.Table, gpus_per_actor: float, quiet: bool, places: AllowedPlaces
) -> None:
    """Has every node that decodes read about the listing's first image, and every one that may hold a model read the
    `weights` (checkpoint → the sha256 of the driver's file); published ones are fetched by that, once a node.

    Raises ValueError that names a node, for one that lacks the libraries, the weights or the image.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    uri = listing["uri"][0].as_py() if listing.num_rows else None
    if uri is not None and (not places.allows(uri) or image_problem(uri) is not None):
        uri = None  # it is this image's own, and will be its row's
    look = ray.remote(num_cpus=0, max_retries=0)(node_problem)
    asked: dict[Any, str] = {}
    for node in ray.nodes():
        cpus, gpus = (node["Resources"].get(name, 0.0) for name in ("CPU", "GPU"))
        if node["Alive"] and (cpus or gpus):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            needed = dict(weights) if gpus >= gpus_per_actor else {}
            asked[look.options(scheduling_strategy=here).remote(needed, uri)] = node["NodeManagerAddress"]
    problems = []
    with progress_bar("checking", len(asked), "nodes", quiet) as update:
        waiting = list(asked)
        while waiting:
            (answered, *_), waiting = ray.wait(waiting)
            problem = _answer(answered)
            if problem is not None:
                problems.append(f"node {asked[answered]} cannot do the work: {problem}")
            update(len(asked) - len(waiting), "")
    if problems:
        more = f" (and {len(problems) - 1} nodes more)" if len(problems) > 1 else ""
        raise ValueError(f"ray.address: {problems[0]}{more}; each node needs what the driver has")


def node_problem(weights: dict[str, str], uri: str | None) -> str | None:
    """What this machine lacks, or None."""
    from stages import caption_masks, filter_masks, generate_masks, rank_masks, tag_masks  # noqa: F401

    for checkpoint, sha256 in weights.items():
        try:
            found = read_checkpoint(checkpoint).sha256
        except CheckpointError as error:
            return f"{error} (on {socket.gethostname()})"
        if found != sha256:
            return f"{checkpoint} is another file there, of sha256 {found}, not {sha256}"
    return None if uri is None else image_problem(uri)


def image_problem(uri: str) -> str | None:
    try:
        source_etag(uri)
    except Exception as error:  # each store has errors of its own kinds
        return f"input: {uri} cannot be read ({describe(error)})"
    return None


def _answer(answered: Any) -> str | None:
    import ray
    from ray.exceptions import NodeDiedError, RayError, TaskUnschedulableError, WorkerCrashedError

    try:
        found: str | None = ray.get(answered)
    except (NodeDiedError, TaskUnschedulableError, WorkerCrashedError):
        return None  # it went away, as machines do
    except RayError as error:
        return str(error).strip().splitlines()[-1]
    return found
