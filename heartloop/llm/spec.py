"""Models by name: `openai:MODEL@BASE_URL?option=value`, `hf:MODEL`, `vllm:MODEL`."""

from __future__ import annotations

import os
import re
import threading
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, ValidationError

from heartloop.errors import InvalidInput, unknown
from heartloop.llm.base import ChatModel
from heartloop.types import Value

if TYPE_CHECKING:
    from heartloop.llm.endpoint import Endpoint

BACK_ENDS = ("openai", "hf", "vllm")
FORM = "openai:MODEL@BASE_URL, hf:ID_OR_FOLDER or vllm:ID_OR_FOLDER"
_MAKING = threading.RLock()


def _renew() -> None:
    global _MAKING
    _MAKING = threading.RLock()


os.register_at_fork(after_in_child=_renew)


class HttpOptions(Value):
    """What may stand behind the "?" of an `openai:` spec."""

    key: str = Field("OPENAI_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$")
    """Environment variable that holds the key."""
    concurrency: int = Field(64, ge=1)
    """Most requests at once; fewer where the server complains."""
    timeout: float = Field(60, gt=0, allow_inf_nan=False)
    """Seconds for one request, or of a stream for its next words; patience may cut it short."""
    retries: int = Field(4, ge=0)
    """Requests beyond the first before a call is given up."""
    patience: float = Field(60, gt=0, allow_inf_nan=False)
    """Seconds without any success before the endpoint is given up, its first answer included.

    The first request of a silence has its whole timeout once the endpoint has answered before.
    """
    max_requests: int | None = Field(None, ge=1)
    """Budget of requests of this process."""
    max_tokens: int | None = Field(None, ge=1)
    """Budget of tokens of this process."""
    price_in: float = Field(0, ge=0, allow_inf_nan=False)
    """Of a million prompt tokens."""
    price_out: float = Field(0, ge=0, allow_inf_nan=False)
    """Of a million answer tokens."""
    cache: str = ""
    """Folder in which answers are kept."""


def make_model(spec: str) -> ChatModel:
    """The model a spec names; one spec, written in whatever order, is one object.

    `openai:MODEL@BASE_URL` is any OpenAI-compatible server. The address is used as it stands,
    "/chat/completions" appended; most servers expect it to end in "/v1". Options follow as in
    `?key=MY_KEY&concurrency=32`, see `HttpOptions`. Models of one address with the same limits
    share them. `hf:` runs transformers in this process, `vllm:` a vLLM engine.

    Raises:
        InvalidInput: the spec is broken, or its key is not set.
        UnknownName: no such back end or option.
        MissingExtra: the back end is not installed.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise InvalidInput(f"expected a model as {FORM}, got {_hidden(spec)!r}")
    if kind not in BACK_ENDS:
        raise unknown("model back end", kind, BACK_ENDS)
    with _MAKING:
        return _http(*_parsed(rest)) if kind == "openai" else _local(kind, rest)


def _parsed(rest: str) -> tuple[str, str, HttpOptions]:
    """Model, address and options of what follows `openai:`."""
    place, _, query = rest.partition("?")
    found = re.fullmatch(r"(?P<model>\S+?)@(?P<url>https?://\S+)", place)
    if not found:
        raise InvalidInput(
            f"expected openai:MODEL@BASE_URL with http:// or https://, got {_hidden(place)!r}"
        )
    url = urlsplit(found["url"])
    if url.username or url.password or url.fragment or not url.hostname:
        raise InvalidInput(
            f"expected an address with a host and without user, password or #, "
            f"got one for host {url.hostname!r}: put the key in an environment variable"
        )
    return found["model"], found["url"].rstrip("/"), _options(query)


def _options(query: str) -> HttpOptions:
    given: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in HttpOptions.model_fields:
            raise unknown("option of an openai: model", name, HttpOptions.model_fields)
        if name in given:
            raise InvalidInput(f"option {name!r} is given twice: leave one")
        given[name] = unquote(value)
    try:
        return HttpOptions.model_validate(given)
    except ValidationError as error:
        raise InvalidInput(_complaint(error)) from None


def _complaint(error: ValidationError) -> str:
    """What is wrong with an option; a value given for `key` may be a secret and is not shown."""
    first = error.errors(include_url=False)[0]
    name = first["loc"][0]
    if name == "key":
        return (
            "option 'key' expects the name of an environment variable in capitals, never a key; "
            "got something else"
        )
    return f"option {name!r}: {first['msg']}, got {first['input']!r}"


def _hidden(text: str) -> str:
    """A broken spec as it may be shown: whatever might be a secret is left out."""
    return re.sub(r"//[^/@\s]*@", "//...@", text.partition("?")[0])


@cache
def _http(model: str, url: str, options: HttpOptions) -> ChatModel:
    from heartloop.llm.cache import cached
    from heartloop.llm.http import HttpModel
    from heartloop.llm.ledger import Price

    limits = options.model_copy(
        update={"retries": 0, "price_in": 0.0, "price_out": 0.0, "cache": ""}
    )
    endpoint = _endpoint(url, limits)
    endpoint.check_key()
    spec = _spec(model, url, options)
    price = Price(options.price_in, options.price_out)
    made = HttpModel(model, endpoint, spec=spec, retries=options.retries, price=price)
    return cached(made, options.cache) if options.cache else made


def _spec(model: str, url: str, options: HttpOptions) -> str:
    """The spec in its one way of writing: options in order, defaults left out."""
    given = options.model_dump(exclude_defaults=True)
    query = "&".join(f"{name}={quote(_written(value))}" for name, value in given.items())
    return f"openai:{model}@{url}" + (f"?{query}" if query else "")


def _written(value: object) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


@cache
def _endpoint(url: str, options: HttpOptions) -> Endpoint:
    from heartloop.llm.endpoint import Endpoint
    from heartloop.llm.limits import Limits

    limits = Limits(
        f"the endpoint {url} (key variable {options.key})",
        concurrency=options.concurrency,
        patience=options.patience,
        max_requests=options.max_requests,
        max_tokens=options.max_tokens,
    )
    return Endpoint(url, options.key, options.timeout, limits)


@cache
def _local(kind: str, name: str) -> ChatModel:
    if kind == "hf":
        from heartloop.llm.local import LocalModel

        return LocalModel(name)
    from heartloop.llm.vllm import VllmModel

    return VllmModel(name)
