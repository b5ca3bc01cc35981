"""Flags that people know from other servers: they work, or one line says what to write instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zibai.cli.arguments import make_parser, parse_args
from zibai.config.foreign import SERVERS, table, translation
from zibai.config.options import Options, declared

from support import ROOT

ACCEPTED = set(make_parser()._option_string_actions)
PEERS = [
    line.split()
    for line in (Path(__file__).parent / "peers.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--bind :1 a:b", {"listen": [":1"]}),
        ("a:b -b :1 -l :2", {"listen": [":1", ":2"]}),
        ("--workers 4 a:b", {"processes": 4}),
        ("--threads 4 a:b", {"max_workers": 4}),
        ("--factory a:b", {"call": True}),
        ("--timeout-keep-alive 5 a:b", {"keep_alive_timeout": 5.0}),
        ("--app-dir src a:b", {"app_dir": "src"}),
        ("--env-file .env a:b", {"env_file": ".env"}),
        ("--log-level warning a:b", {"log_level": "warning"}),
        ("--reload a:b", {"reload": True}),
        ("--host 0.0.0.0 a:b", {"listen": ["0.0.0.0:8000"]}),
        ("--port 9000 a:b", {"listen": ["127.0.0.1:9000"]}),
        ("--host ::1 --port 9000 a:b", {"listen": ["[::1]:9000"]}),
        ("--host [::] --port 9000 a:b", {"listen": ["[::]:9000"]}),
        ("--host * --port 9000 a:b", {"listen": [":9000"]}),
        ("--keep-alive-timeout 5m --drain 1h --header-timeout 500ms a:b", {
            "keep_alive_timeout": 300.0, "drain": 3600.0, "header_timeout": 0.5,
        }),
        ("--max-body-size 512M a:b", {"max_body_size": 512 * 2**20}),
        ("--preload --preload=no a:b", {}),
        ("--preload=yes a:b", {"preload": True}),
    ],
)  # fmt: skip
def test_a_known_flag(line: str, expected: dict[str, object]) -> None:
    assert parse_args(line.split()) == Options("a:b", **expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a:b -k gevent", "-k is a flag of gunicorn without a counterpart here: leave it out, since gevent and"),
        ("a:b -k uvicorn.workers.UvicornWorker", "-k is a flag of gunicorn without a counterpart here: leave it out"),
        (
            "a:b --statsd-host x",
            "--statsd-host is a flag of gunicorn; here it is --statsd",
        ),
        ("a:b --metrics", "--metrics is a flag of granian without a counterpart here: --health-listen serves /metrics"),
        (
            "a:b --control-socket x",
            "--control-socket is a flag of gunicorn; here it is --control: zibai reload, stop and",
        ),
        ("--timeout 30 a:b", "--timeout is a flag of gunicorn; here it is --request-timeout: --worker-timeout is for"),
        ("a:b --timeout=30", "--timeout is a flag of gunicorn; here it is --request-timeout"),
        ("a:b -t30", "-t is a flag of gunicorn; here it is --request-timeout"),
        (
            "--forwarded-allow-ips * a:b",
            "--forwarded-allow-ips is a flag of gunicorn and uvicorn; here it is --trusted",
        ),
        ("--ws wsproto a:b", "--ws must be one of auto, on, off, not 'wsproto'"),
        ("--unix-socket /x a:b", "--unix-socket is a flag of waitress; here it is --listen: as unix:PATH"),
        ("a:b --no-preload", "unrecognized arguments: --no-preload; write --preload=no"),
        ("a:b --no-capture-output", "unrecognized arguments: --no-capture-output; write --capture-output=no"),
        ("a:b --wokers 3", "unrecognized arguments: --wokers 3; did you mean --workers?"),
        ("a:b --host x:y --listen :1", "--host and --listen both say where to listen; leave one out"),
        ("a:b --port 70000", "--port must be at most 65535, not 70000"),
        ("a:b --port http", "argument --port: 'http' is not a whole number"),
        ("a:b --preload=maybe", "--preload: 'maybe' is not true or false"),
        ("a:b --log-level loud", "--log-level must be one of debug, info, warning, error, critical, not 'loud'"),
        (
            "a:b --log-level warn",
            "--log-level must be one of debug, info, warning, error, critical, not 'warn'; did",
        ),
        ("a:b -workers 2", "-workers: a long flag has two dashes; write --workers"),
        ("-log-file x a:b", "-log-file: a long flag has two dashes; write --log-file"),
        (
            "a:b --reload yes",
            "unrecognized arguments: yes; the value of a switch comes after an equals sign",
        ),
        ("a:b --no-reload", "unrecognized arguments: --no-reload; write --reload=no"),
        ("a:b --versio", "unrecognized arguments: --versio; did you mean --version?"),
        ("chekc a:b", "there is no command 'chekc'; did you mean check?"),
        ("relaod 8000", "there is no command 'relaod'; did you mean reload?"),
        ("run a:b", "there is no command 'run'; leave it out: zibai a:b"),
        ("dev main.py", "there is no command 'dev'; leave it out: zibai main.py"),
        ("a:b c:d", "unrecognized arguments: c:d"),
        ("a:b --host localhost:80", "--host: 'localhost:80' is no host; write a name or an address, and the port as"),
        ("a:b --host http://x", "--host: 'http://x' is no host; write a name or an address, and the port as port"),
        ("a:b --drain 5w", "argument --drain: '5w' is not a number, or one with s, m or h"),
    ],
)
def test_one_line(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(line.split())
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.startswith(f"zibai: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("server", SERVERS)
def test_each_flag_of_another_server_is_known(server: str) -> None:
    flags = [flag for name, flag in PEERS if name == server]
    assert len(flags) > 20
    assert [flag for flag in flags if flag not in ACCEPTED and not translation(flag)] == []


def test_each_flag_of_the_migration_tables_is_known() -> None:
    text = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    for server in SERVERS:
        section = text.partition(f"\n## {server}\n")[2].partition("\n## ")[0]
        cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `-")]
        flags = [flag for cell in cells for flag in re.findall(r"`(-[\w-]+)", cell)]
        assert len(flags) > 20
        assert [flag for flag in flags if flag not in ACCEPTED and not translation(flag)] == []


def test_a_translation_names_an_option_that_there_is() -> None:
    known = {option.name for option in declared()}
    for row in table():
        assert row.server in SERVERS
        assert row.option in known or (not row.option and row.note)
    flags = [(row.server, flag) for row in table() for flag in row.flags]
    assert len(flags) == len(set(flags))
