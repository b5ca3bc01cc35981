"""SIGTERM on every event loop, and whenever it comes: traps 32 and 43.

An event loop takes the descriptor that signals wake (a trap of our own).
"""

from __future__ import annotations

import signal
import sys

import pytest
from harness import request

from support import Client, Server, wait_for

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


@pytest.mark.daily("lifespan-loop-SIGTERM-asyncio", "request-given-back-SIGTERM", "lifespan-handler-SIGINT-asyncio")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("takes", ["loop", "given-back", "handler"])
@pytest.mark.parametrize("where", ["lifespan", "request"])
def test_a_single_process_hears_signals_that_its_application_takes(
    loop: str, where: str, takes: str, name: str
) -> None:
    pytest.importorskip(loop)
    env = {"TAKES": takes if where == "lifespan" else ""}
    with Server("signalling:tasks", "--loop", loop, "--interface", "asgi", env=env) as server:
        server.wait_for_log("worker ready")
        if where == "request":
            with Client(server.port) as client:
                before = client.get("/").body
                assert client.get("/?" + takes).body != before
                # The loop looks at itself after a second at most.
                wait_for(lambda: any(ours in client.get("/").body for ours in (b"_Both", before)))
        server.signal(getattr(signal, name))
        assert server.wait() == 0
    log = "\n".join(server.log)
    assert "shut down" in log
    assert "ends now" not in log


@pytest.mark.daily("uvloop")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_ctrl_c_ends_a_single_process_whose_request_catches_everything(loop: str) -> None:
    """uvloop has the descriptor, so that only the handler can tell the thread that counts the time."""
    pytest.importorskip(loop)
    flags = ("--loop", loop, "--interface", "asgi", "--lifespan", "off", "--graceful-exit-timeout", "3600")
    with Server("signalling:deaf", *flags) as server, Client(server.port) as client:
        client.send(request("/"))
        server.wait_for_log("entered")
        server.signal(signal.SIGINT)
        assert server.wait() == 0


@pytest.mark.daily("asyncio-worker", "uvloop-single")
@pytest.mark.parametrize("processes", [0, 1], ids=["single", "worker"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sigterm_while_the_lifespan_starts(loop: str, processes: int) -> None:
    """Trap 43: what has begun is cleaned up, and there is no traceback: the server does what it was asked for."""
    pytest.importorskip(loop)
    flags = ("-p", str(processes), "--loop", loop, "--interface", "asgi")
    with Server("lifespans:starts_late", *flags) as server:
        server.wait_for_log("waiting")
        assert server.stop() == 0
    assert "cleaned up" in server.log
    assert not [line for line in server.log if "Traceback" in line or "never retrieved" in line or "ERROR" in line]
