"""``--daemon``: the server in the background, and the command that waits until it is up.

The command is the *launcher*. It forks a process that begins a session, which forks the *daemon*: not the leader of its
session, so that it can never get a terminal. A pipe leads back, to which the daemon writes its process id, and then
that it is up, or the error that it ends with. What it prints goes elsewhere from the start, since the workers, which it
starts before it is up, inherit its outputs and must not keep the launcher's open. The launcher ends with what it
hears, and when it hears nothing because the daemon is gone, it says that. The daemon stays in the directory in which it
was started: ``--chdir`` is there to choose another.
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
        """The server serves; the launcher may end."""
        self._tell(UP)
        self._close()

    def has_failed(self, text: str, code: int) -> None:
        """The server ends with ``code``, and with ``text`` for the user. Means nothing once it was up."""
        self._tell(f"{code}\n{text}".encode("utf-8", "backslashreplace"))
        self._close()

    def _tell(self, data: bytes) -> None:
        if self._pipe >= 0:
            with suppress(OSError):  # nobody waits any more
                while data:
                    data = data[os.write(self._pipe, data) :]

    def _close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def detach() -> Launcher:
    """Go on in the background, with nothing to read and nowhere to print; in the launcher, raise SystemExit."""
    if sys.platform == "win32":
        raise UsageError("--daemon: not on this system; let a service manager start the server")
    import fcntl

    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both processes would write it
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
    # Not one of the three, which it may be if they were closed.
    pipe = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(writing)
    _redirect(os.devnull, os.O_RDWR, 0, 1, 2)
    return Launcher(pipe)


def print_to(path: str) -> None:
    """Let what is printed, by workers too, go to the log file."""
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
    """Wait for what the daemon says, and end as it says."""
    said = b""
    while True:
        try:
            piece = os.read(pipe, 65536)
        except KeyboardInterrupt:
            # It is in a session of its own, so it has not heard of it.
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
