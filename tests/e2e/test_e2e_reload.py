"""``--watchfiles``: what is saved is what answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import Client, Server, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"{}"]
"""


def save(folder: Path, text: str) -> None:
    (folder / "site_.py").write_text(text, encoding="utf-8")


@pytest.mark.daily("threads")
def test_each_save_answers_and_mistakes_show_until_they_are_mended(backend: tuple[str, ...], tmp_path: Path) -> None:
    save(tmp_path, SOURCE.format("one"))
    with (
        Server("site_:app", "--watchfiles", "*.py;.env", "--no-access-log", *backend, cwd=tmp_path) as server,
        Client(server.port) as kept,
    ):
        assert kept.get().body == b"one"
        save(tmp_path, SOURCE.format("two"))
        save(tmp_path, SOURCE.format("three"))  # within the same second: the last one counts
        wait_for(lambda: get(server.port).body == b"three")
        assert kept.get().body == b"three", "a connection that was idle lives on"
        for mistake, shown in [
            ("def (", "SyntaxError"),
            ("nonsense", "NameError: name 'nonsense' is not defined"),
            ("import sys\nsys.exit(3)", "SystemExit: 3"),
            ("app = 3", "cannot be called"),
        ]:
            save(tmp_path, mistake)
            page = wait_for(lambda shown=shown: (page := get(server.port)) and shown.encode() in page.body and page)
            assert page.status == 500
            server.wait_for_log(shown)
        save(tmp_path, SOURCE.format("four"))
        wait_for(lambda: get(server.port).body == b"four")
        assert server.stop() == 0


def test_a_mistake_at_the_first_start_is_shown_too(tmp_path: Path) -> None:
    save(tmp_path, "1 / 0")
    with Server("site_:app", "--watchfiles", "*.py", "--no-gevent", cwd=tmp_path) as server:
        assert b"ZeroDivisionError" in get(server.port).body
        save(tmp_path, SOURCE.format("mended"))
        wait_for(lambda: get(server.port).body == b"mended")


def starts(server: Server) -> int:
    return len([line for line in server.log if "worker ready" in line])


def test_other_files_do_not_restart_anything(tmp_path: Path) -> None:
    save(tmp_path, SOURCE.format("one"))
    with Server("site_:app", "--watchfiles", "*.py", "--no-gevent", cwd=tmp_path) as server:
        get(server.port)
        workers = server.children()
        (tmp_path / "notes.txt").write_text("x", encoding="ascii")
        (tmp_path / "__pycache__").mkdir(exist_ok=True)
        (tmp_path / "__pycache__" / "x.py").write_text("x", encoding="ascii")
        # In one step, and of another size: a file that is seen empty is one more change, and what Python has compiled
        # is taken for what was saved in the same second.
        (tmp_path / "draft").write_text(SOURCE.format("the second"), encoding="utf-8")
        (tmp_path / "draft").replace(tmp_path / "site_.py")
        wait_for(lambda: get(server.port).body == b"the second")
        assert wait_for(lambda: starts(server)) <= 2, server.log
        assert server.children() != workers
