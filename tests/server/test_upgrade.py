"""The two sides of an upgrade, as far as no second server is needed; test_e2e_upgrade.py has the rest."""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai.config.options import Options
from zibai.errors import UsageError
from zibai.server import upgrade
from zibai.server.listeners import Listeners
from zibai.server.upgrade import VARIABLE, Predecessor, Upgrade
from zibai.telemetry import board_file as control

from support import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGUSR2")


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    with Listeners(Options("a:b", listen=["127.0.0.1:0"]), []) as listeners:
        yield listeners


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(upgrade.logger, "propagate", True)
    monkeypatch.delenv("SERVER_STARTER_GENERATION", raising=False)
    return caplog


def roster(**facts: Any) -> Any:
    return SimpleNamespace(**{"was_up": True, "is_ending": False, **facts})


@pytest.mark.parametrize(
    ("text", "pid"), [("", None), ("[12, PIPE, []]", 12)], ids=["the first", "one that succeeds another"]
)
def test_who_was_before(text: str, pid: int | None) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    environ = {VARIABLE: text.replace("PIPE", str(writing)), "HOME": "/"}
    found = Predecessor.from_environment(environ)
    assert environ == {"HOME": "/"}
    assert (found and found.pid) == pid
    if found is not None:
        assert not os.get_inheritable(writing), "the end of the pipe is the end of this process"
        assert not found.is_alive(), "it is not our parent"
        assert found._replace(pid=os.getppid()).is_alive()
        found.tell()
        assert int(os.read(reading, 100)) == os.getpid()
        assert not found.is_watching()
        assert found._replace(pid=os.getppid()).is_watching()
        os.close(reading)
        assert not found._replace(pid=os.getppid()).is_watching(), "it has stopped watching, though it still runs"
        found.tell()  # it does not wait for us any more
    else:
        os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("text", ["x", "1", "[]", "[1, 987, []]", '["1", "2", "3", "4"]'])
def test_a_variable_that_is_not_ours(text: str) -> None:
    with pytest.raises(UsageError, match=r"^environment variable ZIBAI_UPGRADE is for zibai itself; remove it$"):
        Predecessor.from_environment({VARIABLE: text})


@pytest.mark.parametrize(
    ("obstacle", "why"),
    [
        ("process 1", "this is process 1, and its container would end with it"),
        ("server_starter", "start_server would not know it; send SIGHUP to start_server"),
        ("predecessor", f"the last upgrade is not finished; end process {os.getppid()} first"),
        ("no interpreter", "the path of the Python interpreter is not known"),
    ],
)
def test_what_hinders(
    obstacle: str,
    why: str,
    listeners: Listeners,
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
) -> None:
    before = None
    match obstacle:
        case "process 1":
            monkeypatch.setattr(os, "getpid", lambda: 1)
        case "server_starter":
            monkeypatch.setenv("SERVER_STARTER_GENERATION", "1")
        case "predecessor":
            before = Predecessor(os.getppid(), -1, [])
        case "no interpreter":
            monkeypatch.setattr(sys, "executable", "")
    new = Upgrade("/", before, listeners, None, None)
    assert new.is_shared() is (before is not None)
    new.on_signal("SIGHUP")
    assert log.text == ""
    new.on_signal("SIGUSR2")
    assert f"upgrade refused: {why}" in log.text
    assert new.sources() == []
    monkeypatch.undo()


def test_no_room_for_another_process(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    gc.collect()  # what earlier tests have left is not to go meanwhile; their threads may still close something
    open_before = set(os.listdir("/dev/fd"))
    new = Upgrade("/", None, listeners, None, None)
    new.on_signal("SIGUSR2")
    assert "upgrade failed: the new server cannot be started: [Errno 11] Resource temporarily unavailable" in log.text
    assert new.sources() == []
    assert set(os.listdir("/dev/fd")) <= open_before


def test_none_while_the_server_ends(listeners: Listeners, log: pytest.LogCaptureFixture) -> None:
    new = Upgrade("/", None, listeners, None, None)
    new.look(roster(is_ending=True))
    new.on_signal("SIGUSR2")
    assert new.sources() == []
    assert log.text == ""


def test_the_same_command_in_the_same_place(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """Played by a script that says what it was given, and ends."""
    script = tmp_path / "told.py"
    script.write_text(
        "import json, os, socket, sys\n"
        "pid, pipe, handed = json.loads(os.environ['ZIBAI_UPGRADE'])\n"
        "name = socket.socket(fileno=handed[0][0]).getsockname()\n"
        "open('told', 'w').write(json.dumps([pid, name, sys.argv[1:], os.environ['MARK']]))\n"
        "os.write(pipe, b'4711')\n"
        "sys.exit(7)\n"
    )
    monkeypatch.setattr(sys, "orig_argv", ["python", str(script), "a:b", "-p", "2"])
    monkeypatch.setenv("MARK", "kept")
    new = Upgrade(str(tmp_path), None, listeners, None, None)
    new.on_signal("SIGUSR2")
    assert not new.is_shared(), "it does not serve yet"
    while new.sources():
        select.select(new.sources(), [], [], DEADLINE)
        new.look(roster())
    assert f'[{os.getpid()}, ["127.0.0.1", ' in (tmp_path / "told").read_text()
    assert (tmp_path / "told").read_text().endswith('["a:b", "-p", "2"], "kept"]')
    assert (
        "upgrade undone: the new server, process 4711, has ended (exit code 7); this server keeps serving" in log.text
    )
    assert not new.is_shared()
    assert listeners.are_shared


def test_the_scoreboard_of_a_predecessor_is_moved_aside_and_back(tmp_path: Path) -> None:
    path = str(tmp_path / "board")
    old = control.create(path, 1, 1, {"which": "old"})
    new = control.create(path, 1, 1, {"which": "new"}, predecessor=os.getpid())
    assert (old.where(), new.where()) == (path + ".old", path)
    new.close()
    old.move_back()
    assert (old.where(), os.listdir(tmp_path)) == (path, ["board"])
    new = control.create(path, 1, 1, {"which": "new"}, predecessor=os.getpid())
    old.close()
    assert os.listdir(tmp_path) == ["board"]
    assert new.where() == path
    new.close()
    assert new.pid == os.getpid()
    assert os.listdir(tmp_path) == []
