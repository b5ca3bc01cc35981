"""WebSockets through nginx and haproxy, with the snippets of the documentation."""

from __future__ import annotations

import re
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from test_e2e_proxies import free_ports, running

from support import APPS, ROOT, Server
from wsclient import Peer, close, text

if TYPE_CHECKING:
    from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
PAGE = (ROOT / "docs" / "websocket.md").read_text(encoding="utf-8")


def check(server: Server, port: int) -> None:
    with Peer(port, "/chat") as peer:
        assert peer.texts(1) == ["1"]
        peer.send(text("x" * 100_000), *map(text, "abc"))
        assert peer.texts(4) == ["x" * 100_000, "a", "b", "c"]
        with Peer(port, "/chat") as other:
            assert other.texts(1) == ["1"]
            other.send(close(4000, "bye"))
            assert other.read_close() == (4000, "bye")
        server.signal(signal.SIGTERM)
        assert peer.read_close() == (1001, "the server ends")
        peer.send(close(1001))
    assert server.wait() == 0


@pytest.fixture
def site(tmp_path: Path) -> Path:
    shutil.copy(APPS / "versioned_ws.py", tmp_path)
    (tmp_path / "version.txt").write_text("1", encoding="ascii")
    return tmp_path


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx(site: Path) -> None:
    assert NGINX is not None
    (snippet,) = re.findall(r"```nginx\n(.*?)```", PAGE, re.DOTALL)
    port = free_ports(["proxy"])["proxy"]
    with Server("versioned_ws:app", "--interface", "asgi", cwd=site) as server:
        location = snippet.replace(":8000", f":{server.port}")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"{kind}_temp_path {site}/{kind};" for kind in kinds)
        (site / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {site}/nginx.pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {places} server {{ listen 127.0.0.1:{port}; {location} }} }}\n"
        )
        with running([NGINX, "-p", str(site), "-c", str(site / "nginx.conf"), "-e", "stderr"], site, port):
            check(server, port)


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
def test_haproxy(site: Path) -> None:
    assert HAPROXY is not None
    assert "`timeout tunnel 1h`" in PAGE
    port = free_ports(["proxy"])["proxy"]
    with Server("versioned_ws:app", "--interface", "asgi", cwd=site) as server:
        (site / "haproxy.cfg").write_text(
            "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n timeout tunnel 1h\n"
            f"listen site\n bind 127.0.0.1:{port}\n server zibai 127.0.0.1:{server.port}\n"
        )
        with running([HAPROXY, "-db", "-f", str(site / "haproxy.cfg")], site, port):
            check(server, port)
