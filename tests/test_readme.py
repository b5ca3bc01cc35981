"""What README and docs show is what runs: every shell, Python, TOML and JSON snippet, with real commands and sockets.

A snippet that is a file carries its name, ```` ```python title="hello.py" ````, and lies in the directory where the
commands of its document run, beside the files of the README and `example.py`. Ports become 0, paths in ``/run``
temporary ones, the group of a proxy that of the test, and ``--drain`` short; nothing else is changed. A command of a
kind that is unknown here fails its test.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, NamedTuple

import pytest

from support import DEADLINE, ROOT, ZIBAI, Client, Server, environment, wait_for

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


class Snippet(NamedTuple):
    document: Path
    language: str
    title: str
    text: str


SNIPPETS = [Snippet(path, *found) for path in DOCUMENTS for found in FENCE.findall(path.read_text(encoding="utf-8"))]
ELSEWHERE = {"dockerfile", "ini", "nginx", "yaml", "xml"}  # tried by test_deployment.py and test_windows_page.py
FILES = [snippet for snippet in SNIPPETS if snippet.title and snippet.language not in ELSEWHERE]
COMMANDS = [(s.document, line) for s in SNIPPETS if s.language == "bash" for line in s.text.splitlines()]
INSTALLS = [line for _, line in COMMANDS if line.startswith("python3 -m venv ")]


def parametrize(names: str, values: list[tuple[Path, str]]) -> pytest.MarkDecorator:
    """A test for each pair of a document and something in it."""
    return pytest.mark.parametrize(names.split(), values, ids=[f"{path.stem}: {text}" for path, text in values])


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Where a document's snippets run, with its files in it."""
    document = request.getfixturevalue("document")
    shutil.copy(ROOT / "example.py", tmp_path)
    for name in ("certificate.pem", "key.pem"):
        shutil.copy(request.getfixturevalue("credentials").server, tmp_path / name)
    for snippet in FILES:
        if snippet.document in {DOCUMENTS[0], document}:
            (tmp_path / snippet.title).write_text(snippet.text.replace(":8000", ":0"), encoding="utf-8")
    return tmp_path


def check_server(command: list[str], folder: Path) -> None:
    """It serves at every address, and ends when it is told to."""
    wanted = sum(part.endswith(":0") or part.startswith("unix:") for part in command)
    wanted -= "--health-listen" in command
    prefix = command[command.index("--url-prefix") + 1] if "--url-prefix" in command else ""
    with Server(None, listen=None, command=command, cwd=folder) as server:
        for address in wait_for(lambda: len(found := listening(server)) >= wanted and found):
            kind, _, where = address.rpartition(":")
            if "[" in kind:
                continue  # the clients here speak IPv4 and unix
            secured = kind != "unix" and {"--certfile", "--tls-dev"} & set(command)
            tls = ssl._create_unverified_context() if secured else None
            with Client(where if kind == "unix" else int(where), tls=tls) as client:
                client.send(b"PROXY UNKNOWN\r\n" if "--proxy-protocol" in command else b"")
                answer = client.get(f"{prefix}/", "Connection: close")
            assert (answer.status, answer.body) == (200, b"Hello World!")
        assert server.stop() == 0
    assert "Traceback" not in "\n".join(server.log)


def check_benchmarks(arguments: list[str]) -> None:
    """It would start, if the machine is fit for it."""
    command = [sys.executable, "-m", "benchmarks", *arguments, "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert "zibai-threads" in done.stdout or done.stderr.startswith("the benchmark needs"), done.stderr


def listening(server: Server) -> list[str]:
    return [line.partition("listening on ")[2] for line in list(server.log) if "listening on " in line]


def possible(argument: str) -> bool:
    """Whether this machine can do that: listen there, or fork."""
    if argument.startswith("unix:"):
        return sys.platform != "win32"
    if argument == "--preload":
        return hasattr(os, "fork")
    if not argument.startswith("[::1]"):
        return True
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@parametrize("document line", COMMANDS)
@pytest.mark.daily("README")
def test_command(document: Path, line: str, folder: Path) -> None:
    line_here = re.sub(r"--drain \d+", "--drain 0.1", re.sub(r":800[01]\b", ":0", line))
    line_here = line_here.replace(" -p 4", " -p 2")  # two workers show what four do
    if hasattr(os, "getgid"):
        line_here = line_here.replace("--unix-socket-group www-data", f"--unix-socket-group {os.getgid()}")
    (folder / "hello").mkdir()
    command = shlex.split(line_here.replace("unix:/run/", f"unix:{folder}/"))
    if line in INSTALLS:  # the rest of it is test_install_from_a_fresh_clone
        command = command[len(command) - command[::-1].index("&&") :]
        if command == [".venv/bin/pytest"]:
            return
    match command:
        case ["zibai", "check" | "migrate", *_]:
            python(folder, "-m", *command)
            return
        case ["python", "-m", "zibai", *arguments] | ["zibai" | ".venv/bin/zibai", *arguments]:
            arguments = [argument for argument in arguments if possible(argument)]
        case [".venv/bin/python", "-m", "benchmarks", *arguments]:  # what it does is in test_benchmarks.py
            check_benchmarks(arguments)
            return
        case _:
            pytest.fail(f"what is this test to do with {line!r}?")
    if "--listen" not in arguments:
        arguments += ["--listen", "127.0.0.1:0"]
    check_server([*ZIBAI, *arguments], folder)


@parametrize("document name", [(snippet.document, snippet.title) for snippet in FILES])
def test_file(document: Path, name: str, folder: Path) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    match name.rpartition(".")[2]:
        case "toml":
            tomllib.loads(text)
        case "json":
            json.loads(text)
        case _ if "main(Options(" in text:
            check_server([sys.executable, name], folder)
        case _ if "pytest" in text or "def test_" in text:
            assert "1 passed" in python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".")
        case _:
            assert python(folder, name).strip() == ("Hello World!" if "print(" in text else "")
    if name.endswith((".toml", ".json")):
        assert any(name in line for path, line in COMMANDS if path == document), "no command uses it"


def python(folder: Path, *arguments: str) -> str:
    """What it prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_example_by_itself(tmp_path: Path) -> None:
    shutil.copy(ROOT / "example.py", tmp_path)
    check_server([sys.executable, "example.py", "--listen", "127.0.0.1:0"], tmp_path)


def test_example_echoes_chunk_by_chunk(tmp_path: Path) -> None:
    shutil.copy(ROOT / "example.py", tmp_path)
    with Server("example:app", "--stream-request-body", cwd=tmp_path) as server, Client(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n")
        answer = client.read()
        assert (answer.headers["Content-Type"], answer.body) == ("text/x", b"firstsecond")
        client.send(b"DELETE / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.read().status == 405


def test_every_snippet_is_run() -> None:
    assert {snippet.language for snippet in SNIPPETS} <= {
        *("bash", "python", "toml", "json", "text", "nginx", "haproxy"),
        *ELSEWHERE,
    }
    assert all(snippet.title for snippet in SNIPPETS if snippet.language in {"python", "toml", "json"})
    assert len(INSTALLS) == 3, "one command to install and serve, one to install and measure, one to install and test"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("line", INSTALLS)
def test_install_from_a_fresh_clone(line: str, tmp_path: Path) -> None:
    """To the letter, up to the server or the tests, which are only started and collected."""
    clone = tmp_path / "zibai"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    install, _, last = line.rpartition(" && ")
    subprocess.run(install, shell=True, cwd=clone, check=True)
    program, *arguments = shlex.split(last)
    if "benchmarks" in arguments:
        subprocess.run([clone / program, *arguments, "--list"], cwd=clone, check=True)
    elif arguments:
        check_server([str(clone / program), *arguments, "--listen", "127.0.0.1:0"], clone)
    else:
        subprocess.run([clone / program, "--collect-only", "-q"], cwd=clone, check=True)
