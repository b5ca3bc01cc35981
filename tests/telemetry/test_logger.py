"""Logging: any environ key in any format, no line that a client can forge, and a file that says only what differs."""

from __future__ import annotations

import copy
import io
import json
import logging
import logging.config
import logging.handlers
import pickle
import queue
import re
import subprocess
import sys
import time
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zibai import logger as logs
from zibai.errors import UsageError
from zibai.logger import access_logger, debug_logger, error_logger, escape, logger
from zibai.telemetry import format as lines
from zibai.telemetry import records
from zibai.telemetry.console import ConsoleHandler
from zibai.telemetry.format import Formatter
from zibai.telemetry.logfile import LogFile
from zibai.telemetry.records import NAMED, ExchangeRecord, log_error, log_exchange
from zibai.telemetry.setup import configure

from support import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGGERS = (logger, debug_logger, access_logger, error_logger)
ENVIRON: dict[str, Any] = {
    "REMOTE_ADDR": "127.0.0.1",
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/path?q",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_COOKIE": "secret",
    "wsgi.url_scheme": "http",
    "wsgi.input": io.BytesIO(),
}


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loggers as they were: configuring them is global."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(logs.Logger, "kept", False)
    monkeypatch.setattr(logs, "_silent_until", 0.0)
    before = [(each, each.level, each.handlers[:], each.propagate, each.disabled) for each in LOGGERS]
    yield
    for each, level, handlers, propagate, disabled in before:
        for handler in set(each.handlers) - set(handlers):
            handler.close()
        each.setLevel(level)
        each.handlers, each.propagate, each.disabled = handlers, propagate, disabled


class Stream(io.StringIO):
    def __init__(self, tty: bool = False) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


class Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def exchange(environ: dict[str, Any] = ENVIRON, *, level: int = logging.INFO, **facts: Any) -> None:
    if access_logger.isEnabledFor(level):  # as the gateways do
        log_exchange(
            access_logger, level, environ, **({"status": 200, "duration": 0.0008, "response_length": 12} | facts)
        )


def record_of(environ: dict[str, Any] = ENVIRON, **facts: Any) -> logging.LogRecord:
    """The record that an exchange makes."""
    collector = Collector()
    access_logger.handlers = [collector]
    access_logger.propagate = False
    access_logger.setLevel(logging.INFO)
    exchange(environ, **facts)
    (record,) = collector.records
    return record


def printed(text: str, environ: dict[str, Any] = ENVIRON, **facts: Any) -> str:
    """What a plain formatter makes of an exchange."""
    return logging.Formatter(text).format(record_of(environ, **facts))


# --- fields -----------------------------------------------------------------------------------------


def test_a_plain_format_may_name_any_key() -> None:
    line = printed("%(REMOTE_ADDR)s %(HTTP_REFERER)s %(wsgi.url_scheme)s %(NEVER_HEARD)5s| %(levelname)s %(name)s")
    assert line == "127.0.0.1 - http     -| INFO zibai.access"


def test_the_facts_of_the_exchange() -> None:
    assert printed("%(status)s %(duration)s %(response_length)s") == "200 0.001 12"
    assert printed("%(status)d %(duration).6f %(response_length)8d") == "200 0.000800       12"
    assert printed("%(duration)s", duration=0.00001) == "0.000"
    assert printed("%(duration)s", duration=12) == "12.000"


def test_only_text_of_the_environ_is_kept() -> None:
    environ = ENVIRON | {"number": 3}
    assert printed("%(wsgi.input)s %(number)s", environ) == "- -"
    assert "wsgi.input" not in record_of(environ).__dict__.environ  # type: ignore[attr-defined]


def test_the_environ_cannot_change_the_fields_of_the_record() -> None:
    environ = ENVIRON | {"levelname": "CRITICAL", "status": "500", "message": "x"}
    assert printed("%(levelname)s %(status)s", environ) == "INFO 200"


def test_a_handler_that_writes_all_fields_writes_no_cookie() -> None:
    assert "secret" not in json.dumps(record_of().__dict__, default=str)
    assert printed("%(HTTP_COOKIE)s") == "secret"


def test_the_default_message() -> None:
    assert printed("%(message)s") == '127.0.0.1 "GET /path?q HTTP/1.1" 200 12 0.8ms'
    assert printed("%(message)s", {"REMOTE_ADDR": ""}, status=500) == '- "- - -" 500 12 0.8ms'


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))],
    ids=["copy", "deep", "pickle"],
)
def test_a_record_survives(again: Any) -> None:
    formatter = logging.Formatter("%(REMOTE_ADDR)s %(HTTP_REFERER)s %(status)s %(duration)s %(message)s")
    record = record_of()
    twin = again(record)
    twin.extra = 1
    assert formatter.format(twin) == formatter.format(record)
    assert "extra" not in record.__dict__


def test_through_a_queue() -> None:
    target = Collector()
    line: queue.Queue[Any] = queue.Queue()
    access_logger.handlers = [logging.handlers.QueueHandler(line)]
    access_logger.propagate = False
    access_logger.setLevel(logging.INFO)
    exchange()
    record = pickle.loads(pickle.dumps(line.get_nowait()))
    logging.handlers.QueueListener(line, target).handle(record)
    (record,) = target.records
    assert logging.Formatter("%(REMOTE_ADDR)s %(X)s %(status)s").format(record) == "127.0.0.1 - 200"


def test_filters_and_fields_set_by_them() -> None:
    def add(record: logging.LogRecord) -> bool:
        record.request_id = f"id-{record.status}"  # type: ignore[attr-defined]
        return True

    access_logger.addFilter(add)
    try:
        assert printed("%(request_id)s %(REMOTE_ADDR)s") == "id-200 127.0.0.1"
    finally:
        access_logger.removeFilter(add)


def test_nothing_is_built_when_nobody_listens() -> None:
    class Untouchable(dict[str, object]):
        def get(self, *args: object) -> Any:
            raise AssertionError(args)

        items = get

    access_logger.setLevel(logging.WARNING)
    exchange(Untouchable())
    error_logger.setLevel(logging.CRITICAL)
    log_error(Untouchable(), "never")


# --- escaping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("/plain?a=b&c=%0a", "/plain?a=b&c=%0a"),
        ("caf\xc3\xa9 \xe9\xa0", "caf\xc3\xa9 \xe9\xa0"),
        ("\r\n\t\0", r"\x0d\x0a\x09\x00"),
        ("\x1b[31m\x7f", r"\x1b[31m\x7f"),
        ("\x80\x85\x9b\x9f", r"\x80\x85\x9b\x9f"),
        ('"\\', r"\x22\x5c"),
        ("\\x0a", r"\x5cx0a"),
        ("\u2028", r"\x2028"),
    ],
)
def test_escape(text: str, safe: str) -> None:
    assert escape(text) == safe


def test_every_control_character() -> None:
    for code in [*range(0x20), *range(0x7F, 0xA0)]:
        assert escape(f"a{chr(code)}b") == f"a\\x{code:02x}b"


EVIL = 'x" 200 1 0.1ms\n2026-11-21 10:00:00 [1] INFO 10.0.0.1 "GET /forged\x1b[2J\x85\\'
EVIL_KEYS = ("REMOTE_ADDR", "REQUEST_METHOD", "REQUEST_URI", "SERVER_PROTOCOL", "HTTP_USER_AGENT", "REMOTE_USER")


@pytest.mark.parametrize("key", EVIL_KEYS)
def test_a_client_cannot_forge_a_line(key: str) -> None:
    line = printed(f"%(message)s|%({key})s", ENVIRON | {key: EVIL})
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.count('"') == 2
    assert line.endswith(r"|x\x22 200 1 0.1ms\x0a2026-11-21 10:00:00 [1] INFO 10.0.0.1 \x22GET /forged\x1b[2J\x85\x5c")


def test_an_error_line_is_escaped_and_knows_the_environ() -> None:
    collector = Collector()
    error_logger.handlers = [collector]
    error_logger.propagate = False
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        log_error(ENVIRON, "%s failed %d times: %s", EVIL, 3, error, exc_info=error)
        log_error(ENVIRON, "no arguments, 100%", exc_info=sys.exc_info())  # type: ignore[arg-type]
    first, second = collector.records
    lines = logging.Formatter("%(REMOTE_ADDR)s %(HTTP_REFERER)s %(levelname)s %(message)s").format(first).splitlines()
    assert lines[0].startswith(r"127.0.0.1 - ERROR x\x22 200 1 0.1ms\x0a2026")
    assert lines[0].endswith(r"failed 3 times: a\x0ab")
    assert lines[1] == "Traceback (most recent call last):"
    assert second.getMessage() == "no arguments, 100%"
    assert second.exc_info is not None


def test_a_failed_exchange_shows_the_traceback() -> None:
    try:
        raise RuntimeError("of the application")
    except RuntimeError as error:
        text = printed("%(status)s", status=500, exc_info=error)
    assert text.startswith("500\nTraceback (most recent call last):\n")
    assert text.endswith("RuntimeError: of the application")


# --- formatter and colour ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("%", "%(levelname)s %(REMOTE_ADDR)s %(HTTP_REFERER)s %(status)s %(site)s"),
        ("{", "{levelname} {REMOTE_ADDR} {HTTP_REFERER} {status} {site}"),
        ("$", "$levelname ${REMOTE_ADDR} $HTTP_REFERER $status $site"),
    ],
)
def test_our_formatter_takes_any_record_in_any_style(style: Any, text: str) -> None:
    formatter = Formatter(text, style=style, defaults={"site": "zibai"})
    assert formatter.format(record_of()) == "INFO 127.0.0.1 - 200 zibai"
    plain = logging.LogRecord("other", logging.WARNING, "", 0, "hello", (), None)
    assert formatter.format(plain) == "WARNING - - - zibai"
    assert Formatter().format(plain) == "hello"


@pytest.mark.parametrize(
    ("tty", "environment", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: present and not empty
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, tty: bool, environment: dict[str, str], colour: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Stream(tty)
    handler = ConsoleHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(REMOTE_ADDR)s %(message)s"))
    record = record_of()
    handler.handle(record)
    level = "\x1b[32mINFO\x1b[0m" if colour else "INFO"
    assert stream.getvalue() == f'{level} 127.0.0.1 127.0.0.1 "GET /path?q HTTP/1.1" 200 12 0.8ms\n'
    assert record.levelname == "INFO", "the other handlers get it plain"


def test_the_old_windows_console_gets_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delenv("TERM")
    monkeypatch.delenv("WT_SESSION", raising=False)
    record = logging.LogRecord("x", logging.INFO, "", 0, "hello", (), None)
    handler = ConsoleHandler(Stream(tty=True))
    handler.setFormatter(logging.Formatter("%(levelname)s"))
    assert handler.format(record) == "INFO"
    monkeypatch.setenv("WT_SESSION", "guid")
    assert handler.format(record) == "\x1b[32mINFO\x1b[0m"


# --- configuration ----------------------------------------------------------------------------------


def test_the_default_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    configure(False, None)
    logger.info("hello %d", 1)
    debug_logger.debug("hidden")
    exchange()
    error_logger.error("bad")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    start = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4} \[\d+\] "
    assert [re.sub(f"^{start}", "", line) for line in lines] == [
        "INFO hello 1",
        'INFO 127.0.0.1 "GET /path?q HTTP/1.1" 200 12 0.8ms',
        "ERROR bad",
    ]
    assert all(re.match(start, line) for line in lines)


def test_configuring_twice_does_not_double_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure(False, None)
    configure(False, None)
    logger.info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_other_loggers_are_left_alone() -> None:
    other = logging.getLogger("test_logger.other")
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure(False, None)
    assert not other.disabled
    assert (root.handlers, root.level) == before


def test_the_readme_may_replace_the_formatter(capsys: pytest.CaptureFixture[str]) -> None:
    configure(False, None)
    formatter = logging.Formatter("[%(REMOTE_ADDR)s] [%(HTTP_REFERER)s] %(levelname)s %(message)s")
    assert access_logger.handlers
    for handler in access_logger.handlers:
        handler.setFormatter(formatter)
    exchange()
    logger.info("not an exchange")
    err = capsys.readouterr().err
    assert err.startswith('[127.0.0.1] [-] INFO 127.0.0.1 "GET')
    assert err.endswith("INFO not an exchange\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.json", '{"formatters": {"access": {"format": "%(REMOTE_ADDR)s %(HTTP_REFERER)s %(status)s"}}}'),
        ("log.TOML", "[formatters.access]\nformat = '%(REMOTE_ADDR)s %(HTTP_REFERER)s %(status)s'\n"),
    ],
)
def test_a_file_need_only_say_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    configure(False, str(file))
    exchange()
    access_logger.warning("no exchange")
    assert capsys.readouterr().err == "127.0.0.1 - 200\n- - -\n"


def configured(tmp_path: Path, config: dict[str, Any], no_access_log: bool = False) -> None:
    file = tmp_path / "log.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    configure(no_access_log, str(file))


def test_a_handler_becomes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "access.log"
    configured(tmp_path, {"handlers": {"access": {"class": "logging.FileHandler", "filename": str(log)}}})
    exchange()
    logger.info("to stderr")
    assert log.read_text().endswith('INFO 127.0.0.1 "GET /path?q HTTP/1.1" 200 12 0.8ms\n')
    assert capsys.readouterr().err.count("\n") == 1


def test_a_factory_replaces_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured(tmp_path, {"formatters": {"default": {"()": "logging.Formatter", "fmt": "plain %(message)s"}}})
    logger.info("x")
    assert capsys.readouterr().err == "plain x\n"


def test_debug_is_one_level_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured(tmp_path, {"loggers": {"zibai.debug": {"level": "DEBUG"}}})
    debug_logger.debug("what the client sent")
    logger.debug("not this")
    assert capsys.readouterr().err.endswith("DEBUG what the client sent\n")


def test_no_access_log_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured(tmp_path, {"loggers": {"zibai.access": {"level": "DEBUG", "propagate": True}}}, no_access_log=True)
    # What an application does (Django does it when it is set up): this takes back Logger.disabled.
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    assert not access_logger.isEnabledFor(logging.CRITICAL)
    exchange()
    exchange(level=logging.CRITICAL)
    error_logger.error("still here")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "still here" in err
    configure(False, None)
    assert access_logger.isEnabledFor(logging.INFO)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("log.yaml", "", "must end in .json or .toml"),
        ("log.json", "{", "Expecting property name"),
        ("log.toml", "a = ", "Invalid value"),
        ("log.json", "[1]", "it should be an object"),
        ("log.json", '{"version": 2}', "Unsupported version: 2"),
        ("log.json", '{"loggers": 3}', "'int' object"),
        (
            "log.json",
            '{"loggers": {"zibai": {"level": "LOUD"}}}',
            "Unable to configure logger 'zibai', Unknown level: 'LOUD'",
        ),
        ("log.json", '{"handlers": {"x": {"class": "no.such"}}}', "No module named 'no'"),
        ("log.json", '{"formatters": {"access": {"format": "%(a"}}}', "Invalid format '%(a' for '%' style"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        configure(False, str(file))
    message = str(caught.value)
    assert message.startswith(f"--logging-config: {str(file)!r} ")
    assert reason.replace(", Unknown", ": Unknown") in message
    assert "\n" not in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.json' cannot be used: No such file or directory$"):
        configure(False, str(tmp_path / "nowhere.json"))
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"a = '\xe9'")
    with pytest.raises(UsageError, match=r"cannot be used: 'utf-8' codec can't decode"):
        configure(False, str(latin))


def test_a_handler_that_cannot_open_its_file(tmp_path: Path) -> None:
    handler = {"class": "logging.FileHandler", "filename": str(tmp_path / "no" / "x.log")}
    with pytest.raises(UsageError, match=r"Unable to configure handler 'access': No such file or directory$"):
        configured(tmp_path, {"handlers": {"access": handler}})


def test_a_log_file_is_the_place_of_all_but_what_a_configuration_moves(tmp_path: Path) -> None:
    """Also to a handler that does not know the arguments of ours."""
    log, own, config = (tmp_path / name for name in ("zibai.log", "own.log", "log.json"))
    file = {"filename": str(log), "maxBytes": 10_000, "backupCount": 3}
    access = {"class": "logging.FileHandler", "filename": str(own)}
    config.write_text(json.dumps({"handlers": {"access": access, "error": {"maxBytes": 0}}}), encoding="utf-8")
    configure(False, str(config), file)
    logger.info("started")
    error_logger.error("failed")
    exchange()
    assert [line.split(" ", 4)[4] for line in log.read_text().splitlines()] == ["INFO started", "ERROR failed"]
    assert '"GET' in own.read_text()
    limits = {each.get_name(): each.maxBytes for each in logger.handlers if isinstance(each, LogFile)}
    assert limits == {"default": 10_000}
    configure(False, None)  # which closes them


# --- lines without records --------------------------------------------------------------------------


def printing() -> tuple[ConsoleHandler, Stream]:
    """The access log as the default configuration has it, and where it goes."""
    configure(False, None)
    handler = next(each for each in access_logger.handlers if isinstance(each, ConsoleHandler))
    access_logger.handlers = [handler]  # without pytest's
    assert isinstance(handler, ConsoleHandler)
    stream = Stream()
    handler.setStream(stream)
    return handler, stream


def no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ExchangeRecord", None)


@given(texts=st.lists(st.text(max_size=8) | st.none(), min_size=4, max_size=4), status=st.integers(200, 499))
@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_line_is_the_same_with_and_without_a_record(
    monkeypatch: pytest.MonkeyPatch, texts: list[str | None], status: int
) -> None:
    handler, console = printing()
    environ = dict(zip(("REMOTE_ADDR", "REQUEST_METHOD", "REQUEST_URI", "SERVER_PROTOCOL"), texts, strict=True))
    monkeypatch.setattr(lines.time, "time", lambda: 1_000_000_000.25)
    monkeypatch.setattr(lines.time, "time_ns", lambda: 1_000_000_000_250_000_000)  # what records ask since Python 3.13
    with monkeypatch.context() as patch:
        no_record(patch)
        exchange(environ, status=status)
    keep = logging.Filter()
    handler.addFilter(keep)  # it might be one that looks at the record
    exchange(environ, status=status)
    handler.removeFilter(keep)
    one, other, rest = console.getvalue().split("\n")
    assert one == other
    assert rest == ""


@pytest.mark.parametrize("most", [0, 10_000], ids=["one file", "rotated"])
def test_a_line_of_a_file_is_the_same_with_and_without_a_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int
) -> None:
    path = tmp_path / "log"
    configure(False, None, {"filename": str(path), "maxBytes": most, "backupCount": 1})
    access_logger.handlers = [each for each in access_logger.handlers if isinstance(each, LogFile)]  # not pytest's
    monkeypatch.setattr(lines.time, "time", lambda: 1_000_000_000.25)
    monkeypatch.setattr(lines.time, "time_ns", lambda: 1_000_000_000_250_000_000)
    with monkeypatch.context() as patch:
        no_record(patch)
        exchange({**ENVIRON, "REQUEST_URI": "/\xfc\u2028"})
    access_logger.filters = [logging.Filter()]
    exchange({**ENVIRON, "REQUEST_URI": "/\xfc\u2028"})
    access_logger.filters.clear()
    configure(False, None)  # which closes it
    one, other, rest = path.read_text(encoding="utf-8").split("\n")
    assert one == other
    assert rest == ""


def test_the_beginning_of_a_line_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    _, console = printing()
    no_record(monkeypatch)
    for second in (1_000_000_000.25, 1_000_000_000.75, 1_000_000_001.0, 1_000_000_000.5):
        monkeypatch.setattr(lines.time, "time", lambda now=second: now)
        exchange()
    seconds = [line.split()[1][-6:] for line in console.getvalue().splitlines()]
    assert seconds == ["40.250", "40.750", "41.000", "40.500"]


@pytest.mark.parametrize(
    "name", ["filter", "formatter", "format", "handler", "level", "propagate", "terminal", "milliseconds"]
)
def test_who_might_look_at_the_record_gets_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    handler, _ = printing()
    exchange()
    made: list[object] = []
    real = ExchangeRecord
    monkeypatch.setattr(records, "ExchangeRecord", lambda *args: made.append(args) or real(*args))
    match name:
        case "filter":
            access_logger.addFilter(logging.Filter())
        case "formatter":
            handler.setFormatter(logging.Formatter("%(message)s"))
        case "format":
            handler.setFormatter(Formatter("%(asctime)s %(message)s %(status)s", "%S"))
        case "milliseconds":
            handler.setFormatter(Formatter("%(asctime)s %(message)s"))
        case "handler":
            access_logger.addHandler(Collector())
        case "level":
            handler.setLevel(logging.ERROR)
        case "propagate":
            access_logger.propagate = True
        case "terminal":
            handler.setStream(Stream(tty=True))
            monkeypatch.setenv("TERM", "xterm")
            monkeypatch.delenv("NO_COLOR", raising=False)
    exchange()
    assert len(made) == 1
    access_logger.filters.clear()


def test_a_stream_that_breaks_is_told_of_as_logging_does(capsys: pytest.CaptureFixture[str]) -> None:
    _, console = printing()
    console.close()
    exchange()
    assert "--- Logging error ---" in capsys.readouterr().err


# --- a log that fails ---------------------------------------------------------------------------------


class Weird(BaseException):
    pass


ERRORS = [ZeroDivisionError("of the log"), Weird("of the log"), SystemExit(3), RecursionError("of the log")]


class Raising(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_what_a_handler_raises_is_told_and_goes_no_further(error: BaseException) -> None:
    told = Collector()
    logger.handlers, logger.propagate = [told], False
    for each in (access_logger, error_logger):
        each.handlers, each.propagate = [Raising(error)], False
        each.setLevel(logging.INFO)
    for _ in range(3):
        exchange()
        log_error(ENVIRON, "failed")
        error_logger.warning("failed %s", "again")
    (record,) = told.records
    text = Formatter("%(message)s").format(record)
    assert text.startswith(
        "the handlers or filters of the logger zibai.access failed, and a record is lost:\n  127.0.0.1"
    )
    assert type(error).__name__ in text


def test_the_traceback_of_the_application_is_not_lost_with_its_record() -> None:
    told = Collector()
    logger.handlers, logger.propagate = [told], False
    error_logger.handlers, error_logger.propagate = [Raising(ValueError("of the log"))], False
    try:
        raise RuntimeError("of the application\n2026-01-01 forged")
    except RuntimeError as error:
        log_exchange(error_logger, logging.ERROR, ENVIRON, 500, 0.1, 0, error)
    text = Formatter("%(message)s").format(told.records[0])
    assert "  RuntimeError: of the application\n  2026-01-01 forged\n" in text
    assert "ValueError: of the log" in text
    assert all(line.startswith("  ") for line in text.splitlines()[1:])


def all_fail() -> None:
    for each in LOGGERS:
        each.handlers, each.propagate = [Raising(Weird("of the log"))], False
        each.setLevel(logging.INFO)


def test_where_all_loggers_fail_it_is_told_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    all_fail()
    exchange()
    logger.error("of the server")
    err = capsys.readouterr().err
    assert err.startswith("the handlers or filters of the logger zibai.access failed")
    assert "Weird: of the log" in err


def test_where_stderr_fails_too_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    all_fail()
    for stream in (None, object()):
        monkeypatch.setattr(logs, "_silent_until", 0.0)
        monkeypatch.setattr(sys, "stderr", stream)
        exchange()
        logger.error("of the server")


@pytest.mark.parametrize("part", ["filter", "handler's filter", "record factory", "environ", "arguments"])
def test_other_parts_that_fail(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def __str__(self) -> str:
            raise Weird("of the log")

        __repr__ = __str__

    def fail(*_: object, **__: object) -> Any:
        raise Weird("of the log")

    told, handler = Collector(), logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(logger, "handlers", [told])
    monkeypatch.setattr(logger, "propagate", False)
    for each in (access_logger, error_logger):
        each.handlers, each.propagate = [handler], False
        each.setLevel(logging.INFO)
    before = logging.getLogRecordFactory()
    environ = ENVIRON
    try:
        match part:
            case "filter":
                monkeypatch.setattr(access_logger, "filters", [fail])
                monkeypatch.setattr(error_logger, "filters", [fail])
            case "handler's filter":
                handler.addFilter(fail)
            case "record factory":
                logging.setLogRecordFactory(fail)
            case "environ":
                environ = ENVIRON | {"REMOTE_ADDR": Odd()}
        exchange(environ)
        error_logger.warning("%s", Odd() if part == "arguments" else "text")
        error_logger.warning(Odd() if part == "arguments" else "text")
    finally:
        logging.setLogRecordFactory(before)
    if part != "arguments":
        assert len(told.records) == 1


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "GreenletExit", "Timeout"])
def test_what_is_thrown_into_the_log_from_outside_passes(name: str) -> None:
    """A quick exit, a kill and a time limit of the application are not the log's to swallow."""
    if name == "KeyboardInterrupt":
        error: BaseException = KeyboardInterrupt()
    else:
        gevent = pytest.importorskip("gevent")
        error = getattr(gevent, name)()
    logger.handlers, logger.propagate = [Raising(error)], False
    with pytest.raises(type(error)):
        logger.error("of the server")
    access_logger.handlers, access_logger.propagate = [Raising(error)], False
    exchange()  # by a runner, which has nothing left to do


def test_the_place_of_a_record_is_that_of_its_call() -> None:
    told = Collector()
    logger.handlers, logger.propagate = [told], False
    logger.warning("here")
    assert (told.records[0].filename, told.records[0].funcName) == ("test_logger.py", sys._getframe().f_code.co_name)


def test_loggers_that_a_program_has_made_before() -> None:
    class Own(logging.Logger):
        def own(self) -> str:
            return self.name

    made = Own("test_logger.own")
    logging.Logger.manager.loggerDict["test_logger.own"] = made
    found: Any = logs._get("test_logger.own")
    assert found is made
    assert found.own() == "test_logger.own"
    found.handlers, found.propagate = [Raising(Weird())], False
    found.error("text")
    del logging.Logger.manager.loggerDict["test_logger.own"]


# --- what an application does to our loggers ------------------------------------------------------------


DISABLES = """
import io, logging.config, sys
from zibai.telemetry.setup import configure
from zibai.logger import access_logger, debug_logger, error_logger, logger, output_logger
if sys.argv[1:]:
    configure(False, None)
empty = "[loggers]\\nkeys=root\\n[handlers]\\nkeys=\\n[formatters]\\nkeys=\\n[logger_root]\\nhandlers=\\n"
for do in (
    lambda: logging.config.dictConfig({"version": 1}),
    lambda: logging.config.dictConfig({"version": 1, "disable_existing_loggers": True}),
    lambda: logging.config.fileConfig(io.StringIO(empty)),
):
    do()
    print(*(each.disabled for each in (logger, access_logger, error_logger, debug_logger, output_logger)))
"""


@pytest.mark.parametrize("ours", [True, False], ids=["a process of the command", "within serve"])
def test_whether_a_configuration_of_the_application_disables_our_loggers(ours: bool) -> None:
    """In another process, since it disables all loggers of that."""
    command = [sys.executable, "-c", DISABLES, *["ours"][:ours]]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(not ours)] * 15


# --- fields that others read ----------------------------------------------------------------------------


def test_the_documented_fields_are_attributes() -> None:
    environ = {**ENVIRON, "HTTP_USER_AGENT": EVIL, "QUERY_STRING": ""}
    record: Any = record_of(environ)
    assert record.REMOTE_ADDR == record.__dict__["REMOTE_ADDR"] == vars(record).get("REMOTE_ADDR") == "127.0.0.1"
    assert record.QUERY_STRING == ""
    assert escape(EVIL) == record.HTTP_USER_AGENT
    shown = json.loads(json.dumps(record.__dict__, default=str))
    assert (shown["REQUEST_METHOD"], shown["status"], shown["response_length"]) == ("GET", 200, 12)
    assert "HTTP_REFERER" not in shown
    assert "HTTP_COOKIE" not in shown
    asked = [record.__dict__.get(name, "none") for name in ("REQUEST_URI", "HTTP_COOKIE", "HTTP_REFERER", "status")]
    assert asked == ["/path?q", "secret", "none", 200], "a formatter may ask for what its format names"


@pytest.mark.parametrize("environ", [{}, {"REMOTE_ADDR": "127.0.0.1"}], ids=["nothing", "malformed"])
def test_a_record_of_which_little_is_known_has_the_usual_attributes(environ: dict[str, object]) -> None:
    record: Any = record_of(environ)
    known = [record.REMOTE_ADDR, record.REQUEST_METHOD, record.REQUEST_URI, record.PATH_INFO]
    assert known == [environ.get("REMOTE_ADDR", "-"), "-", "-", "-"]
    assert (record.QUERY_STRING, record.SERVER_PROTOCOL) == ("-", "-")
    assert not hasattr(record, "REMOTE_USER")


def test_a_filter_may_read_any_key_and_hears_clearly_what_there_is_not() -> None:
    record: Any = record_of()
    assert record.HTTP_COOKIE == "secret"
    assert getattr(record, "HTTP_REFERER", None) is None
    with pytest.raises(AttributeError, match="no HTTP_REFERER, and neither has the environ of its request"):
        _ = record.HTTP_REFERER
    twin = pickle.loads(pickle.dumps(copy.copy(record)))
    assert twin.HTTP_COOKIE == "secret"


def test_the_documented_fields_are_those_of_the_documentation() -> None:
    page = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
    for name in NAMED:
        assert f"`{name}`" in page


# --- one clock ------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="nobody changes the zone of a process there")
def test_the_clock_stays_when_the_application_changes_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = Formatter("%(asctime)s", "%Y-%m-%d %H:%M:%S %z")
    record = record_of()
    before = formatter.format(record)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-7:30")
        time.tzset()
        assert time.strftime("%z") == "+0730"
        after = formatter.format(record)
    time.tzset()
    assert after == before
    assert datetime.strptime(after, "%Y-%m-%d %H:%M:%S %z").timestamp() == int(record.created)


# --- where lines go -------------------------------------------------------------------------------------


class Narrow(io.TextIOWrapper):
    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_that_a_stream_cannot_take_is_escaped(encoding: str) -> None:
    stream = Narrow(encoding)
    handler = ConsoleHandler(stream)
    handler.handle(logging.makeLogRecord({"msg": "a \u2603 \udc80 \xe9"}))
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    assert r"\udc80" in text
    assert text.endswith("\n")


@pytest.mark.parametrize("stream", [None, object(), SimpleNamespace(write=len, flush=int)], ids=["none", "no", "half"])
def test_a_stream_that_is_none(stream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    handler = ConsoleHandler(io.StringIO())
    handler.stream = stream
    handler.handle(logging.makeLogRecord({"msg": "text", "levelno": logging.ERROR}))
    assert ("Logging error" in capsys.readouterr().err) == (type(stream) is object)
