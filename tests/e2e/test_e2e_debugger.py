"""``breakpoint()`` in an application, and who sits at the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from person import Person
from support import Client

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")

APP = """
def app(environ, start_response):
    answer = b"wrong"
    if environ["PATH_INFO"] == "/":
        breakpoint()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""

WAYS = {
    "single": (),
    "worker": ("-p", "1", "--worker-timeout", "60"),
    "watched": ("--watchfiles", "*.py", "--worker-timeout", "0.5"),
    "preloaded": ("--preload", "-p", "1"),
}


@pytest.mark.daily("greenlets-watched", "threads-preloaded")
@pytest.mark.parametrize("way", WAYS)
def test_a_breakpoint_takes_what_is_typed(backend: tuple[str, ...], way: str, tmp_path: Path) -> None:
    (tmp_path / "debugged.py").write_text(APP, encoding="ascii")
    flags = ("--no-access-log", *WAYS[way], *backend)
    with Person("-m", "zibai", "debugged:app", "-l", "127.0.0.1:0", *flags, cwd=tmp_path) as person:
        port = int(person.see(r"listening on http://127\.0\.0\.1:(\d+)"))
        person.see("worker ready")
        with Client(port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            person.see(r"\(Pdb\) ")
            if way == "watched":  # a developer thinks for longer than --worker-timeout
                person.type("import time; time.sleep(1.5); print('thought')")
                person.see("thought\n")
            person.type("answer = b'right'")
            person.see(r"\(Pdb\) ")
            person.type("c")
            assert client.read().body == b"right"
            assert client.get("/next").body == b"wrong"
        assert "stood still" not in person.screen
        person.workers()
        person.press("\x03")
        assert person.process.wait(20) == 0
