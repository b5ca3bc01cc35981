"""A server in a process of its own: from its start to its end, and what it costs in between.

A server gets a free port, is ready when it gives the right answer, and is killed with its whole process group: nothing
that it could still do would be of interest. Memory and time are those of the process and all below it, from
``/proc``. Server and clients run on processors of their own, if there are two; they inherit that from this process.
"""

import http.client
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from .servers import CERTIFICATE, KEY, Server, environment
from .workloads import Workload

DEADLINE = 20.0  # seconds to start in


class Broken(Exception):
    """The server did not start, died, or answers something else. The text is for the report."""


def processors() -> list[int]:
    """Those that this process may use, outside of :func:`on`."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


@contextmanager
def on(cpus: list[int]) -> Iterator[None]:
    """What is started inside runs on these processors."""
    if sys.platform != "linux":
        raise OSError("the benchmark needs Linux")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def server_cpus(pinned: bool) -> list[int]:
    """One, the first; all of them if nothing is pinned."""
    return processors()[:1] if pinned else processors()


def client_cpus(pinned: bool) -> list[int]:
    """The others, unless there are none."""
    return processors()[1:] if pinned and len(processors()) > 1 else processors()


class Running:
    """``server`` with the application of ``workload``; a context manager."""

    def __init__(self, server: Server, workload: Workload, threads: int, *flags: str, pinned: bool = True) -> None:
        self.workload = workload
        self.port = free_port()
        self.command = [sys.executable, *shlex.split(server.line(workload, self.port, threads)), *flags]
        self._cpus = server_cpus(pinned)

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        self._folder = tempfile.TemporaryDirectory()
        if self.workload.tls:
            make_certificate(Path(self._folder.name))
        with on(self._cpus):
            self._process = subprocess.Popen(
                self.command,
                cwd=self._folder.name,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """One request of the workload; Broken unless the answer is right."""
        work = self.workload
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        if work.tls:
            context = ssl._create_unverified_context()  # noqa: S323 -- it was made a moment ago, and nobody knows it
            client = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=DEADLINE, context=context)
        try:
            client.request(work.method, "/", work.body or None, work.headers)
            answer = client.getresponse()
            body = answer.read()
        finally:
            client.close()
        if (answer.status, body) != (200, work.answer):
            raise Broken(f"wrong answer: {answer.status}, {len(body)} bytes for {len(work.answer)}")

    def check_alive(self) -> None:
        """Broken, with the end of its log, if the process has ended."""
        if (code := self._process.poll()) is not None:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            raise Broken(f"ended with code {code}: {lines[-1][:200] if lines else 'no word'}")

    def last_words(self) -> str:
        """Ends it as a user would, and gives what it has written."""
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Broken("does not end") from None
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def memory(self) -> int:
        """Resident bytes of the process and all below it; pages that they share count for each."""
        return sum(int(text.split()[1]) for text in self._read("statm")) * _unit("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of processor time, so far, of the same processes."""
        ticks = sum(sum(map(int, text.rpartition(")")[2].split()[11:13])) for text in self._read("stat"))
        return ticks / _unit("SC_CLK_TCK")

    def _read(self, name: str) -> Iterator[str]:
        for pid in tree(self._process.pid):
            try:
                yield Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while True:
            self.check_alive()
            try:
                return self.check()
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise Broken(f"does not answer: {error!r}") from None
            time.sleep(0.01)

    def _end(self) -> None:
        if sys.platform != "win32":
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self._folder.cleanup()


def make_certificate(folder: Path) -> None:
    """A self-signed one, in the files that the commands of the servers name."""
    if not (openssl := shutil.which("openssl")):
        raise Broken("a certificate is made by openssl, which is not installed")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", "/CN=localhost"]
    files = ["-keyout", str(folder / KEY), "-out", str(folder / CERTIFICATE)]
    subprocess.run([openssl, "req", "-x509", *kind, *files], check=True, capture_output=True)


def _unit(name: str) -> int:
    return os.sysconf(name) if hasattr(os, "sysconf") else 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def tree(root: int) -> list[int]:
    """``root`` and every process below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [root]
    for pid in found:  # grows as we go
        found += [child for child, parent in parents.items() if parent == pid]
    return found
