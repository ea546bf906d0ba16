"""Users on several nodes: one that is lost in the middle of a run changes nothing.

About 15 s: Ray has to start three nodes, and to notice that one is gone.
"""

import os
import time
from functools import partial
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from heartloop.env.play import LocalWorld, Task, play_many  # noqa: E402
from heartloop.policy.parallel import RayWorld  # noqa: E402
from heartloop.rewards import reward  # noqa: E402
from heartloop.simusers.registry import make_user  # noqa: E402
from heartloop.simusers.scenario import pack  # noqa: E402
from tests.fakes import ToyPolicy  # noqa: E402

MAKE = partial(make_user, "embedded")
TASKS = [Task(scenario, seed) for seed, scenario in enumerate(pack("train")[:8])]
POLICY = ToyPolicy(lambda prompt: f"That sounds hard. {'Tell me more. ' * (prompt.seed % 3)}")
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,  # a healthy node may have to wait for the processor
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def cluster():
    """A head and two nodes; this process is connected to the head."""
    assert not ray.is_initialized()
    head = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    nodes = Cluster(head_node_args=head | {"_system_config": HEALTH}, initialize_head=True)
    try:
        nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
        nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        nodes.wait_for_nodes()
        spread()
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def spread():
    """Wait until actors are put on all three nodes: what places them hears of nodes with delay."""
    end = time.monotonic() + 60
    node = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(lambda: node_here())
    while len(set(ray.get([node.remote() for _ in range(6)]))) < 3:
        assert time.monotonic() < end, "a node is never used"
        time.sleep(0.1)


def node_here():
    """The node that this process lives on."""
    return ray.get_runtime_context().get_node_id()


def alive(pid):
    """Whether a process runs; one that nobody has waited for yet does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def lose(cluster, node, pids):
    """Kill a node, and wait until its processes have noticed: until then they go on answering."""
    assert pids
    assert all(map(alive, pids))
    cluster.remove_node(node, allow_graceful=False)
    end = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < end, "the actors outlive their node"
        time.sleep(0.1)


def pid(shard):
    """The process of an actor."""
    return ray.get(shard.__ray_call__.remote(lambda shard: os.getpid()))


def place(shard):
    """The node that an actor lives on."""
    return ray.get(shard.__ray_call__.remote(lambda shard: ray.get_runtime_context().get_node_id()))


def test_a_node_lost_in_the_middle_of_a_run_loses_no_dialogue(cluster):
    expected = play_many(LocalWorld(MAKE), POLICY, TASKS, reward("final"))
    with RayWorld(MAKE, 4) as world:
        before = [place(shard) for shard in world._shards]
        assert len(set(before)) > 1, "actors are spread over the nodes"
        (lost, *_) = [n for n in cluster.worker_nodes if n.node_id in before]
        doomed = [pid(world._shards[i]) for i, node in enumerate(before) if node == lost.node_id]
        said = 0

        def talk_and_lose(prompt):
            nonlocal said
            said += 1
            if said == 12:
                lose(cluster, lost, doomed)
            return POLICY.answer(prompt)

        assert play_many(world, ToyPolicy(talk_and_lose), TASKS, reward("final")) == expected
        assert said > 12
        after = [place(shard) for shard in world._shards]
    assert lost.node_id not in after
    kept = [i for i, node in enumerate(before) if node != lost.node_id]
    assert [after[i] for i in kept] == [before[i] for i in kept], "the others stay where they are"
