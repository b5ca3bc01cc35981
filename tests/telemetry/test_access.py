"""The access log in a format of --access-log-format, and the log as JSON lines."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import re
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai.config.atoms import NAMED
from zibai.logger import access_logger, error_logger, logger
from zibai.telemetry import records, setup
from zibai.telemetry.access import AccessFormatter, compile_format, user_of
from zibai.telemetry.format import Fields
from zibai.telemetry.jsonlines import JsonFormatter
from zibai.telemetry.records import ResponseDetails, log_exchange
from zibai.telemetry.setup import Access

from support import prints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENVIRON: dict[str, Any] = {
    "REMOTE_ADDR": "10.1.2.3",
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/a%20b?x=1",
    "PATH_INFO": "/a b",
    "QUERY_STRING": "x=1",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "shop.example",
    "HTTP_REFERER": "http://other/",
    "HTTP_USER_AGENT": 'Mo"zilla',
    "HTTP_X_REQUEST_ID": "r-1",
    "HTTP_TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "HTTP_AUTHORIZATION": "Basic Ym9iOnNlY3JldA==",
    "CONTENT_TYPE": "text/x",
    "wsgi.url_scheme": "https",
    "wsgi.version": (1, 0),
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Tag:  v1\r\nServer: zibai\r\n"


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    loggers = [logger, access_logger, error_logger]
    before = [(each, each.level, each.handlers, each.propagate) for each in loggers]
    yield
    for each, level, handlers, propagate in before:
        for handler in each.handlers:
            if handler not in handlers:
                handler.close()  # or another test is blamed for an open file
        each.setLevel(level)
        each.handlers, each.propagate = handlers, propagate


def log(environ: dict[str, Any] = ENVIRON, error: BaseException | None = None, status: int = 200) -> None:
    level, to = (logging.ERROR, error_logger) if status >= 500 else (logging.INFO, access_logger)
    log_exchange(
        to, level, environ, status, 1.2345678, 12, error, lambda: ResponseDetails(HEAD, {"queue": 0.5, "send": 0.25})
    )


def line_of(fmt: str, capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    setup.configure(False, None, access=Access(format=fmt))
    log({**ENVIRON, **more})
    return capsys.readouterr().err.removesuffix("\n")


@pytest.mark.parametrize(
    ("atom", "text"),
    [
        ("h", "10.1.2.3"),
        ("l", "-"),
        ("u", "bob"),
        ("r", "GET /a%20b?x=1 HTTP/1.1"),
        ("m", "GET"),
        ("U", "/a%20b"),
        ("q", "x=1"),
        ("H", "HTTP/1.1"),
        ("s", "200"),
        ("B", "12"),
        ("b", "12"),
        ("f", "http://other/"),
        ("a", "Mo\\x22zilla"),
        ("T", "1"),
        ("D", "1234567"),
        ("M", "1234"),
        ("L", "1.234568"),
        ("{x-request-id}i", "r-1"),
        ("{X-Request-ID}i", "r-1"),
        ("{content-type}i", "text/x"),
        ("{none}i", "-"),
        ("{x-tag}o", "v1"),
        ("{Content-Type}o", "text/plain"),
        ("{content-length}o", "12"),
        ("{tag}o", "-"),
        ("{wsgi.url_scheme}e", "https"),
        ("{remote_addr}e", "10.1.2.3"),
        ("{wsgi.version}e", "-"),
        ("{NONE}e", "-"),
    ],
)
def test_atoms(atom: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(f"<%({atom})s>100%%", capsys) == f"<{text}>100%"


def test_the_time_and_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.fullmatch(r"\[(.*)\] <(\d+)>", line_of("%(t)s %(p)s", capsys))
    assert found
    when = datetime.strptime(found[1], "%d/%b/%Y:%H:%M:%S %z")
    assert abs(when.timestamp() - time.time()) < 100


def test_combined_is_what_log_analysers_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(
        r'10\.1\.2\.3 - bob \[[^]]+\] "GET /a%20b\?x=1 HTTP/1\.1" 200 12 "http://other/" "Mo\\x22zilla"',
        line_of("combined", capsys),
    )


def test_nothing_was_sent(capsys: pytest.CaptureFixture[str]) -> None:
    setup.configure(False, None, access=Access(format="%(b)s %(B)s %(r)s"))
    log_exchange(access_logger, logging.INFO, {}, 400, 0.0, 0)
    assert capsys.readouterr().err == "- 0 - - -\n"


@settings(deadline=None)
@given(
    st.text(st.characters(max_codepoint=255), max_size=30),
    st.sampled_from(["HTTP_REFERER", "HTTP_USER_AGENT", "REQUEST_URI", "QUERY_STRING"]),
)
def test_a_client_forges_no_line(text: str, key: str) -> None:
    fields = Fields({"status": 200, "response_length": 0, "duration": 0.0, "created": 0.0, "process": 1}, {key: text})
    made = compile_format(NAMED["combined"] + " %(q)s %(U)s")(fields)
    assert prints(made)
    assert made.count('"') == 6


@pytest.mark.parametrize(
    "value", ["Basic", "Basic !", "Basic \xe9", "Basic Ym9i", "Bearer x", "Basic /w==", "", "basic Ym9iOg=="]
)
def test_the_user_of_whatever_is_sent(value: str) -> None:
    assert user_of({"HTTP_AUTHORIZATION": value}) in {"", "bob", "\ufffd"}
    assert user_of({"HTTP_AUTHORIZATION": value, "REMOTE_USER": "amy"}) == "amy"


@pytest.mark.parametrize("fmt", ["common", "combined", "json", "%(q)s %(U)s %(u)s %({x-request-id}i)s"])
@pytest.mark.parametrize("value", [None, 7, object()])
def test_what_an_application_sets_costs_no_line(fmt: str, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("HTTP_X_REQUEST_ID", "HTTP_AUTHORIZATION", "QUERY_STRING", "REQUEST_URI", "PATH_INFO")
    assert len(line_of(fmt, capsys, **dict.fromkeys(names, value)).splitlines()) == 1
    assert not capsys.readouterr().err


@pytest.mark.parametrize("fmt", ["combined", "json"])
def test_a_line_needs_no_record(fmt: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The line is the same with one."""
    setup.configure(False, None, access=Access(format=fmt))
    log()
    access_logger.addFilter(let_all := lambda record: True)
    log()
    access_logger.removeFilter(let_all)
    with_none, with_one = capsys.readouterr().err.splitlines()
    if fmt == "json":
        a, b = json.loads(with_none), json.loads(with_one)
        assert a.pop("time")[:16] == b.pop("time")[:16]
        assert a == b
    else:
        assert re.sub(r"\[.*\]", "", with_none) == re.sub(r"\[.*\]", "", with_one)
    monkeypatch.setattr(records, "ExchangeRecord", None)
    log()
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_has_the_format_and_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    setup.configure(False, None, access=Access(format="%(s)s %(h)s"))
    log(error=ValueError("x\ny"), status=500)
    error_logger.error("about no request")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "500 10.1.2.3"
    assert rest[:-1] == ["  ValueError: x", "  y"]
    assert rest[-1].endswith("ERROR about no request")


def test_a_log_of_its_own_has_every_response_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "access.log"
    setup.configure(False, None, access=Access(str(path), "%(s)s %(m)s"))
    log()
    log(error=ValueError("boom"), status=500)
    error_logger.error("about no request")
    logger.info("about the server")
    assert path.read_text() == "200 GET\n500 GET\n"
    err = capsys.readouterr().err
    assert err.count("ValueError: boom") == 1
    assert '"GET /a%20b?x=1 HTTP/1.1" 500 12' in err
    assert "about the server" in err
    assert " 200 12" not in err


def test_a_traceback_stays_with_the_record_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup.configure(False, None, access=Access(str(tmp_path / "a"), "default"))
    error_logger.handlers.reverse()  # the access log first
    log(error=ValueError("boom"), status=500)
    assert "ValueError: boom" in capsys.readouterr().err
    assert "ValueError" not in (tmp_path / "a").read_text()


def test_a_log_of_its_own_is_complete_whatever_the_level(tmp_path: Path) -> None:
    setup.configure(False, None, level="ERROR", access=Access(str(tmp_path / "a"), "%(s)s"))
    assert access_logger.isEnabledFor(logging.INFO)
    log()
    assert (tmp_path / "a").read_text() == "200\n"


class Left:
    """A pipe whose reader has left."""

    def write(self, text: str) -> None:
        raise BrokenPipeError("left")


def test_a_reader_that_has_left_is_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zibai.logger._silent_until", 0.0)
    setup.configure(False, None, access=Access("-", "default"))
    handler: Any = access_logger.handlers[0]
    handler.stream = Left()
    for _ in range(5):
        log()
    err = capsys.readouterr().err
    assert err.count("BrokenPipeError: left") == 1
    assert "a record is lost" in err


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    setup.configure(False, None, access=Access("-", "common"))
    log()
    logger.info("hello")
    out, err = capsys.readouterr()
    assert '"GET /a%20b?x=1 HTTP/1.1" 200 12\n' in out
    assert "hello" in err


def test_a_configuration_of_the_user_counts_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "log.json"
    config.write_text(json.dumps({"formatters": {"access": {"format": "mine %(REMOTE_ADDR)s"}}}))
    setup.configure(False, str(config), access=Access(format="json"))
    log()
    logger.info("hello")
    mine, ours = capsys.readouterr().err.splitlines()
    assert mine == "mine 10.1.2.3"
    assert json.loads(ours)["message"] == "hello"


# --- JSON ---------------------------------------------------------------------------------------------


def made(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line = capsys.readouterr().err
    assert line.isascii()
    assert line.count("\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_fields_of_a_response(capsys: pytest.CaptureFixture[str]) -> None:
    setup.configure(False, None, access=Access(format="json"))
    log()
    found = made(capsys)
    assert abs(datetime.fromisoformat(found.pop("time")).timestamp() - time.time()) < 100
    assert found.pop("pid") > 0
    assert found == {
        "level": "INFO",
        "logger": "zibai.access",
        "worker": None,
        "message": '10.1.2.3 "GET /a%20b?x=1 HTTP/1.1" 200 12 1234.6ms',
        "client": "10.1.2.3",
        "method": "GET",
        "path": "/a b",
        "query": "x=1",
        "target": "/a%20b?x=1",
        "protocol": "HTTP/1.1",
        "host": "shop.example",
        "referer": "http://other/",
        "user_agent": 'Mo"zilla',
        "request_id": "r-1",
        "traceparent": ENVIRON["HTTP_TRACEPARENT"],
        "user": "bob",
        "status": 200,
        "bytes": 12,
        "duration_ms": 1234.568,
        "queue_ms": 500.0,
        "send_ms": 250.0,
    }


def test_an_error_has_its_traceback_in_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    setup.configure(False, None, access=Access(format="json"))
    log(error=ValueError("x\ny"), status=500)
    found = made(capsys)
    assert found["traceback"].endswith("ValueError: x\ny\n")
    assert found["status"] == 500
    logger.info("the start %s", "\udc80\n")
    assert made(capsys)["message"] == "the start \\udc80\n"


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(ENVIRON)), st.text(max_size=20), max_size=5), st.text(max_size=20))
def test_every_line_is_valid_json(environ: dict[str, str], message: str) -> None:
    """Whatever a client sends and whatever an exception says."""
    record = records.ExchangeRecord("zibai.error", logging.ERROR, "%s", (message,), ValueError(message))
    record = records._attach(record, environ, {"status": 500, "duration": 0.1, "response_length": 0})
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["level"] == "ERROR"


def test_text_in_utf_8_is_read_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    setup.configure(False, None, access=Access(format="json"))
    log({**ENVIRON, "PATH_INFO": "/吃".encode().decode("latin-1"), "HTTP_REFERER": "\xff"})
    found = made(capsys)
    assert found["path"] == "/吃"
    assert found["referer"] == "\xff"


def test_a_record_can_be_copied_and_sent(capsys: pytest.CaptureFixture[str]) -> None:
    """As a QueueHandler does."""
    kept: list[Any] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    access_logger.handlers, access_logger.level, access_logger.propagate = [Keeps()], logging.INFO, False
    log()
    for record in (*kept, copy.copy(kept[0]), pickle.loads(pickle.dumps(kept[0]))):
        assert AccessFormatter("%(s)s %({x-tag}o)s %({x-request-id}i)s").format(record) == "200 v1 r-1"
        assert record.queue_ms == 500.0


@pytest.mark.skipif(sys.platform == "win32", reason="nobody changes the zone of a process there")
def test_the_offset_of_a_zone_west_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    from zibai.telemetry.access import zone

    monkeypatch.setenv("TZ", "XYZ3:30")
    time.tzset()
    try:
        assert zone(time.localtime(0)) == "-0330"
        assert zone(time.localtime(0), ":") == "-03:30"
    finally:
        monkeypatch.undo()
        time.tzset()
