"""Options that have no effect: the server says so, says why, and serves."""

from __future__ import annotations

from typing import Any

import pytest

from zibai.config.effects import remarks, remarks_on
from zibai.config.options import Options

from support import Server, run

CASES: list[tuple[dict[str, Any], str]] = [
    ({"unix_socket_perms": 0o660}, "--unix-socket-perms has no effect: no address is a unix socket that the server"),
    ({"unix_socket_group": "www", "listen": [":1", "fd:3"]}, "--unix-socket-group has no effect: no address is a unix"),
    ({"dualstack_ipv6": True, "listen": ["127.0.0.1:1"]}, "--dualstack-ipv6 has no effect: it is for the addresses"),
    ({"log_backups": 2}, "--log-backups has no effect: add --log-max-bytes"),
    ({"statsd_prefix": "a"}, "--statsd-prefix has no effect: add --statsd HOST:PORT"),
    ({"access_log_format": "common", "no_access_log": True}, "--access-log-format has no effect: no access log is"),
    ({"access_log_format": "common", "log_level": "error"}, "--access-log-format has no effect: no access log is"),
    ({"forwarded_fields": "for", "trusted_proxies": ["none"]}, "--forwarded-fields has no effect: no proxy is trusted"),
    ({"ciphers": "ECDHE", "tls_min_version": "1.3", "certfile": "c"}, "--ciphers has no effect: it is about TLS 1.2"),
    ({"keep_alive_timeout": 5.0, "disable_keep_alive": True}, "--keep-alive-timeout has no effect: --disable-keep-ali"),
    ({"max_keep_alive_requests": 5, "disable_keep_alive": True}, "--max-keep-alive-requests has no effect: --disable-"),
    ({"max_target_size": 2**20}, "--max-target-size has no effect: a target is part of the head"),
    ({"ws": "off", "ws_max_size": 1}, "--ws-max-size has no effect: --ws off gives"),
    ({"ws_ping_timeout": 1.0, "ws_ping_interval": 0.0}, "--ws-ping-timeout has no effect: --ws-ping-interval 0 sends"),
    ({"worker_timeout": 5.0, "reload": True}, "--worker-timeout has no effect: a debugger may stop"),
    ({"max_worker_memory": 512}, "--max-worker-memory 512: every worker has more bytes, and will be replaced again"),
    ({"max_worker_descriptors": 2}, "--max-worker-descriptors 2: every worker has more"),
]


@pytest.mark.parametrize(("given", "message"), CASES, ids=[" ".join(given) for given, _ in CASES])
def test_an_option_without_effect_is_told(given: dict[str, Any], message: str) -> None:
    options = Options("a:b", processes=1, **given)
    options.validate()
    (text,) = remarks(options)
    assert text.startswith(message)
    assert "\n" not in text


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"unix_socket_perms": 0o660, "unix_socket_group": "www", "listen": [":1", "unix:s"]},
        {"unix_socket_perms": 0o660, "health_listen": "unix:s"},
        {"dualstack_ipv6": True, "listen": [":1"]},
        {"dualstack_ipv6": True, "listen": ["[::]:1"]},
        {"log_backups": 2, "log_max_bytes": 10_000, "log_file": "x"},
        {"access_log_format": "json", "no_access_log": True},
        {"access_log_format": "common", "log_level": "error", "access_log": "-"},
        {"ws_ping_timeout": 0.0, "ws_ping_interval": 0.0},
        {"worker_timeout": 0.0, "reload": True},
        {"max_target_size": 2**20, "max_header_size": 2**21},
        {"max_worker_memory": 512 * 2**20, "max_worker_descriptors": 500},
    ],
)
def test_one_with_an_effect_is_not(given: dict[str, Any]) -> None:
    assert list(remarks(Options("a:b", processes=1, **given))) == []


def test_a_single_process_has_no_parent() -> None:
    options = Options("a:b", worker_timeout=5.0, boot_timeout=5.0)
    texts = list(remarks(options, is_single=True))
    assert [text.partition(":")[0] for text in texts] == [
        "--worker-timeout has no effect",
        "--boot-timeout has no effect",
    ]
    assert all(text.endswith("add --processes 1") for text in texts)
    assert list(remarks(options)) == []


def test_by_the_interface() -> None:
    options = Options("a:b", lifespan="on", loop="uvloop", ws="on", ws_max_size=5, stream_request_body=True)
    assert [text.partition(" has no effect: the application is WSGI")[0] for text in remarks_on(options, "wsgi")] == [
        "--lifespan",
        "--loop",
        "--ws",
        "--ws-max-size",
    ]
    assert [text.partition(":")[0] for text in remarks_on(options, "asgi")] == ["--stream-request-body has no effect"]
    assert list(remarks_on(Options("a:b", lifespan="off", ws="off"), "wsgi")) == []


def test_the_log_and_zibai_check_have_them() -> None:
    flags = ("--no-gevent", "--unix-socket-perms", "660", "--lifespan", "on")
    with Server("plain:app", *flags) as server:
        server.wait_for_log("WARNING --unix-socket-perms has no effect")
        server.wait_for_log("WARNING --lifespan has no effect")
        server.wait_for_log("worker ready")
        assert server.stop() == 0
    found = run("check", "plain:app", *flags, "--listen", "127.0.0.1:0").stdout
    assert "warning  options      --unix-socket-perms has no effect" in found
    assert "warning  options      --lifespan has no effect" in found
