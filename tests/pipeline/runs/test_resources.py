import pytest

from pipeline.recipes.recipe import ResourceSettings
from pipeline.runs.ray_runtime import Node
from pipeline.runs.resources import TASK_CPUS, resolve_resources

GIB = 1 << 30


def settings(**values: object) -> ResourceSettings:
    return ResourceSettings(**values)  # type: ignore[arg-type]


def test_a_laptop_runs_one_model_a_core_and_leaves_a_slot() -> None:
    found = resolve_resources(settings(), [Node(2, 0, 16 * GIB)])
    assert (found.sam_actors, found.threads_per_actor, found.device) == (2, 1, "cpu")
    assert found.cpus_per_actor * 2 + TASK_CPUS <= 2


def test_memory_limits_the_models_on_a_cpu_and_threads_take_the_rest() -> None:
    found = resolve_resources(settings(), [Node(16, 0, 9 * GIB)])
    assert (found.sam_actors, found.threads_per_actor, found.cpus_per_actor) == (2, 8, 6.0)
    assert resolve_resources(settings(), [Node(4, 0, GIB)]).sam_actors == 1


def test_gpu_nodes_run_models_and_leave_cpus_to_decode() -> None:
    nodes = [Node(64, 0, 64 * GIB), Node(8, 8, 64 * GIB), Node(8, 8, 64 * GIB)]
    found = resolve_resources(settings(), nodes)
    assert (found.sam_actors, found.gpus_per_actor, found.device) == (16, 1.0, "cuda")
    assert found.cpus_per_actor * 8 + TASK_CPUS <= 8
    shared = resolve_resources(settings(gpus_per_actor=0.5), nodes)
    assert shared.sam_actors == 32 and shared.points_per_batch == 256


def test_nodes_of_several_kinds_keep_cpus_for_decoding() -> None:
    found = resolve_resources(settings(), [Node(8, 8, 64 * GIB), Node(8, 1, 64 * GIB), Node(4, 0, 8 * GIB)])
    assert found.sam_actors == 9 and found.cpus_per_actor * 8 + TASK_CPUS <= 8


def test_a_cluster_that_may_grow_is_asked_for_more() -> None:
    found = resolve_resources(settings(sam_actors=9), [Node(8, 2, GIB)], may_grow=True)
    assert found.sam_actors == 9 and found.cpus_per_actor * 2 + TASK_CPUS <= 8
    assert resolve_resources(settings(sam_actors=9), [Node(2, 0, GIB)], may_grow=True).cpus_per_actor * 2 < 2
    with pytest.raises(ValueError, match=r"ray\.address: no machine of the cluster has a CPU for work"):
        resolve_resources(settings(), [Node(0, 0, GIB)], may_grow=True)


def test_every_node_of_a_cluster_keeps_a_slot_free() -> None:
    found = resolve_resources(settings(sam_actors=2), [Node(2, 0, 8 * GIB), Node(2, 0, 8 * GIB)])
    assert found.cpus_per_actor + TASK_CPUS <= 2 and found.threads_per_actor == 2


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gpus_per_actor: 1 asked, no machine has that many; set 0"):
        resolve_resources(settings(gpus_per_actor=1), [Node(2, 0, GIB)])
    with pytest.raises(ValueError, match=r"sam_actors: 9 asked, there is room for 8"):
        resolve_resources(settings(sam_actors=9), [Node(8, 8, GIB)])
    with pytest.raises(ValueError, match=r"sam_actors: 5 asked, there is room for 2"):
        resolve_resources(settings(sam_actors=5), [Node(2, 0, GIB)])


def test_models_that_take_a_share_do_not_span_gpus_and_leave_room_for_tags() -> None:
    found = resolve_resources(settings(), [Node(64, 8, 64 * GIB)], tagging=True)
    assert found.sam_actors == found.tag_actors == 8  # and not 11, the share of .7 that 8 GPUs hold in sum
    assert found.gpus_per_actor + found.tag_gpus + found.caption_gpus == pytest.approx(1)
    shared = resolve_resources(settings(gpus_per_actor=0.35), [Node(64, 8, 64 * GIB)], tagging=True)
    assert (shared.sam_actors, shared.tag_actors) == (16, 8)
    assert resolve_resources(settings(gpus_per_actor=0.7), [Node(64, 8, 64 * GIB)]).sam_actors == 8
    with pytest.raises(ValueError, match=r"gpus_per_actor: 1 leaves no room for the 0\.3 of a GPU .* set 0\.7 or less"):
        resolve_resources(settings(gpus_per_actor=1), [Node(64, 8, 64 * GIB)], tagging=True)
