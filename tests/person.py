"""Who sits at a terminal: a pseudo-terminal, what is typed into it, and what is seen on it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Self

from support import APPS, DEADLINE, alive, child_processes, environment, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CTRL_C, CTRL_D, CTRL_Z = "\x03", "\x04", "\x1a"

# A session leader without a terminal takes this one, so that its Ctrl-C is a signal.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Person:
    """Runs ``python *args`` at a terminal of its own, and types."""

    def __init__(self, *args: str, cwd: Path = APPS, env: Mapping[str, str] | None = None) -> None:
        self._args = [sys.executable, "-c", TAKE_TERMINAL, sys.executable, *args]
        self._cwd = cwd
        self._env = environment({"TERM": "dumb", "PYTHON_BASIC_REPL": "1", **(env or {})})
        self.screen = ""
        self._seen = 0
        self._news = threading.Condition()
        self._pids: set[int] = set()
        self._interrupted = False

    def __enter__(self) -> Self:
        self.terminal, far = os.openpty()
        self.process = subprocess.Popen(
            self._args, cwd=self._cwd, env=self._env, stdin=far, stdout=far, stderr=far, start_new_session=True
        )
        os.close(far)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.workers()
        late = [pid for pid in {self.process.pid, *self._pids} if error is not None and alive(pid)]
        for pid in late:
            os.kill(pid, 9)
        try:
            self.process.wait(DEADLINE)
            wait_for(lambda: not any(map(alive, self._pids)))
        except (subprocess.TimeoutExpired, TimeoutError) as problem:
            for pid in {self.process.pid, *filter(alive, self._pids)}:
                os.kill(pid, 9)
            self.process.wait()
            problem.add_note(self.screen)
            raise
        finally:
            os.close(self.terminal)
        if error is not None:
            error.add_note(f"--- the screen\n{self.screen}\n---")

    def type(self, text: str) -> None:
        """Types a line, or a few."""
        self.press(text + "\n")

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def interrupt(self, beside: str = "") -> None:
        """Ctrl-C at a prompt, until it is heard: Python misses one that comes just before it waits for a key.

        ``beside`` is another signal that arrives in the same moment, since the process is stopped meanwhile.
        """
        self._interrupted = True
        for _ in range(10):
            if beside:
                self._send_at_once(getattr(signal, beside), signal.SIGINT)
            else:
                self.press(CTRL_C)
            try:
                self.see("KeyboardInterrupt\n", DEADLINE / 10)
                return
            except TimeoutError:
                continue
        raise TimeoutError("Ctrl-C is not heard")

    def _send_at_once(self, *signals: int) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        for each in (*signals, signal.SIGCONT):
            self.process.send_signal(each)

    def see(self, text: str, timeout: float = DEADLINE) -> str:
        """Waits until ``text``, a regular expression, is on the screen, after what was seen before; gives the match."""

        def found() -> re.Match[str] | None:
            return re.search(text, self.screen[self._seen :])

        with self._news:
            if not self._news.wait_for(found, timeout):
                raise TimeoutError(f"{text!r} is not to be seen in {self.screen[self._seen :]!r}")
            match = found()
            assert match is not None
            self._seen += match.end()
        return match[match.re.groups and 1]

    def workers(self) -> list[int]:
        """Child processes, without the helper that ``multiprocessing`` starts for itself."""
        found = [pid for pid, command in child_processes(self.process.pid) if "resource_tracker" not in command]
        self._pids.update(found)
        return found

    def leave(self) -> int:
        """Ends the interpreter as people do; its exit code.

        Since Python 3.14 one in which Ctrl-C was pressed ends by that signal, whatever it has done since.
        """
        self.workers()
        self.type("exit()")
        code = self.process.wait(DEADLINE)
        by_ctrl_c = self._interrupted and sys.version_info >= (3, 14) and code == -signal.SIGINT
        return 0 if by_ctrl_c else code

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.terminal, 4096)
            except OSError:  # everybody has left
                return
            with self._news:
                self.screen += data.decode("utf-8", "replace").replace("\r\n", "\n")
                self._news.notify_all()
