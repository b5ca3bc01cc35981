"""``--watchfiles``: what is saved is what answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from support import Client, Server, get, run, wait_for

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


ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {}
        return await send({{"type": "lifespan.startup.complete"}})
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": b"{}"}})
"""


@pytest.mark.parametrize("interface", ["auto", "asgi"])
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.daily("preload-auto")
def test_mistakes_of_asgi_show_too_and_a_restart_that_shows_one_is_aborted(
    interface: str, preload: bool, tmp_path: Path
) -> None:
    if preload and sys.platform == "win32":
        pytest.skip("Windows cannot fork")
    control = ("--control", str(tmp_path / "board"))
    flags = ("--watchfiles", "*.py", "--interface", interface, *(["--preload"] if preload else []), *control)
    save(tmp_path, ASGI.format("", "one"))
    with Server("site_:app", *flags, cwd=tmp_path) as server:
        assert get(server.port).body == b"one"
        for mistake, shown in [
            ("1 / 0", "ZeroDivisionError"),
            (ASGI.format("1 / 0", "two"), "the application failed in its lifespan: ZeroDivisionError"),
        ]:
            save(tmp_path, mistake)
            page = wait_for(lambda shown=shown: (page := get(server.port)) and shown.encode() in page.body and page)
            assert page.status == 500
            assert b"TypeError" not in page.body
            done = run("reload", "--wait", *control)
            assert done.returncode == 3
            assert "ZeroDivisionError" in done.stderr
            assert done.stderr.splitlines()[-1].endswith("does not start; each request gets the traceback")
        save(tmp_path, ASGI.format("", "mended"))
        wait_for(lambda: get(server.port).body == b"mended")
        assert run("reload", "--wait", *control).returncode == 0
        assert server.stop() == 0


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


def test_the_log_of_the_server_is_no_change(backend: tuple[str, ...], tmp_path: Path) -> None:
    """A restart is logged, so each one would cause the next."""
    save(tmp_path, SOURCE.format("one"))
    flags = ("--watchfiles", "*", "--access-log", "access.log", "--log-max-bytes", "100", *backend)
    with Server("site_:app", *flags, cwd=tmp_path) as server:
        for text in ("two", "three"):
            for _ in range(3):
                get(server.port)
            wait_for((tmp_path / "access.log.1").exists)
            seen = len(server.log)
            save(tmp_path, SOURCE.format(text))
            server.wait_for_log("restart done", after=seen)
        assert get(server.port).body == b"three"
        begun = [line.partition("restart begun ")[2] for line in server.log if "restart begun" in line]
    assert begun == ["(site_.py has changed): new workers replace 1 worker"] * 2
