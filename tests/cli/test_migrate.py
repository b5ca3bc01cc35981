"""zibai migrate: what another server was told becomes a file that this one reads, and nothing is lost in silence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from zibai.cli.grammar import SETTINGS
from zibai.cli.migrate import migrate
from zibai.config.sources import join_address, names, read_table

from support import run


def migrated(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, Any], str]:
    """The table, which must be one that is read, and the whole text."""
    assert migrate(argv) == 0
    text = capsys.readouterr().out
    table = tomllib.loads(text)
    join_address([read_table(table, "migrated"), {}])
    return table, text


def comments(text: str) -> list[str]:
    """What has no counterpart."""
    return [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, without a gunicorn.conf.py."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(capsys: pytest.CaptureFixture[str], conf: str, *flags: str) -> tuple[dict[str, Any], str]:
    """Of a configuration of gunicorn, and flags of its command line."""
    Path("conf.py").write_text(f"accesslog = '-'\nworker_class = 'gevent'\n{conf}\n", encoding="utf-8")
    return migrated(capsys, *(("gunicorn", "-c", "conf.py", *flags) if flags else ("conf.py",)))


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
            {"app": "a:b", "preload": True, "interface": "asgi", "access_log": "x.log"},
            [],
        ),
        (
            "gunicorn --threads 4 --max-requests 0 --spew --xyz 3 --umask 7 --access-logfile - a:b",
            {"app": "a:b", "max_workers": 4, "no_gevent": True},
            ["--spew: --slow-request", "--xyz 3: not known", "--umask 7: it is --unix-socket-perms here"],
        ),
        (
            "gunicorn --threads 4 --access-logformat %(h)s:%(M)s --access-logfile - a:b",
            {"app": "a:b", "max_workers": 4, "no_gevent": True, "access_log_format": "%(h)s:%(M)s"},
            [],
        ),
        ("granian --access-log --interface wsgi a:b", {"app": "a:b", "interface": "wsgi"}, []),
        (
            "gunicorn -k asgi --websocket-max-message-size 1000 --access-logfile - a:b",
            {"app": "a:b", "interface": "asgi", "ws_max_size": 1000},
            [],
        ),
        (
            "gunicorn --threads many --access-logfile - a:b",
            {"app": "a:b", "no_gevent": True},
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
        (
            "waitress-serve --clear-untrusted-proxy-headers --no-log-untrusted-proxy-headers --listen=h a:b",
            {"app": "a:b", "listen": ["h:8080"]},
            ["--clear-untrusted-proxy-headers: such fields", "--no-log-untrusted-proxy-headers: the log"],
        ),
        (
            "waitress-serve --outbuf-overflow 1048576 --inbuf-overflow 524288 --listen *:1 a:b",
            {"app": "a:b", "listen": [":1"]},
            [
                "--outbuf-overflow 1048576: it is --max-unsent-memory here",
                "--inbuf-overflow 524288: it is --max-bodies",
            ],
        ),
        (
            "uvicorn --ws none --ws-per-message-deflate false --fd 3 --port 9 --no-proxy-headers main:app",
            {
                "app": "main:app",
                "listen": ["fd:3"],
                "interface": "asgi",
                "trusted_proxies": ["none"],
                "ws": "off",
                "ws_compress_from": 0,
            },
            ["--port 9: uvicorn ignores it"],
        ),
        (
            "granian --ws --uds /x --host ::1 --workers-lifetime 3600 --backpressure 9 --blocking-threads 4 m:a",
            {"app": "m:a", "listen": ["unix:/x"], "max_workers": 4},
            [
                *("--workers-lifetime 3600: --max-requests counts", "--backpressure 9: --max-work"),
                *("--interface rsgi: WSGI and ASGI are served", "--host ::1: granian ignores it"),
            ],
        ),
        (
            "python3.13 -m gunicorn -k gevent -w 2 -eA=b --workers 4 --access-logfile - --proxy-protocol -D -- a:b",
            {"app": "a:b", "processes": 4, "proxy_protocol": "on", "daemon": True},
            ["-e A=b: write the variables into a file"],
        ),
    ],
)
def test_a_command_line(
    capsys: pytest.CaptureFixture[str], line: str, expected: dict[str, Any], left: list[str]
) -> None:
    table, text = migrated(capsys, *line.split())
    assert table == expected
    lines = comments(text)
    assert len(lines) == len(left)
    assert all(each.startswith(words) for each, words in zip(lines, left, strict=True)), lines
    assert migrated(capsys, line)[0] == table, "one word with blanks is a command line as well"


def test_a_command_line_with_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "conf.py"
    conf.write_text("workers = 2\nthreads = 3\naccesslog = '-'\n", encoding="utf-8")
    table, _ = migrated(capsys, "gunicorn", "-c", str(conf), "-w", "9", "a:b")
    assert table == {"app": "a:b", "processes": 9, "max_workers": 3, "no_gevent": True}


@pytest.mark.parametrize(
    ("flags", "workers"),
    [
        ("", {"no_gevent": True, "max_workers": 1}),
        ("--threads 1", {"no_gevent": True, "max_workers": 1}),
        ("--threads 2", {"no_gevent": True, "max_workers": 2}),
        ("-k sync --threads 2", {"no_gevent": True, "max_workers": 2}),
        ("--threads 2 -k sync", {"no_gevent": True, "max_workers": 2}),
        ("-k gthread", {"no_gevent": True, "max_workers": 1}),
        ("-k gunicorn.workers.gthread.ThreadWorker --threads 9", {"no_gevent": True, "max_workers": 9}),
        ("-k gevent --threads 9", {}),
        ("-k uvicorn.workers.UvicornWorker --threads 9", {"interface": "asgi"}),
    ],
)
def test_workers_of_gunicorn(capsys: pytest.CaptureFixture[str], flags: str, workers: dict[str, Any]) -> None:
    """``sync`` with threads is ``gthread``, which runs as many requests as it has threads."""
    table, text = migrated(capsys, *f"gunicorn --access-logfile - {flags} a:b".split())
    assert table == {"app": "a:b"} | workers
    assert ("--threads 9: gunicorn uses it" in text) == ("--threads 9" in flags and "max_workers" not in workers)
    settings = flags.replace("-k ", "worker_class=").replace("--threads ", "threads=").split()
    conf = "".join(f"{name}={value!r}\n" for name, _, value in (each.partition("=") for each in settings))
    Path("conf.py").write_text(f"accesslog = '-'\n{conf}", encoding="utf-8")
    assert migrated(capsys, "conf.py", "a:b")[0] == table


@pytest.mark.parametrize(
    ("flags", "listen", "refused"),
    [
        ("-b 127.0.0.1:8001 -b [::1]", ["127.0.0.1:8001", "[::1]:8000"], ""),
        ("-b 127.0.0.1:8001 -b unix: -b :1", ["127.0.0.1:8001", ":1"], "-b unix:: 'unix:' is no address"),
        ("-b tcp://h -b unix:///run/x -b fd://3", ["h:8000", "unix:/run/x", "fd:3"], ""),
        ("-b :1,:2", [":1", ":2"], ""),
    ],
)
def test_addresses_of_gunicorn(capsys: pytest.CaptureFixture[str], flags: str, listen: list[str], refused: str) -> None:
    table, text = migrated(capsys, *f"gunicorn -k gevent --access-logfile - {flags} a:b".split())
    assert table["listen"] == listen
    assert "".join(comments(text)).startswith(refused) if refused else not comments(text)


def test_each_setting_of_gunicorn_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = configured(capsys, "\n".join(f"{name} = object()" for name in sorted(SETTINGS)))
    assert "not known" not in text
    assert "post_fork = <object>: it is --before-serve here" in text


def test_what_is_no_setting_of_gunicorn_is_a_helper(capsys: pytest.CaptureFixture[str]) -> None:
    helpers = "".join(f"{name} = 1\n" for name in names() if name not in SETTINGS)
    helpers += "w = k = t = b = p = u = g = m = e = n = v = D = R = pid = name = env = log_file = 3\n"
    table, text = configured(capsys, helpers + "host, port = '127.0.0.1', 8001\nbind = f'{host}:{port}'")
    assert table == {"listen": ["127.0.0.1:8001"]}
    assert not comments(text)


@pytest.mark.parametrize(
    ("conf", "table", "comment"),
    [
        ("limit_request_field_size = 4096", {"max_header_size": 4096}, ""),
        ("pythonpath = '/a,/b'", {}, "pythonpath = '/a,/b': --app-dir is one directory; set PYTHONPATH"),
        ("pythonpath = '/a'", {"app_dir": "/a"}, ""),
        ("keepalive = 0", {"disable_keep_alive": True}, ""),
        ("keepalive = 9", {"keep_alive_timeout": 9.0}, ""),
        ("import ssl; cert_reqs = ssl.CERT_OPTIONAL", {"cert_reqs": "optional"}, ""),
        ("import pathlib; pidfile = pathlib.PurePosixPath('/x')", {"pid_file": "/x"}, ""),
        ("bind = (':1', ':2')", {"listen": [":1", ":2"]}, ""),
        ("bind = 8000", {}, "bind = 8000: an address is text"),
        ("def chdir(): ...", {}, "chdir = chdir(): only plain values"),
        ("workers = True", {}, "workers: it is --processes here"),
        ("graceful_timeout = 0", {}, "graceful_timeout = 0: must be more than 0, not 0"),
        ("pidfile = '-'", {}, "pidfile = '-': '-' names no file"),
        ("paste = 'live.ini'", {"app": "paste.deploy:loadapp('config:live.ini', relative_to='.')"}, ""),
        ("paste = 3", {}, "paste = 3: the name of a file is text"),
        ("raw_paste_global_conf = ['a=b']", {}, "raw_paste_global_conf = ['a=b']: it is an argument of paste.deploy"),
        ("websocket_max_message_size = 4096", {"ws_max_size": 4096}, ""),
        ("wsgi_app = 'a' + chr(10) + 'b:c'", {"app": "a\nb:c"}, ""),
        ("class Bad:\n    def __repr__(self): 1 / 0\nproc_name = Bad()", {}, "proc_name = <Bad>: process titles"),
    ],
)
def test_a_value(capsys: pytest.CaptureFixture[str], conf: str, table: dict[str, Any], comment: str) -> None:
    found, text = configured(capsys, conf)
    assert found == table
    assert "".join(comments(text)).startswith(comment) if comment else not comments(text)


@pytest.mark.parametrize(
    ("line", "before"),
    [
        ("web: gunicorn a:b -w 3", "web"),
        ("exec gunicorn a:b -w 3", "exec"),
        ("poetry run gunicorn a:b -w 3", "poetry run"),
        ("TZ=UTC env uv run python -m gunicorn a:b -w 3", "TZ=UTC env uv run"),
        ("web: newrelic-admin run-program gunicorn a:b -w 3", "web: newrelic-admin run-program"),
        ("opentelemetry-instrument --exporter x gunicorn a:b -w 3", "opentelemetry-instrument --exporter x"),
        ("env DD_ENV=x ddtrace-run python -m gunicorn a:b -w 3", "env DD_ENV=x ddtrace-run python -m"),
    ],
)
@pytest.mark.parametrize("is_one_word", [True, False])
def test_what_stands_before_the_command(
    capsys: pytest.CaptureFixture[str], line: str, before: str, is_one_word: bool
) -> None:
    table, text = migrated(capsys, *([line] if is_one_word else line.split()))
    assert (table["app"], table["processes"]) == ("a:b", 3)
    assert text.endswith(f"#   {before}: may stay in front of zibai\n")


def test_a_flag_counts_more_than_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    conf = "bind = ':1'\nworkers = 3\nthreads = 4\nworker_class = 'gthread'\nlimit_request_line = 4094\nbacklog = 9"
    assert configured(capsys, conf, "a:b", "-b", ":2", "--backlog", "2048", "-k", "sync", "--threads", "2")[0] == {
        "app": "a:b",
        "listen": [":2"],
        "processes": 3,
        "no_gevent": True,
        "max_workers": 2,
        "max_target_size": 4094,
    }


def test_the_configuration_that_gunicorn_finds_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    Path("gunicorn.conf.py").write_text("workers = 3\nworker_class = 'gevent'\naccesslog = '-'\n", encoding="utf-8")
    table, text = migrated(capsys, "gunicorn", "shop:app")
    assert table == {"app": "shop:app", "processes": 3}
    assert text.startswith("# Made from gunicorn ... and gunicorn.conf.py by zibai migrate")
    assert "processes" not in configured(capsys, "", "shop:app")[0], "--config names another one"
    assert "processes" not in migrated(capsys, "uvicorn", "shop:app")[0]


def test_a_configuration_that_is_a_module_and_has_a_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sib.py").write_text("W = 5\n", encoding="utf-8")
    assert configured(capsys, "from sib import W\nworkers = W")[0] == {"processes": 5}
    assert migrated(capsys, "gunicorn", "-c", "python:conf")[0] == {"processes": 5}


def test_what_a_configuration_prints_is_not_in_the_result() -> None:
    Path("gunicorn.conf.py").write_text("print('listen = 3')\nworkers = 2\n", encoding="utf-8")
    done = run("migrate", "gunicorn.conf.py", cwd=Path.cwd())
    assert tomllib.loads(done.stdout)["processes"] == 2
    assert "listen" not in done.stdout
    assert done.stderr == "listen = 3\n"


@pytest.mark.parametrize("name", ["my conf.py", "it's.py", "conf\\gunicorn.conf.py", "gunicorn conf.py"])
def test_a_path_is_not_cut(capsys: pytest.CaptureFixture[str], name: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("workers = 2\n", encoding="utf-8")
    assert migrated(capsys, name)[0]["processes"] == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["gunicorn -b ':1"], '"gunicorn -b \':1": No closing quotation'),
        (["it's"], '"it\'s" is neither a gunicorn.conf.py nor one of gunicorn, uvicorn, granian, waitress'),
        (["gunicorn", "a:b", "-c"], "-c needs a file"),
        (["gunicorn", "-c", "nowhere"], "cannot read 'nowhere': No such file or directory"),
        (["gunicorn", "-c", "python:nowhere_xyz"], "'python:nowhere_xyz' fails: ImportError: No module named"),
        (["nowhere.py"], "cannot read 'nowhere.py': No such file or directory"),
        (["poetry", "run"], "'poetry' is neither a gunicorn.conf.py nor one of gunicorn, uvicorn, granian, waitress"),
        (["apache", "x"], "'apache' is neither a gunicorn.conf.py nor one of gunicorn, uvicorn, granian, waitress"),
    ],
)
def test_what_cannot_be_read(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        migrate(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"zibai migrate: error: {message}")


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ("1 / 0", "'conf.py' fails: ZeroDivisionError: division by zero"),
        ("open('nowhere')", "'conf.py' fails: FileNotFoundError: "),
        ("raise SystemExit(3)", "'conf.py' fails: SystemExit: 3"),
    ],
)
def test_a_configuration_that_fails(capsys: pytest.CaptureFixture[str], conf: str, message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        configured(capsys, conf)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


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
