"""zibai migrate: what another server was told becomes a file that this one reads, and nothing is lost in silence."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from zibai.cli.migrate import migrate
from zibai.config.sources import read_table

from support import run

if TYPE_CHECKING:
    from pathlib import Path


def migrated(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, Any], str]:
    """The table, which must be one that is read, and the whole text."""
    assert migrate(argv) == 0
    text = capsys.readouterr().out
    table = tomllib.loads(text)
    read_table(table, "migrated")
    return table, text


CONF = """
import os
wsgi_app = "shop.wsgi:application"
bind = ["0.0.0.0:8000", "unix:/run/shop.sock", "fd://3"]
workers = 2 * 2
worker_class = "gthread"
threads = 8
timeout = 120
keepalive = 5
max_requests = 1000
max_requests_jitter = 100
preload_app = True
accesslog = "-"
errorlog = "/var/log/shop.log"
loglevel = "WARNING"
worker_tmp_dir = "/dev/shm"
forwarded_allow_ips = "10.0.0.0/8"
limit_request_line = 4094
raw_env = ["COLOUR=red"]
user = 1000
cert_reqs = 2
certfile = "c.pem"
ca_certs = "a.pem"
proxy_protocol = True
daemon = False
pidfile = None
bad = worker_connection = 3

def post_fork(server, worker):
    pass
"""


def test_a_configuration_of_gunicorn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(CONF, encoding="utf-8")
    table, text = migrated(capsys, str(tmp_path / "gunicorn.conf.py"))
    assert table == {
        "app": "shop.wsgi:application",
        "listen": ["0.0.0.0:8000", "unix:/run/shop.sock", "fd:3"],
        "processes": 4,
        "no_gevent": True,
        "max_workers": 8,
        "request_timeout": 120.0,
        "keep_alive_timeout": 5.0,
        "max_requests": 1000,
        "preload": True,
        "log_file": "/var/log/shop.log",
        "log_level": "warning",
        "trusted_proxies": ["10.0.0.0/8"],
        "max_target_size": 4094,
        "user": "1000",
        "cert_reqs": "required",
        "certfile": "c.pem",
        "ca_certs": "a.pem",
        "proxy_protocol": "on",
    }
    left = text.partition("# Without a counterpart:\n")[2].splitlines()
    assert [line.split()[1] for line in left] == ["max_requests_jitter", "worker_tmp_dir", "raw_env", "post_fork"]
    assert "a tenth" in left[0]
    assert "it is --before-serve here" in left[3]


@pytest.mark.parametrize(
    ("line", "expected", "left"),
    [
        (
            "gunicorn -w 4 shop:app",
            {"app": "shop:app", "processes": 4, "no_gevent": True, "max_workers": 1, "no_access_log": True},
            [],
        ),
        (
            "gunicorn -k gevent -b :80 -b unix:/x --access-logfile - --pid=x.pid -t60 shop",
            {"app": "shop", "listen": [":80", "unix:/x"], "pid_file": "x.pid", "request_timeout": 60.0},
            [],
        ),
        (
            "gunicorn -k uvicorn.workers.UvicornWorker --preload --access-logfile x.log a:b",
            {"app": "a:b", "preload": True, "interface": "asgi"},
            ["--access-logfile x.log: a file of its own"],
        ),
        (
            "gunicorn --threads 4 --max-requests 0 --spew --xyz 3 --umask 7 --access-logfile - a:b",
            {"app": "a:b", "max_workers": 4},
            ["--spew: --slow-request", "--xyz 3: not known", "--umask 7: it is --unix-socket-perms here"],
        ),
        (
            "gunicorn --threads many --access-logfile - a:b",
            {"app": "a:b"},
            ["--threads many: 'many' is not a whole number"],
        ),
        (
            "uvicorn main:app --host 0.0.0.0 --port 80 --workers 4 --reload --root-path /x --no-access-log",
            {"app": "main:app", "host": "0.0.0.0", "port": 80, "processes": 4, "reload": True, "url_prefix": "/x"}
            | {"no_access_log": True, "interface": "asgi"},
            [],
        ),
        (
            "uvicorn --interface wsgi --uds /x --env-file .env --limit-max-requests 9 --log-level trace m:a --factory",
            {"app": "m:a", "listen": ["unix:/x"], "env_file": ".env", "max_requests": 9, "log_level": "debug"}
            | {"call": True, "interface": "wsgi"},
            [],
        ),
        (
            "granian --interface wsgi --workers-max-rss 512 --http1-header-read-timeout 5000 --ssl-client-verify m:a",
            {"app": "m:a", "max_worker_memory": 512 * 2**20, "header_timeout": 5.0, "cert_reqs": "required"}
            | {"interface": "wsgi"},
            [],
        ),
        (
            "waitress-serve --listen=*:8080 --threads=4 --call --channel-timeout=9 shop:create_app",
            {"app": "shop:create_app", "listen": [":8080"], "max_workers": 4, "call": True, "keep_alive_timeout": 9.0},
            [],
        ),
        ("waitress-serve a:b", {"app": "a:b", "host": "0.0.0.0", "port": 8080}, []),
    ],
)
def test_a_command_line(
    capsys: pytest.CaptureFixture[str], line: str, expected: dict[str, Any], left: list[str]
) -> None:
    table, text = migrated(capsys, *line.split())
    assert table == expected
    lines = [each.removeprefix("#   ") for each in text.splitlines() if each.startswith("#   ")]
    assert len(lines) == len(left)
    assert all(each.startswith(words) for each, words in zip(lines, left, strict=True)), lines
    assert migrated(capsys, line)[0] == table, "one word with blanks is a command line as well"


def test_a_command_line_with_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "conf.py"
    conf.write_text("workers = 2\nthreads = 3\naccesslog = '-'\n", encoding="utf-8")
    table, _ = migrated(capsys, "gunicorn", "-c", str(conf), "-w", "9", "a:b")
    assert table == {"app": "a:b", "processes": 9, "max_workers": 3}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere.py"], "cannot read 'nowhere.py': No such file or directory"),
        (["apache", "x"], "'apache' is neither a gunicorn.conf.py nor one of gunicorn, uvicorn, granian, waitress"),
    ],
)
def test_what_cannot_be_read(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        migrate(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"zibai migrate: error: {message}\n"


def test_a_configuration_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(SystemExit):
        migrate([str(conf)])
    assert "fails: ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_what_is_printed_can_be_checked(tmp_path: Path) -> None:
    """The whole way: migrate, and check the result."""
    done = run("migrate", "gunicorn", "-w", "1", "-b", "127.0.0.1:0", "site_:app", cwd=tmp_path)
    (tmp_path / "zibai.toml").write_text(done.stdout, encoding="utf-8")
    (tmp_path / "site_.py").write_text("def app(environ, start_response): ...\n", encoding="utf-8")
    done = run("check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "zibai.toml: processes" in done.stdout


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate([]) == 0
    assert "zibai migrate gunicorn.conf.py" in capsys.readouterr().out
