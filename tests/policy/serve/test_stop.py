"""Checks that a server stops in time though a policy does not come back."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import threading
import time

import aiohttp
import pytest

from tests.policy.serve.test_app import ROOT, Body, call, said

STUCK = """
import sys, threading, time
from aiohttp import web
from heartloop.policy.serve import app
from tests.fakes import ToyPolicy

def stuck(prompt):
    print("stuck", flush=True)
    time.sleep(600)

app.GRACE = 1.0
app._TIMEOUT = 0.5
made = app.make_app([ToyPolicy(stuck)])
if sys.argv[1] == "served":
    with app.Served(made) as server:
        print(server.base_url, flush=True)
        sys.stdin.readline()
else:
    app.make_app = lambda *a, **k: made
    app.serve([], port=0)
"""


@pytest.mark.parametrize("kind", ["served", "serve"])
def test_a_stuck_policy_does_not_outlast_the_grace_of_a_stopping_server(kind):
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", STUCK, kind], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdin is not None
        port = re.findall(r"127\.0\.0\.1:(\d+)", process.stdout.readline())[0]
        body = said(("user", "Hi"), model="toy-policy")
        url = f"http://127.0.0.1:{port}/v1"
        client = threading.Thread(target=lambda: asyncio.run(left_alone(url, body)), daemon=True)
        client.start()
        while "stuck" not in process.stdout.readline():
            assert process.poll() is None
        began = time.monotonic()
        if kind == "served":
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            process.send_signal(signal.SIGTERM)
        process.wait(60)  # the policy would hold it up for longer
        assert time.monotonic() - began > 0.9
    finally:
        process.kill()
        process.communicate()


async def left_alone(url: str, body: Body) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        await call(url, body)
