"""``serve()`` when the server itself is broken."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from zibai import create_bind_socket, serve
from zibai.loop import Loop

from support import DEADLINE

if TYPE_CHECKING:
    import pytest


def test_a_server_loop_that_fails_ends_serve_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than to be a server that is there and hears nothing."""
    raised: list[BaseException] = []
    died = threading.Event()

    def broken(self: Loop, now: float) -> None:
        raise ZeroDivisionError("a bug")

    def run() -> None:
        try:
            serve(app=lambda *_: [], bind_socket=create_bind_socket("127.0.0.1:0"), before_died_hook=died.set)
        except ZeroDivisionError as error:
            raised.append(error)

    monkeypatch.setattr(Loop, "_watch_listeners", broken)
    server = threading.Thread(target=run)
    server.start()
    server.join(DEADLINE)
    assert not server.is_alive()
    assert [str(error) for error in raised] == ["a bug"]
    assert died.is_set()
