"""WebSockets by the command: restarts, the end, what one sees of them."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from support import APPS, Client, Server, get, run, wait_for
from wsclient import CLOSE, FIN, Peer, close, handshake, text

if TYPE_CHECKING:
    from pathlib import Path

    from credentials import Credentials

has_hup = pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP")
RESTART = (1012, "the server restarts")
END = (1001, "the server ends")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with the application, at version 1."""
    shutil.copy(APPS / "versioned_ws.py", tmp_path)
    deploy(tmp_path, "1")
    return tmp_path


def deploy(site: Path, version: str) -> None:
    (site / "version.txt").write_text(version, encoding="ascii")


def restart(server: Server) -> None:
    """A rolling restart, to its end."""
    old, line = set(server.children()), len(server.log)
    server.signal(signal.SIGHUP)
    server.wait_for_log("restart done", after=line)
    assert not old & set(server.children()) or wait_for(lambda: not old & set(server.children()))


@has_hup
def test_a_client_is_told_at_a_restart_and_comes_to_the_new_code(site: Path) -> None:
    with Server("versioned_ws:app", "-p", "2", "--interface", "asgi", cwd=site) as server:
        peers = [Peer(server.port) for _ in range(8)]
        assert [peer.texts(1) for peer in peers] == [["1"]] * 8
        deploy(site, "2")
        server.signal(signal.SIGHUP)
        for peer in peers:
            assert peer.read_close() == RESTART
            with Peer(server.port) as again:
                first = again.texts(1)[0]
                if first != "2":  # the other worker, which has its restart before it
                    assert again.read_close() == RESTART
            peer.send(close(1012))
            assert peer.at_end()
            peer.client.close()
        server.wait_for_log("restart done")
    assert "Traceback" not in "\n".join(server.log)


@pytest.mark.daily("-p 1")
@pytest.mark.parametrize("flags", ["-p 0", "-p 1"])
def test_a_client_is_told_at_the_end(site: Path, flags: str) -> None:
    with Server("versioned_ws:app", *flags.split(), "--interface", "asgi", cwd=site) as server:
        with Peer(server.port) as peer:
            assert peer.texts(1) == ["1"]
            server.signal(signal.SIGTERM)
            assert peer.read_close() == END
            peer.send(close(1001))
            assert peer.at_end()
        assert server.wait() == 0
    assert "Traceback" not in "\n".join(server.log)


def test_stalled_clients_and_applications_hold_up_the_end_no_longer_than_they_may(site: Path) -> None:
    flags = ("--interface", "asgi", "--ws-close-timeout", "1", "--graceful-exit-timeout", "3")
    with Server("versioned_ws:app", *flags, cwd=site) as server:
        peers = [Peer(server.port, target) for target in ("/", "/stays") for _ in range(10)]
        for peer in peers:
            assert peer.texts(1) == ["1"]
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        for peer in peers:
            assert peer.read_close() == END
        for peer in peers[10:]:
            peer.send(close(1001))
        assert server.wait() == 0
        assert time.monotonic() - began < 8
        for peer in peers:
            peer.client.close()


@pytest.mark.daily("-p 0")
@pytest.mark.parametrize("flags", ["-p 0", "-p 1"])
def test_the_quick_exit_is_no_error_of_the_application(site: Path, flags: str) -> None:
    with Server("versioned_ws:app", *flags.split(), "--interface", "asgi", cwd=site) as server:
        peers = [Peer(server.port, target) for target in ("/", "/stays", "/") for _ in range(3)]
        for peer in peers:
            assert peer.texts(1) == ["1"]
        server.signal(signal.SIGINT)
        for peer in peers:
            with pytest.raises(ConnectionError):
                peer.read()
            peer.client.close()
        assert server.wait() == 0
    assert "ERROR" not in "\n".join(server.log)


def test_a_handshake_that_is_decided_during_the_end(site: Path) -> None:
    with Server("versioned_ws:app", "--interface", "asgi", cwd=site) as server:
        with Peer(server.port) as told:
            told.texts(1)
            client = Client(server.port)
            client.send(handshake("/late"))
            assert get(server.port).body == b"1"  # so the handshake was read
            server.signal(signal.SIGTERM)
            assert told.read_close() == END
            told.send(close(1001))
            (site / "decide").touch()
            assert client.read().status == 101
            assert client.file.read(4)[2:] == (1001).to_bytes(2, "big")
            client.send(close(1001))
            client.close()
        assert server.wait() == 0


def test_a_handshake_without_a_decision_has_the_time_limit_of_a_request(site: Path) -> None:
    flags = ("-p", "1", "--interface", "asgi", "--request-timeout", "0.5", "--max-workers", "1")
    with Server("versioned_ws:app", *flags, cwd=site) as server:
        with Peer(server.port) as accepted:
            assert accepted.texts(1) == ["1"]
            with Peer(server.port, "/late") as late:
                assert late.response.status == 504
                assert late.at_end()
            server.wait_for_log("--request-timeout is over; cancelled after")
            assert get(server.port).body == b"1", "the only slot is free"
            accepted.send(text("still here"))
            assert accepted.texts(1) == ["still here"]
        assert server.stop() == 0
    assert "Traceback" not in "\n".join(server.log)


def test_over_tls(site: Path, credentials: Credentials) -> None:
    with Server("versioned_ws:app", "--interface", "asgi", "--certfile", credentials.server, cwd=site) as server:
        with Peer(server.port, tls=credentials.context()) as peer:
            assert peer.texts(1) == ["1"]
            peer.send(*[text(str(number)) for number in range(500)])
            assert peer.texts(500) == list(map(str, range(500)))
            peer.send(text("x" * 1_000_000))
            assert peer.texts(1) == ["x" * 1_000_000]
            server.signal(signal.SIGTERM)
            assert peer.read_close() == END
            peer.send(close(1001))
            assert peer.at_end()
        assert server.wait() == 0


def test_what_one_sees(site: Path) -> None:
    pytest.importorskip("prometheus_client")
    flags = ("-p", "1", "--interface", "asgi", "--health-listen", "127.0.0.1:0")
    with Server("versioned_ws:app", *flags, cwd=site) as server:
        peers = [Peer(server.port) for _ in range(3)]
        for peer in peers:
            peer.texts(1)

        def seen() -> dict[str, object]:
            done = run("ps", "--json", f":{server.port}")
            assert done.stdout, done
            worker = json.loads(done.stdout)["workers"][0]
            return {name: worker[name] for name in ("open", "websockets", "busy", "running", "1xx")}

        wanted = {"open": 3, "websockets": 3, "busy": 0, "running": [], "1xx": 3}
        wait_for(lambda: seen() == wanted)
        assert "3 WebSockets" in run("ps", f":{server.port}").stdout
        port = int(re.search(r":(\d+)$", server.wait_for_log("health checks on"))[1])  # type: ignore[index]
        metrics = get(port, "/metrics").body.decode()
        assert 'zibai_connections{state="websockets"} 3.0' in metrics
        assert 'zibai_requests_total{method="read",status="1xx"} 3.0' in metrics
        peers[0].send(text("hello"))
        assert peers[0].texts(1) == ["hello"]
        peers[0].send(close(4000, "so\nlong"))
        assert peers[0].read_close()[0] == 4000
        for peer in peers:
            peer.client.close()
        line = server.wait_for_log('closed 4000 "so')
        assert re.search(r'"WEBSOCKET /" closed 4000 "so\\x0along" after \d+\.\ds, messages in 1 out 2, ', line)
        wait_for(lambda: seen()["websockets"] == 0)
        assert len([line for line in server.log if '"GET / HTTP/1.1" 101 0' in line]) == 3


MISSING = "raise ModuleNotFoundError(\"No module named 'websockets'\", name='websockets')\n"


def test_without_the_package_a_handshake_is_an_ordinary_request(site: Path) -> None:
    (site / "websockets.py").write_text(MISSING, encoding="ascii")
    with Server("versioned_ws:app", "--interface", "asgi", cwd=site) as server:
        for _ in range(2):
            with Peer(server.port) as peer:
                assert (peer.response.status, peer.response.body) == (200, b"1")
        assert "pip install 'zibai-server[websocket]'" in server.wait_for_log("a client asks for WebSocket")
        assert server.stop() == 0
    assert len([line for line in server.log if "asks for WebSocket" in line]) == 1


def test_without_the_package_it_can_be_demanded(site: Path) -> None:
    (site / "websockets.py").write_text(MISSING, encoding="ascii")
    done = run("versioned_ws:app", "--listen", "127.0.0.1:0", "--interface", "asgi", "--ws", "on", cwd=site)
    assert done.returncode == 2
    assert "WebSocket needs websockets; pip install 'zibai-server[websocket]'" in done.stderr
    assert "Traceback" not in done.stderr


OLD = """
def app(environ, start_response):
    if "HTTP_SEC_WEBSOCKET_KEY" in environ:
        raise RuntimeError("Cannot obtain socket from WSGI environment.")  # as simple-websocket does
    start_response("200 OK", [("Content-Length", "4")])
    return [b"fine"]
"""


@pytest.mark.daily("threads")
@pytest.mark.parametrize("flags", [("--no-gevent",), ()], ids=["threads", "greenlets"])
def test_a_wsgi_application_has_none_and_the_log_says_what_to_use(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "old.py").write_text(OLD, encoding="ascii")
    with Server("old:app", *flags, cwd=tmp_path) as server:
        for _ in range(2):
            with Peer(server.port) as peer:
                assert peer.response.status == 501
                assert peer.client.get("/").body == b"fine"  # the connection goes on
        with Peer(server.port, key=None) as peer:  # no handshake: its Upgrade is ignored (RFC 9110 7.8)
            assert peer.response.body == b"fine"
        assert "from an ASGI application" in server.wait_for_log("a client asks for WebSocket, which no WSGI")
        assert server.stop() == 0
    assert len([line for line in server.log if "asks for WebSocket" in line]) == 1
    assert "Traceback" not in "".join(server.log)


@has_hup
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_thousand_over_two_restarts(site: Path) -> None:
    """Each is told 1012; 200 that do not respond hold nobody up."""
    flags = ("-p", "2", "--interface", "asgi", "--no-access-log", "--ws-close-timeout", "5")
    number, stalled = 2000, 200
    ends: list[int] = []

    async def client(port: int, place: int, until: asyncio.Event) -> None:
        while not until.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(handshake())
            code = 1006
            try:
                await reader.readuntil(b"\r\n\r\n")
                while True:
                    first, size = await reader.readexactly(2)
                    data = await reader.readexactly(size)
                    if first == FIN | CLOSE:
                        code = int.from_bytes(data[:2], "big")
                        break
                if place >= stalled:
                    writer.write(close(code))
                    await reader.read()
                else:
                    await asyncio.sleep(3)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            ends.append(code)
            writer.close()

    async def main(server: Server) -> None:
        until = asyncio.Event()
        tasks = [asyncio.ensure_future(client(server.port, place, until)) for place in range(number)]
        for _ in range(2):
            await asyncio.to_thread(wait_for, lambda: open_now(server) >= number, 60)
            await asyncio.to_thread(restart, server)
        await asyncio.to_thread(wait_for, lambda: len(ends) >= 2 * number, 60)
        await asyncio.to_thread(wait_for, lambda: open_now(server) >= number, 60)
        until.set()
        server.signal(signal.SIGTERM)
        await asyncio.gather(*tasks)

    def open_now(server: Server) -> int:
        workers = json.loads(run("ps", "--json", f":{server.port}").stdout)["workers"]
        return sum(worker["websockets"] for worker in workers if worker["state"] == "ready")

    with Server("versioned_ws:app", *flags, cwd=site) as server:
        asyncio.run(main(server))
        server.wait()
    assert set(ends) == {1012, 1001}
    assert ends.count(1001) == number
