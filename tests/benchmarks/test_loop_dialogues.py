"""The script of the loops' dialogues goes on where it was cut off and mixes no two runs."""

import json
import sys

import pytest

from benchmarks import loop_dialogues

FEW = ("--number", 2, "--samples", 2, "--judges", "form")


@pytest.fixture
def call(monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["loop_dialogues", *map(str, words)])
        loop_dialogues.main()

    return run


@pytest.fixture
def played(monkeypatch):
    """The arms that were played."""
    names, play = [], loop_dialogues._played

    def spy(loop, *args, **options):
        names.append(loop.label)
        return play(loop, *args, **options)

    monkeypatch.setattr(loop_dialogues, "_played", spy)
    return names


def test_what_a_file_holds_is_not_played_again_and_makes_up_the_same_whole(call, played, tmp_path):
    parts, whole = tmp_path / "parts.json", tmp_path / "whole.json"
    call("run", "mixed", "--out", parts, *FEW, "--arms", "neutral")
    call("run", "mixed", "--out", parts, *FEW, "--arms", "best-of-n", "neutral")
    assert played == ["single", "neutral", "best-of-n"]
    call("run", "mixed", "--out", whole, *FEW, "--arms", "neutral", "best-of-n")
    assert json.loads(parts.read_text()) == json.loads(whole.read_text())


def test_a_run_cut_off_while_it_writes_leaves_the_file_as_it_was(call, monkeypatch, tmp_path):
    path = tmp_path / "run.json"
    call("run", "mixed", "--out", path, *FEW, "--arms", "neutral")
    before = path.read_text()

    class Killed(BaseException):
        """Nobody catches it."""

    def killed(draft, place):
        assert json.loads(draft.read_text())
        raise Killed

    with monkeypatch.context() as during:
        during.setattr(loop_dialogues.os, "replace", killed)
        with pytest.raises(Killed):
            call("run", "mixed", "--out", path, *FEW, "--arms", "neutral", "demand")
    assert path.read_text() == before
    call("run", "mixed", "--out", path, *FEW, "--arms", "neutral", "demand")
    assert [row["arm"] for row in json.loads(path.read_text())] == ["single", "neutral", "demand"]


@pytest.mark.parametrize("other", [("--number", 3), ("--samples", 3), ("--seed", 1)])
def test_a_run_of_another_size_or_kind_is_refused(call, played, tmp_path, other):
    path = tmp_path / "run.json"
    call("run", "mixed", "--out", path, *FEW, "--arms", "neutral")
    with pytest.raises(SystemExit, match=r"run\.json holds .*'people': 2.*choose another file"):
        call("run", "mixed", "--out", path, *FEW, "--arms", "demand", *other)
    assert played == ["single", "neutral"]


def test_a_file_that_is_no_run_is_named(call, tmp_path):
    path = tmp_path / "run.json"
    path.write_text('[{"judge": "-", "ar')
    for words in (("run", "mixed", "--out", path, *FEW), ("table", path)):
        with pytest.raises(SystemExit, match="expected a file of a run"):
            call(*words)


def row(judge, arm, *finals):
    return {"judge": judge, "arm": arm, "finals": finals, "samples": 2.0, "assisted": False}


def test_the_table_compares_person_by_person_and_the_picture_shows_each_judge(
    call, capsys, tmp_path
):
    pytest.importorskip("matplotlib")
    path = tmp_path / "run.json"
    rows = [
        row("form", "neutral", 20, 40),
        row("-", "single", 10, 20),
        row("form", "heart", 50, 45),
    ]
    path.write_text(json.dumps(rows))
    call("table", path)
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith("| over neutral |")
    assert [line.split(" | ")[1] for line in lines] == ["single", "heart", "neutral"]
    assert lines[1].endswith("| +32.5 [25.0, 40.0] | +17.5 [5.0, 30.0] |")
    assert lines[2].endswith("| +15.0 [10.0, 20.0] |  |")
    call("table", path, "--control", "heart")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("| over heart |")
    assert lines[4].endswith("| -17.5 [-30.0, -5.0] |")
    call("plot", path, "--out", tmp_path / "run.svg")
    drawn = (tmp_path / "run.svg").read_text("utf-8")
    assert ">form<" in drawn and ">heart<" in drawn
