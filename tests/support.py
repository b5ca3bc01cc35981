"""What the end-to-end tests stand on: the real command in a real process, and clients that hide nothing.

A test never sleeps. It waits for a fact with a deadline: a line in the log (`Server.wait_for_log`), an
application that has been entered (`Gate`), the end of a process (`Server.wait`), or, where nothing tells us,
a condition that `wait_for` looks at until it holds.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

from zibai.system.machine import is_alive

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

T = TypeVar("T")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
APPS = TESTS / "apps"

# Seconds until a fact counts as never: far more than it takes, on the slowest machine. Under Wine a start takes long.
DEADLINE = 80.0 if "wine_shims" in sys.modules else 20.0
ZIBAI = (sys.executable, "-m", "zibai")

if sys.platform == "win32":
    GRACEFUL, KILL = signal.CTRL_BREAK_EVENT, signal.SIGTERM
else:
    GRACEFUL, KILL = signal.SIGTERM, signal.SIGKILL


def wait_for(fact: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    """The first true value of ``fact()``. The only place where a test looks again and again."""
    deadline = time.monotonic() + timeout
    while not (value := fact()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {timeout} s: {fact}")
        time.sleep(0.01)
    return value


def check_each(check: Callable[[T], None], cases: Mapping[str, T]) -> None:
    """Check all the cases of one test, which fails with each error, by the name of its case (an ExceptionGroup)."""
    errors = []
    for name, case in cases.items():
        try:
            check(case)
        except Exception as error:
            error.add_note(f"case: {name}")
            errors.append(error)
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(cases)} cases", errors)


def prints(line: str) -> bool:
    """Whether a log line has nothing in it that a terminal or a reader would take for more than text."""
    return line.replace("\xa0", " ").replace("\xad", "-").isprintable()  # blanks of latin-1, and harmless


# --- the server -------------------------------------------------------------------------------------


UNWANTED = {"FORCE_COLOR", "FORWARDED_ALLOW_IPS", "NOTIFY_SOCKET", "PORT", "SCRIPT_NAME", "WEB_CONCURRENCY"}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a server: this one, importing this checkout, without what would change its ways."""
    env = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    path = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
    return {**env, "PYTHONPATH": os.pathsep.join(path), "NO_COLOR": "1", **(extra or {})}


def run(
    *args: str, cwd: Path = APPS, env: Mapping[str, str] | None = None, timeout: float = DEADLINE
) -> subprocess.CompletedProcess[str]:
    """``zibai *args`` for a start that ends by itself."""
    return subprocess.run(
        [*ZIBAI, *args], cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=timeout, check=False
    )


class Server:
    """``zibai app *flags`` on a free port, from the line that says where it listens to the end of the last worker.

    ``listen`` replaces the address, ``command`` the beginning of the command line (a script that calls
    ``main``, say), and it inherits ``pass_fds``. The log is standard error, line by line; it is attached to
    whatever goes wrong inside the ``with`` block.
    """

    def __init__(
        self,
        app: str | None,
        *flags: str,
        listen: str | None = "127.0.0.1:0",
        cwd: Path = APPS,
        env: Mapping[str, str] | None = None,
        command: Iterable[str] = ZIBAI,
        pass_fds: Iterable[int] = (),
    ) -> None:
        self.args = [*command, *([app] if app else []), *(["--listen", listen] if listen else []), *flags]
        self.cwd = cwd
        self.env = environment(env)
        self.pass_fds = tuple(pass_fds)
        self.log: list[str] = []
        self._news = threading.Condition()
        self._log_ended = False
        self._workers: set[int] = set()  # every one that was ever seen: all have to be gone at the end

    def __enter__(self) -> Self:
        group: dict[str, Any] = {"creationflags": 0x200} if sys.platform == "win32" else {"start_new_session": True}
        self._process = subprocess.Popen(
            self.args,
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            pass_fds=self.pass_fds,
            **group,
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=[self._process.stderr], daemon=True)
        self._reader.start()
        try:
            self.address = self.wait_for_log("listening on ").partition("listening on ")[2].split()[0]
        except BaseException as error:
            self._end(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        """Of the first TCP address."""
        found = re.search(r"listening on https?://\S*:(\d+)", "\n".join(self.log))
        assert found, f"no port in {self.log}"
        return int(found[1])

    def children(self) -> list[int]:
        """The workers: child processes, without the helper that ``multiprocessing`` starts for itself."""
        found = [pid for pid, command in child_processes(self.pid) if "resource_tracker" not in command]
        self._workers.update(found)
        return found

    def wait_for_log(self, text: str, timeout: float = DEADLINE, *, after: int = 0) -> str:
        """The first line that has ``text`` in it, from line ``after`` on; an error if the log ends without it."""

        def found() -> str | None:
            return next((line for line in self.log[after:] if text in line), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._log_ended, timeout)
            line = found()
        if line is None:
            why = f"the log ended (exit code {self._process.poll()})" if self._log_ended else f"{timeout} s are over"
            raise TimeoutError(f"{text!r} is not in the log and {why}")
        return line

    def signal(self, number: int) -> None:
        self.children()  # remembered before they lose their parent
        self._process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> int:
        """The exit code. The log is whole afterwards."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> int:
        """Asks for a graceful end, and gives the exit code."""
        self.signal(GRACEFUL)
        return self.wait()

    def _read(self, stderr: IO[str]) -> None:
        with stderr:
            for line in stderr:
                with self._news:
                    self.log.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._log_ended = True
            self._news.notify_all()

    def _end(self, error: BaseException | None) -> None:
        """Nothing survives a test; what has to be killed for that is an error of its own."""
        try:
            if self._process.poll() is None:
                self.stop()
            wait_for(lambda: not any(map(alive, self._workers)))
        except (subprocess.TimeoutExpired, TimeoutError):
            late = [pid for pid in {self.pid, *self._workers} if alive(pid)]
            for pid in late:
                os.kill(pid, KILL)
            self.wait()
            if error is None:
                raise AssertionError(f"had to be killed: {late}\n{self._story()}") from None
        if error is not None:
            error.add_note(self._story())

    def _story(self) -> str:
        return "\n".join(["--- log of " + " ".join(self.args[1:]), *self.log, "---"])


def child_processes(parent: int) -> list[tuple[int, str]]:
    """(pid, command line) of every child; on Windows the name of its program."""
    if sys.platform == "win32":
        return _windows_children(parent)
    if sys.platform == "linux":  # not every container has ps
        found = []
        for pid in _linux_children(parent):
            with suppress(FileNotFoundError, ProcessLookupError):  # gone while we looked
                found.append((pid, Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")))
        return found
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    fields = (line.split(None, 2) for line in listing.splitlines())
    return [(int(pid), command) for pid, ppid, command in fields if int(ppid) == parent]


LISTED = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
"""Whether the kernel lists the children of each thread. To look at all processes instead takes many times as long."""


def _linux_children(parent: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # gone while we looked
        for thread in os.listdir(f"/proc/{parent}/task") if LISTED else []:
            found += map(int, Path(f"/proc/{parent}/task/{thread}/children").read_text().split())
    for pid in [] if LISTED else filter(str.isdigit, os.listdir("/proc")):
        with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat", "rb") as stat:
            if int(stat.read().rpartition(b")")[2].split()[1]) == parent:
                found.append(int(pid))
    return found


def _windows_children(parent: int) -> list[tuple[int, str]]:
    """What the list of all processes says (Toolhelp)."""
    import ctypes

    class Entry(ctypes.Structure):  # PROCESSENTRY32W
        _fields_ = (
            ("size", ctypes.c_uint32),
            ("usage", ctypes.c_uint32),
            ("pid", ctypes.c_uint32),
            ("heap", ctypes.c_void_p),
            ("module", ctypes.c_uint32),
            ("threads", ctypes.c_uint32),
            ("parent", ctypes.c_uint32),
            ("priority", ctypes.c_int32),
            ("flags", ctypes.c_uint32),
            ("program", ctypes.c_wchar * 260),
        )

    if sys.platform != "win32":
        return []
    kernel = ctypes.WinDLL("kernel32")
    kernel.CreateToolhelp32Snapshot.restype = ctypes.c_void_p
    snapshot = ctypes.c_void_p(kernel.CreateToolhelp32Snapshot(2, 0))  # TH32CS_SNAPPROCESS
    entry = Entry(size=ctypes.sizeof(Entry))
    found = []
    more = kernel.Process32FirstW(snapshot, ctypes.byref(entry))
    while more:
        if entry.parent == parent:
            found.append((entry.pid, entry.program))
        more = kernel.Process32NextW(snapshot, ctypes.byref(entry))
    kernel.CloseHandle(snapshot)
    return found


def open_files(pid: int) -> list[str]:
    """Only Linux tells."""
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached every thread of a process; Linux."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(each.read_text().rpartition(")")[2].split()[0] == "T" for each in stats)


def end_what_is_left(folder: Path) -> None:
    """Kill the servers in the background that a failed test has left in ``folder``, or with their pid file there."""
    if sys.platform == "linux":
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone while we looked
                if (process / "cwd").readlink().is_relative_to(folder.resolve()):
                    found.add(int(process.name))
    else:
        found = {int(text) for file in folder.rglob("*pid") if (text := file.read_text().strip()).isdigit()}
    for pid in found - {os.getpid()}:
        with suppress(OSError):
            os.kill(pid, KILL)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    if sys.platform == "win32":
        return is_alive(pid)
    try:
        os.kill(pid, 0)
        return sys.platform != "linux" or "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- clients ----------------------------------------------------------------------------------------


@dataclass
class Response:
    """One response, as it came: names of ``headers`` in any case, ``body`` without its framing."""

    version: str
    status: int
    reason: str
    headers: Message = field(default_factory=Message)
    body: bytes = b""


def read_response(file: IO[bytes], method: str = "GET") -> Response:
    """The next response on a connection, with its body; a 1xx counts as one of its own.

    Strict, so that what it reads is right: `EOFError` where the connection ends too early, `ValueError` where
    the framing is broken.
    """
    version, status, reason = _line(file).decode("latin-1").split(" ", 2)
    if version not in ("HTTP/1.0", "HTTP/1.1"):  # a body before it that should not be there, for example
        raise ValueError(f"not a response: {version!r}")
    response = Response(version, int(status), reason)
    while line := _line(file):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise ValueError(f"not a header: {line!r}")
        response.headers[name] = value.strip()

    if method == "HEAD" or response.status < 200 or response.status in {204, 304}:
        return response
    if response.headers["Transfer-Encoding"] is not None:
        response.body = b"".join(_chunks(file))
    elif response.headers["Content-Length"] is not None:
        response.body = _exactly(file, int(response.headers["Content-Length"]))
    else:
        response.body = file.read()
    return response


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while size := int(_line(file), 16):
        yield _exactly(file, size)
        if _line(file):
            raise ValueError("no line end after a chunk")
    while _line(file):  # trailers
        pass


def _line(file: IO[bytes]) -> bytes:
    line = file.readline()
    if not line:
        raise EOFError("the connection has ended")
    if not line.endswith(b"\r\n"):
        raise ValueError(f"not a line: {line!r}")
    return line[:-2]


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"{len(data)} bytes instead of {size}")
    return data


class Client:
    """One raw connection: sends bytes, reads responses. ``where`` is a port of this machine or a unix socket's path.

    ``source`` is the address that it comes from. With ``tls`` the handshake comes first.
    """

    def __init__(
        self,
        where: int | str | Path,
        timeout: float = DEADLINE,
        source: str = "127.0.0.1",
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if isinstance(where, int):
            self.socket = socket.create_connection(("127.0.0.1", where), timeout, (source, 0))
        elif sys.platform != "win32":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            try:
                self.socket.connect(str(where))
            except BaseException:
                self.socket.close()
                raise
        if tls is not None:
            plain = self.socket
            try:
                # An end without close_notify is an error, as it should be.
                self.socket = tls.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
            except BaseException:
                plain.close()
                raise
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, method: str = "GET") -> Response:
        return read_response(self.file, method)

    def get(self, target: str = "/", *fields: str) -> Response:
        """A GET on this connection, and its answer."""
        self.send("\r\n".join([f"GET {target} HTTP/1.1", "Host: test", *fields, "", ""]).encode("latin-1"))
        return self.read()

    def rest(self) -> bytes:
        """Everything until the server closes. A reset is not a close: it loses data, so it is an error."""
        return self.file.read()


def raw(where: int | str | Path, data: bytes, timeout: float = DEADLINE) -> bytes:
    """Sends ``data`` on a new connection: all that comes back until the server closes it."""
    with Client(where, timeout) as client:
        client.send(data)
        return client.rest()


def get(where: int | str | Path, target: str = "/", *fields: str, tls: ssl.SSLContext | None = None) -> Response:
    """A GET on a connection of its own."""
    with Client(where, tls=tls) as client:
        return client.get(target, *fields, "Connection: close")


def listens(port: int) -> bool:
    """Whether a client is let in."""
    try:
        Client(port).close()
    except OSError:
        return False
    return True


class Gate:
    """Where applications wait for the test: ``plain:gated`` comes here, says that it runs, and stays until it may go.

    ``GET /gated?PORT`` makes the application connect to this port. `arrival` is the next one that came::

        with Gate() as gate, Client(server.port) as client:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n".encode())
            request = gate.arrival()  # the application runs now, and blocks
            request.close()  # it may go
            assert client.read().status == 200
    """

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.settimeout(DEADLINE)
        self._arrived: list[socket.socket] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for request in self._arrived:
            request.close()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def arrival(self, timeout: float = DEADLINE) -> socket.socket:
        """Waits for an application to come; closing what this returns lets it go."""
        self._listener.settimeout(timeout)
        request, _ = self._listener.accept()
        self._arrived.append(request)
        return request
