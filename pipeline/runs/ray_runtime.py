"""Ray for one run: a local one, started quietly and stopped at the end, or an existing cluster."""

import logging
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import RunError


@dataclass(frozen=True)
class Node:
    """What one machine offers."""

    num_cpus: int
    num_gpus: int
    memory_bytes: int


ROOT = Path(__file__).resolve().parents[2]
CONNECT_SECONDS = 10.0
# threads that spin at OpenMP's barriers make a model of several threads that shares its cores with decoding up to
# 27 times slower (measured on 2 cores)
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
# Ray ends processes that idle for a second, and decoding and filtering idle that long beside a model: each process that
# then starts anew takes 3 s and more (measured on one core: half of a run's time)
WORKER_IDLE_MS = 600_000


@contextmanager
def connected_ray(address: str | None = None, num_cpus: int | None = None) -> Iterator[list[Node]]:
    """Ray for one run; yields its nodes.

    Without `address` one is started on this machine with `num_cpus` (all by default) and stopped afterwards; with it
    the cluster there is used, and the code travels to its workers. A Ray that is already connected is used as it is
    and left running. The folder of a Ray of one's own goes with it, unless an error ends the work.

    Raises ValueError when there is no cluster at `address`, RunError when none starts here.
    """
    # read when the library loads: its own messages are for its developers, and ours say what a person needs
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.data import DataContext

    started = not ray.is_initialized()
    if started and address is not None:
        _check_reachable(address)
    if started:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        with _without_stderr():
            if address is None:
                os.environ.update(WORKER_ENVIRONMENT)
                cpus = num_cpus or len(os.sched_getaffinity(0))
                try:
                    ray.init(
                        address="local",  # else a cluster that happens to run here would be joined
                        num_cpus=max(2, cpus),  # the graph's actor and its tasks hold a slot each, also on one core
                        include_dashboard=False,
                        object_store_memory=_object_store_bytes(),
                        _system_config={"idle_worker_killing_time_threshold_ms": WORKER_IDLE_MS},
                        **quiet,
                    )
                except Exception as error:  # Ray's own is no narrower
                    raise RunError(
                        f"Ray does not start on this machine ({str(error).strip().splitlines()[0]}); when it is less "
                        "busy or has more free memory, run the same command again"
                    ) from error
            else:
                code = [str(ROOT / package) for package in ("pipeline", "stages", "models")]
                try:
                    ray.init(
                        address=address,
                        runtime_env={"py_modules": code, "env_vars": WORKER_ENVIRONMENT},
                        **quiet,
                    )
                except ConnectionError as error:
                    raise ValueError(
                        f"ray.address: no Ray cluster answers at {address!r} ({error}); start one or leave it out"
                    ) from None
                except RuntimeError as error:  # versions, for one
                    raise ValueError(
                        f"ray.address: the Ray cluster at {address!r} cannot be joined ({error}); this machine needs "
                        "the cluster's versions of Python and Ray"
                    ) from None
    try:
        DataContext.get_current().enable_progress_bars = False
        for name in ("ray.data", "ray"):
            logger = logging.getLogger(name)
            logger.setLevel(logging.ERROR)
            for handler in logger.handlers:
                if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                    handler.setLevel(logging.ERROR)
        session = session_folder() if started and address is None else None
        try:
            yield live_nodes()
        except BaseException:
            session = None  # its logs may say why
            raise
    finally:
        if started:
            ray.shutdown()
    if session is not None:
        shutil.rmtree(session, ignore_errors=True)


def session_folder() -> str:
    """Where the Ray that runs here keeps its logs and sockets, which it leaves behind."""
    import ray

    node: Any = ray._private.worker._global_node
    return str(node.get_session_dir_path())


def live_nodes() -> list[Node]:
    """Those of the Ray that is connected."""
    import ray

    return [_node(one["Resources"]) for one in ray.nodes() if one["Alive"]]


def driver_actor(kind: type, *arguments: Any) -> Any:
    """An actor for what workers share: on the driver's node, so that it lives as long as the run does, and needing no
    CPU."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}  # those who ask wait while it starts again
    actor: Any = ray.remote(kind).options(**lasting, scheduling_strategy=here)
    return actor.remote(*arguments)


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody answers."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return  # `auto`, which names no machine
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"ray.address: no Ray cluster answers at {address!r} ({error}); start one or leave it out"
        ) from None


def _node(resources: dict[str, float]) -> Node:
    return Node(
        num_cpus=int(resources.get("CPU", 0)),
        num_gpus=int(resources.get("GPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
    )


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's library writes its greeting to the descriptor itself; what goes wrong comes as an exception."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _object_store_bytes() -> int:
    """A quarter of the free memory, within what shared memory holds: decoded images of the batches in flight."""
    shared = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    free = int(psutil.virtual_memory().available * 0.25)
    if shared is not None:
        free = min(free, int(shared.f_bavail * shared.f_frsize * 0.8))
    return max(free, 256 << 20)
