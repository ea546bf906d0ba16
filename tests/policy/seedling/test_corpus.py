from dataclasses import replace

import pytest

from heartloop.policy import acts
from heartloop.policy.seedling import corpus
from heartloop.simusers import compose
from heartloop.simusers.phrases import content, words
from heartloop.types import Reply

RECIPE = corpus.Recipe()
MANY = list(corpus.dialogues(60, 4))


def replies(dialogues):
    return [m.content for d in dialogues for m in d.messages if m.role == "assistant"]


def test_the_corpus_is_the_same_for_the_same_seed_and_another_for_another():
    assert list(corpus.dialogues(6, 4)) == MANY[:6]
    assert list(corpus.dialogues(6, 5)) != MANY[:6]


def test_roles_alternate_and_the_helper_has_the_last_word():
    for dialogue in MANY:
        roles = [m.role for m in dialogue.messages]
        assert roles[::2] == ["user"] * (len(roles) // 2)
        assert roles[1::2] == ["assistant"] * (len(roles) // 2)


def test_only_train_parts_are_told():
    events, people = compose.parts("train")
    known = {e.id for e in events}, {p.id for p in people}
    for scenario in corpus.stories(200, 4):
        assert scenario.provenance.parts[0] in known[0]
        assert scenario.provenance.parts[1] in known[1]


def test_good_replies_hold_nothing_that_only_the_scenario_knows():
    """Their content words come from the visible words, the templates, or the feeling words."""
    plain = replace(RECIPE, strong=1.0, middling=0.0, spread=0.0, planned=0.0)
    data = str([acts.templates(a) for a in acts.good()]) + str(acts._data()["parts"])
    feelings = " ".join(f"{f.adjective} {f.noun}" for f in corpus.wording.FEELINGS)
    fallback = " ".join(x for options in acts._FALLBACK.values() for x in options)
    known = content(words(f"{data} {feelings} {fallback}"))
    for dialogue in corpus.dialogues(25, 9, plain):
        said = known
        for message in dialogue.messages:
            found = content(words(message.content))
            if message.role == "user":
                said = said | found | content(words(corpus.wording.flip(message.content)))
            else:
                assert found <= said, (found - said, message.content)


def test_the_shares_of_good_and_poor_turns_follow_the_recipe():
    rng = corpus.Random(0)
    drawn = [corpus._act(RECIPE, rng) for _ in range(4000)]
    strong = sum(act in corpus.STRONG for act in drawn) / len(drawn)
    poor = sum(act in acts.poor() for act in drawn) / len(drawn)
    assert strong == pytest.approx(RECIPE.strong, abs=0.03)
    assert poor == pytest.approx(1 - RECIPE.strong - RECIPE.middling, abs=0.03)


def test_think_blocks_stand_in_planned_dialogues_only_and_parse():
    planned = list(corpus.dialogues(5, 8, replace(RECIPE, planned=1.0)))
    assert all(d.planned for d in planned)
    for text in replies(planned):
        reply = Reply.parse(text)
        assert reply.think
        assert "<" not in reply.text
    assert not any("<think>" in t for t in replies(d for d in MANY if not d.planned))


@pytest.mark.parametrize("wholly", [False, True])
def test_exchanged_stories_swap_a_word_everywhere(wholly):
    scenario = next(iter(corpus.stories(1, 4)))
    other = corpus._exchanged(scenario, corpus.Random(2), wholly)
    old, new = (" ".join(s.situation.facts).split() for s in (scenario, other))
    assert len(old) == len(new)
    pairs = {(a, b) for a, b in zip(old, new, strict=True) if a.isalpha() and a != b}
    assert len(pairs) >= (30 if wholly else 5)
    assert len({a for a, _ in pairs}) == len(pairs), "a word was exchanged for two others"


def test_feelings_and_small_words_are_never_exchanged():
    texts = ("I feel hurt and angry because nobody told me about the hurt.",)
    swaps = corpus._scramble(texts, corpus.Random(1))
    assert not {"hurt", "angry", "because", "nobody", "feel"} & set(swaps)


def test_most_replies_differ():
    texts = replies(MANY)
    assert len(set(texts)) > 0.9 * len(texts)
    assert max(texts.count(t) for t in set(texts)) <= 0.02 * len(texts)


def test_replies_are_short():
    lengths = sorted(len(t.split()) for t in replies(d for d in MANY if not d.planned))
    assert lengths[len(lengths) // 2] <= 18
    assert lengths[-1] <= 40
