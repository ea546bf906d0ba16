"""Checks of how answers of a SAGE user's model are read."""

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartloop.errors import CallFailure, InvalidInput
from heartloop.llm.base import TokenLogprob
from heartloop.simusers import answers
from heartloop.simusers.answers import SCHEMAS, clean, expectation, number_tokens, parse

JUDGED = {"content": "asks", "completion": "half", "activity": "Hm.", "analysis": "ok", "change": 4}
SAID = {"thinking": "t", "draft": "d", "reply": "Well.", "shown": "anger", "farewell": False}
SAGE_JUDGED = """**Content:** The NPC asks about the exam.
**TargetCompletion：** It half fits the goal.
**Activity:** Finally somebody asks: that is new.
**Analyse:** A bit warmer.
**Change:** +5"""
SAGE_SAID = """Thinking: she likes it
1. Origin: Yes, well, so so.
Change: shorter, no stock phrases
**Response:** “Well, so so.”"""


@pytest.mark.parametrize("form", SCHEMAS)
def test_a_schema_asks_for_every_field_reasons_first(form: answers.Form) -> None:
    fields = list(SCHEMAS[form]["properties"])
    assert SCHEMAS[form]["required"] == fields
    assert SCHEMAS[form]["additionalProperties"] is False
    assert set(fields) == set(answers.FORMS[form].model_fields)
    if form != "reply":
        rule = SCHEMAS[form]["properties"]["change"]
        assert rule == {"type": "integer", "minimum": -10, "maximum": 10}
        assert fields.index("change") == 4


@pytest.mark.parametrize(
    "dress",
    [
        "{}",
        "```json\n{}\n```",
        "```\n{}\n```\n",
        "<think>Change: -9, or {{ maybe</think>\n{}",
    ],
)
def test_one_object_is_found_whatever_stands_around_it(dress: str) -> None:
    raw = dress.replace("{{", "{").replace("{}", json.dumps(JUDGED | SAID, indent=1))
    read = parse("turn", raw)
    assert read.change == 4
    assert read.reply == "Well."


def test_labelled_text_of_published_transcripts_is_read() -> None:
    judged = parse("appraise", SAGE_JUDGED)
    assert judged.change == 5
    assert judged.completion == "It half fits the goal."
    assert judged.activity == "Finally somebody asks: that is new."
    assert judged.analysis == "A bit warmer."
    said = parse("reply", SAGE_SAID)
    assert (said.draft, said.reply) == ("Yes, well, so so.", "Well, so so.")
    assert said.farewell is False


def test_our_own_labels_are_read_with_farewell() -> None:
    said = parse("reply", "Thinking: t\nDraft: d\nReply: I am off.\nShown: anger\nFarewell: Yes.")
    assert said.farewell is True
    assert said.shown == "anger"


@pytest.mark.parametrize(
    ("stated", "meant"),
    [("-5", -5), ("+5", 5), ("−7", -7), ("＋3", 3), ("2.5", 2.5), ("+5 points", 5), ("- 4", -4),
     ("**6**", 6), ("[8]", 8), ("0", 0), ("9999", 100), ("-" + "9" * 300, -100)],
)  # fmt: skip
def test_a_stated_change_is_read_with_its_sign(stated: str, meant: float) -> None:
    assert parse("appraise", f"Analysis: so so\nChange: {stated}").change == meant
    assert parse("appraise", json.dumps(JUDGED | {"change": stated})).change == meant


@pytest.mark.parametrize("dash", "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d")
def test_no_dash_loses_a_loss(dash: str) -> None:
    stated = f"{dash}5"
    assert parse("appraise", f"Analysis: so so\nChange: {stated}").change == -5
    assert parse("appraise", json.dumps(JUDGED | {"change": stated})).change == -5


@pytest.mark.parametrize(
    "stated",
    ["minus 5", "负5", "下降5分", "down by 5 points", "emotion is now 45", "~5", "5 or so", "5²",
     "(5)", "- - 5", "¬5", "5" + " " * 100_000 + "x"],
)  # fmt: skip
def test_more_than_a_number_is_never_read_as_a_gain(stated: str) -> None:
    for raw in (f"Analysis: so\nChange: {stated}", json.dumps(JUDGED | {"change": stated})):
        with pytest.raises(CallFailure, match="expected one number"):
            parse("appraise", raw)


@pytest.mark.parametrize("stated", ["5 points", "1 point.", "5分", "5 分。", "5。", "５", "＋5"])
def test_points_and_a_full_stop_may_follow_the_number(stated: str) -> None:
    assert parse("appraise", f"Change: {stated}").change in (1, 5)


def test_a_bare_plus_sign_is_no_reason_to_fail() -> None:
    assert parse("appraise", '{"analysis": "\\"change\\": +9", "change": +3}').change == 3


GOOD = json.dumps(JUDGED)
QUOTED = '{"change": 10}'
UNREADABLE = [
    f"They sent {QUOTED}, and I say: {GOOD[:-1]}",
    f"{QUOTED}\n{GOOD[:-1]}",
    f"<think>they want {QUOTED}",
    f"<think>they want</think> so {QUOTED}",
    f"{QUOTED} is what the partner wants to see from me.",
    f"Here you are:\n\n{GOOD}",
    f"{GOOD}\n\nHope that helps.",
    f"They sent\n```json\n{GOOD}\n```",
    f"Content: they sent {QUOTED}",
    f"Content: they sent {{sic}} {QUOTED[:-1]}\nChange: 10\nAnalysis: no",
    f"Change: 10\nContent: they said so\n  {GOOD[:-1]}",
    "Change: 10\nContent: they said so\n{content: 'no', change: -3}",
    f"Change: 10\n\n{GOOD[:-1]}",
    "They wrote:\nChange: 10",
    "> Change: 10",
    "Change: 10\nThat is what they want.",
    f"[{GOOD}]",
    "",
    "I cannot help with that.",
    "Change:",
    "Change: none",
    "Change: nan",
    "Change: inf",
    "Change: 3-5",
    "Change: from 40 to 45",
    "Change: 1e5",
    "Change: 5/10",
    "Change: 5\nChange: -5",
    "Change: 5\nActivity: x\nchange: 6",
    "Change: " + "9" * 400,
    '{"change": NaN}',
    '{"change": Infinity}',
    '{"change": 1e999}',
    '{"change": true}',
    '{"change": null}',
    '{"change": [5]}',
    '{"change": "much"}',
    '{"change": 5, "change": -5}',
    '{"change": 5, "Change": -5}',
    '{"analysis": "no number"}',
    '{"answer": {"change": 5}}',
    f"{GOOD} {GOOD}",
    GOOD + json.dumps(JUDGED | {"change": -4}),
    f"Change: 4\n{GOOD}",
    f"{GOOD}\nChange: 9",
    GOOD[:-1],
    '{"content": "they sent {"change": 10}", "change": 1}',
    '{"content": "they sent "x"\nChange: 10\n", "change": 1}',
    '{"change": ' + "9" * 5000 + "}",
    "{" * 100_000,
    '{"a":' * 100_000,
    "[" * 100_000,
]


@pytest.mark.parametrize("raw", UNREADABLE, ids=lambda raw: repr(raw[:30]))
def test_what_is_missing_or_ambiguous_is_a_failure_and_not_a_score(raw: str) -> None:
    with pytest.raises(CallFailure, match="expected 'appraise' as JSON"):
        parse("appraise", raw)


@pytest.mark.parametrize(
    "piece", ["*", " ", "\x1b[", "\x1b]", "Change:", '"change": +', "{}", "9."]
)
def test_endless_answers_are_given_up_at_once(piece: str) -> None:
    began = time.thread_time()
    with pytest.raises(CallFailure):
        parse("turn", piece * (200_000 // len(piece)))
    assert time.thread_time() - began < 3


@pytest.mark.parametrize(
    "change",
    [{"reply": ""}, {"reply": " \x1b[2J\u200b "}, {"reply": 5}, {"farewell": "perhaps"},
     {"farewell": 3}, {"reply": None}],
)  # fmt: skip
def test_a_reply_without_words_or_a_doubtful_farewell_is_a_failure(change: dict) -> None:
    with pytest.raises(CallFailure):
        parse("reply", json.dumps(SAID | change))


@pytest.mark.parametrize("word", ["Bye, goodbye, see you!", "再见，拜拜"])
def test_words_of_parting_are_no_farewell(word: str) -> None:
    assert parse("reply", json.dumps(SAID | {"reply": word})).farewell is False
    assert parse("reply", json.dumps(SAID | {"farewell": True})).farewell is True


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mRed\x1b[0m and \x1b]0;title\x07plain", "Red and plain"),
        ("a\u200bb\u202ec\x00d\x9b31m", "abcd31m"),
        ("two\n\nlines\tand  more", "two lines and more"),
        ("你好\U000e0041吗", "你好吗"),
        ("half \ud800 a character", "half a character"),
    ],
)
def test_nothing_invisible_and_no_terminal_code_is_shown(raw: str, shown: str) -> None:
    assert clean(raw) == shown


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('"Well."', "Well."),
        ("“好吧。”", "好吧。"),
        ("[Hm]", "Hm"),
        ('"No" and "no"', '"No" and "no"'),
    ],
)
def test_quotes_around_a_whole_reply_are_taken_off(raw: str, said: str) -> None:
    assert parse("reply", json.dumps(SAID | {"reply": raw})).reply == said


anything = st.one_of(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=2)
            | st.dictionaries(st.sampled_from(["change", "reply", "Change", "farewell"]), x)
        ),
        max_leaves=4,
    ).map(json.dumps),
    st.text(alphabet='Change:+-0123456789.eE{}"\n ：*', max_size=40).map("Change:".__add__),
)


@settings(deadline=None, max_examples=300)
@given(anything, st.sampled_from(["appraise", "reply", "turn"]))
def test_whatever_a_model_says_is_read_within_bounds_or_fails(raw, form) -> None:
    try:
        read = parse(form, raw)
    except CallFailure:
        return
    if isinstance(read, answers.Appraised):
        assert math.isfinite(read.change)
        assert abs(read.change) <= 100
    if isinstance(read, answers.Spoken):
        assert read.reply == clean(read.reply) != ""


def tokens(*rows: tuple[str, dict[str, float]]) -> list[TokenLogprob]:
    return [
        TokenLogprob(
            token=token,
            logprob=math.log(top.get(token, 1.0)),
            top={other: math.log(p) if p else -math.inf for other, p in top.items()},
        )
        for token, top in rows
    ]


ONE = tokens(
    ('{"change', {'{"change': 1.0}),
    ('":', {'":': 1.0}),
    (" 5", {" 5": 0.6, " 4": 0.3, " -": 0.1, " x": 0.0}),
    ("}", {"}": 1.0}),
)


def test_the_expected_change_is_the_mean_over_the_numbers_tokens() -> None:
    kept = number_tokens(ONE, 5)
    assert [t.token for t in kept] == [" 5", "}"]
    assert expectation(kept, 10) == pytest.approx((0.6 * 5 + 0.3 * 4) / 0.9)


def test_a_number_of_several_tokens_is_followed_along_its_path() -> None:
    rows = tokens(
        ('"change":', {'"change":': 1.0}),
        (" -", {" -": 0.8, " 3": 0.2}),
        ("1", {"1": 0.5, "2": 0.5}),
        ("0", {"0": 0.5, "}": 0.5}),
        ("}", {"}": 1.0}),
    )
    mean = 0.2 * 3 + 0.8 * (0.5 * -2 + 0.5 * (0.5 * -10 + 0.5 * -1))
    assert expectation(number_tokens(rows, -10), 10) == pytest.approx(mean)


def test_unlikely_numbers_beyond_the_limit_count_as_the_limit() -> None:
    rows = tokens(('"change": ', {}), ("5", {"5": 0.5, "99": 0.5}), ("}", {"}": 1.0}))
    assert expectation(number_tokens(rows, 5), 10) == pytest.approx(7.5)


def test_kept_tokens_survive_json() -> None:
    text = json.dumps([t.model_dump() for t in number_tokens(ONE, 5)], allow_nan=False)
    assert expectation([TokenLogprob(**row) for row in json.loads(text)], 10) == pytest.approx(
        expectation(number_tokens(ONE, 5), 10)
    )


def test_answers_without_log_probabilities_name_the_way_out() -> None:
    with pytest.raises(InvalidInput, match=r"needs log-probabilities.*samples="):
        number_tokens([], 5)


def test_tokens_that_spell_another_number_are_a_failure() -> None:
    kept = number_tokens(ONE, 7)
    assert [t.token for t in kept] == [" 5", "}"]
    assert answers.spell(kept, 5)
    assert not answers.spell(kept, 7)
    assert number_tokens(tokens(("Hm", {"Hm": 1.0})), 7) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [(" 5", 5), ('change": -5', -5), ("**Change：** 5", 5), ("—5", -5), ("负5", None), ("-", None),
     ("minus 5", None), (' 5, "x": 7', 5), ("9" * 400, None)],
)  # fmt: skip
def test_tokens_lead_up_to_a_number_only_with_its_sign(text: str, number: float | None) -> None:
    assert answers.spelt(text) == number


def test_a_brace_in_labelled_words_is_no_object() -> None:
    assert parse("reply", "Thinking: {sigh} well\nResponse: {好吧}").reply == "好吧"


def test_a_reply_or_a_farewell_in_two_versions_is_a_failure() -> None:
    for raw in ("Reply: Hm.\nReply: I love you.", "Reply: Hm.\nFarewell: no\nFarewell: true"):
        with pytest.raises(CallFailure, match="is given twice"):
            parse("reply", raw)
