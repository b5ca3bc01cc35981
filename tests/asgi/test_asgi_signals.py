"""SIGTERM on every event loop: trap 32, one of our own: an event loop takes the descriptor that signals wake."""

from __future__ import annotations

import sys

import pytest
from harness import request

from support import Client, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.mark.daily("uvloop-busy")
@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sigterm_is_heard(loop: str, state: str) -> None:
    pytest.importorskip(loop)
    with Server("lifespans:signals", "--loop", loop, "--no-gevent") as server, Client(server.port) as client:
        if state == "busy":
            client.send(request("/?0.5"))
            server.wait_for_log("entered")
        else:
            assert client.get("/?0").body == b"fine"
        assert server.stop() == 0
        if state == "busy":
            assert client.read().body == b"fine"
