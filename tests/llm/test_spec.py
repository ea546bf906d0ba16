"""Checks of how models are named."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from heartloop.errors import InvalidInput, MissingExtra, UnknownName
from heartloop.llm import make_model

LOCAL = "openai:m@http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    "spec",
    [
        LOCAL,
        "openai:org/model:7b@http://localhost:8000",
        f"{LOCAL}?key=MY_KEY&concurrency=8&timeout=2.5&retries=0&patience=3&max_requests=9"
        "&max_tokens=99&price_in=0.15&price_out=1",
        f"{LOCAL}?cache=/tmp/a%20b%26c",
    ],
)
def test_a_spec_reads_back_as_itself(spec):
    assert make_model(spec).spec == spec
    assert make_model(make_model(spec).spec) is make_model(spec)


def test_one_spec_is_one_object_in_whatever_order():
    one = make_model(f"{LOCAL}?timeout=5&retries=1")
    assert make_model(f"{LOCAL}/?retries=1&timeout=5.0&concurrency=64") is one
    assert one.spec == f"{LOCAL}?timeout=5&retries=1"


def test_models_of_one_address_share_its_limits():
    one, other = make_model(LOCAL), make_model("openai:n@http://127.0.0.1:1/v1?price_in=3")
    third = make_model(f"{LOCAL}?concurrency=2")
    assert one is not other
    assert one._endpoint is other._endpoint is not third._endpoint


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("", InvalidInput, "expected a model as openai:"),
        ("gpt", InvalidInput, "openai:MODEL@BASE_URL"),
        ("openia:m@http://h", UnknownName, "did you mean 'openai'"),
        ("openai:m", InvalidInput, "http"),
        ("openai:m@ftp://h", InvalidInput, "http"),
        ("openai:@http://h", InvalidInput, "http"),
        ("openai:m@http://", InvalidInput, "http"),
        (f"{LOCAL}?conurrency=3", UnknownName, "did you mean 'concurrency'"),
        (f"{LOCAL}?concurrency=none", InvalidInput, "'concurrency'.*got 'none'"),
        (f"{LOCAL}?concurrency=0", InvalidInput, "'concurrency'.*greater"),
        (f"{LOCAL}?timeout=inf", InvalidInput, "'timeout'.*finite"),
        (f"{LOCAL}?timeout=1&timeout=2", InvalidInput, "'timeout' is given twice"),
    ],
)
def test_a_broken_spec_names_what_is_wrong(spec, error, says):
    with pytest.raises(error, match=says):
        make_model(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "openai:m@http://user:SeCret99@h/v1",
        "openai:m@http://SeCret99@h/v1",
        f"{LOCAL}?key=SeCret99",
        "openia:m@http://h?key=SeCret99",
        "openai:m@ftp://u:SeCret99@h?key=SeCret99",
    ],
)
def test_a_secret_in_a_spec_is_refused_and_not_shown(spec):
    with pytest.raises(InvalidInput) as caught:
        make_model(spec)
    assert "SeCret99" not in str(caught.value)


def test_a_missing_key_is_named_for_other_hosts_only(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    make_model(f"{LOCAL}?key=NO_SUCH_KEY")
    with pytest.raises(InvalidInput, match="variable NO_SUCH_KEY"):
        make_model("openai:m@https://models.invalid/v1?key=NO_SUCH_KEY")
    monkeypatch.setenv("NO_SUCH_KEY", "anything")
    make_model("openai:m@https://models.invalid/v1?key=NO_SUCH_KEY")


def test_vllm_says_when_it_is_absent():
    if find_spec("vllm"):
        pytest.skip("vLLM is installed")
    with pytest.raises(MissingExtra, match="'vllm' extra"):
        make_model("vllm:some/model")


def test_importing_the_models_imports_no_heavy_package():
    code = (
        "import sys, heartloop.llm;"
        "sys.exit(bool({'aiohttp', 'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
