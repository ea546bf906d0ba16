"""Workers train one model together, and say what went wrong in them."""

import os
import shutil
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")
torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_model  # noqa: E402

from heartloop.errors import ConfigError, InvalidInput, TrainingFailure  # noqa: E402
from heartloop.policy.base import make_policy  # noqa: E402
from heartloop.policy.parallel import find_ray, join_or_start  # noqa: E402
from heartloop.policy.workers import run_workers  # noqa: E402

BATCH, STEPS = 8, 3


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests of this module, which the workers join."""
    folder = join_or_start(find_ray(), 2)
    yield folder
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def learn(folder):
    """The seedling, a few steps on one global batch, of which each worker has its share."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    model = make_policy("seedling", device="cpu").model.model.train()
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the workers must agree by training together, not by their beginning
        model.lm_head.weight += 0.01 * rank
    together = torch.nn.parallel.DistributedDataParallel(model)
    optimiser = torch.optim.SGD(together.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        ids = torch.randint(model.config.vocab_size, (BATCH, 16), generator=source)
        mine = ids[rank * BATCH // size : (rank + 1) * BATCH // size]
        optimiser.zero_grad()
        together(input_ids=mine, labels=mine).loss.backward()
        optimiser.step()
    save_model(model, str(Path(folder) / f"{size}-{rank}.safetensors"))


def test_two_workers_teach_the_seedling_what_one_does_and_agree_to_the_bit(tmp_path):
    run_workers(learn, str(tmp_path), 2)
    run_workers(learn, str(tmp_path), 1)
    first, second, alone = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("2-0", "2-1", "1-0")
    )
    begun = make_policy("seedling", device="cpu").model.model.state_dict()
    for name, weight in first.items():
        assert torch.equal(weight, second[name])
        torch.testing.assert_close(weight, alone[name], rtol=1e-4, atol=1e-6)
        assert not torch.allclose(weight, begun[name], rtol=1e-4, atol=1e-6), "it learnt"


def refuse(reason):
    raise ConfigError(reason)


def divide(by):
    return 1 / by


def test_what_a_worker_raises_arrives():
    with pytest.raises(ConfigError, match="no such optimiser"):
        run_workers(refuse, "no such optimiser", 1)
    with pytest.raises(TrainingFailure, match="worker 0: ZeroDivisionError"):
        run_workers(divide, 0, 1)


def test_workers_that_could_never_start_are_refused():
    with pytest.raises(InvalidInput, match="at least 1 worker, got 0"):
        run_workers(divide, 1, 0)
    with pytest.raises(InvalidInput, match="3 workers need 3 CPUs, the Ray cluster has 2"):
        run_workers(divide, 1, 3)
    with pytest.raises(InvalidInput, match="1 workers need 1 GPUs, the Ray cluster has 0"):
        run_workers(divide, 1, 1, gpu=True)
