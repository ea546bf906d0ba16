"""Workers train one model together, and say what went wrong in them."""

import os
import shutil
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")
torch = pytest.importorskip("torch")

from heartloop.errors import ConfigError, InvalidInput, TrainingFailure  # noqa: E402
from heartloop.policy.parallel import find_ray, join_or_start  # noqa: E402
from heartloop.policy.workers import run_workers  # noqa: E402

BATCH, STEPS = 8, 5


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests of this module, which the workers join."""
    folder = join_or_start(find_ray(), 2)
    yield folder
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def learn(folder):
    """A few steps on one global batch, of which each worker has its share."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.manual_seed(rank)  # the workers must agree by training together, not by their seed
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    source = torch.Generator().manual_seed(0)
    if size == 1 or rank == 0:
        torch.manual_seed(0)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
    together = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(together.parameters(), lr=0.01)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 4, generator=source)
        y = x.sum(1, keepdim=True)
        mine = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(together(x[mine]), y[mine]).backward()
        optimizer.step()
    torch.save(model.state_dict(), Path(folder) / f"{size}-{rank}.pt")


def test_two_workers_learn_what_one_learns_and_agree_to_the_bit(tmp_path):
    run_workers(learn, str(tmp_path), 2)
    run_workers(learn, str(tmp_path), 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-0.pt", "2-0.pt", "2-1.pt"]
    first, second, alone = (
        torch.load(tmp_path / name) for name in ("2-0.pt", "2-1.pt", "1-0.pt")
    )  # fmt: skip
    start = torch.nn.Linear(4, 8).weight.shape
    assert first["0.weight"].shape == start
    for name, weight in first.items():
        assert torch.equal(weight, second[name])
        torch.testing.assert_close(weight, alone[name], rtol=1e-5, atol=1e-6)


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
