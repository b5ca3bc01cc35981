"""What README and docs show is what runs: every shell, Python, TOML and JSON snippet, with real commands and sockets.

A snippet that is a file carries its name, ```` ```python title="hello.py" ````, and lies in the directory where the
commands of its document run, beside the files of the README and `example.py`. Ports become 0 and paths in
``/run`` temporary ones; nothing else is changed. A command of a kind that is unknown here fails its test.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, NamedTuple

import pytest

from support import DEADLINE, ROOT, ZIBAI, Server, environment, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
INSTALL = "python3 -m venv "


class Snippet(NamedTuple):
    document: Path
    language: str
    title: str
    text: str


SNIPPETS = [Snippet(path, *found) for path in DOCUMENTS for found in FENCE.findall(path.read_text(encoding="utf-8"))]
FILES = [snippet for snippet in SNIPPETS if snippet.title]
COMMANDS = [
    pytest.param(snippet.document, line, id=f"{snippet.document.stem}: {line}")
    for snippet in SNIPPETS
    if snippet.language == "bash"
    for line in snippet.text.splitlines()
]


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Where a document's snippets run, with its files in it."""
    document = request.getfixturevalue("document")
    shutil.copy(ROOT / "example.py", tmp_path)
    for snippet in FILES:
        if snippet.document in {DOCUMENTS[0], document}:
            (tmp_path / snippet.title).write_text(snippet.text.replace(":8000", ":0"), encoding="utf-8")
    return tmp_path


def check_server(command: list[str], folder: Path) -> None:
    """It serves at every address, and ends when it is told to."""
    wanted = command.count("--listen") and sum(part.endswith(":0") or part.startswith("unix:") for part in command)
    prefix = command[command.index("--url-prefix") + 1] if "--url-prefix" in command else ""
    with Server(None, listen=None, command=command, cwd=folder) as server:
        addresses = wait_for(lambda: len(found := listening(server)) >= (wanted or 1) and found)
        for address in addresses:
            if not address.startswith("http://["):  # `get` speaks IPv4 and unix
                where = (
                    address.removeprefix("unix:") if address.startswith("unix:") else int(address.rpartition(":")[2])
                )
                answer = get(where, f"{prefix}/")
                assert (answer.status, answer.body) == (200, b"Hello World!")
        assert server.stop() == 0
    assert "Traceback" not in "\n".join(server.log)


def listening(server: Server) -> list[str]:
    return [line.partition("listening on ")[2].split()[0] for line in list(server.log) if "listening on " in line]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_command(document: Path, line: str, folder: Path) -> None:
    command = shlex.split(line.replace(":8000", ":0").replace("unix:/run/", f"unix:{folder}/").rpartition(" && ")[2])
    if command[0].endswith("pytest"):
        assert line.startswith(INSTALL)  # this is what runs
        return
    if command[:3] == ["python", "-m", "zibai"]:
        command = [*ZIBAI, *command[3:]]
    else:
        assert command[0].removeprefix(".venv/bin/") == "zibai", f"what is this test to do with {line!r}?"
        command = [*ZIBAI, *command[1:]]
    if sys.platform == "win32":
        command = [part for part in command if not part.startswith("unix:")]
    if not has_ipv6():
        command.remove("[::1]:0") if "[::1]:0" in command else None
    check_server(command if "--listen" in command else [*command, "--listen", "127.0.0.1:0"], folder)


@pytest.mark.parametrize(
    ("document", "name"), [pytest.param(s.document, s.title, id=f"{s.document.stem}: {s.title}") for s in FILES]
)
def test_file(document: Path, name: str, folder: Path) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    if name.endswith((".toml", ".json")):
        assert tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
        assert any(name in line for path, line in (param.values for param in COMMANDS) if path == document)
    elif "main(Options(" in text:
        check_server([sys.executable, name], folder)
    else:
        script = (
            ["-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
            if name.endswith(("test_hello.py", "conftest.py"))
            else [name]
        )
        done = subprocess.run(
            [sys.executable, *script],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "Hello World!" in done.stdout if "print(" in text else True


def test_example_by_itself(tmp_path: Path) -> None:
    shutil.copy(ROOT / "example.py", tmp_path)
    check_server([sys.executable, "example.py", "--listen", "127.0.0.1:0"], tmp_path)


def test_every_snippet_is_run() -> None:
    assert {snippet.language for snippet in SNIPPETS} <= {"bash", "python", "toml", "json", "text"}
    assert all(snippet.title for snippet in SNIPPETS if snippet.language in {"python", "toml", "json"})
    installs = [param.values[1] for param in COMMANDS if param.values[1].startswith(INSTALL)]
    assert len(installs) == 2, "one command to install and serve, one to install and test"


@pytest.mark.slow
@pytest.mark.parametrize("line", [param.values[1] for param in COMMANDS if param.values[1].startswith(INSTALL)])
def test_install_from_a_fresh_clone(line: str, tmp_path: Path) -> None:
    """To the letter, up to the server or the tests, which are started and collected."""
    clone = tmp_path / "zibai"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    *install, last = line.split(" && ")
    subprocess.run(" && ".join(install), shell=True, cwd=clone, check=True, timeout=900)
    program, *arguments = shlex.split(last)
    if program.endswith("pytest"):
        subprocess.run([clone / program, "--collect-only", "-q"], cwd=clone, check=True, timeout=60)
    else:
        check_server([str(clone / program), *arguments, "--listen", "127.0.0.1:0"], clone)
