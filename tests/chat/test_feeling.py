import pytest

from heartloop import emotion
from heartloop.chat.feeling import estimate


def test_it_is_a_distribution_over_the_ontology_with_the_words_it_rests_on():
    found = estimate("I was so ashamed, and now I am just angry.")
    assert abs(sum(found.nodes.values()) - 1) < 0.001
    assert set(found.nodes) <= set(emotion.ontology())
    assert found.words == ("ashamed", "angry")
    assert next(iter(found.primaries)) in ("anger", "sadness")


def test_what_lies_below_a_primary_feeling_adds_up_to_it():
    found = estimate("I am ashamed, lonely and afraid.")
    below = found.under("sadness")
    assert set(below) >= {"loneliness", "shame"} and "fear" not in below
    assert sum(below.values()) == pytest.approx(found.primaries["sadness"], abs=0.001)
    assert list(below.values()) == sorted(below.values(), reverse=True)
    assert estimate("I am afraid.").under("sadness") == {}


@pytest.mark.parametrize("text", ["The train leaves at nine.", "", "火车九点开。"])
def test_a_text_without_feeling_words_is_neutral(text):
    found = estimate(text)
    assert found.nodes == {"neutral": 1.0} and found.level == 50 and found.words == ()


def test_pleasant_words_lift_the_level_and_unpleasant_ones_lower_it():
    assert estimate("I am happy").level > 60
    assert estimate("I am sad").level < 40
    assert estimate("我很难过").level < 40


def test_a_negated_feeling_is_not_counted_beyond_its_sentence():
    assert estimate("I am not angry.").words == ()
    assert estimate("No. I am angry.").words == ("angry",)
    assert estimate("我不害怕").words == ()


def test_measures_change_the_weight():
    mild, strong = estimate("a little sad"), estimate("extremely sad")
    assert strong.level < mild.level


def test_everyday_words_count_after_a_verb_of_feeling_only():
    assert estimate("I feel really down.").words == ("down",)
    assert estimate("I sat down.").words == ()


def test_an_earlier_estimate_fades_by_half():
    sad = estimate("I am sad")
    later = estimate("The train leaves at nine.", sad)
    assert sad.level < later.level < 50
