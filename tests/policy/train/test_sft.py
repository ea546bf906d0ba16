"""Supervised stages learn the best dialogues, word for word as a rollout would hold them."""

from functools import partial

from heartloop.env.play import LocalWorld, Task
from heartloop.policy.base import make_policy
from heartloop.policy.evals.evaluate import evaluate
from heartloop.policy.train import sft
from heartloop.policy.train.rollout import Driver
from heartloop.rewards import reward
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import pack


def rollouts(speaker, samples=3):
    driver = Driver(LocalWorld(partial(make_user, "embedded")), speaker, reward("final"), 8, 1.0)
    tasks = [Task(person, 5, sample) for person in pack("train")[:2] for sample in range(samples)]
    return driver.play(tasks, "tiny@0")


def test_a_dialogue_becomes_its_tokens_of_which_the_replies_count(speaker):
    for episode in evaluate(make_policy("reflective"), pack("train")[:3]):
        row = sft.tokens(speaker, episode)
        places = zip(row["input_ids"], row["labels"], strict=True)
        said = [i for i, label in places if label != sft.IGNORED]
        assert said == [i for turn in episode.turns for i in speaker.said(turn.reply)]
        history = episode.history[: 2 * len(episode.turns) - 1]
        assert row["input_ids"] == [*speaker.start(history), *speaker.said(episode.turns[-1].reply)]


def test_the_best_of_each_person_is_kept_once(speaker):
    episodes = [r.episode for r in rollouts(speaker)]
    kept = sft.select([*episodes, *episodes], least=0.0, best=1)
    for episode in kept:
        rivals = [e.score.value for e in episodes if e.scenario.id == episode.scenario.id
                  and all(t.reply.text for t in e.turns)]  # fmt: skip
        assert episode.score.value == max(rivals)
    assert len({e.scenario.id for e in kept}) == len(kept)
    assert not sft.select(episodes, least=1.1, best=1)
    unscored = [e.model_copy(update={"score": None}) for e in episodes]
    assert not sft.select(unscored, least=0.0, best=1)


def test_rows_come_in_passes_each_in_an_order_of_its_own():
    places = sft.order(4, 10, "seed")
    assert [sorted(places[:4]), sorted(places[4:8])] == [[0, 1, 2, 3]] * 2
    assert sft.order(4, 6, "seed") == places[:6]
    assert len({tuple(sft.order(9, 9, str(seed))) for seed in range(5)}) == 5
