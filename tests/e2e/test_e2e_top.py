"""zibai top in a real terminal, beside a real server: what it shows, its keys, its end, and the terminal after it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest
from test_e2e_restart import ready

from support import ZIBAI, Client, Server, environment, get, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("rich")
if sys.platform == "win32":
    pytest.skip("it has no pseudo-terminals that a test can make", allow_module_level=True)

import fcntl
import pty
import struct
import termios

CONTROLS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[=>]|\][^\x07]*\x07)")


class Terminal:
    """``zibai top`` in a pseudo-terminal. ``frame`` is what is on the screen, as lines."""

    def __init__(self, *args: str, columns: int = 80, rows: int = 24, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self.args = [*ZIBAI, "top", "--interval", "0.2", *args]
        self.output = ""
        self._size = columns, rows

    def __enter__(self) -> Self:
        self.fd, near = pty.openpty()
        self.near = near  # kept open, to see how the terminal is set at the end
        self.resize(*self._size)
        self.before = termios.tcgetattr(near)
        env = {**environment({"TERM": "xterm-256color", "PYTHONIOENCODING": self.encoding})}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            env.pop(name, None)
        self.process = subprocess.Popen(
            self.args, stdin=near, stdout=near, stderr=near, env=env, start_new_session=True
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        try:
            while data := os.read(self.fd, 65536):
                self.output += data.decode("utf-8", "replace")
        except OSError:
            pass

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.near)
        os.close(self.fd)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    @property
    def frame(self) -> list[str]:
        """The last whole frame: rich begins each at the top left corner."""
        frames = self.output.split("\x1b[H")
        return [CONTROLS.sub("", line) for line in frames[-2].replace("\r", "").split("\n")] if len(frames) > 2 else []

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.frame)

    def wait_for(self, text: str) -> None:
        try:
            wait_for(lambda: self.shows(text))
        except TimeoutError:
            raise AssertionError("\n".join([f"no {text!r} in", *self.frame, repr(self.output[-2000:])])) from None

    def ended(self) -> int:
        """Its exit code; the terminal is as before."""
        code = self.process.wait(20)
        assert termios.tcgetattr(self.near) == self.before
        wait_for(lambda: self.output.count("\x1b[?1049h") == self.output.count("\x1b[?1049l"))
        wait_for(lambda: self.output.rfind("\x1b[?25h") > self.output.rfind("\x1b[?25l"))
        return code


@pytest.fixture
def control(tmp_path: Path) -> tuple[str, str]:
    return ("--control", str(tmp_path / "board"))


def hang(client: Client, tmp_path: Path, name: str = "here") -> None:
    client.send(f"GET /hang?{tmp_path}/{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    wait_for((tmp_path / name).exists)


@pytest.mark.daily("threads")
def test_what_it_shows_and_its_keys(backend: tuple[str, ...], control: tuple[str, str], tmp_path: Path) -> None:
    with Server("mortal:app", "-p", "2", *control, *backend) as server, Client(server.port) as client:
        wait_for(lambda: len(ready(server)) == 2)
        hang(client, tmp_path)
        with Terminal(*control) as top:
            top.wait_for("mortal:app, process")
            top.wait_for("GET /hang")
            top.wait_for("busy      █")
            assert all(top.shows(str(pid)) for pid in server.children())
            for _ in range(20):
                assert get(server.port, "/pid").status == 200
            top.wait_for("requests, 0 restarts")
            wait_for(lambda: any(re.search(r"p50 +[0-9.]+ (us|ms)", line) for line in top.frame))
            frame = top.frame
            assert len(frame) <= 24
            assert max(map(len, frame)) <= 80
            assert re.search(r"q +quit +s +sort", frame[-1])
            top.press("s")
            top.wait_for("by worker")
            top.press("s")
            top.wait_for("by path")
            top.press("\x1b[B\x1b[B")  # down, to the request
            top.press("\r")
            top.wait_for("GET /hang for ")
            top.wait_for("# app")
            assert top.frame[0].startswith("worker ")
            assert not top.shows("thread MainThread"), "only the stack of the request"
            top.press("\x1b")
            top.wait_for("by path")
            top.press("k")
            top.press("kd")
            top.wait_for("thread MainThread")
            top.press("q")
            top.wait_for("by path")

            top.resize(40, 12)
            wait_for(lambda: 0 < max(map(len, top.frame), default=0) <= 40)
            assert len(top.frame) <= 12
            top.resize(140, 40)
            wait_for(lambda: len(top.frame) > 30)
            top.press("q")
            assert top.ended() == 0
            assert "error" not in top.output
        (tmp_path / "here.go").touch()
        assert client.read().status == 200


def test_it_ends_with_the_server(control: tuple[str, str]) -> None:
    with Server("mortal:app", "-p", "1", "--no-gevent", *control) as server:
        wait_for(lambda: len(ready(server)) == 1)
        with Terminal(*control) as top:
            top.wait_for("mortal:app")
            assert server.stop() == 0
            assert top.ended() == 0
            assert f"process {server.pid} (mortal:app" in top.output
            assert " has ended" in top.output.rpartition("\x1b[?1049l")[2], "it is said where it stays"


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)]
)
def test_the_terminal_is_set_back(control: tuple[str, str], how: int, code: int) -> None:
    with Server("mortal:app", "--no-gevent", *control), Terminal(*control) as top:
        top.wait_for("mortal:app")
        assert termios.tcgetattr(top.near) != top.before
        top.process.send_signal(how)
        assert top.ended() == code


def test_a_single_process_shows_no_stack(control: tuple[str, str]) -> None:
    with Server("mortal:app", "--no-gevent", *control), Terminal(*control) as top:
        top.wait_for("mortal:app")
        top.press("d")
        top.wait_for("which can only be stopped")
        top.press("qq")
        assert top.ended() == 0


def test_a_terminal_without_unicode(control: tuple[str, str]) -> None:
    with Server("mortal:app", "--no-gevent", *control), Terminal(*control, encoding="ascii") as top:
        top.wait_for("mortal:app")
        top.wait_for("0 of 10")
        top.press("q")
        assert top.ended() == 0
        assert "Traceback" not in top.output


def test_without_a_terminal_it_says_what_to_do(control: tuple[str, str]) -> None:
    done = run("top", *control)
    assert (done.returncode, done.stderr) == (
        1,
        "zibai top: error: this is no terminal; zibai ps shows the same once, and zibai ps --json as data\n",
    )


def test_a_terminal_that_cannot_move_its_cursor(control: tuple[str, str]) -> None:
    far, near = pty.openpty()
    done: Any = subprocess.run(
        [*ZIBAI, "top", *control],
        stdin=near, stdout=near, stderr=subprocess.PIPE, env=environment({"TERM": "dumb"}), check=False,
    )  # fmt: skip
    os.close(near)
    os.close(far)
    assert done.returncode == 1
    assert b"zibai ps shows the same once" in done.stderr


def test_without_rich_it_says_what_to_do(control: tuple[str, str], tmp_path: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; from zibai.cli import main; sys.exit(main(['top']))"
    far, near = pty.openpty()
    done: Any = subprocess.run(
        [sys.executable, "-c", code], stdin=near, stdout=near, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(near)
    os.close(far)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"rich" in done.stderr


@pytest.mark.parametrize("words", [("top", "a", "b"), ("top", "--interval", "0"), ("top", "--interval", "x")])
def test_wrong_usage(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
