"""Checks of the audit: what is true passes, what was changed is named."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from heartloop.env.play import LocalWorld, Prompt, Task, play_many
from heartloop.env.record import EpisodeWriter
from heartloop.env.verify import Mismatch, check, verify
from heartloop.errors import EndpointFailure, EpisodeFailure, InvalidInput, MissingExtra
from heartloop.llm.base import Completion, Decoding, TokenLogprob
from heartloop.rewards import reward
from heartloop.simusers.dynamics import preset
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.registry import make_user
from heartloop.simusers.sage import SageUser
from heartloop.types import Episode, Score
from tests.fakes import ToyPolicy, toy_scenario
from tests.simusers.scripted import Scripted, usual

Row = dict[str, Any]
LINES = (
    "You lost the keys, that sounds exhausting.",
    "<think>ask</think>What did your landlord say?",
    "You should calm down.",
    "",
)


def generous(episode: Episode) -> float:
    """A reward of the user's own."""
    return 1.0


def various(prompt: Prompt) -> str:
    return LINES[prompt.seed % len(LINES)]


def record(path: Path, rules: str = "default", spec: str = "final+0.1*length+format") -> Path:
    tasks = [Task(toy_scenario(f"toy-{n}"), seed=n) for n in range(5)]
    world = LocalWorld(lambda: EmbeddedUser(preset(rules)))
    with EpisodeWriter(path) as writer:
        writer.write(*play_many(world, ToyPolicy(various), tasks, reward(spec)))
    return path


def tamper(path: Path, line: int, change: Callable[[Row], object]) -> list[Mismatch]:
    """Change one line of a file and verify it."""
    rows = path.read_text().split("\n")
    row = json.loads(rows[line - 1])
    change(row)
    rows[line - 1] = json.dumps(row)
    path.write_text("\n".join(rows))
    return verify(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return record(tmp_path / "episodes.jsonl")


@pytest.mark.parametrize("rules", ["default", "sage-eval", "rlver-train"])
@pytest.mark.parametrize("spec", ["final", "change", "gain+format", "trough+language+repetition"])
def test_everything_that_was_really_played_verifies(tmp_path: Path, rules: str, spec: str) -> None:
    assert verify(record(tmp_path / "episodes.jsonl", rules, spec)) == []


def test_one_changed_digit_of_one_emotion_is_named_by_line_and_field(path: Path) -> None:
    def change(row: Row) -> None:
        row["turns"][2]["reaction"]["emotion"] = round(
            row["turns"][2]["reaction"]["emotion"] + 0.01, 2
        )

    (found,) = tamper(path, 3, change)
    assert (found.line, found.field, found.kind) == (3, "turns.2.reaction.emotion", "value")
    assert found.recorded == pytest.approx(found.recomputed + 0.01)
    assert str(found).startswith("line 3, turns.2.reaction.emotion: recorded ")


def put(*steps: str | int, value: object) -> Callable[[Row], None]:
    """Set the value at a path."""

    def change(row: Any) -> None:
        for step in steps[:-1]:
            row = row[step]
        row[steps[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (put("opening", "text", value="Hello."), "opening.text"),
        (put("opening", "emotion", value=41), "opening.emotion"),
        (put("turns", 0, "reaction", "text", value="Hello."), "turns.0.reaction.text"),
        (put("turns", 0, "reaction", "change", value=9.99), "turns.0.reaction.change"),
        (put("turns", 1, "reaction", "farewell", value=True), "turns.1.reaction.farewell"),
        (put("turns", 1, "reaction", "record", value={"a": 1}), "turns.1.reaction.record.a"),
        (
            put("turns", 1, "reaction", "appraisal", "beliefs", "served", value=0.123),
            "turns.1.reaction.appraisal.beliefs.served",
        ),
        (put("turns", 1, "reaction", value=None), "turns.1.reaction"),
        (put("stop", value="success"), "stop"),
        (put("stop", value=None), "stop"),
        (put("stop", value="error"), "stop"),
        (put("error", value="made up"), "error"),
        (put("score", "value", value=0.99), "score.value"),
        (put("score", "parts", "length", value=0.5), "score.parts.length"),
        (put("score", value=None), "score"),
        (put("reward", value="trough"), "score.value"),
        (put("reward", value=""), "score"),
        (put("seed", value=77), "id"),
        (put("policy", value="another"), "id"),
        (put("id", value="0123456789abcdef"), "id"),
        (put("turns", 0, "reply", "text", value="I love you!"), "id"),
        (put("preset", value="rlver-train"), "opening.emotion"),
        (lambda row: row["turns"].pop(), "stop"),
        (lambda row: row["turns"].insert(1, row["turns"][0]), "turns.1.reaction.text"),
    ],
)
def test_whatever_is_changed_is_named(
    path: Path, change: Callable[[Row], object], field: str
) -> None:
    found = tamper(path, 2, change)
    assert {mismatch.line for mismatch in found} == {2}
    assert field in [mismatch.field for mismatch in found]


def test_contributions_that_do_not_add_up_are_named(path: Path) -> None:
    def change(row: Row) -> None:
        row["user"] = "embedded/0.0+lexical/0"
        row["turns"][0]["reaction"]["appraisal"]["contributions"]["burden"] += 1

    fields = [m.field for m in tamper(path, 1, change)]
    assert "turns.0.reaction.appraisal.contributions (their sum)" in fields


def test_another_version_is_a_mismatch_of_its_own_kind(path: Path) -> None:
    def change(row: Row) -> None:
        row["user"] = "embedded/0.9+lexical/1"

    version = [m for m in tamper(path, 4, change) if m.kind == "version"]
    assert [m.why for m in version] == [
        f"scored by embedded/0.9+lexical/1, this is {EmbeddedUser().id}"
    ]
    assert (version[0].line, version[0].field) == (4, "user")


def test_the_arithmetic_of_another_version_is_still_checked(path: Path) -> None:
    def change(row: Row) -> None:
        row["user"] = "embedded/0.9+lexical/1"
        row["turns"][1]["reaction"]["emotion"] = 99.5
        row["stop"] = "success"

    fields = {m.field for m in tamper(path, 1, change) if m.kind == "value"}
    assert {"turns.1.reaction.emotion", "stop"} <= fields


def test_replies_after_the_end_are_named(path: Path) -> None:
    def change(row: Row) -> None:
        row["turns"].append(row["turns"][-1])

    last = len(json.loads(path.read_text().split("\n")[0])["turns"])
    fields = [m.field for m in tamper(path, 1, change)]
    assert f"turns.{last}" in fields


def test_the_emotions_of_an_honest_other_version_pass(path: Path) -> None:
    def change(row: Row) -> None:
        row["user"] = "embedded/0.9+lexical/1"

    assert {m.field for m in tamper(path, 1, change)} == {"user", "id"}


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        (put("user", value="nobody/1"), "user", "expected the id of a simulated user"),
        (put("preset", value="lenient"), "preset", "no preset called 'lenient'"),
        (put("reward", value="bonus"), "reward", "no reward called 'bonus'"),
        (put("reward", value="os:getcwd"), "reward", "not allowed here"),
        (put("scenario", "language", value="zh"), "user", "embedded users speak English"),
    ],
)
def test_what_cannot_be_recomputed_is_said(
    path: Path, change: Callable[[Row], object], field: str, why: str
) -> None:
    found = [m for m in tamper(path, 5, change) if m.kind == "unverifiable"]
    assert [m.field for m in found] == [field]
    assert why in str(found[0])


def test_functions_named_in_a_file_run_only_when_allowed(tmp_path: Path) -> None:
    path = record(tmp_path / "episodes.jsonl", spec=f"{__name__}:generous")
    assert {m.kind for m in verify(path)} == {"unverifiable"}
    assert verify(path, functions=True) == []


def test_a_broken_line_is_a_mismatch_and_the_others_are_still_checked(path: Path) -> None:
    rows = path.read_text().split("\n")
    path.write_text("\n".join([rows[0], rows[1][:-50], *rows[2:]]))
    found = tamper(path, 4, put("stop", value="success"))
    assert [(m.line, m.kind) for m in found] == [(2, "broken"), (4, "value")]


def test_a_failed_episode_verifies_up_to_its_error(tmp_path: Path) -> None:
    class Fragile(EmbeddedUser):
        def react(self, history: Any) -> Any:
            if len(history) > 5:
                raise EpisodeFailure("endpoint gone")
            return super().react(history)

    path = tmp_path / "episodes.jsonl"
    tasks = [Task(toy_scenario(), 1)]
    (episode,) = play_many(LocalWorld(Fragile), ToyPolicy(various), tasks, reward("final"))
    assert episode.score == Score(value=None, why="the dialogue failed: endpoint gone")
    with EpisodeWriter(path) as writer:
        writer.write(episode)
    assert verify(path) == []
    fields = [m.field for m in tamper(path, 1, put("score", "value", value=0.5))]
    assert fields == ["score.value"]
    found = tamper(path, 1, put("turns", 0, "reaction", "emotion", value=80))
    assert "turns.0.reaction.emotion" in [m.field for m in found]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        verify(tmp_path / "nothing.jsonl")


def test_a_user_is_made_by_name_or_by_any_version_of_its_id() -> None:
    for name in ("embedded", EmbeddedUser().id, "embedded/0+lexical/9"):
        user = make_user(name, "sage-eval")
        assert (user.id, user.preset.name) == (EmbeddedUser().id, "sage-eval")
    with pytest.raises(InvalidInput, match="did you mean 'embedded'"):
        make_user("embeded")


def once_unreadable(purpose: str, block: dict[str, str], decoding: Decoding) -> Any:
    """Cannot be read at first; the appraisal brings its tokens along."""
    if decoding.temperature == 0:
        return "Hm?"
    if purpose != "appraise":
        return usual(purpose, block, decoding)
    pieces = ('{"analysis": "so so", "change":', " 4", "}")
    tokens = tuple(TokenLogprob(token=p, logprob=-0.1, top={p: -0.1, " 7": -2}) for p in pieces)
    return Completion(text="".join(pieces), model="scripted", logprobs=tokens)


def sage_row() -> str:
    user = SageUser(Scripted(once_unreadable), preset("default"), samples=2, expected=True)
    tasks = [Task(toy_scenario(opener=""), 3)]
    policy = ToyPolicy(lambda prompt: f"Go on, {len(prompt.history)}.")
    (episode,) = play_many(LocalWorld(lambda: user), policy, tasks, reward("final"))
    assert list(check(episode)) == []
    return episode.model_dump_json()


def embedded_row() -> str:
    tasks, policy = [Task(toy_scenario(), 1)], ToyPolicy(various)
    (episode,) = play_many(LocalWorld(EmbeddedUser), policy, tasks, reward("final+0.1*length"))
    return episode.model_dump_json()


ROWS = (sage_row(), embedded_row())
SAGE_ID = json.loads(ROWS[0])["user"]
VALUES = (
    None, 5, -1, 0, 10**30, 1.5, math.nan, math.inf, True, "", "x", "1", [], [1], ["x"], {},
    {"calls": ["x"]}, [None], [[]], "length", "turn", "open", "zh", "embedded", "sage:vllm:x",
    SAGE_ID.replace("+", ",temperature=-1+", 1), SAGE_ID.replace("samples=2", "samples=0"),
    SAGE_ID.replace("samples=2", "samples=1000000000"), SAGE_ID.replace("2", "3"),
    SAGE_ID.replace("evaluator", "single"), "1e999*final", "sage-eval", "rlver-train",
)  # fmt: skip
PARTS = ("raw", "calls", "seed", "user", "logprobs", "finish", "style", "samples", "record")


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value, as what holds it and its key there."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    found: list[tuple[Any, Any]] = []
    for key, value in pairs:
        found.append((node, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


def mutate(row: Any, draw: random.Random) -> None:
    """Replace or remove one value of a record, those that steer its audit more often."""
    every = places(row)
    steering = [place for place in every if place[1] in PARTS]
    holder, key = draw.choice(draw.choice((every, steering)))
    if isinstance(holder, dict) and draw.random() < 0.2:
        del holder[key]
    else:
        holder[key] = draw.choice(VALUES)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(ROWS), st.integers(1, 3), st.integers(0, 2**32))
def test_no_record_breaks_the_audit(text: str, times: int, seed: int) -> None:
    row, draw = json.loads(text), random.Random(seed)
    for _ in range(times):
        mutate(row, draw)
    try:
        episode = Episode.model_validate_json(json.dumps(row))
    except ValidationError:
        return
    assert all(str(found) for found in check(episode))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda calls: calls[0].pop("raw"), "calls.0.raw: Field required"),
        (put(0, value="x"), "calls.0: Input should be"),
        (put(0, value=None), "calls.0: Input should be"),
        (put(0, "seed", value=[1]), "calls.0.seed: Input should be a valid integer"),
        (put(0, "prompt_tokens", value="many"), "calls.0.prompt_tokens: Input should be"),
        (put(0, "prompt_tokens", value=-1), "calls.prompt_tokens: Input should be"),
        (put(0, "raw", value=5), "calls.0.raw: Input should be a valid string"),
    ],
)
def test_a_malformed_call_is_named_and_the_arithmetic_still_checked(
    change: Callable[[Row], object], why: str
) -> None:
    row = json.loads(ROWS[0])
    change(row["turns"][1]["reaction"]["record"]["calls"])
    row["turns"][2]["reaction"]["emotion"] = 99.5
    found = list(check(Episode.model_validate(row)))
    assert [why in m.why for m in found if m.kind == "unverifiable"] == [True]
    assert "turns.2.reaction.emotion" in [m.field for m in found]


@pytest.mark.parametrize("error", [MissingExtra("no extra"), EndpointFailure("gone")])
def test_a_user_that_cannot_play_here_ends_no_audit(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def unable(*_: object) -> Any:
        raise error

    monkeypatch.setattr("heartloop.env.verify.reader_of", unable)
    found = verify(path)
    assert {(m.field, m.kind) for m in found} == {("user", "unverifiable")}
    assert [m.line for m in found] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("setting", ["temperature=-1", "temperature=nan", "samples=0"])
def test_an_impossible_user_is_said_to_be_one(setting: str) -> None:
    row = json.loads(ROWS[0])
    row["user"] = f"sage/1.1:evaluator,{setting}+scripted/1"
    (found,) = [m for m in check(Episode.model_validate(row)) if m.field == "user"]
    assert found.kind == "unverifiable"
    assert "or more" in found.why
