"""The HTTP server: routes, errors, starting and stopping."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from heartloop.errors import EndpointFailure, HeartloopError, InvalidInput
from heartloop.policy.base import Policy
from heartloop.policy.serve.offers import Menu
from heartloop.policy.serve.wire import ChatRequest, Refusal, completion, events

_LOG = logging.getLogger(__name__)
LARGEST = 1 << 20
"""Bytes of a request that are read."""
GRACE = 5.0
"""Seconds that answers under way have when the server is told to stop."""
# aiohttp spends its timeout twice: before and after it closes what a handler reads.
_TIMEOUT = GRACE / 2
_MENU = web.AppKey("menu", Menu)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    models: Sequence[str | Policy], *, reveal: bool = False, preset: str = "default"
) -> web.Application:
    """The endpoint as an application of aiohttp.

    Args:
        models: What to offer: "embedded" (any shipped scenario, by id or seed), "embedded:ID",
            "brain", what `make_policy` takes, or a policy.
        reveal: Whether embedded users tell the appraisal behind each change.
        preset: The rules embedded users play by.

    Raises:
        InvalidInput: a model or the preset is unknown, or cannot be served.
    """
    app = web.Application(client_max_size=LARGEST, middlewares=[_as_json])
    app[_MENU] = Menu(models, preset=preset, reveal=reveal)
    app.router.add_get("/health", _health)
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/chat/completions", _chat)
    return app


def serve(
    models: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    public: bool = False,
    reveal: bool = False,
    preset: str = "default",
) -> None:
    """Serve until SIGTERM or SIGINT; answers under way are finished first.

    Args:
        models: As in `make_app`.
        host: Where to listen.
        port: Where to listen; 0 takes a free one.
        public: Must be set for a host that other machines reach: there is no password.
        reveal: As in `make_app`.
        preset: As in `make_app`.

    Raises:
        InvalidInput: the host is not loopback and `public` is off, or the place is taken.
    """
    if not public and not _is_loopback(host):
        raise InvalidInput(
            f"expected a loopback host, got {host!r}: anyone who reaches it could use the models; "
            "set public to serve there all the same"
        )
    app = make_app(models, reveal=reveal, preset=preset)
    try:
        web.run_app(app, host=host, port=port, shutdown_timeout=_TIMEOUT, access_log=None)
    except OSError as error:
        raise InvalidInput(f"cannot serve on {host}:{port} ({error}): choose another") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@web.middleware
async def _as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every error as the body that OpenAI's clients read."""
    try:
        return await handler(request)
    except Refusal as refusal:
        failure = refusal
    except web.HTTPException as error:
        failure = Refusal(error.status, f"{error.reason}: {request.method} {request.path}", "http")
    except ConnectionError:
        raise  # The client left; nobody is there to read an error.
    except HeartloopError as error:
        failure = Refusal(500, f"{type(error).__name__}: {error}", "failed")
    except Exception:
        _LOG.exception("a request failed: %s %s", request.method, request.path)
        failure = Refusal(500, "the server failed on this request: its log says why", "failed")
    return web.json_response(failure.body, status=failure.status)


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _models(request: web.Request) -> web.Response:
    rows = [
        {"id": name, "object": "model", "created": 0, "owned_by": "heartloop"}
        for name in request.app[_MENU].names
    ]
    return web.json_response({"object": "list", "data": rows})


async def _chat(request: web.Request) -> web.StreamResponse:
    asked = ChatRequest.read(await _body(request))
    answer = await request.app[_MENU].find(asked.model)(asked)
    if not asked.stream:
        return web.json_response(completion(asked, answer))
    kind = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=kind)
    await response.prepare(request)
    for event in events(asked, answer):
        await response.write(event.encode())
    await response.write_eof()
    return response


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Refusal(
            413, f"expected a request of at most {LARGEST} bytes: shorten the dialogue", "too_large"
        ) from error


class Served:
    """Runs an application on a free loopback port, on a thread of its own, within a `with` block.

    Example:
        with Served(make_app(["embedded"])) as server:
            client = OpenAI(base_url=server.base_url, api_key="none")
    """

    def __init__(self, app: web.Application) -> None:
        """Run `app`, once."""
        self._app = app
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._leave = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="heartloop-serve", daemon=True)
        self._port = 0

    @property
    def base_url(self) -> str:
        """Where the endpoint is, as clients of OpenAI's API take it."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Served:
        """Start; the endpoint answers when this returns.

        Raises:
            EndpointFailure: it could not be started.
        """
        self._thread.start()
        self._ready.wait()
        if not self._port:
            raise EndpointFailure("the server did not start: the trace of its thread says why")
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the answers under way and stop."""
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        runner = web.AppRunner(self._app, shutdown_timeout=_TIMEOUT, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._port = runner.addresses[0][1]
            self._ready.set()
            await self._leave.wait()
        finally:
            await runner.cleanup()
