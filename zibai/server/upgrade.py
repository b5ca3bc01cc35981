"""SIGUSR2: the same command again, as a new server on the same listeners, to upgrade Python and zibai, too.

The old parent starts the new one as its child process. It passes the descriptors of the listeners, and describes them
in one variable of the environment. Both serve until the operator ends one of them: the old one to finish the upgrade,
or the new one to undo it. Neither ends the other.

Only the new parent holds the far end of a pipe, as long as it lives. It sends its process id through the pipe when it
serves, and the pipe closes when it dies. So the old parent waits for the pipe as for everything else, and it does not
matter whether its child process or a descendant of that becomes the new parent.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, NamedTuple, Self

from ..errors import UsageError
from ..logger import logger
from ..telemetry.scoreboard import Scoreboard
from .listeners import Listeners, Passed
from .systemd import Notifier

if TYPE_CHECKING:
    from ..supervise.roster import Roster

VARIABLE = "ZIBAI_UPGRADE"


class Predecessor(NamedTuple):
    """The old parent: its process id, the pipe to it, and the listeners that it passes on."""

    pid: int
    pipe: int
    listeners: list[Passed]

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self | None:
        """None if there is no old parent. The variable is removed from ``environ``."""
        text = environ.pop(VARIABLE, "")
        if not text:
            return None
        try:
            found = cls(*json.loads(text))
            os.set_inheritable(found.pipe, False)
        except (ValueError, TypeError, OSError):
            raise UsageError(f"environment variable {VARIABLE} is for zibai itself; remove it") from None
        return found

    def is_alive(self) -> bool:
        """Whether it still runs, as the parent of this process."""
        return os.getppid() == self.pid

    def is_watching(self) -> bool:
        """Whether it runs, and will hear of the end of this process: it has not begun to remove its own files."""
        if not self.is_alive() or sys.platform == "win32":
            return False
        poll = select.poll()
        poll.register(self.pipe, 0)  # an end of a pipe whose other end is closed has an error
        return not poll.poll(0)

    def tell(self) -> None:
        """Tell it that this server serves."""
        try:
            os.write(self.pipe, b"%d\n" % os.getpid())
        except OSError:
            pass  # it has ended already


class Upgrade:
    """Starts the new server, and watches it. Only the parent's main thread calls it.

    The new server is started in ``directory``, as this one was. ``obstacle`` tells why an upgrade is impossible.
    """

    def __init__(
        self,
        directory: str,
        predecessor: Predecessor | None,
        listeners: Listeners,
        notifier: Notifier | None,
        board: Scoreboard | None,
        obstacle: str = "",
    ) -> None:
        self._directory = directory
        self._predecessor = predecessor
        self._listeners = listeners
        self._notifier = notifier
        self._board = board
        self._why_not = obstacle
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._successor = 0  # its process id, once it serves
        self._has_told = False
        self._is_ending = False

    def is_shared(self) -> bool:
        """Whether another server accepts from the same listeners."""
        return bool(self._successor) or (self._predecessor is not None and self._predecessor.is_alive())

    def sources(self) -> list[int]:
        """The descriptors to wait for."""
        return [self._pipe] if self._pipe >= 0 else []

    def on_signal(self, name: str) -> None:
        """Start the new server at SIGUSR2."""
        if name != "SIGUSR2" or self._is_ending:
            return
        why = self._obstacle()
        if why:
            logger.error("upgrade refused: %s", why)
            return
        try:
            self._start()
        except OSError as error:
            logger.error("upgrade failed: the new server cannot be started: %s", error)

    def close(self) -> None:
        """Stop watching the new server, before this one removes its files. The new server learns of it."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def look(self, roster: "Roster") -> None:
        """After each turn of the main loop."""
        self._is_ending = roster.is_ending
        if roster.was_up and not self._has_told:
            self._has_told = True
            if self._predecessor is not None:
                self._predecessor.tell()
        if self._process is not None:
            self._listen(self._process)

    def _obstacle(self) -> str:
        if self._why_not:
            return self._why_not
        if os.getpid() == 1:
            return "this is process 1, and its container would end with it"
        if "SERVER_STARTER_GENERATION" in os.environ:
            return "start_server would not know it; send SIGHUP to start_server"
        if self._process is not None:
            return f"process {self._process.pid} is a new server already; end it, or this one, first"
        if self._predecessor is not None and self._predecessor.is_alive():
            return f"the last upgrade is not finished; end process {self._predecessor.pid} first"
        return "" if sys.executable else "the path of the Python interpreter is not known"

    def _start(self) -> None:
        near, far = os.pipe()
        try:
            if sys.platform != "win32":  # which has no SIGUSR2
                os.set_blocking(near, False)
            passed = self._listeners.pass_on()
            told = json.dumps(Predecessor(os.getpid(), far, passed))
            self._process = subprocess.Popen(  # noqa: S603 -- the command that has started this process
                # Not argv[0]: it may need a search in PATH, or be a link out of a virtual environment.
                [sys.executable, *sys.orig_argv[1:]],
                cwd=self._directory or None,
                env={**os.environ, **(self._notifier.environment if self._notifier else {}), VARIABLE: told},
                pass_fds=[far, *(fd for fd, *_ in passed)],
            )
        except BaseException:
            os.close(near)
            raise
        finally:
            os.close(far)  # only the new server has it from now on, so its death closes it
        self._pipe = near
        logger.info("upgrade: a new server starts, process %d", self._process.pid)

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            said = os.read(self._pipe, 4096)
        except BlockingIOError:
            return
        if said:
            self._successor = int(said)
            logger.info(
                "upgrade: the new server serves, process %d; send SIGTERM to %d to finish it, to %d to undo it",
                self._successor,
                os.getpid(),
                self._successor,
            )
            if self._notifier is not None:
                self._notifier.pass_service_to(self._successor)
            return
        os.close(self._pipe)
        try:
            code = process.wait(1)
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        except subprocess.TimeoutExpired:
            how = "the started process runs, but is not a server"
        if self._successor:
            if self._notifier is not None:
                self._notifier.take_back()
            logger.warning(
                "upgrade undone: the new server, process %d, has ended (%s); this server keeps serving",
                self._successor,
                how,
            )
        else:
            logger.error("upgrade failed: the new server has not come up (%s); this server keeps serving", how)
        self._process, self._pipe, self._successor = None, -1, 0
        if self._board is not None:
            try:
                self._board.move_back()
            except OSError as error:
                logger.warning("zibai ps cannot find this server any more: %s", error)
