import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from heartloop.chat import care, likeness, risk
from heartloop.chat.risk import by_rules
from heartloop.chat.session import Due
from heartloop.errors import UnknownName
from tests.chat.parts import session
from tests.fakes import ToyPolicy

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import crisis_weights

ROUNDS = tomllib.loads((Path(__file__).parent / "crisis.toml").read_text("utf-8"))
KINDS = ("explicit", "indirect", "negated", "idiom", "plain")
LINES = {
    kind: [line for lines in ROUNDS.values() for line in lines.get(kind, [])] for kind in KINDS
}


def missed(kind: str) -> list[str]:
    return [line for line in LINES[kind] if care.risk(line) is None]


def alarms(kind: str) -> list[str]:
    return [line for line in LINES[kind] if care.risk(line) is not None]


def test_the_set_has_at_least_a_hundred_lines_in_two_languages():
    every = [line for lines in LINES.values() for line in lines]
    assert len(every) == len(set(every)) >= 100
    assert sum(care.language(line) == "zh" for line in every) >= 30


def test_explicit_risk_is_found():
    assert len(missed("explicit")) <= 0.05 * len(LINES["explicit"]), missed("explicit")


def test_indirect_risk_is_found():
    assert len(missed("indirect")) <= 0.20 * len(LINES["indirect"]), missed("indirect")


def test_idioms_negations_and_plain_grief_raise_few_alarms():
    calm = ("negated", "idiom", "plain")
    wrong = [line for kind in calm for line in alarms(kind)]
    assert len(wrong) <= 0.05 * sum(len(LINES[kind]) for kind in calm), wrong


def test_explicit_risk_outranks_indirect_risk():
    found = care.risk("I'm a burden to everyone. I want to kill myself.")
    assert found == care.Risk(care.Level.EXPLICIT, "en")
    assert care.risk("I'm a burden to everyone.") == care.Risk(care.Level.INDIRECT, "en")


def test_a_negation_holds_in_its_own_clause_only():
    assert care.risk("I'm not joking, I want to die.")
    assert care.risk("I don't want to die but I can't stop thinking about suicide")
    assert not care.risk("I don't want to die, I want to sleep.")


@pytest.mark.parametrize(
    "text",
    [
        "Are you a real person?",
        "are you human",
        "Am I talking to a bot?",
        "你是真人吗？",
        "Who are you?",
        "are you a bot?",
        "Are you an AI?",
        "is this a real person",
        "你是真人吗",
        "你是机器人吗？",
        "你是不是AI",
        "妳是真人嗎",
        "你是機器人嗎",
    ],
)
def test_asking_what_it_is_is_understood(text):
    assert care.asks_if_ai(text)


def test_other_questions_do_not_ask_what_it_is():
    assert not care.asks_if_ai("Are you saying I am wrong? What are you up to?")
    assert not care.asks_if_ai("I talked to a person at the bank.")


@pytest.mark.parametrize(
    "place, line",
    [("us", "988"), ("gb", "116 123"), ("ie", "116 123"), ("DE", "112"), ("cn", "12356"),
     ("international", "findahelpline.com")],
)  # fmt: skip
@pytest.mark.parametrize("script", ["en", "zh"])
def test_a_referral_names_the_line_of_its_region_and_the_list_for_all(place, line, script):
    text = care.referral(place, script)
    assert line in text and "findahelpline.com" in text and "{" not in text


def test_a_referral_is_the_bundled_text_of_its_region_and_nothing_else():
    table = tomllib.loads((Path(care.__file__).parent / "care.toml").read_text("utf-8"))
    lines = f"- {table['lines']['us']['en']}\n- {table['lines']['international']['en']}"
    head, tail = table["referral"]["en"].strip().split("{lines}")
    assert care.referral("us", "en") == head + lines + tail == care.referral("us", "en")


def test_traditional_characters_and_loose_spelling_are_read_alike():
    assert care.risk("我想自殘") == care.risk("我想自残") == care.Risk(care.Level.EXPLICIT, "zh")
    assert care.risk("i dont want to be alive") == care.risk("I don't want to be alive")
    assert care.risk("i dont want to be alive")


def test_the_past_fiction_and_other_people_are_not_the_writers_risk():
    assert not care.risk("Ten years ago I was suicidal.")
    assert not care.risk("In the last chapter of the book I kill myself off.")
    assert not care.risk("My dad took his own life.")
    assert care.risk("Ten years ago I was suicidal and now I am suicidal again.")


def test_an_unknown_region_is_named_with_those_known():
    with pytest.raises(UnknownName, match="known: cn, eu, gb, ie, international, us"):
        care.referral("atlantis", "en")


@pytest.mark.parametrize(
    "setting, region",
    [("en_US.UTF-8", "us"), ("de_DE", "eu"), ("zh_CN.UTF-8", "cn"), ("C", "international"),
     ("pt_BR", "international"), ("", "international")],
)  # fmt: skip
def test_the_region_follows_from_the_settings_of_the_system(setting, region):
    assert care.region({"LANG": setting}) == region


def test_every_line_names_where_it_can_be_checked():
    rows = tomllib.loads((Path(care.__file__).parent / "care.toml").read_text("utf-8"))["lines"]
    assert all(
        row["source"].startswith("https://") and row["en"] and row["zh"] for row in rows.values()
    )


@pytest.mark.parametrize(
    "text",
    [
        "r u a bot?", "am i speaking with a real human right now", "you're a robot aren't you",
        "are you an actual person or a machine", "is there a human behind this",
        "is anyone real there", "what exactly are you", "are you AI or human?",
        "be honest, are you a computer", "are u human", "you're not a real person, are you?",
        "你是人还是机器", "你到底是不是机器人啊", "我在跟真人聊天吗", "对面是真人吗",
        "你不是真人吧", "你是AI吗", "是真人在回复我吗", "你究竟是什么",
    ],
)  # fmt: skip
def test_asking_what_it_is_is_understood_in_other_words(text):
    assert care.asks_if_ai(text)


@pytest.mark.parametrize(
    "text",
    [
        "are you free tomorrow", "my robot vacuum broke", "is this a real problem",
        "she is a real person with feelings", "I work on AI", "what are you doing", "你是哪里人",
        "他是真人秀明星", "我买了个扫地机器人",
    ],
)  # fmt: skip
def test_talk_of_people_and_machines_does_not_ask_what_it_is(text):
    assert not care.asks_if_ai(text)


def test_words_in_disguise_or_run_together_are_read():
    for text in ("i w4nt to die", "iwanttodie", "k i l l myself", "i want to d1e", "我想亖"):
        assert care.risk(text), text


def test_what_is_everyday_or_told_of_grief_keeps_loose_rules_quiet():
    assert care.risk("I can't do this anymore") and not care.risk("I can't do this job anymore")
    assert care.risk("Death is all I think about")
    assert not care.risk("My dad's death is all I think about")


@pytest.mark.parametrize(
    "text",
    [
        "my friend says he'll kill himself tonight", "My sister texted me that she wants to die",
        "my roommate just took a whole bottle of pills", "My dad keeps saying he'll end his life",
        "I think my brother is going to hurt himself", "my cousin is suicidal and I'm scared",
        "my daughter keeps cutting herself and I don't know what to do",
        "my boyfriend is threatening to kill himself if I leave",
        "How do I help a friend who is suicidal?", "he is on the bridge and says he will jump",
        "my mum said she doesn't want to live anymore",
        "she told me she's planning to overdose",
        "my husband tried to kill himself last night and he's home now",
        "我朋友说他今晚要自杀", "我妹妹割腕了，现在怎么办", "我室友说她不想活了",
        "他站在天台上说要跳下去", "我妈说她想死，我好怕", "同学发了遗书，联系不上了",
    ],
)  # fmt: skip
def test_the_present_risk_of_somebody_near_brings_up_how_to_help_them(text):
    assert care.risk_of_another(text) == care.language(text)
    assert care.referral("ie", care.language(text), "concern") in care.referrals(text, "ie")


@pytest.mark.parametrize(
    "text",
    [
        "My dad took his own life.", "my uncle killed himself ten years ago",
        "my friend tried to kill herself years ago, she is fine now",
        "In the film the hero kills himself", "The news said a man jumped off a bridge",
        "my boss is going to kill me", "my mum will kill me if I'm late",
        "she's dying to meet you", "my grandma is dying of cancer",
        "My friend died by suicide last spring", "my brother's suicide still haunts me",
        "he is not suicidal, just sad", "my cousin is writing a paper on suicide",
        "He's killing himself laughing", "she would never hurt herself",
        "my friend is going to kill himself trying to finish that marathon",
        "my sister works for a suicide hotline", "my girlfriend cut her finger",
        "my cat died and she was everything", "he wants to end the relationship",
        "my dad takes all his pills on time", "我爸爸去年自杀了", "我朋友以前自杀过，现在好了",
        "电影里的男主自杀了", "他没有想自杀，只是难过", "我妈要打死我", "我室友快笑死了",
        "他累死了", "我姐说她想死我了",
    ],
)  # fmt: skip
def test_grief_stories_and_figures_of_speech_tell_of_no_present_risk_of_another(text):
    assert care.risk_of_another(text) is None
    assert care.referrals(text, "us") == []


def test_the_risk_of_another_is_answered_by_the_fixed_text_and_by_no_policy():
    policy = ToyPolicy()
    one = session("talk", "p", players={"p": policy})
    one.say("my friend says he'll kill himself tonight")
    _, notice = one.path
    assert notice.text == care.referral("us", "en", "concern") and notice.referral
    assert one.due is Due.PERSON and policy.batches == []


def test_what_the_writer_feels_is_not_taken_for_another():
    for text in ("my friend thinks I want to die", "my sister knows that I want to kill myself"):
        assert care.risk_of_another(text) is None, text
    both = care.referrals("I want to kill myself. My brother says he will kill himself too.", "us")
    assert both == [care.referral("us", "en"), care.referral("us", "en", "concern")]


@pytest.mark.parametrize(
    "others",
    [
        "My brother says he will kill himself.",
        "我哥哥说他要自杀。",
    ],
)
@pytest.mark.parametrize("order", ["{others} {own}", "{own}\n{others}"])
def test_the_risk_of_another_hides_none_of_the_writers_own(others, order):
    found = [line for line in LINES["indirect"] if by_rules(line) is None and care.risk(line)]
    assert len(found) >= 5
    for own in found:
        told = care.referrals(order.format(others=others, own=own), "us")
        assert told == [
            care.referral("us", care.language(own)),
            care.referral("us", care.language(others), "concern"),
        ], own


def test_the_risk_of_another_beside_calm_lines_is_not_the_writers():
    calm = [line for kind in ("negated", "idiom", "plain") for line in LINES[kind]]
    about = care.referral("us", "en", "concern")
    for line in calm:
        text = f"My brother says he will kill himself. {line}"
        assert (len(care.referrals(text, "us")) > 1) == (care.risk(line) is not None), line
        assert about in care.referrals(text, "us")


def test_calm_lines_raise_few_alarms_about_others():
    calm = [line for kind in ("negated", "idiom", "plain") for line in LINES[kind]]
    wrong = [line for line in calm if care.risk_of_another(line)]
    assert len(wrong) <= 0.01 * len(calm), wrong


def test_the_text_about_others_is_bundled_whole_in_both_languages():
    table = tomllib.loads((Path(care.__file__).parent / "care.toml").read_text("utf-8"))
    assert table["concern"]["source"].startswith("https://")
    for script, emergency in (("en", "local emergency number"), ("zh", "急救或报警电话")):
        text = care.referral("us", script, "concern")
        assert "988" in text and "findahelpline.com" in text and emergency in text
        head, tail = table["concern"][script].strip().split("{lines}")
        assert text.startswith(head) and text.endswith(tail) and "{" not in text


@pytest.mark.parametrize(
    "typed", ["suicidl rn", "i feel suiccidal tonight", "i want to kill mysel", "i'll kill mysefl"]
)
def test_a_slip_of_one_letter_is_read(typed):
    assert care.risk(typed)
    assert not care.risk("he does it himself and I help myself to cake")


def test_the_weights_are_those_learnt_from_the_lines_and_features_as_they_are():
    known = likeness.weights()
    assert known.taught == crisis_weights.taught(), "run benchmarks/crisis_weights.py"
    assert len(known.values) == likeness.SIZE


@pytest.mark.parametrize(
    ("module", "name", "other"),
    [
        (likeness, "_PIECE", 5), (likeness, "SIZE", 1 << 17),
        (likeness, "_english", lambda spoken: [f"w{word}" for word in spoken]),
        (likeness, "_chinese", lambda text: [f"z{sign}" for sign in text]),
        (risk, "_spelled", str), (risk, "_without_idioms", lambda sentence: sentence),
        (risk, "_COMMA", re.compile(",")),
    ],
)  # fmt: skip
def test_weights_learnt_from_other_features_are_known_to_be(module, name, other, monkeypatch):
    monkeypatch.setattr(module, name, other)
    assert likeness.weights().taught != crisis_weights.taught()


def test_everyday_lines_are_read_as_utf_8_and_their_files_closed():
    read = "import crisis_weights; print(len(crisis_weights.everyday()))"
    words = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning:crisis_weights",
             "-W", "always::ResourceWarning", "-c", read]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *words],
        cwd=Path(crisis_weights.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "ResourceWarning" not in done.stderr, done.stderr
    assert int(done.stdout) > 1000


def test_what_no_rule_knows_may_still_read_like_risk_and_is_put_down_as_indirect():
    found = [
        line for line in LINES["indirect"] if by_rules(line) is None and care.risk(line) is not None
    ]
    assert len(found) >= 5
    assert {care.risk(line).level for line in found} == {care.Level.INDIRECT}


def test_what_only_looks_like_a_rule_is_let_pass_and_the_surer_rule_needs_less():
    passed = [line for line in LINES["idiom"] + LINES["negated"] if by_rules(line)]
    assert sum(care.risk(line) is None for line in passed) >= 5
    for alone, indirect, explicit in likeness.weights().limits.values():
        assert alone >= indirect and alone > explicit


def test_the_lines_that_teach_are_none_of_those_that_ask():
    taught = crisis_weights.rows_of(crisis_weights.TAUGHT)
    assert {row["kind"] for row in taught} == set(KINDS)
    texts = {row["text"].lower() for row in taught}
    assert len(texts) == len(taught)
    assert texts.isdisjoint(line.lower() for kind in KINDS for line in LINES[kind])


def test_limits_follow_from_what_rules_are_worth():
    draws = np.random.default_rng(0)
    risky = np.arange(2000) % 2 == 0
    scores = np.where(risky, 1.0, -1.0) + draws.normal(size=2000)
    explicit_rule = draws.random(2000) < 0.1 + 0.5 * risky
    rules = np.column_stack([(draws.random(2000) < 0.2) & ~explicit_rule, explicit_rule])
    alone, indirect, explicit = crisis_weights.limits(scores, rules, risky, np.ones(2000))
    assert abs(alone - indirect) < 0.3 and alone - explicit > 0.5
    over = scores > np.array([alone, indirect, explicit])[rules @ (1, 2)]
    assert 0.03 < over[~risky].mean() < 0.07


@pytest.mark.parametrize("around", [0, 2, 8])
def test_what_one_sentence_tells_does_not_drown_in_a_long_message(around):
    day = "The bus was late again. We had soup for lunch. My sister rang about the garden. "
    for told in ("I want to kill myself tonight.", "Everyone would be better off without me."):
        assert care.risk(day * around + told + " " + day * around)
    assert not care.risk(day * around)
