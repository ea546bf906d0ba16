"""Checks of the files that episodes live in."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from heartloop.env.record import EpisodeWriter, read, scan
from heartloop.errors import InvalidInput, OutputRefused, RecordError
from tests.fakes import toy_episode

EPISODES = [toy_episode(f"Reply {n} \u2028 \x85 \x00 \U0001f642", emotions=(41,)) for n in range(5)]

WRITER = """
import sys
from heartloop.env.record import EpisodeWriter
from tests.fakes import toy_episode
with EpisodeWriter(sys.argv[1]) as writer:
    for number in range(100_000):
        writer.write(toy_episode(f"{number} " + "word " * 20_000))
        print(number, flush=True)
"""


def texts(path: Path) -> list[str]:
    return [episode.turns[0].reply.text for _, episode in read(path)]


def test_what_is_written_is_read_back_with_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    with EpisodeWriter(path) as writer:
        writer.write(*EPISODES[:2])
        writer.write(EPISODES[2])
    assert list(read(path)) == list(enumerate(EPISODES[:3], 1))
    assert path.read_bytes().count(b"\n") == 3


def test_an_existing_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text("mine\n")
    with pytest.raises(OutputRefused, match="exists already"):
        EpisodeWriter(path)
    assert path.read_text() == "mine\n"


def test_resuming_goes_on_after_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for episode in EPISODES:
        with EpisodeWriter(path, resume=True) as writer:
            assert writer.torn is None
            writer.write(episode)
    assert [e for _, e in read(path)] == EPISODES


@pytest.mark.parametrize("kept", [0, 1, 3])
@pytest.mark.parametrize("cut", [1, 7, 300])
def test_a_torn_last_line_is_moved_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int, cut: int
) -> None:
    path = tmp_path / "episodes.jsonl"
    with EpisodeWriter(path) as writer:
        writer.write(*EPISODES[: kept + 1])
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)
    with EpisodeWriter(path, resume=True) as writer:
        assert writer.torn is not None
        assert path.read_bytes() + writer.torn.read_bytes() == whole[:-cut]
        writer.write(EPISODES[4])
    assert [e for _, e in read(path)] == [*EPISODES[:kept], EPISODES[4]]
    assert "moved to" in caplog.text


def test_a_second_torn_line_does_not_overwrite_the_first(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    sides = []
    for rest in ("first", "second" * 50_000):
        with path.open("a") as file:
            file.write(rest)
        with EpisodeWriter(path, resume=True) as writer:
            assert writer.torn is not None
            sides.append(writer.torn)
    assert [side.read_text() for side in sides] == ["first", "second" * 50_000]


def test_a_writer_killed_in_the_middle_loses_no_finished_episode(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    told = process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    finished = int(told[-1]) + 1 if told and told[-1].isdigit() else 5
    with EpisodeWriter(path, resume=True) as writer:
        writer.write(EPISODES[0])
    numbers = [text.split()[0] for text in texts(path)[:-1]]
    assert numbers == [str(n) for n in range(len(numbers))]
    assert len(numbers) >= finished >= 5


@pytest.mark.parametrize(
    ("name", "reason"), [("missing/episodes.jsonl", "No such file"), ("", "directory")]
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(OutputRefused, match=f"cannot write .*{reason}"):
        EpisodeWriter(tmp_path / name, resume=True)


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "episodes.jsonl")
    writer.close()
    writer.close()
    with pytest.raises(InvalidInput, match="has been closed"):
        writer.write(EPISODES[0])


@pytest.mark.parametrize("written", [0, 40])
def test_a_full_disk_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    path = tmp_path / "episodes.jsonl"
    writer = EpisodeWriter(path)
    writer.write(EPISODES[0])
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, line: real(file, line[:written]))
    with pytest.raises(OutputRefused, match=f"only {written} of"):
        writer.write(EPISODES[1])
    monkeypatch.undo()
    writer.write(EPISODES[2])
    writer.close()
    assert [e for _, e in read(path)] == [EPISODES[0], EPISODES[2]]


def broken(**changes: object) -> bytes:
    row = json.loads(EPISODES[0].model_dump_json()) | changes
    return json.dumps(row).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{nonsense\n", "Invalid JSON"),
        (b"\n", "Invalid JSON"),
        (b"\xff\xfe\n", "Invalid JSON"),
        (broken(format=2), "format: Input should be 1"),
        (broken(mood="good"), "mood: Extra inputs"),
        (broken(seed="x"), "seed: "),
        (broken(opening={"text": "a", "emotion": 101}), "opening.emotion: .* less than or equal"),
        (b'{"format": 1, "id": "', "cut short"),
    ],
)
def test_a_broken_line_is_named_by_line_and_reason(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "episodes.jsonl"
    good = EPISODES[0].model_dump_json().encode() + b"\n"
    path.write_bytes(good + line)
    rows = read(path)
    assert next(rows)[0] == 1
    with pytest.raises(RecordError, match=rf"episodes.jsonl:2: .*{reason}"):
        next(rows)


def test_scanning_goes_on_behind_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    good = EPISODES[0].model_dump_json().encode()
    path.write_bytes(good + b"\n{\n" + good)
    kinds = [(number, type(row).__name__) for number, row in scan(path)]
    assert kinds == [(1, "Episode"), (2, "RecordError"), (3, "Episode")]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*nothing.jsonl"):
        list(read(tmp_path / "nothing.jsonl"))
