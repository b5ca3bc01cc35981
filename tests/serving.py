"""``zibai.serve()`` in a thread of the test's process: for what a gateway has to do, one application at a time.

Its backend is threads, its port is free, and it ends by its event; a server that does not end, or a thread of it that
is left, is an error. What it logs lies in ``records``: whole once the ``with`` block is over.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

from zibai import create_bind_socket, serve

from support import DEADLINE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

LOGGERS = ("zibai", "zibai.debug", "zibai.access", "zibai.error")


@dataclass
class Serving:
    """A server that runs. ``end`` makes it end, which the end of the block does as well."""

    address: Any  # of the listener, as the socket names it
    end: threading.Event = field(default_factory=threading.Event)
    records: list[logging.LogRecord] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address[1])

    def logged(self, name: str) -> list[logging.LogRecord]:
        return [record for record in self.records if record.name == name]

    @property
    def exchanges(self) -> list[tuple[str, int]]:
        """Logger and status of each record of an exchange."""
        return [(record.name, record.__dict__["status"]) for record in self.records if "status" in record.__dict__]


@contextmanager
def serving(
    app: Callable[..., Any], *, listener: socket.socket | None = None, valid: bool = True, **options: Any
) -> Iterator[Serving]:
    """Serve ``app``, behind ``wsgiref.validate`` unless it is not ``valid`` on purpose."""
    listener = listener or create_bind_socket("127.0.0.1:0")
    server = Serving(listener.getsockname())
    ready = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            serve(
                app=validator(app) if valid else app,
                bind_socket=listener,
                graceful_exit=server.end,
                backend="threads",
                before_serve_hook=ready.set,
                **options,
            )
        except BaseException as error:
            failures.append(error)
            ready.set()

    with _collected(server.records):
        before = set(threading.enumerate())
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert ready.wait(DEADLINE)
        try:
            yield server
        finally:
            server.end.set()
            thread.join(DEADLINE)
        assert not thread.is_alive(), "the server does not end"
        assert not failures, failures
        # A thread of the server that logs is known to threading only as a dummy, for ever.
        dummies = {thread for thread in threading.enumerate() if isinstance(thread, threading._DummyThread)}  # type: ignore[attr-defined]
        for left in set(threading.enumerate()) - before - dummies:
            left.join(DEADLINE)
            assert not left.is_alive(), left


class _Collector(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _collected(records: list[logging.LogRecord]) -> Iterator[None]:
    """All that our loggers say goes to ``records`` and nowhere else."""
    handler = _Collector(records)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers, logger.propagate = handlers, propagate
