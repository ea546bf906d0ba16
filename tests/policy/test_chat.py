"""Checks of chat models as policies."""

import asyncio

import pytest

from heartloop.env.play import Dialogue, LocalWorld, Prompt, Task, play, play_many
from heartloop.errors import CallFailure, EndpointFailure
from heartloop.llm import Completion, Decoding
from heartloop.policy.chat import SYSTEM, ChatPolicy
from heartloop.types import Message, StopReason
from tests.contracts import check_policy
from tests.fakes import ToyUser, toy_scenario


class Model:
    """Answers by the seed and the last message; counts how many calls are under way."""

    spec = "toy:model"

    def __init__(self, answer=None, tokens=0):
        self._tokens = tokens
        self._answer = answer or (lambda messages, decoding: f"{decoding.seed % 7} words heard")
        self.seen, self.now, self.most = [], 0, 0

    async def __call__(self, messages, decoding, purpose=""):
        self.seen.append((tuple(messages), decoding, purpose))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        text = self._answer(messages, decoding)
        return Completion(text=text, model="toy", completion_tokens=self._tokens)


def policy(model):
    return ChatPolicy(model, model.spec, Decoding(temperature=1.0))


def prompts(*texts):
    return [Prompt((Message(role="user", content=t),), seed) for seed, t in enumerate(texts)]


def test_it_keeps_the_contract_of_policies():
    check_policy(policy(Model()), toy_scenario())


def test_all_calls_are_under_way_at_once():
    model = Model()
    policy(model)(prompts(*"abcdefgh"))
    assert model.most == 8


def test_the_model_is_told_no_more_than_one_neutral_line_in_the_persons_language():
    model = Model()
    policy(model)(prompts("I lost my job.", "我被辞退了。"))
    told = [messages[0] for messages, _, _ in model.seen]
    assert [m.content for m in told] == [SYSTEM["en"], SYSTEM["zh"]]
    assert all(len(messages) == 2 for messages, _, _ in model.seen)


def test_a_think_block_stays_out_of_the_dialogue():
    model = Model(lambda messages, decoding: "<think>be kind</think> I hear you.")
    episode = play(Dialogue(ToyUser(), toy_scenario(), 0), policy(model))
    assert episode.turns[0].reply.think == "be kind"
    assert all("be kind" not in m.content for messages, _, _ in model.seen for m in messages)


def test_a_call_that_was_given_up_fails_its_own_dialogue_only():
    def answer(messages, decoding):
        if "mine" in messages[1].content:
            raise CallFailure("no answer in 3 tries")
        return "I hear you."

    tasks = [Task(toy_scenario("a", "mine"), 0), Task(toy_scenario("b"), 0)]
    lost, whole = play_many(LocalWorld(ToyUser), policy(Model(answer)), tasks)
    assert (lost.stop, lost.error) == (StopReason.ERROR, "no answer in 3 tries")
    assert len(whole.turns) == 8


@pytest.mark.parametrize("said", ["", "  ", "<think>still at it", "<think>a</think>  "])
def test_an_answer_that_says_nothing_is_no_reply(said):
    (failure,) = policy(Model(lambda messages, decoding: said))(prompts("hello"))
    assert isinstance(failure, CallFailure)
    assert "said nothing to the person" in str(failure)


@pytest.mark.parametrize(("told", "known"), [(7, 7), (0, None)])
def test_a_reply_has_the_tokens_that_the_server_tells_of_and_silence_is_not_none(told, known):
    (reply,) = policy(Model(tokens=told))(prompts("hello"))
    assert reply.tokens == known
    (failure,) = policy(Model(lambda messages, decoding: "<think>hm", told))(prompts("hello"))
    assert failure.tokens == known


def test_a_dead_endpoint_ends_the_run():
    def answer(messages, decoding):
        raise EndpointFailure("http://127.0.0.1:9 is gone")

    with pytest.raises(EndpointFailure, match="gone"):
        policy(Model(answer))(prompts("hello"))
