"""The control channel: who may speak, and what a client can do to others. Its handler is the test's."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest

from zibai.logger import logger
from zibai.server import endpoint as module
from zibai.server.endpoint import MAX_CLIENTS, REQUEST_SIZE, Endpoint, address_for, connect
from zibai.server.single_commands import serve_single
from zibai.system.machine import name_process

from support import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="unix sockets; the pipe is tested by the commands")


def echo(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if request.get("command") == "fail":
        raise ZeroDivisionError
    if request.get("command") == "long":
        for _ in range(100):
            yield {"text": "x" * 65536}
    yield {"ok": True, **request}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "control.sock")
    with Endpoint(path, echo):
        yield path
    assert not os.path.exists(path)


def ask(address: str, line: bytes = b'{"command": "hello"}\n') -> dict[str, Any]:
    channel = connect(address)
    try:
        channel._sock.sendall(line)
        answer: dict[str, Any] = json.loads(channel.receive())
        with pytest.raises(EOFError):
            channel.receive()
        return answer
    finally:
        channel.close()


def test_one_request_one_response(address: str) -> None:
    assert ask(address) == {"ok": True, "command": "hello"}
    assert stat.S_IMODE(os.lstat(address).st_mode) == 0o600


@pytest.mark.parametrize(
    "line", [b"\n", b"hello\n", b"[]\n", b'"x"\n', b"\xff\n", b"[" * 50_000 + b"\n", b"\x80\x04]\x94.\n", b'{"a":1\n']
)
def test_what_is_no_request_is_refused(address: str, line: bytes) -> None:
    assert ask(address, line) == {"error": "a request is one JSON object in one line"}
    assert ask(address)["ok"]


def test_a_client_that_stops_in_the_middle_holds_no_other(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENT_TIME", 0.3)
    stuck = []
    for data in (b"", b'{"command":', b'{"command": "long"}\n'):
        channel = connect(address)
        channel._sock.sendall(data)
        stuck.append(channel)
    assert ask(address)["ok"]
    for channel in stuck[:2]:
        channel._sock.settimeout(10)
        assert channel._sock.recv(10) == b"", "its time is over"
    for channel in stuck:
        channel.close()


def test_a_client_that_leaves_or_sends_too_much(address: str) -> None:
    for data in (b"", b'{"command":', b'{"command": "long"}\n'):
        channel = connect(address)
        channel._sock.sendall(data)
        channel.close()
    flood = connect(address)
    with pytest.raises(OSError, match=r"."):  # noqa: PT012
        for _ in range(200):
            flood._sock.sendall(b"x" * REQUEST_SIZE)
    flood.close()
    assert ask(address)["ok"]


def test_there_are_so_many_clients_and_no_more(address: str) -> None:
    held = [connect(address) for _ in range(MAX_CLIENTS)]
    wait_for(lambda: _is_refused(address))
    held[0].close()
    wait_for(lambda: not _is_refused(address))
    for channel in held:
        channel.close()


def _is_refused(address: str) -> bool:
    channel = connect(address)
    try:
        channel._sock.sendall(b"{}\n")
        return not channel._sock.recv(1)
    except OSError:
        return True
    finally:
        channel.close()


def test_another_user_is_not_served(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, peer = os.geteuid(), module._peer
    near, far = socket.socketpair()
    with near, far:
        assert peer(near) in (mine, None)
    for user, refused in ((mine + 1, True), (mine, False), (0, False), (None, False)):
        monkeypatch.setattr(module, "_peer", lambda sock, user=user: user)
        assert _is_refused(address) == refused


def test_a_bug_costs_one_client(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    channel = connect(address)
    channel.send({"command": "fail"})
    with pytest.raises(EOFError):
        channel.receive()
    channel.close()
    wait_for(lambda: "ZeroDivisionError" in caplog.text)
    assert ask(address)["ok"]


def accepting() -> int:
    """How many threads wait for clients."""
    frames = sys._current_frames().values()
    return sum(
        frame.f_code.co_name in ("_accept", "_run") and frame.f_code.co_filename == module.__file__ for frame in frames
    )


def test_one_thread_waits_and_it_ends_with_the_server(tmp_path: Path) -> None:
    wait_for(lambda: not accepting())
    with Endpoint(str(tmp_path / "s"), echo):
        wait_for(lambda: accepting() == 1)
        assert ask(str(tmp_path / "s"))["ok"]
        assert accepting() == 1
    wait_for(lambda: not accepting())


@pytest.mark.parametrize("place", ["missing/s", "x" * 200, "", "file"])
def test_a_server_that_cannot_have_it_says_so_once(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    (tmp_path / "file").write_text("mine")
    with Endpoint(place and str(tmp_path / place), echo):
        pass
    assert len(set(caplog.records)) == 1  # pytest may have put its handler to more than one logger
    assert "no control channel" in caplog.text
    assert (tmp_path / "file").read_text() == "mine"


def test_a_socket_of_a_dead_server_is_replaced_and_that_of_another_is_not(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    with Endpoint(address, echo):
        assert "is in use" in caplog.text
    assert ask(address)["ok"]
    left = str(tmp_path / "left")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(left)
    with Endpoint(left, echo):
        assert ask(left)["ok"]


def test_it_lies_beside_the_scoreboard(tmp_path: Path) -> None:
    assert address_for(str(tmp_path / "board")) == str(tmp_path / f"zibai-{name_process(os.getpid())}.sock")
    assert address_for(None).endswith(f"/zibai-{name_process(os.getpid())}.sock")


def test_a_single_process_only_ends() -> None:
    (line,) = serve_single({"command": "reload"})
    assert "--processes 1" in line["error"]
