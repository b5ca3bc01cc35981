"""``with zibai.serving(app) as url:``, a server in a thread, for tests and for other programs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Unpack

from ..config.keywords import ServeOptions
from ..gateway.interface import Application
from ..net.bind import create_bind_socket, describe
from ..net.unix_socket import unlink_unix_socket
from .serve import serve


@contextmanager
def serving(
    app: Application,
    *,
    listen: str = "127.0.0.1:0",
    backend: Literal["threads", "greenlets"] | None = None,
    **options: Unpack[ServeOptions],
) -> Iterator[str]:
    """Serve ``app`` in a thread of this process within the ``with`` block, which gets the URL.

    At the end of the block, requests in flight have ``graceful_exit_timeout`` to finish.

    :param listen: an address; port 0 is a free one. The URL of a unix socket is ``unix:PATH``; its
        file is removed at the end of the block.
    :param backend: see :func:`~zibai.serve`.
    :param options: those of :func:`~zibai.serve`.
    :raises BindError: if it cannot listen there.
    :raises TypeError, UsageError: for a wrong option, as :func:`~zibai.serve`.
    """
    sock = create_bind_socket(listen)
    url = describe(sock, "https" if options.get("certfile") else "http")
    ready, end = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            serve(app=app, bind_socket=sock, backend=backend, graceful_exit=end, before_serve_hook=ready.set, **options)
        except BaseException as error:
            failures.append(error)
        finally:
            unlink_unix_socket(sock)  # it may have ended by itself
            sock.close()
            ready.set()

    thread = threading.Thread(target=run, name="zibai-serving", daemon=True)
    thread.start()
    try:
        ready.wait()
        if failures:
            raise failures.pop()
        yield url
    finally:
        unlink_unix_socket(sock)  # before the server closes it
        end.set()
        thread.join()
    if failures:
        raise failures.pop()
