import pytest

from heartloop.chat.recall import ranked

PROMPTS = ["pass the salt", "passing the Exam", "a person sings", "考试没有通过"]


@pytest.mark.parametrize(
    "query, found",
    [("", PROMPTS), ("psng", ["passing the Exam", "a person sings"]), ("exam", PROMPTS[1:2]),
     ("the pass", PROMPTS[:2]), ("考通", PROMPTS[3:]), ("xyz", []), ("salt exam", [])],
)  # fmt: skip
def test_letters_in_their_order_find_prompts_the_tightest_match_first(query, found):
    assert ranked(query, PROMPTS) == found


def test_of_equal_matches_the_one_given_first_leads():
    assert ranked("a b", ["b a", "a b", "a-b"]) == ["b a", "a b", "a-b"]


def test_the_tightest_place_in_a_prompt_counts():
    assert ranked("cat", ["c a t", "c-----a-----t c_at"])[0] == "c-----a-----t c_at"
