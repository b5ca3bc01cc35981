"""``--daemon``: the server in the background, and the command that waits until it is up.

The command is the *launcher*. It forks a process that begins a session, and that process forks the *daemon*. So the
daemon is not the leader of its session, and can never get a terminal. A pipe leads back: the daemon writes its process
id, and then that it is up, or the error with which it ends. Its output is redirected from the start, since the workers,
which it starts before it is up, inherit it and must not keep the launcher's output open. The launcher ends with the
exit code that the daemon reports, or with an error if the daemon has ended without a report. The daemon stays in the
directory in which it was started, unless ``--chdir`` names another.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from ..errors import UsageError, ZibaiError
from . import standard

UP = b"up"


class Launcher:
    """The daemon's end of the pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._tell(b"%d\n" % os.getpid())

    def is_up(self) -> None:
        """Report that the server serves, so that the launcher ends."""
        self._tell(UP)
        self._close()

    def has_failed(self, text: str, code: int) -> None:
        """Report that the server ends with ``code``, and ``text`` for the user; ignored after :meth:`is_up`."""
        self._tell(f"{code}\n{text}".encode("utf-8", "backslashreplace"))
        self._close()

    def _tell(self, data: bytes) -> None:
        if self._pipe >= 0:
            with suppress(OSError):  # the launcher has ended
                while data:
                    data = data[os.write(self._pipe, data) :]

    def _close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def detach() -> Launcher:
    """Continue in the background, with the null device as input and output; in the launcher, raise SystemExit."""
    if sys.platform == "win32":
        raise UsageError("--daemon: not on this system; let a service manager start the server")
    import fcntl

    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # otherwise both processes would write the buffer
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        os.waitpid(child, 0)
        _launch(reading)
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    # The number of the pipe may be 0 to 2 if these were closed.
    pipe = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(writing)
    _redirect(os.devnull, os.O_RDWR, 0, 1, 2)
    return Launcher(pipe)


def print_to(path: str) -> None:
    """Redirect the output, also of workers, to the log file."""
    _redirect(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 1, 2)


def _redirect(path: str, flags: int, *targets: int) -> None:
    source = os.open(path, flags, 0o666)
    for target in targets:
        os.dup2(source, target)
    if source in targets:  # it was closed
        os.set_inheritable(source, True)
    else:
        os.close(source)


def _launch(pipe: int) -> NoReturn:
    """Wait for the report of the daemon, and end with its exit code."""
    said = b""
    while True:
        try:
            piece = os.read(pipe, 65536)
        except KeyboardInterrupt:
            # The daemon has a session of its own, so the terminal has not sent it the signal.
            if b"\n" in said:
                os.kill(int(said.split(b"\n")[0]), signal.SIGINT)
            continue
        if not piece:
            break
        said += piece
    _, _, news = said.partition(b"\n")
    if news == UP:
        raise SystemExit(0)
    code, newline, text = news.partition(b"\n")
    if not newline:
        raise ZibaiError("the server has ended before it was up; see its log")
    standard.say(text.decode("utf-8"))
    raise SystemExit(int(code))
