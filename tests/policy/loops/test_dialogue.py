"""Checks of loops in dialogues: rehearsal, fresh scoring, and nothing of a cue outside."""

import json
import pickle
from itertools import count

import pytest

from heartloop.env.play import Dialogue, LocalWorld, Task, play_many
from heartloop.errors import EpisodeFailure, InvalidInput
from heartloop.policy import scripted
from heartloop.policy.loops import Budget, judges, make_loop
from heartloop.policy.loops.coaches import AGAIN
from heartloop.policy.loops.cues import EKMAN, bank, leaked
from heartloop.policy.loops.dialogue import companion, talk, talk_many
from heartloop.policy.loops.judges import StandIn, Visible
from heartloop.rewards import reward
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.scenario import pack
from heartloop.types import Message, Reply, StopReason
from tests.fakes import ToyUser, toy_scenario
from tests.policy.loops.fakes import Drafter, Guesser, ask
from tests.policy.loops.test_loop import timeless

CUES = bank().cues(*EKMAN, "neutral", "demand", "random")


def words(prompt, seen):
    """One to six words, by the seed."""
    return " ".join(["word"] * (1 + prompt.seed % 6))


def dialogue(make_user=ToyUser, scenario=None, seed=1):
    return Dialogue(make_user(), scenario or toy_scenario(), seed, make_user)


def heart(policy, **options):
    return make_loop("heart", policy, selector="best_reward", dialogue=True,
                     judge=Visible(reward("length")), **options)  # fmt: skip


def test_the_draft_that_a_fork_likes_best_is_said_and_scored_afresh():
    loop = heart(Drafter(words), budget=Budget(samples=4))
    episode, traces = talk(dialogue(), loop)
    assert len(traces) == len(episode.turns) > 1
    for turn, trace in zip(episode.turns, traces, strict=True):
        assert turn.reply == trace.reply
        rehearsed = [a.score.value for a in trace.attempts]
        assert trace.attempts[trace.chosen].score.value == max(rehearsed)
        assert trace.report.value == turn.reaction.emotion / 100
        assert trace.oracle_assisted
    assert episode.policy == "heart(drafter)"


def test_rehearsing_leaves_the_dialogue_as_it_would_have_been():
    episode, _ = talk(dialogue(), heart(Drafter(words)))
    other = dialogue()
    for turn in episode.turns:
        assert other.step(turn.reply) == turn


@pytest.mark.parametrize("rehearse", [True, False])
def test_dialogues_side_by_side_go_as_they_go_alone_in_fewer_calls(rehearse):
    def people():
        return [dialogue(scenario=toy_scenario(f"toy-{n}"), seed=n) for n in range(5)]

    together, alone = Drafter(words), Drafter(words)
    found = talk_many(people(), heart(together), rehearse=rehearse)
    wanted = [talk(person, heart(alone), rehearse=rehearse) for person in people()]
    assert [episode for episode, _ in found] == [episode for episode, _ in wanted]
    for (_, traces), (_, others) in zip(found, wanted, strict=True):
        assert list(map(timeless, traces)) == list(map(timeless, others))
    assert together.calls < alone.calls


def test_rehearsal_beats_the_first_draft():
    def few(prompt, seen):
        return " ".join(["word"] * (1 + prompt.seed % 3))

    found = []
    for name in ("single", "best-of-n"):
        loop = make_loop(name, Drafter(few), dialogue=True, judge=Visible(reward("length")))
        found.append(talk(dialogue(), loop)[0].final)
    assert found[1] > found[0]


def test_no_cue_reaches_the_user_the_history_or_the_score():
    mixed = Drafter(lambda p, n: f"You say: {p.history[-1].content}"[:400] if p.seed % 2 else "Hm.")
    heard = []

    class Spy(ToyUser):
        def react(self, history):
            heard.extend(m.content for m in history)
            return super().react(history)

    for rehearse in (True, False):
        loop = heart(mixed, budget=Budget(samples=6))
        episode, traces = talk(dialogue(Spy), loop, rehearse=rehearse)
        heard += [m.content for m in episode.history] + [episode.model_dump_json()]
        assert any("leaked" in a.error for t in traces for a in t.attempts)
        assert any(AGAIN in m.content for t in traces for a in t.attempts for m in a.messages)
    assert heard
    assert not any(leaked(cue.text, text) for cue in CUES for text in heard)
    assert not any(AGAIN in text for text in heard)


def test_scripted_policies_talk_within_a_loop_to_embedded_users():
    loop = heart(scripted.make("reflective"), budget=Budget(samples=3))
    scenario = pack("test")[0]
    runs = [talk(dialogue(EmbeddedUser, scenario, seed=4), loop) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    assert runs[0][0].stop is not StopReason.ERROR


def test_a_loop_is_a_policy_wherever_one_is_asked_for():
    loop = heart(Drafter(words), budget=Budget(samples=3))
    tasks = [Task(toy_scenario(f"toy-{n}"), n) for n in range(6)]
    episodes = play_many(LocalWorld(ToyUser), loop, tasks)
    alone = [play_many(LocalWorld(ToyUser), loop, [task])[0] for task in tasks]
    assert episodes == alone
    assert {e.policy for e in episodes} == {"heart(drafter)"}


def test_a_draft_that_no_fork_can_read_is_passed_over():
    texts = iter(["fail", "two words", "fail"] * 9)
    loop = make_loop("best-of-n", Drafter(lambda p, n: next(texts)), dialogue=True,
                     judge=Visible(reward("length")), budget=Budget(samples=3))  # fmt: skip
    episode, traces = talk(dialogue(), loop)
    assert {turn.reply.text for turn in episode.turns} == {"two words"}
    assert traces[0].attempts[0].score.value is None
    assert "toy could not read" in traces[0].attempts[0].score.why


def test_a_loop_without_a_reply_ends_the_dialogue_in_an_error():
    loop = heart(Drafter(lambda p, n: EpisodeFailure("no model")))
    episode, traces = talk(dialogue(), loop)
    assert (episode.stop, traces[0].report) == (StopReason.ERROR, None)
    assert "no model" in episode.error


@pytest.mark.parametrize("name", ["final", "gain", "trough", "change", "length+0.1*final"])
def test_a_reward_that_reads_emotions_cannot_judge_the_visible_dialogue(name):
    with pytest.raises(InvalidInput, match="reads the emotion"):
        Visible(reward(name))


def test_a_visible_judge_prefers_what_its_reward_prefers():
    judge = Visible(reward("repetition"))
    asked = ask("I lost my job today and I do not know what to do.")
    said = Drafter(lambda p, n: "we will see we will see we will see")([asked])[0]
    fresh = Drafter(lambda p, n: "Losing a job hurts. What worries you most now?")([asked])[0]
    assert judge(asked, fresh).value > judge(asked, said).value
    assert judge.kind == "proxy"


def test_a_stand_in_knows_nothing_but_what_was_said():
    judge = StandIn(EmbeddedUser)
    asked = ask("My best friend moved away last week and I feel so alone.")
    kind, curt = (
        Drafter(lambda p, n, text=text: text)([asked])[0]
        for text in ("Your best friend moved away, and now you feel alone. That sounds painful.",
                     "Come on, that is nothing. Others have it worse.")
    )  # fmt: skip
    good, bad = judge(asked, kind), judge(asked, curt)
    assert good.value > bad.value
    assert len(good.parts) == 8
    assert judge(asked, kind) == good
    later = ask(seed=asked.seed)
    history = (*asked.history, Message(role="assistant", content=curt.text),
               Message(role="user", content="Thanks a lot."))  # fmt: skip
    assert judge(type(later)(history, asked.seed), kind).value < good.value


def test_a_stand_in_hears_the_dialogue_once_however_many_drafts_it_is_to_judge():
    heard = []

    class Counted(EmbeddedUser):
        def react(self, history):
            heard.append(len(history))
            return super().react(history)

    said = ("I lost my job.", "Oh no. How did it happen?", "They closed the shop.", "Just so?",
            "Yes, on a Friday.")  # fmt: skip
    roles = ("user", "assistant") * 3
    history = tuple(Message(role=r, content=t) for r, t in zip(roles, said, strict=False))
    drafts = [Reply(text=f"A Friday. {text}") for text in ("What now?", "So be it.", "That hurts.")]
    prompt = type(ask())(history, 5)
    judge = StandIn(Counted)
    scores = [judge(prompt, draft) for draft in drafts]
    assert sorted(heard) == sorted(8 * [2, 4] + 8 * 3 * [6])
    assert scores == [StandIn(EmbeddedUser)(prompt, draft) for draft in drafts]
    assert len({score.value for score in scores}) > 1


class Moody(ToyUser):
    """Another mood each time it is made, as users have that a model samples."""

    moods = count()

    def __init__(self):
        super().__init__()
        self._mood = next(self.moods)

    def open(self, scenario, seed):
        reaction = super().open(scenario, seed)
        self._state["emotion"] = 30.0 + self._mood % 7
        return reaction


def test_users_that_sample_are_the_same_for_all_drafts_of_one_judge_and_no_other():
    drafts = [Reply(text="Oh no, how did it happen?")] * 3
    judge, other = StandIn(Moody), StandIn(Moody)
    scores = {judge(ask(), draft).value for draft in drafts}
    assert len(scores) == 1
    assert {other(ask(), draft).value for draft in drafts}.isdisjoint(scores)
    assert judge == other
    assert pickle.loads(pickle.dumps(judge))(ask(), drafts[0]).value not in scores


def test_a_judge_forgets_the_dialogues_it_heard_longest_ago(monkeypatch):
    opened = []

    class Counted(ToyUser):
        def open(self, scenario, seed):
            opened.append(seed)
            return super().open(scenario, seed)

    monkeypatch.setattr(judges, "HEARD", 2 * 8)
    judge, reply = StandIn(Counted), Reply(text="Oh no.")
    for seed in (1, 2, 1, 3, 1, 2):
        judge(ask(seed=seed), reply)
    assert opened == [1] * 8 + [2] * 8 + [3] * 8 + [2] * 8


def test_a_companion_talks_with_users_it_was_not_made_for():
    loop = companion("best-of-n", scripted.make("listener"), Budget(samples=3))
    episodes = play_many(LocalWorld(ToyUser), loop, [Task(toy_scenario(), 1)])
    assert episodes[0].stop is not StopReason.ERROR
    assert isinstance(loop([ask("")])[0], Reply)
    assert pickle.loads(pickle.dumps(companion("heart", Guesser()))).run(ask()).reply


def test_without_a_judge_replies_to_a_person_are_not_put_to_a_vote():
    assert make_loop("heart", Drafter(words), dialogue=True).selector == "last"
    assert make_loop("heart", Drafter(words)).selector == "majority"


def test_rehearsed_drafts_are_chosen_by_their_score_whatever_the_loop():
    loop = make_loop("heart", Drafter(words), dialogue=True, budget=Budget(samples=4))
    for trace in talk(dialogue(), loop)[1]:
        scores = [a.score.value for a in trace.attempts]
        assert scores[trace.chosen] == max(scores)


def test_a_proxy_does_not_stamp_a_run_as_assisted():
    judge = StandIn(EmbeddedUser)
    loop = make_loop("best-of-n", Drafter(words), judge=judge, dialogue=True)
    trace = loop.run(ask("I lost my keys again."))
    assert not trace.oracle_assisted
    assert json.loads(trace.model_dump_json())["judge"].startswith("stand-in+embedded/")
