"""Signals that come at once: between the first file of a server and its handlers, and while it imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support import DEADLINE, ZIBAI, environment, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")

MODES = pytest.mark.parametrize("mode", ["0", "1"], ids=["single", "workers"])

WAITS = """
import os, time


def wait_at(name):
    open(name, "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
"""

COMMAND = """
import sys
from waits import wait_at
from zibai.server import listeners

listen = listeners.listen


def slow(sock, backlog):
    listen(sock, backlog)
    wait_at("bound")


if __name__ == "__main__":
    from zibai.cli import main

    listeners.listen = slow
    sys.exit(main())
"""

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


class Started:
    """A server that has just been started, on a unix socket and with a pid file in ``site``."""

    def __init__(self, site: Path, command: tuple[str, ...], mode: str) -> None:
        self.site = site
        files = ("--listen", "unix:s", "--pid-file", "pid", "--control", "board")
        with (site / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "hello:app", "--no-gevent", "-p", mode, *files],
                cwd=site,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return (self.site / "log").read_text(encoding="utf-8")

    @property
    def files(self) -> list[str]:
        return [name for name in ("s", "pid", "board") if os.path.lexists(self.site / name)]


@contextmanager
def started(site: Path, command: tuple[str, ...], mode: str, *, importing: bool = False) -> Iterator[Started]:
    (site / "waits.py").write_text(WAITS, encoding="ascii")
    (site / "command.py").write_text(COMMAND, encoding="ascii")
    waits = 'from waits import wait_at\nwait_at("importing")\n' if importing else ""
    (site / "hello.py").write_text(waits + APP, encoding="ascii")
    server = Started(site, command, mode)
    try:
        yield server
    finally:
        (site / "go").touch()
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()


def binding(site: Path) -> tuple[str, ...]:
    return (sys.executable, str(site / "command.py"))


@pytest.mark.daily("bound-SIGTERM", "bound-SIGINT-single", "importing-SIGTERM-single", "importing-SIGINT-workers")
@MODES
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT"])
@pytest.mark.parametrize("moment", ["bound", "importing"])
def test_the_end_that_is_asked_for_early(tmp_path: Path, mode: str, name: str, moment: str) -> None:
    """Before signals are handled, and while the application is imported, which goes on until the server ends."""
    importing = moment == "importing"
    with started(tmp_path, ZIBAI if importing else binding(tmp_path), mode, importing=importing) as server:
        wait_for((tmp_path / moment).exists)
        if importing:
            assert server.files == ["s", "pid", "board"]
        server.process.send_signal(getattr(signal, name))
        if not importing:
            (tmp_path / "go").touch()
        assert server.process.wait(DEADLINE) == 0, server.log
        assert server.files == []
        assert "listening on unix:s" in server.log
        assert "Traceback" not in server.log
        ends = ["ended before it served"] if mode == "0" else [f"begun ({name})"]
        if mode == "0" and not importing:
            # The process may have imported the application before its control thread heard the signal.
            ends += ["graceful shutdown begun", "quick exit"]
        assert any(end in server.log for end in ends)


@pytest.mark.daily("SIGHUP-single", "SIGUSR1-workers")
@MODES
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_other_signals_before_signals_are_handled_end_nothing(tmp_path: Path, mode: str, name: str) -> None:
    with started(tmp_path, binding(tmp_path), mode) as server:
        wait_for((tmp_path / "bound").exists)
        server.process.send_signal(getattr(signal, name))
        (tmp_path / "go").touch()
        wait_for(lambda: "worker ready" in server.log)
        if mode == "0" and name != "SIGUSR1":
            wait_for(lambda: "refused: a single process" in server.log)
        elif name == "SIGHUP":
            wait_for(lambda: "restart done" in server.log)
        elif name == "SIGUSR2":
            wait_for(lambda: "the new server serves" in server.log)
        os.killpg(server.process.pid, signal.SIGTERM)  # also to the new server of an upgrade
        assert server.process.wait(DEADLINE) == 0, server.log
        wait_for(lambda: server.files == [])


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_other_signals_while_a_single_process_imports(tmp_path: Path, name: str) -> None:
    with started(tmp_path, ZIBAI, "0", importing=True) as server:
        wait_for((tmp_path / "importing").exists)
        server.process.send_signal(getattr(signal, name))
        if name != "SIGUSR1":
            wait_for(lambda: "refused: a single process" in server.log)
        (tmp_path / "go").touch()
        wait_for(lambda: "worker ready" in server.log)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE) == 0, server.log
        assert server.files == []
