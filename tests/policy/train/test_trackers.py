"""Trackers besides TensorBoard, where they are installed, keep what the metrics say."""

import json
import os
import sqlite3
import struct
import subprocess
import sys

import pytest

from tests.policy.train.test_run import recipe, timeless

BLOCK = 32768
"""Bytes between two places in a file of W&B at which no record goes on without a new head."""


def records(path):
    """The raw records of a file that W&B wrote offline: a LevelDB log after seven bytes."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield parts
            parts = b""


def of_wandb(home):
    """Name and rows of each run."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(home.glob("wandb/offline-run-*/*.wandb")):
        name, rows = "", []
        for raw in records(path):
            record = Record.FromString(raw)
            name = record.run.display_name or name
            if record.HasField("history"):
                items = record.history.item
                rows.append(
                    {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                )
        yield name, rows


def of_trackio(home):
    """The same of each run in the project that transformers names."""
    (path,) = home.glob("trackio/*.db")
    with sqlite3.connect(path) as table:
        found = table.execute("select run_name, metrics from metrics order by id").fetchall()
    for name in dict.fromkeys(name for name, _ in found):
        yield name, [json.loads(row) for own, row in found if own == name]


BOTH = """
import json, sys
from heartloop import config
from heartloop.policy.train.run import train
for given in sys.argv[1:]:
    train(config.settings(json.loads(given)))
"""


@pytest.mark.parametrize(("kind", "kept"), [("wandb", of_wandb), ("trackio", of_trackio)])
def test_each_run_of_a_process_is_a_run_of_the_tracker(folder, tmp_path, kind, kept):
    pytest.importorskip(kind)
    configs = [
        recipe(folder, tmp_path / name, **{"run.name": name, "run.report_to": json.dumps([kind])})
        for name in ("one", "other")
    ]
    # A process of its own: the folders are read when the packages are imported.
    subprocess.run(
        [sys.executable, "-c", BOTH, *(config.model_dump_json() for config in configs)],
        env=os.environ | {
            "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true",
            "TRACKIO_DIR": str(tmp_path / "trackio"),
        }, check=True,
    )  # fmt: skip
    wanted = [(config.run.name, timeless(config.run.out)) for config in configs]
    found = list(kept(tmp_path))
    assert [name for name, _ in found] == ["one", "other"]
    for (_, rows), (_, metrics) in zip(found, wanted, strict=True):
        assert [row["train/global_step"] for row in rows] == [1, 2]
        for row, own in zip(rows, metrics, strict=True):
            numbers = {k: v for k, v in own.items() if isinstance(v, int | float) and k != "step"}
            assert {k: row[f"train/{k}"] for k in numbers} == pytest.approx(numbers)
