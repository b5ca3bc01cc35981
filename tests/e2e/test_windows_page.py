"""What docs/windows.md shows: each configuration is read, and the commands in it are run, on every system."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from test_readme import SNIPPETS

from support import DEADLINE, ROOT, ZIBAI, Client, Server, environment, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

PAGE = [snippet for snippet in SNIPPETS if snippet.document.name == "windows.md"]
XML = {snippet.title: snippet.text for snippet in PAGE if snippet.language == "xml"}
COMMANDS = re.findall(r"-m zibai ([^\n<\"]*)", "\n".join(snippet.text for snippet in PAGE))
STARTS = sorted({command for command in COMMANDS if command.startswith("shop:app")})
OTHERS = sorted({command for command in COMMANDS if not command.startswith("shop:app")})

SHOP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [" ".join(environ[name] for name in ("wsgi.url_scheme", "REMOTE_ADDR", "HTTP_HOST")).encode()]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP, encoding="ascii")
    (tmp_path / "log").mkdir()
    return tmp_path


def arguments(command: str, folder: Path) -> list[str]:
    """The arguments of a command on the page, for this folder and a free port. Two workers show what four do."""
    command = command.replace(" -p 4", " -p 2")
    words = shlex.split(command.replace("C:\\srv\\shop\\", folder.as_posix() + "/").replace("log\\", "log/"))
    return [word.replace(":8000", ":0") for word in words]


def test_the_page_has_them_all() -> None:
    assert set(XML) == {"shop.xml", "task.xml", "web.config"}
    assert len(STARTS) == 4
    assert {command.split()[0] for command in OTHERS} == {"stop", "reload"}


@pytest.mark.parametrize("command", STARTS)
def test_the_command_of_a_service(command: str, folder: Path) -> None:
    words = arguments(command, folder)
    listen = None if "--listen" in words else "127.0.0.1:0"
    control = words[words.index("--control") + 1] if "--control" in words else ""
    log = folder / "log" / "shop.log"
    if "--log-file" not in words:
        with Server(None, *words, listen=listen, cwd=folder) as server:
            wait_for(lambda: sum("worker ready" in line for line in server.log) == 2)
            assert get(server.port).status == 200
            for other in (each for each in OTHERS if control and each.split()[0] in {"reload", "stop"}):
                assert zibai(arguments(other, folder), folder) == 0
            assert server.wait() == 0 if control else server.stop() == 0
        return
    with subprocess.Popen([*ZIBAI, *words], cwd=folder, env=environment()) as process:
        try:
            wait_for(lambda: log.exists() and log.read_text("utf-8").count("worker ready") == 2)
            port = int(re.findall(r"listening on http://127.0.0.1:(\d+)", log.read_text("utf-8"))[0])
            assert get(port).status == 200
            [stop] = [each for each in OTHERS if each.startswith("stop")]
            assert zibai(arguments(stop, folder), folder) == 0
            assert process.wait(DEADLINE) == 0, "the exit code for which NSSM lets it be"
        finally:
            process.kill()


def zibai(words: list[str], folder: Path) -> int:
    return subprocess.run([*ZIBAI, *words], cwd=folder, env=environment(), timeout=DEADLINE, check=False).returncode


def test_the_service_of_winsw() -> None:
    service = ET.fromstring(XML["shop.xml"])
    assert service.tag == "service"
    assert {"id", "executable", "startarguments", "stoparguments", "workingdirectory"} <= {each.tag for each in service}
    patience = int((service.findtext("stoptimeout") or "").removesuffix(" sec"))
    graceful = re.search(r"--graceful-exit-timeout (\d+)", service.findtext("startarguments") or "")
    assert graceful is not None
    assert patience > int(graceful[1]) + 4, "as long as an end takes"


def test_the_task() -> None:
    names = {"": "http://schemas.microsoft.com/windows/2004/02/mit/task"}
    task = ET.fromstring(XML["task.xml"])
    principal = task.find("Principals/Principal", names)
    assert principal is not None
    assert principal.get("id") == task.find("Actions", names).get("Context")  # type: ignore[union-attr]
    assert task.findtext("Settings/ExecutionTimeLimit", "", names) == "PT0S"


def test_what_iis_sends_is_understood(folder: Path) -> None:
    """As its rules say: one for https, one for the rest, with the header of RFC 7239 empty and a port in the other."""
    rules = {rule.get("name"): rule for rule in ET.fromstring(XML["web.config"]).iter("rule")}
    with Server("shop:app", cwd=folder) as server:
        for scheme in ("https", "http"):
            fields = {each.get("name"): each.get("value") for each in rules[scheme].iter("set")}
            headers = [
                f"{(name or '').removeprefix('HTTP_').replace('_', '-')}: {value}" for name, value in fields.items()
            ]
            with Client(server.port) as client:
                answer = client.get("/", "X-Forwarded-For: 203.0.113.9:50123", *headers)
            assert answer.body == f"{scheme} 203.0.113.9 test".encode()


def test_it_is_linked_from_where_a_windows_user_looks() -> None:
    for page in ("index", "deployment", "processes", "daemon", "commands", "deploys"):
        assert "](windows.md" in (ROOT / "docs" / f"{page}.md").read_text("utf-8"), page
    assert "docs/windows.md" in (ROOT / "README.md").read_text("utf-8")
