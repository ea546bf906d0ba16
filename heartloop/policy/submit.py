"""A training run as a job of a Ray cluster, followed from here to its exit code."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from heartloop.config import load
from heartloop.errors import HeartloopError, InvalidInput, extra
from heartloop.policy.parallel import find_ray

ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
EXCLUDES = (
    ".git/", ".venv*/", "venv/", "__pycache__/", ".*_cache/", ".hypothesis/", "*.egg-info/",
    "/runs/", "/dist/", "/build/", "*.part",
)  # fmt: skip
"""Left out of what is sent, besides what .gitignore and .rayignore name."""
HANDED_ON = ("HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
"""Environment variables that the job gets. Keys are not among them: Ray shows them to everyone."""
POLL = 0.5
"""Seconds between two looks at a job that has nothing to say."""


def entrypoint(
    config: Path, settings: Sequence[str], out: Path | None, folder: Path, resume: bool = False
) -> str:
    """The command of a job that trains in a copy of `folder`, and writes outside of it.

    Raises:
        ConfigError: the run could not start with these settings.
        InvalidInput: the file of settings is not in `folder`.
    """
    found = load(config, settings)
    try:
        inside = config.resolve().relative_to(folder.resolve())
    except ValueError:
        raise InvalidInput(
            f"{config} is not in {folder}, which is what the job gets: submit from its folder"
        ) from None
    # The job runs in a copy that Ray throws away.
    target = (folder / (out or found.run.out)).absolute()
    words = ["heartloop", "train", inside.as_posix()]
    words += [word for setting in settings for word in ("--set", setting)]
    return shlex.join([*words, "--out", str(target), *["--resume"] * resume])


def check_address(address: str, insecure: bool) -> None:
    """Refuse to run code over a network on a cluster that asks nobody who they are.

    Raises:
        InvalidInput: not an HTTP address, or another machine's and no token is sent.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"expected an address like {ADDRESS}, got {address!r}")
    if insecure or _is_loopback(parts.hostname) or _has_token():
        return
    raise InvalidInput(
        f"{parts.hostname} is another machine and no token is sent: set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN here and on the head, or give --insecure"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _has_token() -> bool:
    """Whether Ray would send one: the places where it looks, in its order."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return False
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return (Path(file) if file else Path.home() / ".ray" / "auth_token").is_file()


class Job:
    """A job on a cluster."""

    def __init__(self, address: str, command: str, folder: Path) -> None:
        """Submit `command` with a copy of `folder` as its working directory.

        Raises:
            MissingExtra: Ray is not installed.
            InvalidInput: no head answers there, it wants another token, or `folder` is too large.
        """
        find_ray()
        logging.getLogger("ray").setLevel(logging.WARNING)
        self._address = address
        environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        runtime = {
            "working_dir": str(folder),
            "excludes": list(EXCLUDES),
            "env_vars": {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0", **environment},
        }
        with self._errors():
            self._client = _client(address)
            self.id: str = self._client.submit_job(entrypoint=command, runtime_env=runtime)

    def follow(self, write: Callable[[str], object]) -> int:
        """Hand on what the job prints until it ends; its exit code.

        Raises:
            HeartloopError: the head is gone.
        """
        with self._errors():
            try:
                asyncio.run(self._tail(write))
            except (RuntimeError, OSError):
                write(f"[the log of {self.id} broke off; waiting for its end]\n")
            info = self._ended()
        if info.driver_exit_code is not None:
            return int(info.driver_exit_code)
        if info.status.value == "SUCCEEDED":
            return 0
        raise HeartloopError(f"job {self.id} {info.status.value.lower()}: {info.message}")

    def stop(self) -> None:
        """End the job, and wait until it has."""
        with self._errors():
            self._client.stop_job(self.id)
            self._ended()

    async def _tail(self, write: Callable[[str], object]) -> None:
        async for text in self._client.tail_job_logs(self.id):
            write(text)

    def _ended(self) -> Any:
        """What is known of the job, once it has ended."""
        while not (info := self._client.get_job_info(self.id)).status.is_terminal():
            time.sleep(POLL)
        return info

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say in a line what Ray says in many."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise InvalidInput(
                f"the head at {self._address} wants another token: set RAY_AUTH_MODE and "
                "RAY_AUTH_TOKEN here as they are there"
            ) from error
        except OSError as error:  # what no connection becomes, of all libraries below
            raise InvalidInput(
                f"no Ray head answers at {self._address}: start one with 'ray start --head', "
                "or give --address"
            ) from error
        except (RuntimeError, ValueError) as error:
            if isinstance(error, HeartloopError):
                raise
            raise InvalidInput(f"{self._address} refused the job: {error}") from error


def _client(address: str) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as cause:
        raise extra("ray", cause) from cause
    # Ray lets the environment overrule its argument, and so the check of the address.
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address
    try:
        return JobSubmissionClient(address)
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before
