"""A server in a thread for the length of a block, the fixture of it, and the keywords that editors know."""

from __future__ import annotations

import sys
import threading
import tomllib
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints
from urllib.request import urlopen

import pytest

import zibai
from zibai.cli.texts import keywords_source
from zibai.config.keywords import RunOptions, ServeOptions
from zibai.config.options import declared
from zibai.errors import BindError, UsageError
from zibai.server.fixture import zibai_server as zibai_server  # noqa: PLC0414 -- also where no entry point is installed

from support import ROOT, Client, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from credentials import Credentials


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["SCRIPT_NAME"].encode(), environ["PATH_INFO"].encode()]


def test_a_block() -> None:
    with zibai.serving(app, url_prefix="/shop", max_workers=None) as url:
        assert url.startswith("http://127.0.0.1:")
        with urlopen(f"{url}/shop/there") as response:
            assert response.read() == b"/shop/there"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("zibai-")]
    with pytest.raises(OSError, match="refused"):
        Client(int(url.rpartition(":")[2])).get()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")
@pytest.mark.parametrize("ending", ["block", "error", "by itself", "never"])
def test_a_unix_socket_leaves_no_file(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a path in it may be too long
    options: dict[str, Any] = {"max_workers": 0} if ending == "never" else {"max_request_pre_process": 1}
    with suppress(UsageError, ZeroDivisionError), zibai.serving(app, listen="unix:socket", **options) as url:
        assert url == "unix:socket"
        assert (tmp_path / "socket").exists()
        if ending == "by itself":
            with Client("socket") as client:
                assert client.get().status == 200
            wait_for(lambda: not (tmp_path / "socket").exists())
            (tmp_path / "socket").touch()  # another program's
        if ending == "error":
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == (["socket"] if ending == "by itself" else [])


def test_what_the_block_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), zibai.serving(app):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_workers": 0}, UsageError),
        ({"max_worker": 3}, TypeError),
        ({"listen": "nowhere.invalid:1"}, BindError),
        ({"certfile": "nowhere.pem"}, UsageError),
        ({"backend": "fibres"}, ValueError),
    ],
)
def test_what_is_wrong_is_raised_before_the_block(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error), zibai.serving(app, **options):
        pytest.fail("not reached")


def test_what_is_no_application() -> None:
    def view(request: object) -> None: ...

    with pytest.raises(UsageError, match="takes request, and a WSGI application takes"), zibai.serving(view):  # type: ignore[arg-type]
        pytest.fail("not reached")


def test_an_asgi_application() -> None:
    async def api(scope: dict[str, object], receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(scope["path"]).encode()})

    with zibai.serving(api, lifespan="off") as url, urlopen(f"{url}/x") as response:  # type: ignore[arg-type]
        assert response.read() == b"/x"


def test_tls(credentials: Credentials) -> None:
    with zibai.serving(app, certfile=credentials.server) as url:
        assert url.startswith("https://127.0.0.1:")
        with urlopen(f"{url}/x", context=credentials.context()) as response:
            assert response.read() == b"/x"


def test_the_fixture(zibai_server: Callable[..., str]) -> None:
    urls = [zibai_server(app), zibai_server(app, url_prefix="/two")]
    with urlopen(f"{urls[0]}/one") as response:
        assert response.read() == b"/one"
    with urlopen(f"{urls[1]}/two/one") as response:
        assert response.read() == b"/two/one"


def test_pytest_finds_the_fixture() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert hasattr(import_module(project["entry-points"]["pytest11"]["zibai"]), "zibai_server")


def test_the_keywords_are_those_of_the_options(tmp_path: Path) -> None:
    written = (ROOT / "zibai" / "config" / "keywords.py").read_text(encoding="utf-8")
    assert written == keywords_source(), "run: python docs/generate_keywords.py"
    served = {name for each in declared() if each.embedded for name in (each.name, *each.aliases)}
    run = {name for each in declared() if each.at_prompt for name in (each.name, *each.aliases)}
    assert set(get_type_hints(ServeOptions)) == served
    assert set(get_type_hints(RunOptions)) == run - {"app", "listen", "processes", "interactive"}
