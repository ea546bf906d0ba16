"""Checks of users by name and by id."""

import pytest

from heartloop.env.play import Dialogue, LocalWorld, Task, play_many
from heartloop.env.verify import check
from heartloop.errors import InvalidInput, UnknownName
from heartloop.llm import Completion, TokenLogprob
from heartloop.simusers import dynamics
from heartloop.simusers.recorded import RecordedUser
from heartloop.simusers.registry import AT_ONCE, STYLES, at_once, make_user, reader_of
from heartloop.simusers.sage import SageUser
from heartloop.types import Episode, Reply, StopReason
from tests.fakes import ToyPolicy, ToyUser, toy_episode, toy_scenario
from tests.simusers.scripted import Scripted, usual

URL = "openai:judge@http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("spec", "style"),
    [("sage", "evaluator"), ("sage-trainer", "trainer"), ("sage-single", "single")],
)
def test_a_model_plays_users_in_three_styles(spec, style):
    user = make_user(f"{spec}:{URL}", "sage-eval")
    assert isinstance(user, SageUser)
    assert f":{style}+openai:judge@http://127.0.0.1:9/v1" in user.id
    assert user.preset.name == "sage-eval"
    assert at_once(f"{spec}:{URL}") == AT_ONCE


def test_an_id_makes_the_same_user_again():
    user = make_user(f"sage,samples=3,temperature=0.7,language=en:{URL}?concurrency=4")
    assert "samples=3" in user.id
    assert "concurrency" not in user.id
    assert make_user(user.id).id == user.id


def test_the_embedded_user_waits_for_nobody():
    assert at_once("embedded") == at_once(make_user("embedded").id) == 1


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("sagee:x", UnknownName, "did you mean 'sage'"),
        ("sage", InvalidInput, "needs a model"),
        ("sage:", InvalidInput, "needs a model"),
        (f"sage,sample=3:{URL}", UnknownName, "did you mean 'samples'"),
        (f"sage,samples=three:{URL}", InvalidInput, "samples=three"),
        (f"sage,expected=maybe:{URL}", InvalidInput, "expected=maybe"),
        (f"sage,samples=3,samples=4:{URL}", InvalidInput, "'samples=4' is given twice"),
        (f"sage,temperature=-1:{URL}", InvalidInput, "temperature of 0 or more, got -1.0"),
        (f"sage,temperature=nan:{URL}", InvalidInput, "temperature of 0 or more, got nan"),
        ("sage:openia:x@http://a/v1", UnknownName, "openai"),
        ("sage:openai:x", InvalidInput, "openai:MODEL@BASE_URL"),
    ],
)
def test_a_wrong_spec_is_named(spec, error, words):
    with pytest.raises(error, match=words.replace("?", r"\?")):
        make_user(spec)


def sage_episode(style="evaluator"):
    user = SageUser(Scripted(), dynamics.preset("default"), style)
    dialogue = Dialogue(user, toy_scenario(), 3)
    while dialogue.stop is None:
        dialogue.step(Reply(text=f"So the keys are gone, number {len(dialogue.turns)}."))
    return dialogue.episode("toy-policy")


@pytest.mark.parametrize("style", ["evaluator", "trainer", "single"])
def test_an_episode_of_a_model_is_recomputed_from_its_raw_answers(style):
    episode = sage_episode(style)
    assert len(episode.turns) > 1
    assert list(check(episode)) == []
    assert reader_of(episode, dynamics.preset("default")).id == episode.user


def test_a_mean_over_token_probabilities_is_recomputed_too():
    def script(purpose, block, decoding):
        if purpose != "appraise":
            return usual(purpose, block, decoding)
        text = '{"completion": "half", "analysis": "so so", "change": 4}'
        pieces = [text[: text.index(": 4") + 1], " 4", "}"]
        tops = {" 4": {" 4": -0.1, " 7": -2.0}}
        tokens = [TokenLogprob(token=p, logprob=-0.1, top=tops.get(p, {})) for p in pieces]
        return Completion(text=text, model="scripted", logprobs=tuple(tokens))

    user = SageUser(Scripted(script), dynamics.preset("default"), expected=True)
    dialogue = Dialogue(user, toy_scenario(), 3)
    dialogue.step(Reply(text="I hear you."))
    change = dialogue.turns[0].reaction.change
    assert 4 < change < 7
    assert list(check(dialogue.episode("toy-policy"))) == []


@pytest.mark.parametrize(
    "user", ["sage:vllm:x", "sage:hf:x", f"sage:{URL}", "embedded", "nobody/1", ""]
)
def test_the_user_of_a_record_is_an_id_and_never_a_model_to_load(user, monkeypatch):
    monkeypatch.setattr("heartloop.llm.make_model", lambda spec: pytest.fail(f"loads {spec}"))
    episode = sage_episode().model_copy(update={"user": user})
    with pytest.raises(InvalidInput, match="expected the id of a simulated user"):
        reader_of(episode, dynamics.preset("default"))


@pytest.mark.parametrize("style", STYLES.values())
def test_a_record_without_readable_calls_is_refused(style):
    record = sage_episode(style).model_dump(mode="json")
    for calls in (["x"], None, 5, [{}], [record["opening"]], {"a": 1}):
        record["turns"][0]["reaction"]["record"]["calls"] = calls
        with pytest.raises(InvalidInput, match="expected the calls of a SAGE user, calls"):
            reader_of(Episode.model_validate(record), dynamics.preset("default"))


def changed(episode, path, value):
    """The episode with one leaf of its record changed."""
    record = episode.model_dump(mode="json")
    *steps, last = path
    place = record
    for step in steps:
        place = place[step]
    place[last] = value
    return type(episode).model_validate(record)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("turns", 1, "reaction", "emotion"), 99.0),
        (("turns", 1, "reaction", "change"), 9.0),
        (("turns", 1, "reaction", "text"), "I feel wonderful."),
        (("turns", 1, "reaction", "record", "calls", 0, "prompt_sha256"), "0" * 64),
        (("turns", 0, "reply", "text"), "You are right about everything."),
        (("scenario", "felt"), "joy"),
    ],
)
def test_one_changed_leaf_is_found(path, value):
    assert list(check(changed(sage_episode(), path, value)))


def test_a_recorded_user_says_again_what_it_said():
    (episode,) = play_many(LocalWorld(ToyUser), ToyPolicy(), [Task(toy_scenario(), 5)])
    again = Dialogue(RecordedUser(episode), episode.scenario, episode.seed)
    for turn in episode.turns:
        assert again.step(turn.reply).reaction == turn.reaction
    assert again.stop == episode.stop


def test_a_recorded_user_knows_no_other_reply():
    episode = toy_episode("I hear you.", "Go on.", emotions=(44, 50))
    again = Dialogue(RecordedUser(episode), episode.scenario, episode.seed)
    again.step(Reply(text="Never mind."))
    assert again.stop is StopReason.ERROR
    assert "was recorded with the reply 'I hear you.'" in again.error


def test_a_recorded_user_goes_back_to_a_snapshot():
    episode = toy_episode("I hear you.", "Go on.", emotions=(44, 50))
    user = RecordedUser(episode)
    user.open(episode.scenario, episode.seed)
    state = user.snapshot()
    first = user.react(episode.history[:2])
    user.restore(state)
    assert user.react(episode.history[:2]) == first


def test_a_recorded_user_plays_no_other_scenario():
    user = RecordedUser(toy_episode("I hear you."))
    with pytest.raises(InvalidInput, match="the recorded episode is of"):
        user.open(toy_scenario("other"), 1)
