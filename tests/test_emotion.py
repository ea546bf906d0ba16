"""Checks of the emotion ontology: its tree, words, metric, opposites, views and bands."""

import math
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop.emotion import (
    VIEWS,
    Band,
    band,
    cooccurrence,
    distance,
    normalise,
    ontology,
    opposite,
    project,
    resolve,
    words,
)
from heartloop.errors import UnknownEmotion, UnknownName

TREE = ontology()
NODES = st.sampled_from(sorted(TREE))
MASSES = st.dictionaries(NODES, st.floats(0, 1e6), max_size=12)
PRIMARIES = ("love", "joy", "surprise", "anger", "sadness", "fear")
DATA = tomllib.loads(files("heartloop").joinpath("data", "emotion.toml").read_text("utf-8"))


def test_the_tree_has_six_primaries_and_neutral_beside_them() -> None:
    assert TREE.primaries == PRIMARIES
    assert TREE.tier("neutral") == 1
    assert TREE.children("neutral") == ()
    assert (TREE["neutral"].valence, TREE["neutral"].arousal) == (0, 0)


def test_the_tiers_are_as_wide_as_parrotts() -> None:
    width = Counter(node.tier for node in TREE.nodes.values())
    assert 24 <= width[2] <= 27
    assert width[3] >= 100


def test_no_name_stands_twice_in_the_data() -> None:
    groups = [*DATA["secondary"].values(), *DATA["tertiary"].values(), DATA["primary"]]
    assert sum(map(len, groups)) == len(TREE)


@given(NODES)
def test_every_node_hangs_from_a_node_one_tier_up(name: str) -> None:
    parent = TREE.parent(name)
    if parent is None:
        assert TREE.tier(name) == 1
    else:
        assert TREE.tier(name) == TREE.tier(parent) + 1
        assert name in TREE.children(parent)
        assert TREE.primary(name) == TREE.primary(parent)


def test_valence_and_arousal_stay_in_range() -> None:
    assert all(abs(n.valence) <= 1 and abs(n.arousal) <= 1 for n in TREE.nodes.values())


def test_every_extension_is_a_node() -> None:
    assert set(TREE) >= TREE.extensions


def test_an_emotion_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        TREE["joy"].valence = 0.0  # type: ignore[misc]


def test_an_unknown_node_is_named_in_the_error() -> None:
    with pytest.raises(UnknownEmotion, match=r"got 'saddness'; nearest known: .*sadness"):
        TREE["saddness"]


@given(NODES, NODES, NODES)
def test_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert 0 <= distance(a, b) <= 1
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12


def test_close_feelings_are_nearer_than_far_ones() -> None:
    assert distance("fury", "rage") < distance("fury", "sadness") < distance("fury", "calm")


@given(NODES)
def test_opposites_are_symmetric_and_differ_in_sign(name: str) -> None:
    other = opposite(name)
    if other is not None:
        assert opposite(other) == name
        assert TREE[name].valence * TREE[other].valence < 0


def test_each_opposite_pair_is_written_once() -> None:
    named = [*DATA["opposites"], *DATA["opposites"].values()]
    assert len(named) == len(set(named))
    assert set(named) <= set(TREE)


def test_every_primary_and_secondary_has_an_opposite() -> None:
    lacking = [n.name for n in TREE.nodes.values() if n.tier < 3 and n.opposite is None]
    assert lacking == ["neutral"]


@given(NODES, NODES)
def test_cooccurrence_is_symmetric_and_one_only_for_itself(a: str, b: str) -> None:
    assert 0 <= cooccurrence(a, b) <= 1
    assert cooccurrence(a, b) == cooccurrence(b, a)
    assert (cooccurrence(a, b) == 1) == (a == b)


def test_the_cooccurrence_table_names_distinct_secondary_pairs_once() -> None:
    pairs = [frozenset(row[:2]) for row in DATA["cooccurrence"]["pairs"]]
    assert len(pairs) == len(set(pairs))
    assert all(len(pair) == 2 and {TREE.tier(n) for n in pair} == {2} for pair in pairs)


@pytest.mark.parametrize(
    ("a", "b"), [("shame", "anger"), ("grief", "guilt"), ("jealousy", "fear"), ("hurt", "rage")]
)
def test_composed_feelings_go_together_more_than_opposite_ones(a: str, b: str) -> None:
    assert cooccurrence(a, b) > 0.5 > cooccurrence("joy", "sadness")


def test_the_views_have_the_published_number_of_labels() -> None:
    sizes = {name: len(labels) for name, labels in VIEWS.items()}
    assert sizes == {"ekman": 6, "goemotions": 28, "empathetic_dialogues": 32}


def test_every_label_of_every_view_stands_on_a_node() -> None:
    assert all(node in TREE for labels in VIEWS.values() for node in labels.values())


def test_every_label_of_every_view_resolves_under_the_same_primary() -> None:
    for labels in VIEWS.values():
        for label, node in labels.items():
            assert TREE.primary(resolve(label)) == TREE.primary(node)


@given(MASSES, st.sampled_from(sorted(VIEWS)))
def test_projection_preserves_mass(masses: dict[str, float], view: str) -> None:
    result = project(masses, view)
    assert result.keys() == VIEWS[view].keys()
    assert all(mass >= 0 for mass in result.values())
    assert math.isclose(sum(result.values()), sum(masses.values()), rel_tol=1e-9, abs_tol=1e-9)


def test_projection_keeps_a_labels_own_node_and_shares_ties() -> None:
    assert project({"grief": 1.0}, "goemotions")["grief"] == 1
    shared = project({"confidence": 1.0}, "empathetic_dialogues")
    assert (shared["confident"], shared["prepared"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("node", "label"),
    [("love", "joy"), ("contempt", "disgust"), ("loneliness", "sadness"), ("worry", "fear")],
)
def test_projection_to_ekman_keeps_the_family(node: str, label: str) -> None:
    assert project({node: 1.0}, "ekman")[label] == 1


def test_projection_refuses_bad_input() -> None:
    with pytest.raises(UnknownName, match="plutchik"):
        project({"joy": 1.0}, "plutchik")
    with pytest.raises(ValueError, match="mass"):
        project({"joy": -0.5}, "ekman")
    with pytest.raises(UnknownEmotion):
        project({"blorp": 1.0}, "ekman")


def test_there_are_at_least_350_synonyms_and_each_resolves_to_its_node() -> None:
    entries = [
        (phrase, node)
        for table in ("synonyms", "ambiguous")
        for node, phrases in DATA[table].items()
        for phrase in phrases
    ]
    assert len(entries) >= 350
    assert all(node in TREE and resolve(phrase) == node for phrase, node in entries)


def test_no_surface_form_is_listed_twice() -> None:
    tables = [*DATA["synonyms"].values(), *DATA["ambiguous"].values(), list(TREE)]
    counts = Counter(phrase for phrases in tables for phrase in phrases)
    assert [phrase for phrase, count in counts.items() if count > 1] == []


def test_surface_forms_are_already_normalised() -> None:
    assert [phrase for phrase in words() if normalise(phrase) != phrase] == []


def test_words_without_the_ambiguous_ones_are_fewer() -> None:
    clear = words(ambiguous=False)
    assert clear.items() < words().items()
    assert "down" in words()
    assert "down" not in clear


@pytest.mark.parametrize(
    ("word", "node"),
    [
        ("lonely", "loneliness"),
        ("LONELINESS", "loneliness"),
        ("ashamed", "shame"),
        ("furious", "fury"),
        ("anxious", "anxiety"),
        ("heartbroken", "grief"),
        ("heart-broken", "grief"),
        ("overwhelmed", "distress"),
        ("left out", "rejection"),
        ("let down", "disappointment"),
        ("Worn-out!", "exhaustion"),
        ("exhausted", "exhaustion"),
        ("betrayed", "hurt"),
        ("ignored", "neglect"),
        ("invisible", "neglect"),
        ("unheard", "neglect"),
        ("stuck", "frustration"),
        ("torn", "confusion"),
        ("I feel so very sad", "sadness"),
        ("frustrates", "frustration"),
        ("irritate", "irritation"),
        ("gloomily", "gloom"),
        ("cheerfully", "cheerfulness"),
        ("saddest", "sadness"),
        ("can\N{RIGHT SINGLE QUOTATION MARK}t cope", "distress"),
    ],
)
def test_a_persons_word_resolves_to_the_node_it_names(word: str, node: str) -> None:
    assert resolve(word) == node


@given(NODES)
def test_a_node_resolves_to_itself_in_any_case(name: str) -> None:
    assert resolve(name) == resolve(name.upper()) == resolve(f"  {name}. ") == name


@pytest.mark.parametrize("word", ["", "   ", "table", "carburettor", "bus", "42"])
def test_a_word_that_names_no_feeling_is_refused(word: str) -> None:
    with pytest.raises(UnknownEmotion, match=re.escape(repr(word))):
        resolve(word)


def test_the_refusal_names_the_nearest_known_words() -> None:
    with pytest.raises(UnknownEmotion, match=r"expected a word.*'anxeity'; nearest.*anxiety"):
        resolve("anxeity")


@given(st.text(max_size=30))
def test_resolve_gives_a_node_or_unknown_emotion_for_any_text(text: str) -> None:
    try:
        assert resolve(text) in TREE
    except UnknownEmotion as error:
        assert repr(text) in str(error)


@given(st.floats(0, 100))
def test_bands_partition_the_scale(score: float) -> None:
    inside = [score >= 100, 70 <= score < 100, 40 <= score < 70, 10 <= score < 40, score < 10]
    assert [band(score) is letter for letter in Band] == inside
    assert sum(inside) == 1


@pytest.mark.parametrize(
    ("score", "letter"), [(100, "S"), (99.9, "A"), (70, "A"), (40, "B"), (10, "C"), (9.9, "F")]
)
def test_a_band_starts_at_its_floor(score: float, letter: str) -> None:
    assert band(score) == letter


def test_a_score_that_is_no_number_has_no_band() -> None:
    with pytest.raises(ValueError, match="nan"):
        band(math.nan)


def test_importing_the_module_does_not_read_the_data() -> None:
    code = "import heartloop.emotion as e; print(e._raw.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
