"""Options: the defaults that users rely on, and every value that makes no sense is one line that names its flag."""

from __future__ import annotations

import ast
import inspect
import os
import pickle
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pytest

from zibai.config import option as declaration
from zibai.config.addresses import Inherited, parse_address
from zibai.config.options import Options, declared, script_name
from zibai.errors import UsageError


def test_defaults() -> None:
    assert asdict(Options("example:app")) == {
        "app": "example:app",
        "call": False,
        "app_dir": None,
        "env_file": None,
        "url_scheme": "http",
        "url_prefix": None,
        "listen": None,
        "backlog": 2048,
        "dualstack_ipv6": False,
        "unix_socket_perms": 0o600,
        "unix_socket_group": None,
        "trusted_proxies": ["127.0.0.1,::1,unix"],
        "forwarded_fields": "for,proto",
        "proxy_protocol": "off",
        "chdir": None,
        "user": None,
        "group": None,
        "pid_file": None,
        "daemon": False,
        "health_listen": None,
        "health_public": False,
        "certfile": None,
        "keyfile": None,
        "keyfile_password_env": None,
        "ca_certs": None,
        "cert_reqs": "none",
        "tls_min_version": "1.2",
        "ciphers": None,
        "redirect_http": None,
        "ws": "auto",
        "ws_max_size": 16 * 1024**2,
        "ws_max_queue": 32,
        "ws_ping_interval": 20.0,
        "ws_ping_timeout": 20.0,
        "ws_close_timeout": 10.0,
        "ws_compress_from": 256,
        "tls_dev": False,
        "processes": 0,
        "max_workers": 10,
        "loops": 1,
        "no_gevent": False,
        "interface": "auto",
        "lifespan": "auto",
        "loop": "auto",
        "preload": False,
        "reload": False,
        "watchfiles": None,
        "max_requests": None,
        "max_worker_memory": None,
        "max_worker_descriptors": None,
        "capture_output": False,
        "interactive": False,
        "control": None,
        "boot_timeout": 60.0,
        "worker_timeout": 30.0,
        "slow_request": 30.0,
        "request_timeout": 0.0,
        "graceful_exit_timeout": 10.0,
        "drain": 0.0,
        "keep_alive_timeout": 75.0,
        "disable_keep_alive": False,
        "max_keep_alive_requests": 0,
        "header_timeout": 10.0,
        "socket_timeout": 30.0,
        "queue_timeout": 60.0,
        "max_connections": 0,
        "max_header_size": 65536,
        "max_target_size": 8192,
        "http": "auto",
        "max_body_size": 1073741824,
        "max_bodies_memory": 33554432,
        "max_bodies_disk": 0,
        "min_body_rate": 500.0,
        "min_send_rate": 500.0,
        "max_unsent_memory": 268435456,
        "stream_request_body": False,
        "before_serve": None,
        "before_graceful_exit": None,
        "before_died": None,
        "log_level": "info",
        "no_access_log": False,
        "access_log": None,
        "statsd": None,
        "statsd_prefix": "",
        "access_log_format": "default",
        "log_file": None,
        "log_max_bytes": 0,
        "log_backups": 5,
        "logging_config": None,
    }


def test_none_is_the_default_of_every_option() -> None:
    names = [option.name for option in declared() if not option.positional]
    options = Options("example:app", **dict.fromkeys(names))
    assert options == Options("example:app")
    options.validate()
    assert replace(Options("example:app", backlog=5), backlog=None).backlog == 2048
    options.trusted_proxies.append("unix")
    assert Options("example:app", trusted_proxies=None).trusted_proxies == ["127.0.0.1,::1,unix"], "a list of its own"


def test_the_defaults_are_valid_and_travel() -> None:
    options = Options(app="example:app", processes=4)
    options.validate()
    assert pickle.loads(pickle.dumps(options)) == options


OLDER_NAMES: list[tuple[str, str, object]] = [
    ("subprocess", "processes", 4),
    ("max_request_pre_process", "max_requests", 100),
    ("h11_max_incomplete_event_size", "max_header_size", 8192),
    ("logging_config_filepath", "logging_config", "log.toml"),
]


@pytest.mark.parametrize(("older", "name", "value"), OLDER_NAMES)
def test_an_older_name_is_an_argument_and_an_attribute(older: str, name: str, value: object) -> None:
    options = Options("a:b", **{older: value})
    assert options == Options("a:b", **{name: value})
    assert getattr(options, older) == getattr(options, name) == value
    setattr(options, older, None)
    assert getattr(options, name) is None
    assert older not in repr(options)
    assert getattr(pickle.loads(pickle.dumps(Options("a:b", **{older: value}))), older) == value
    assert Options("a:b", **{older: None}) == Options("a:b"), "None is the default, as with every name"


@pytest.mark.parametrize(("older", "name", "value"), OLDER_NAMES)
def test_options_are_replaced_by_either_name(older: str, name: str, value: object) -> None:
    before = Options("a:b", processes=1, max_requests=1, max_header_size=1, logging_config="x.json")
    assert replace(before, **{older: value}) == replace(before, **{name: value}) != before
    assert replace(Options("a:b", **{older: value}), backlog=5) == Options("a:b", backlog=5, **{name: value})


def test_type_checkers_see_the_older_names() -> None:
    """What ``accept_aliases`` adds when the module is imported stands in the class, for type checkers only."""
    (body,) = ast.parse(inspect.getsource(Options)).body
    assert isinstance(body, ast.ClassDef)
    (block,) = (node for node in body.body if isinstance(node, ast.If))
    annotated = {
        node.target.id: ast.unparse(node.annotation) for node in ast.walk(body) if isinstance(node, ast.AnnAssign)
    }  # type: ignore[union-attr]
    seen = {node.target.id for node in block.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    assert (
        seen == {alias for option in declared() for alias in option.aliases} == {older for older, _, _ in OLDER_NAMES}
    )
    for older, name, _ in OLDER_NAMES:
        assert annotated[older] == annotated[name]


def test_what_needs_a_parent_and_what_a_prompt_refuses_is_declared() -> None:
    assert {option.flag for option in declared() if option.needs_parent} == {
        "--health-listen",
        "--preload",
        "--max-requests",
        "--max-worker-memory",
        "--max-worker-descriptors",
        "--reload",
        "--watchfiles",
        "--interactive",
        "--request-timeout",
        "--capture-output",
    }
    assert {option.name for option in declared() if not option.at_prompt} == {
        "daemon",
        "user",
        "group",
        "chdir",
        "env_file",
    }


def test_no_time_may_be_too_short_to_mean_anything() -> None:
    times = [option for option in declared() if option.metavar == "SECONDS"]
    assert len(times) > 10
    for option in times:
        with pytest.raises(UsageError, match=f"^{option.flag} must be .*at least 0\\.0?1, not 0.0001$"):
            option.validate(0.0001)
        option.validate(0.1)


def test_two_options_do_not_share_a_list() -> None:
    @dataclass
    class Some:
        names: list[str] = declaration.option(["a"], group="", help="")

    Some().names.append("b")
    assert Some().names == ["a"]


def test_every_field_is_declared_in_full() -> None:
    assert [option.name for option in declared()] == [field.name for field in fields(Options)]
    for option in declared():
        assert option.help, option.name
        assert option.kind in (bool, int, float, str, list), option.name
        assert (
            option.kind not in (int, float) or option.bounds.minimum is not None or option.bounds.above is not None
        ), option.name


STATSD_NAMES = "letters, digits and dots, as in shop.web"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_workers": 0}, "--max-workers must be at least 1, not 0"),
        ({"processes": -1}, "--processes must be at least 0, not -1"),
        ({"backlog": 0}, "--backlog must be at least 1, not 0"),
        ({"backlog": 2**31}, "--backlog must be at most 2147483647, not 2147483648"),
        ({"max_requests": 0}, "--max-requests must be at least 1, not 0"),
        ({"max_header_size": -1}, "--max-header-size must be at least 1, not -1"),
        ({"max_body_size": -1}, "--max-body-size must be at least 0, not -1"),
        ({"graceful_exit_timeout": 0}, "--graceful-exit-timeout must be more than 0, not 0"),
        ({"keep_alive_timeout": -1.5}, "--keep-alive-timeout must be more than 0, not -1.5"),
        ({"header_timeout": float("inf")}, "--header-timeout must be at most 1e+06, not inf"),
        ({"socket_timeout": float("nan")}, "--socket-timeout must be a number, not nan"),
        ({"unix_socket_perms": 0o1000}, "--unix-socket-perms must be at most 777, not 1000"),
        ({"unix_socket_perms": -1}, "--unix-socket-perms must be at least 0, not -1"),
        ({"http": "h2"}, "--http must be one of auto, h11, not 'h2'"),
        ({"url_scheme": "ftp"}, "--url-scheme must be one of http, https, not 'ftp'"),
        ({"url_prefix": "shop"}, "--url-prefix: 'shop' must start with a slash and not end with one, or be empty"),
        ({"url_prefix": "/shop/"}, "--url-prefix: '/shop/' must start with a slash and not end with one, or be empty"),
        ({"url_prefix": "/"}, "--url-prefix: '/' must start with a slash and not end with one, or be empty"),
        ({"listen": []}, "--listen needs at least one value"),
        # too small to mean anything: perhaps a mistake in the unit
        ({"worker_timeout": 0.0001}, "--worker-timeout must be 0 or at least 0.1, not 0.0001"),
        ({"boot_timeout": 0.05}, "--boot-timeout must be at least 0.1, not 0.05"),
        ({"request_timeout": 0.001}, "--request-timeout must be 0 or at least 0.01, not 0.001"),
        ({"drain": 1e-9}, "--drain must be 0 or at least 0.01, not 1e-09"),
        ({"max_header_size": 1}, "--max-header-size must be at least 128, not 1"),
        ({"min_body_rate": float("inf")}, "--min-body-rate must be at most 1e+12, not inf"),
        ({"min_send_rate": 1e300}, "--min-send-rate must be at most 1e+12, not 1e+300"),
        ({"log_backups": 10**12}, "--log-backups must be at most 10000, not 1000000000000"),
        *(
            (
                {"statsd_prefix": prefix},
                f"--statsd-prefix: {prefix!r} cannot begin a name in statsd; write {STATSD_NAMES}",
            )
            for prefix in ("a\nb", "a:1|c", "my shop", "\xe9t\xe9")
        ),
        ({"health_public": True}, "--health-public needs a --health-listen"),
        (
            {"forwarded_fields": ""},
            "--forwarded-fields: '' is no field; write one or more of for,proto,host,port,prefix",
        ),
        (
            {"forwarded_fields": "for,X-Forwarded-Host"},
            "--forwarded-fields: 'X-Forwarded-Host' is no field; write one or more of for,proto,host,port,prefix",
        ),
        (
            {"listen": ["127.0.0.1:8000", "example:app"]},
            "--listen: 'example:app' is no address; write HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH or fd:N",
        ),
        # what only a program can get wrong
        ({"max_workers": "4"}, "--max-workers must be a whole number, not '4'"),
        ({"max_workers": True}, "--max-workers must be a whole number, not True"),
        ({"max_workers": 4.0}, "--max-workers must be a whole number, not 4.0"),
        ({"socket_timeout": "30"}, "--socket-timeout must be a number, not '30'"),
        ({"call": 1}, "--call must be True or False, not 1"),
        ({"listen": "127.0.0.1:8000"}, "--listen must be a list of text, not '127.0.0.1:8000'"),
        ({"listen": [8000]}, "--listen must be a list of text, not [8000]"),
        ({"before_serve": print}, "--before-serve must be text, not <built-in function print>"),
        ({"app": None}, "app must be text, not None"),
    ],
)
def test_one_line_for_what_makes_no_sense(wrong: dict[str, Any], message: str) -> None:
    options = Options(**({"app": "example:app"} | wrong))  # making it does not look
    with pytest.raises(UsageError) as caught:
        options.validate()
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "right",
    [
        {"socket_timeout": 30},
        {"url_prefix": ""},
        {"url_prefix": "/shop/floor"},
        {"max_body_size": 0},
        {"unix_socket_perms": 0},
        {"max_requests": 1},
        {"url_scheme": "https"},
        {"listen": [":0", "unix:/run/x.sock"]},
    ],
)
def test_what_is_at_the_border_passes(right: dict[str, Any]) -> None:
    Options("example:app", **right).validate()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("localhost:0", ("localhost", 0)),
        (":65535", ("", 65535)),
        ("[::1]:80", ("::1", 80)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("unix:/run/zibai.sock", "/run/zibai.sock"),
        ("unix:here", "here"),
        ("fd:3", Inherited("3")),
        ("fd:web.socket", Inherited("web.socket")),
    ],
)
def test_addresses(text: str, address: tuple[str, int] | str | Inherited) -> None:
    assert parse_address(text) == address


NO_ADDRESSES = ["", ":", "8000", "localhost", "localhost:", "a:b", "a:-1", "a:+1", "a:65536", "a:0x1", "a:٣", "a:1 "]
NO_ADDRESSES += [
    "a:1\n",
    "::1:80",
    "[::1]",
    "[]:80",
    "[::1:80",
    "http://a:80",
    "unix:",
    "unix:a\0b",
    "fd:",
    "fd:a b",
    "fd:3x",
]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("8000", "127.0.0.1:8000"),
        ("localhost", "localhost:8000"),
        ("0.0.0.0", "0.0.0.0:8000"),
        ("::1", "[::1]:8000"),
        ("http://127.0.0.1:80/", "127.0.0.1:80"),
        ("https://shop.example", "shop.example:8000"),
        ("/run/x.sock", "unix:/run/x.sock"),
        ("./x.sock", "unix:./x.sock"),
        ("http+unix:///run/x.sock", "unix:/run/x.sock"),
        ("http://localhost:80/shop", "localhost:80"),
        ("https://shop.example/", "shop.example:8000"),
        ("https://shop.example/a/b", "shop.example:8000"),
        ("app", ""),
        ("a b:1/c", ""),
        ("a b:1", ""),
        ("", ""),
        ("127.0.0.1:99999", ""),
    ],
)
def test_what_an_address_was_meant_to_be(text: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert str(caught.value).endswith(f"; did you mean {meant}?" if meant else "unix:PATH or fd:N")


def test_script_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRIPT_NAME", raising=False)
    assert script_name(Options("a:b")) == ""
    assert script_name(Options("a:b", url_prefix="/shop")) == "/shop"
    monkeypatch.setenv("SCRIPT_NAME", "/env")
    assert script_name(Options("a:b")) == "/env"
    assert script_name(Options("a:b", url_prefix="/shop")) == "/shop"
    assert script_name(Options("a:b", url_prefix="")) == "", "an empty prefix is an answer too"


def test_script_name_is_a_native_string(monkeypatch: pytest.MonkeyPatch) -> None:
    assert script_name(Options("a:b", url_prefix="/é")) == "/Ã©"
    if os.name == "posix":
        monkeypatch.setitem(os.environ, "SCRIPT_NAME", os.fsdecode(b"/\xe9"))
        assert script_name(Options("a:b")) == "/\xe9"


def test_a_bad_script_name_is_blamed_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPT_NAME", "shop")
    with pytest.raises(UsageError, match=r"^environment variable SCRIPT_NAME: 'shop' must start with a slash"):
        script_name(Options("a:b"))
