"""The live page of a real server: who may see it, and what people see in Chromium."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from test_e2e_restart import ready

from chromium import browser, needs_browser
from support import Client, Response, Server, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["browser"]

pytestmark = pytest.mark.xdist_group("site")


def health_port(server: Server) -> int:
    return int(re.search(r":(\d+)$", server.wait_for_log("health checks on"))[1])  # type: ignore[index]


def look(port: int, path: str) -> Response:
    """A GET that names the address, as browsers do."""
    with Client(port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        return client.read()


@pytest.fixture
def server() -> Iterator[Server]:
    flags = ("-p", "2", "--max-workers", "4", "--no-gevent", "--health-listen", "127.0.0.1:0")
    with Server("mortal:app", *flags) as server:
        wait_for(lambda: len(ready(server)) == 2)
        yield server


@pytest.mark.parametrize("flags", [(), ("--health-public",)], ids=["closed", "public"])
def test_a_public_address_serves_probes_and_metrics_as_ever(flags: tuple[str, ...]) -> None:
    with Server("mortal:app", "--no-gevent", "--health-listen", "0.0.0.0:0", *flags) as server:
        wait_for(lambda: len(ready(server)) == 1)
        port = health_port(server)
        assert get(port, "/livez").body == b"ok\n"
        assert get(port, "/readyz").body == b"ok\n"
        assert get(port, "/metrics").status in (200, 404)  # with and without the extra
        for path in ("/", "/status.json"):
            assert look(port, path).status == (200 if flags else 403)


def test_the_page_is_read_only(server: Server) -> None:
    port = health_port(server)
    with Client(port) as client:
        client.send(b"POST /status.json HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
        assert client.read().status == 405
    response = look(port, "/status.json")
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert json.loads(response.body)["sums"]["slots"] == 8
    with Client(port) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.read("HEAD").status == 200


def text(browser: Any, element: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).textContent", element))


@needs_browser
def test_what_people_see(server: Server, browser: Any, tmp_path: Path) -> None:
    port = health_port(server)
    browser.get_log("browser")
    hostile = '/hang</td><script>window.evil=1</script><img/src=x/onerror=window.evil=2>"&amp;'
    with ExitStack() as stack:
        paths = ["/hang", hostile.replace('"', "%22")]
        for number, path in enumerate(paths):
            client = stack.enter_context(Client(server.port))
            client.send(f"GET {path}?{tmp_path}/{number} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_for((tmp_path / "0").exists)
        browser.get(f"http://127.0.0.1:{port}/")
        wait_for(lambda: "GET /hang" in text(browser, "running"))
        assert browser.title == "mortal:app \N{EN DASH} zibai"
        for pid in server.children():
            assert str(pid) in text(browser, "workers")
        assert "1 of 8" in text(browser, "cards")
        assert browser.execute_script("return document.querySelectorAll('svg[role=img]').length") == 3
        # The page is read again when what it shows has changed.
        (tmp_path / "0.go").touch()
        wait_for(lambda: "0 of 8" in text(browser, "cards"))
        look = browser.execute_script(
            """
            const script = document.createElement("script");
            script.textContent = "window.evil = 3";
            document.body.append(script);
            script.remove();
            return {
                evil: window.evil,
                asked: performance.getEntriesByType("resource").map(each => each.name),
                wide: document.documentElement.scrollWidth,
            };
            """
        )
    assert look["evil"] is None, "no script but that of the page runs"
    assert set(look["asked"]) == {f"http://127.0.0.1:{port}/status.json"}
    assert look["wide"] <= 1280
    messages = [each["message"] for each in browser.get_log("browser")]
    assert all("Content Security Policy" in each for each in messages), messages
    assert len(messages) == 1, "of the script of this test"


@needs_browser
def test_paths_are_text(server: Server, browser: Any) -> None:
    """Whatever a path holds: the page gets it from a response that this test has made up."""
    port = health_port(server)
    status = json.loads(look(port, "/status.json").body)
    hostile = "/<img src=x onerror='window.evil=1'></td></table><script>window.evil=2</script>\u202e&lt;"
    status["running"] = [{"pid": 1, "method": "<b>GET</b>", "path": hostile, "phase": "<i>", "seconds": 12.0}]
    status["server"]["app"] = hostile
    status["server"]["listen"] = [hostile]
    status["server"]["workers"][0]["state"] = "<svg onload='window.evil=3'>"
    browser.get(f"http://127.0.0.1:{port}/")
    # In one step, since the page itself asks again at any moment.
    found = browser.execute_script(
        """
        show(arguments[0]);
        const text = id => document.getElementById(id).textContent;
        const made = document.querySelectorAll("img, td *, h1 *").length;
        return [text("running"), text("app"), text("about"), text("workers"), made, window.evil];
        """,
        status,
    )
    assert f"<b>GET</b> {hostile}" in found[0]
    assert "<i>" in found[0]
    assert found[1] == hostile
    assert hostile in found[2]
    assert "<svg onload='window.evil=3'>" in found[3]
    assert found[4:] == [0, None]


@needs_browser
def test_dark_and_light(server: Server, browser: Any) -> None:
    backs = set()
    for value in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": value}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(f"http://127.0.0.1:{health_port(server)}/")
        backs.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(backs) == 2


@needs_browser
def test_a_server_that_ends(server: Server, browser: Any) -> None:
    browser.get(f"http://127.0.0.1:{health_port(server)}/")
    wait_for(lambda: "0 of 8" in text(browser, "cards"))
    assert text(browser, "trouble") == ""
    assert server.stop() == 0
    wait_for(lambda: text(browser, "trouble") == "the server does not respond; trying again")
