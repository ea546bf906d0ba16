from itertools import islice

import pytest

from heartloop.policy.seedling import build, corpus, lessons
from heartloop.policy.seedling.plan import Plan

pytest.importorskip("tokenizers")
PLAN = Plan(seed=3, steps=9, batch=2, longest=200, echo=3, drill=2, crowd=2)


@pytest.fixture(scope="module")
def tokens():
    return build.tokenizer([m.content for d in corpus.dialogues(10, 3) for m in d.messages])


def test_lessons_come_in_order_one_batch_a_step(tokens):
    rows = list(lessons.batches(PLAN, tokens))
    assert [len(batch) for batch in rows] == [6] * 3 + [4] * 2 + [2] * 4
    turns = [max(ids.count(tokens.eos_token_id) for ids, _ in batch) for batch in rows]
    assert turns[:3] == [2] * 3
    assert max(turns[3:5]) <= 4 < min(turns[5:])


def test_an_echo_repeats_plain_tokens_and_learns_only_the_repetition(tokens):
    special = set(tokens.all_special_ids)
    for ids, said in next(lessons.batches(PLAN, tokens)):
        half = len(ids) // 2
        assert ids[1 : half - 1] == ids[half + 1 : -1]
        assert not special.intersection(ids[half + 1 : -1])
        assert said == [False] * (half + 1) + [True] * (half - 1)


def test_the_same_plan_gives_the_same_batches(tokens):
    assert list(lessons.batches(PLAN, tokens)) == list(lessons.batches(PLAN, tokens))


def test_no_row_is_longer_than_planned(tokens):
    assert all(
        len(ids) == len(said) <= PLAN.longest
        for batch in islice(lessons.batches(PLAN, tokens), 9)
        for ids, said in batch
    )


def test_a_long_dialogue_is_cut_after_a_whole_reply():
    ids, said = list(range(10)), [False, True, True, False, False, True, True, False, True, True]
    assert lessons.cut(ids, said, 10) == (ids, said)
    assert lessons.cut(ids, said, 9) == (ids[:7], said[:7])
    assert lessons.cut(ids, said, 6) == (ids[:3], said[:3])
