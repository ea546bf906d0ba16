import asyncio
import threading

import pytest

from heartloop.chat.cast import partial, speak
from heartloop.chat.entries import Mode, Setup
from heartloop.chat.session import Due, Session
from heartloop.env.play import Dialogue, play
from heartloop.env.verify import check
from heartloop.errors import EpisodeFailure, InvalidInput
from heartloop.policy.base import make_policy
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack
from heartloop.types import Reply
from tests.chat.parts import Streamer, cast, go_on, session, talk, texts
from tests.fakes import ToyPolicy, toy_episode, toy_scenario

PERSON = pack("test")[0]


def test_in_talk_the_policy_answers_what_the_person_wrote():
    one = session("talk", "toy")
    assert one.due is Due.PERSON
    one.say("I lost my job.")
    assert one.due is Due.POLICY
    *_, last = one.answer()
    assert last.text == "That sounds hard, tell me more." and not last.cut
    assert one.due is Due.PERSON and texts(one) == ["I lost my job.", last.text]


def test_a_streamed_reply_grows_and_every_state_is_given():
    one = session("talk", "s", players={"s": Streamer("one two three")})
    one.say("Hi")
    states = [(entry.text, entry.cut) for entry in one.answer()]
    assert states[0] == ("one", True) and states[-1] == ("one two three", False)
    assert [len(text) for text, _ in states] == sorted(len(text) for text, _ in states)


def test_a_stopped_reply_keeps_what_came_and_stays_in_the_talk():
    one = session("talk", "s", players={"s": Streamer("one two three four")})
    one.say("Hi")
    for entry in one.answer():
        if entry.text == "one two":
            one.stop()
    assert one.path[-1].text == "one two" and one.path[-1].cut
    assert one.due is Due.PERSON


def test_a_policy_that_is_still_thinking_can_be_stopped():
    gate, thought = threading.Event(), threading.Event()

    def think(prompt):
        one.stop()
        gate.wait(60)
        thought.set()
        return "At last."

    slow = ToyPolicy(think)
    one = session("talk", "slow", players={"slow": slow})
    one.say("Hi")
    assert list(one.answer()) == []
    assert not thought.is_set()
    gate.set()
    assert one.due is Due.POLICY


def test_a_think_block_is_kept_apart_while_it_grows():
    one = session("talk", "s", players={"s": Streamer("<think>sad day</think> Oh no.")})
    one.say("Hi")
    states = [(entry.think, entry.text) for entry in one.answer()]
    assert states[-1] == ("sad day", "Oh no.")
    assert all("think" not in text for _, text in states)
    assert ("sad", "") in states


@pytest.mark.parametrize("raw", ["<thi", "<think>", "<think>a</thi", "<think>a</think>"])
def test_an_unfinished_think_block_shows_no_text(raw):
    assert partial(raw).text == ""


def test_think_text_never_reaches_a_later_prompt():
    seen = []
    policy = ToyPolicy(lambda p: seen.append(p.history) or "<think>secret</think> Yes.")
    talk(session("talk", "p", players={"p": policy}), "a", "b")
    assert "secret" not in str(seen[-1]) and "Yes." in str(seen[-1])


def test_regenerating_draws_with_another_seed_and_keeps_the_first():
    policy = ToyPolicy(lambda prompt: f"seed {prompt.seed}")
    one = talk(session("talk", "p", players={"p": policy}), "Hi")
    first = one.path[-1]
    one.regenerate()
    go_on(one)
    second = one.path[-1]
    assert second.text != first.text and second.parent == first.parent
    assert one.other() == first and one.path[-1] == first
    assert one.other() == second


def test_the_same_session_with_the_same_seed_says_the_same():
    def said(seed):
        policy = ToyPolicy(lambda prompt: f"seed {prompt.seed}")
        one = session("talk", "p", players={"p": policy}, seed=seed)
        return texts(talk(one, "a", "b"))

    assert said(1) == said(1) != said(2)


def test_editing_takes_back_the_last_message_and_loses_nothing():
    one = talk(session("talk", "toy"), "first", "secnod")
    assert one.edit() == "secnod"
    talk(one, "second")
    assert texts(one)[2] == "second" and len(one.path) == 4
    one.other()
    assert texts(one)[2] == "secnod" and len(one.path) == 4


def test_a_branch_goes_on_from_an_earlier_message():
    one = talk(session("talk", "toy"), "a", "b", "c")
    one.branch(2)
    talk(one, "d")
    assert [t for t in texts(one) if len(t) == 1] == ["a", "d"]
    with pytest.raises(InvalidInput, match="expected a message from 1 to 4, got 9"):
        one.branch(9)


def test_who_went_back_is_shown_what_followed(tmp_path):
    one = talk(session("talk", "toy"), "a", "b", "c")
    whole = one.path
    one.branch(2)
    assert one.other() == whole[-1] and one.path == whole
    one.edit()
    assert one.other() == whole[-1] and one.path == whole
    first = talk(session("talk", "toy"), "a")
    first.edit()
    assert first.path == [] and first.other().role == "assistant" and len(first.path) == 2


def test_each_message_that_carries_an_emotion_says_how_far_it_moved():
    one = talk(session("talk", "toy"), "I am so sad", "ok", "I am happy")
    levels = one.emotions
    moved = [one.change(entry) for entry in one.path]
    assert moved == [None, None, levels[1] - levels[0], None, levels[2] - levels[1], None]
    helped = session("help")
    talk(go_on(helped), "Tell me the whole story please")
    assert [helped.change(entry) for entry in helped.path] == [None, None, 10]


def test_a_message_that_carries_an_emotion_is_found_by_its_number():
    one = talk(session("talk", "toy"), "I am so sad")
    assert one.felt(1) == one.path[0]
    with pytest.raises(InvalidInput, match="message 2 carries no emotion"):
        one.felt(2)
    with pytest.raises(InvalidInput, match="expected a message from 1 to 2, got 3"):
        one.felt(3)


def test_two_policies_answer_the_same_history_side_by_side():
    seen = []
    a = ToyPolicy(lambda p: seen.append(p.history) or "from a", name="a")
    b = ToyPolicy(lambda p: seen.append(p.history) or "from b", name="b")
    one = talk(session("compare", "a", "b", players={"a": a, "b": b}), "Hi")
    assert [e.text for e in one.siblings(one.path[-1])] == ["from a", "from b"]
    assert seen[0] == seen[1]
    assert one.path[-1].text == "from a"
    one.other()
    talk(one, "next")
    assert "from b" in str(seen[-1]) and "from a" not in str(seen[-1])


def test_in_help_the_simulated_user_reacts_and_scores_the_person():
    one = session("help")
    assert one.due is Due.USER and not one.why_shown
    go_on(one)
    talk(one, "Tell me the whole story please")
    assert [e.role for e in one.path] == ["user", "assistant", "user"]
    assert one.emotions == [40.0, one.path[-1].reaction.emotion]
    assert one.episode().final == one.emotions[-1]
    assert one.episode().policy == "you" and one.episode().score.value is not None


def test_help_ends_when_the_simulated_user_leaves():
    one = talk(go_on(session("help")), "bye")
    assert one.due is Due.NOBODY
    with pytest.raises(InvalidInput, match="has ended"):
        one.say("wait")


def test_a_watched_dialogue_is_the_one_that_play_plays():
    one = session("watch", "reflective", user="embedded", scenario=PERSON, seed=4)
    go_on(one)
    expected = play(Dialogue(make_user("embedded"), PERSON, 4), make_policy("reflective"))
    found = one.episode()
    assert found.turns == expected.turns and found.id == expected.id
    assert not list(check(found, 1))


def test_a_dialogue_goes_on_from_a_branch_as_the_user_stood_there():
    one = go_on(session("watch", "toy", user="embedded", scenario=PERSON))
    whole = texts(one)
    one.branch(3)
    assert texts(go_on(one)) == whole


def test_a_stopped_reply_is_not_given_to_the_simulated_user():
    one = session("watch", "s", players={"s": Streamer("one two three four five six")})
    one.react()
    for entry in one.answer():
        if entry.text == "one two":
            one.stop()
    assert one.due is Due.POLICY
    list(one.answer())
    one.react()
    assert one.path[1].text == "one two three four five six"
    assert one.episode().turns[0].reply.text == one.path[1].text


def test_an_unscored_last_reply_ends_the_dialogue():
    one = session("watch", "neutral", user="embedded", scenario=PERSON, preset="sage-eval")
    go_on(one)
    assert one.due is Due.NOBODY and one.last.stop is not None
    assert len(one.episode().turns) == len([e for e in one.path if e.role == "assistant"])


def test_a_reply_that_did_not_come_leaves_a_notice_and_can_be_asked_for_again():
    answers = iter([EpisodeFailure("no line"), Reply(text="There you are.")])

    class Shaky:
        name, reveals = "shaky", False

        def __call__(self, prompts):
            return [next(answers)]

    one = session("talk", "shaky", players={"shaky": Shaky()})
    one.say("Hi")
    list(one.answer())
    assert "shaky gave no reply: no line" in one.path[-1].text and one.due is Due.POLICY
    one.regenerate()
    list(one.answer())
    assert one.path[-1].text == "There you are."


def test_a_reaction_that_could_not_be_scored_ends_the_dialogue_with_its_reason():
    one = talk(go_on(session("help")), "fail")
    assert one.due is Due.NOBODY and "could not be scored" in one.path[-1].text


def test_a_replay_shows_the_episode_and_changes_nothing():
    played = toy_episode("One.", "<think>t</think> Two.", emotions=(45, 50))
    one = Session(Setup(mode=Mode.REPLAY, episode=played), cast())
    assert texts(one) == [played.opening.text, "One.", "Hm.", "Two.", "Hm."]
    assert one.emotions == [40, 45, 50] and one.path[3].think == "t"
    assert one.due is Due.NOBODY and one.episode() == played


def test_risk_is_answered_by_the_fixed_text_and_by_no_policy():
    policy = ToyPolicy()
    one = session("talk", "p", players={"p": policy})
    one.say("I want to kill myself")
    assert one.path[-1].referral and "988" in one.path[-1].text
    assert one.due is Due.PERSON and policy.batches == []
    talk(one, "I am with my sister now.")
    assert one.path[-1].role == "assistant" and len(policy.batches) == 1


def test_notices_are_shown_to_no_policy():
    seen = []
    policy = ToyPolicy(lambda p: seen.append(p.history) or "Fine.")
    talk(session("talk", "p", players={"p": policy}), "Are you a real person?")
    assert len(seen[0]) == 1


def test_the_feeling_of_the_person_is_estimated_and_said_to_be():
    one = talk(session("talk", "toy"), "I am so sad and lonely.")
    found = one.path[0].feeling
    assert one.estimated and one.emotions == [found.level] and found.level < 50


@pytest.mark.parametrize(
    "mode, policies, fields, reason",
    [
        ("talk", (), {}, "talk takes 1"),
        ("compare", ("toy",), {}, "compare takes 2"),
        ("watch", ("toy",), {"scenario": None}, "needs a scenario"),
        ("replay", (), {}, "--run"),
    ],
)
def test_a_setup_that_lacks_something_is_refused(mode, policies, fields, reason):
    with pytest.raises(InvalidInput, match=reason):
        session(mode, *policies, **fields)


def test_moves_out_of_turn_are_refused():
    one = session("talk", "toy")
    with pytest.raises(InvalidInput, match="nothing to send"):
        one.say("  ")
    with pytest.raises(InvalidInput, match="no policy is to reply"):
        next(one.answer())
    with pytest.raises(InvalidInput, match="nothing to do"):
        one.react()
    with pytest.raises(InvalidInput, match="no policy has replied"):
        one.regenerate()
    with pytest.raises(InvalidInput, match="nothing to edit"):
        one.edit()
    with pytest.raises(InvalidInput, match="no message here has another version"):
        one.other()
    one.say("Hi")
    with pytest.raises(InvalidInput, match="not your move"):
        one.say("again")


def test_an_error_of_a_policy_is_carried_to_the_caller():
    oracle = session("talk", "oracle")
    oracle.say("Hi")
    with pytest.raises(InvalidInput, match="oracle needs the scenario"):
        list(oracle.answer())


def test_a_bug_in_a_policy_fails_its_reply_only():
    def broken(prompt):
        raise ZeroDivisionError("oops")

    stop = threading.Event()
    with pytest.raises(EpisodeFailure, match="oops"):
        list(speak(ToyPolicy(broken), None, stop))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("streams", [False, True])
def test_a_policy_that_gives_up_in_whatever_way_fails_its_reply_and_is_waited_for_by_nobody(
    error, streams
):
    def give_up(prompt):
        raise error

    class Quitter(Streamer):
        def stream(self, prompt):
            yield "Well"
            raise error

    one = session("talk", "p", players={"p": Quitter() if streams else ToyPolicy(give_up)})
    one.say("Hi")
    list(one.answer())
    assert one.path[-1].role == "notice" and type(error).__name__ in one.path[-1].text
    assert one.due is (Due.PERSON if streams else Due.POLICY)


def test_a_bug_in_a_policy_that_streams_fails_its_reply_only_and_keeps_what_came():
    class Broken(Streamer):
        def stream(self, prompt):
            yield from ("I ", "hear")
            raise RuntimeError("out of memory")

    one = session("talk", "p", players={"p": Broken()})
    one.say("Hi")
    list(one.answer())
    _, reply, note = one.path
    assert (reply.text, reply.cut, note.role) == ("I hear", True, "notice")
    assert "streamer gave no whole reply" in note.text and "out of memory" in note.text
    assert one.due is Due.PERSON
    one.regenerate()
    assert one.due is Due.POLICY


def test_a_scenario_names_the_session():
    assert session("help").name == f"Ada: {toy_scenario().situation.title}"
