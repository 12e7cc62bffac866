"""A Ray of our own: started quietly for one run, stopped when it ends."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Machine:
    """What the run may use."""

    num_cpus: int
    num_gpus: int
    memory_bytes: int


@contextmanager
def local_ray(num_cpus: int | None) -> Iterator[Machine]:
    """Start Ray on this machine with `num_cpus` (all by default) and stop it afterwards; a Ray that is already
    connected is used as it is and left running."""
    # read when the library loads: its own messages are for its developers, and ours say what a person needs
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # workers inherit it: threads that spin at OpenMP's barriers make a model of several threads that shares its cores
    # with decoding up to 27 times slower (measured on 2 cores)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import ray
    from ray.data import DataContext

    started = not ray.is_initialized()
    if started:
        cpus = num_cpus or len(os.sched_getaffinity(0))
        with _without_stderr():
            ray.init(
                num_cpus=max(2, cpus),  # the graph's actor and its tasks hold a slot each, also on one core
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_object_store_bytes(),
            )
    try:
        DataContext.get_current().enable_progress_bars = False
        for name in ("ray.data", "ray"):
            logger = logging.getLogger(name)
            logger.setLevel(logging.ERROR)
            for handler in logger.handlers:
                if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                    handler.setLevel(logging.ERROR)
        resources = ray.cluster_resources()
        yield Machine(
            num_cpus=int(resources.get("CPU", 1)),
            num_gpus=int(resources.get("GPU", 0)),
            memory_bytes=int(resources.get("memory", 0)),
        )
    finally:
        if started:
            ray.shutdown()


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
