"""No line of a log can be forged, by whatever a client sends; the units of it are in `test_logger`."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from zibai.telemetry.format import Formatter

from rig import Rig
from support import DEADLINE, TESTS, Client, Server, prints

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WIRE = TESTS / "wire"
KEYS = [
    *("REMOTE_ADDR", "REQUEST_METHOD", "REQUEST_URI", "RAW_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL"),
    *("HTTP_HOST", "HTTP_USER_AGENT", "HTTP_REFERER", "HTTP_COOKIE", "HTTP_X", "CONTENT_TYPE", "CONTENT_LENGTH"),
]  # fmt: skip
FORGED = "\r\n2026-01-01 00:00:00 [1] INFO zibai: forged\x1b[31m\x9b31m\x85\u2028\u2029\x00\t"
HOSTILE = [  # what gets through to the application, and as far as the log
    b"GET /%0d%0a2026-01-01%20forged%1b%5b31m%c2%85%e2%80%a8?%0aforged HTTP/1.1\r\nHost: a\r\n",
    'GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: "\\\x85\x9b31m\r\nX: \u2028\u2029\r\nReferer: \xa0\r\n'.encode(),
    b'GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: \x9b31m\x85\r\nCookie: a="\\x0a"\r\nContent-Type: \xff\xfe\r\n',
    b"^[[31m /\"\\'`<script> HTTP/1.1\r\nHost: a\r\n",
    b"GET /x HTTP/1.0\r\nUser-Agent:\t a\tb\r\n",
]


def hostile_lines() -> Iterable[bytes]:
    for path in sorted(WIRE.rglob("*.http")):
        if path.stat().st_size < 10_000 and ".closed." not in path.name:
            yield path.read_bytes()
    for head in HOSTILE:
        yield head + b"\r\n"
        yield head + b"Connection: close\r\n\r\n"


@pytest.mark.daily("default")
@pytest.mark.parametrize("format", ["default", "of all keys"])
def test_every_line_of_the_log_is_one_of_ours(tmp_path: Path, format: str) -> None:  # noqa: A002
    """By the real command, with an application that raises what it was sent."""
    config = tmp_path / "logging.json"
    shown = " ".join(f"%({key})s" for key in KEYS)
    ours = "%(asctime)s [%(process)d] %(levelname)s %(message)s"
    formatters = {name: {"format": f"{ours} {shown}"} for name in ("access", "error") if format != "default"}
    config.write_text(json.dumps({"formatters": formatters, "loggers": {"zibai.debug": {"level": "DEBUG"}}}))
    with Server("mirror:app", "--logging-config-filepath", str(config)) as server:
        for data in hostile_lines():
            with Client(server.port) as client:
                client.send(data)
                client.socket.shutdown(socket.SHUT_WR)
                client.rest()
    begin = re.compile(r"[0-9-]{10} [0-9:]{8}\.[0-9]{3} [+-][0-9]{4} \[[0-9]+\] (?:INFO|WARNING|ERROR|DEBUG) ")
    assert len(server.log) > 500
    for line in server.log:
        if line.startswith("  "):  # of a traceback
            line = line.replace("\t", " ")  # noqa: PLW2901
        else:
            assert begin.match(line), line
        assert prints(line), line
        assert not line.startswith("2026-01-01"), line


def test_the_text_of_an_exception_begins_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        try:
            raise KeyError(FORGED)
        except KeyError as error:
            error.add_note(FORGED)
            raise ValueError(FORGED) from error

    try:
        fail()
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": (type(error), error, error.__traceback__)})
    first, *rest = Formatter("%(message)s").format(record).replace("\t", " ").split("\n")
    assert first == "failed"
    assert "  ValueError: \\x0d" in rest
    for line in rest:
        assert prints(line), line
        assert line.startswith("  ")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")
def test_the_name_of_a_unix_socket_is_the_clients_and_forges_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s") as rig, caplog.at_level(logging.DEBUG, "zibai.debug"):
        with socket.socket(socket.AF_UNIX) as client:
            client.bind(str(tmp_path / "a\n\x1b[31mb"))
            client.settimeout(DEADLINE)
            client.connect(rig.address)
            client.send(b"\0")
            rig.until(lambda: caplog.records)
        messages: list[Any] = [record.getMessage() for record in caplog.records]
        assert all(message.isprintable() for message in messages), messages
        assert "a\\n\\x1b[31mb" in messages[0]
