"""Real nginx and real HAProxy in front, configured as docs/proxies.md says; and what the log says of wrong setups.

The client has an address of its own, 127.0.0.2, which Linux gives to everybody.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if sys.platform != "win32":
    import grp

import pytest
from test_e2e_restart import deploy, restart

from load import Load
from support import APPS, DEADLINE, ROOT, Client, Response, Server, get, listens, read_response, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2")

CLIENT = "127.0.0.2"
FORGED = (
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: ftp",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Port: 6",
    "X-Forwarded-Prefix: /evil",
    "Forwarded: for=6.6.6.6;host=evil",
)
DOCUMENT = (ROOT / "docs/proxies.md").read_text(encoding="utf-8")
GUIDE = """location /environ/ {
    proxy_pass http://zibai;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
}
location / { return 403; }
"""
"""What the guides on the web say, and nothing of what a client may add to it."""
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def snippet(language: str) -> str:
    """The one of this language in the document."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert isinstance(text, str)
    return text


def program(name: str) -> str:
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def free_ports(names: Iterable[str]) -> dict[str, int]:
    """One for each. They are below those that a system gives to clients, which may take one at any time."""
    ports: dict[str, int] = {}
    for name in names:
        while name not in ports:
            port = random.randrange(20000, 32000)
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                if port not in ports.values():
                    ports[name] = port
    return ports


@contextmanager
def running(command: list[str], folder: Path, *ports: int) -> Iterator[None]:
    """A child that listens on ``ports``."""
    with (folder / "output").open("w+b") as output:
        child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            wait_for(lambda: child.poll() is not None or all(map(listens, ports)))
            assert child.poll() is None, (folder / "output").read_text(encoding="utf-8")
            yield
        finally:
            child.terminate()
            child.wait(DEADLINE)


@contextmanager
def nginx(folder: Path, user: str = "", **sites: str) -> Iterator[dict[str, int]]:
    """nginx with a site for each upstream, and its ports; ``tls`` or ``stream`` in the name says what kind it is.

    With ``user`` its worker is a process of this user, as nginx has it anywhere.
    """
    folder.mkdir()
    ports = free_ports(sites)
    http, stream = [], []
    for name, server in sites.items():
        upstream = f"upstream {name} {{ server {server}; %s }}"
        if "stream" in name:
            stream.append(upstream % "")
            stream.append(f"server {{ listen 127.0.0.1:{ports[name]}; proxy_pass {name}; proxy_protocol on; }}")
            continue
        tls = (
            f"ssl_certificate {certificate(folder)}; ssl_certificate_key {certificate(folder)};"
            if "tls" in name
            else ""
        )
        location = GUIDE if "guide" in name else snippet("nginx")
        location = location.replace("http://zibai", f"http://{name}")
        http.append(upstream % "keepalive 16;")
        # A request that was lost on a kept connection is not to be sent a second time in silence.
        retry = "proxy_next_upstream off;"
        http.append(f"server {{ listen 127.0.0.1:{ports[name]} {'ssl' if tls else ''}; {tls} {retry} {location} }}")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
    text = f"user {user}; {text}" if user else f"master_process off; {text}"
    text += f"http {{ access_log off; {temporary} {' '.join(http)} }}\n"
    if stream:
        text = f"load_module {STREAM};\n{text}stream {{ {' '.join(stream)} }}\n"
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    with running([program("nginx"), "-e", "stderr", "-c", str(folder / "nginx.conf")], folder, *ports.values()):
        yield ports


@contextmanager
def haproxy(folder: Path, **sites: str) -> Iterator[dict[str, int]]:
    """HAProxy with a site for each server line. Those with ``send-proxy`` in it look at no HTTP."""
    folder.mkdir()
    ports = free_ports(sites)
    text = "defaults\n    timeout connect 20s\n    timeout client 60s\n    timeout server 60s\n"
    for name, server in sites.items():
        tls = f"ssl crt {certificate(folder)}" if "tls" in name else ""
        text += f"frontend front-{name}\n    bind 127.0.0.1:{ports[name]} {tls}\n    default_backend {name}\n"
        if "send-proxy" in server:
            text += f"    mode tcp\nbackend {name}\n    mode tcp\n    server {name} {server}\n"
        elif name == "guide":
            text += f"    mode http\nbackend {name}\n    mode http\n    option forwardfor\n"
            text += f"    http-request set-header X-Forwarded-Proto http\n    server {name} {server}\n"
        elif name == "forwarded":
            field = '"for=%[src];proto=http;host=\\"%[req.hdr(host)]\\""'
            text += f"    mode http\nbackend {name}\n    mode http\n    http-request set-header Forwarded {field}\n"
            text += "".join(f"    http-request del-header X-Forwarded-{each}\n" for each in ("For", "Proto", "Host"))
            text += "    http-request del-header X-Forwarded-Port\n    http-request del-header X-Forwarded-Prefix\n"
            text += f"    server {name} {server}\n"
        else:
            back = snippet("haproxy").replace("backend zibai", f"backend {name}").replace("127.0.0.1:8000", server)
            text += f"    mode http\n{back}"
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    with running([program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")], folder, *ports.values()):
        yield ports


def certificate(folder: Path) -> Path:
    """Key and certificate in one file."""
    path = folder / "both.pem"
    if not path.exists():
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        make += ["-subj", "/CN=a.test", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
        subprocess.run([program("openssl"), *make[1:]], check=True, capture_output=True, timeout=DEADLINE)
        path.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return path


class Sites(NamedTuple):
    ports: dict[str, int]
    plain: Server
    proxied: Server


@pytest.fixture(scope="module")
def sites(backend: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Both proxies before both servers, in all ways at once."""
    program("nginx"), program("haproxy"), program("openssl")
    folder = tmp_path_factory.mktemp("z")
    with ExitStack() as stack:
        unix, proxied_unix = folder / "a", folder / "b"
        plain = stack.enter_context(Server("plain:app", f"unix:{unix}", *backend))
        proxied = stack.enter_context(Server("plain:app", f"unix:{proxied_unix}", "--proxy-protocol", "on", *backend))
        tcp, proxied_tcp = f"127.0.0.1:{plain.port}", f"127.0.0.1:{proxied.port}"
        streams = {"stream": proxied_tcp, "stream_unix": f"unix:{proxied_unix}"} if STREAM.exists() else {}
        front = nginx(folder / "n", tcp=tcp, unix=f"unix:{unix}", tls=tcp, guide=tcp, **streams)
        ports = {f"nginx-{name}": port for name, port in stack.enter_context(front).items()}
        front = haproxy(
            folder / "h",
            tcp=tcp,
            unix=f"unix@{unix}",
            tls=tcp,
            forwarded=tcp,
            guide=tcp,
            v1=f"{proxied_tcp} send-proxy",
            v2=f"{proxied_tcp} send-proxy-v2",
            v2_unix=f"unix@{proxied_unix} send-proxy-v2",
        )
        ports |= {f"haproxy-{name}": port for name, port in stack.enter_context(front).items()}
        yield Sites(ports, plain, proxied)


def ask(port: int, tls: bool, *fields: str) -> dict[str, Any]:
    with Client(port, source=CLIENT) as client:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(client.socket) as secured:
                request = ["GET /environ HTTP/1.1", "Host: a.test:8443", "Connection: close", *fields, "", ""]
                secured.sendall("\r\n".join(request).encode())
                with secured.makefile("rb") as file:
                    return answered(read_response(file))
        client.send("\r\n".join(["GET /environ HTTP/1.1", "Host: a.test:8443", *fields, "", ""]).encode())
        return answered(client.read())


def answered(response: Response) -> dict[str, Any]:
    assert response.status == 200, response.body
    found: dict[str, Any] = json.loads(response.body)
    return found


FIELDS = ["nginx-tcp", "nginx-unix", "nginx-tls", "haproxy-tcp", "haproxy-unix", "haproxy-tls", "haproxy-forwarded"]
HEADERS = ["nginx-stream", "nginx-stream_unix", "haproxy-v1", "haproxy-v2", "haproxy-v2_unix"]


@pytest.mark.parametrize("forged", [(), FORGED], ids=["honest", "forged"])
@pytest.mark.parametrize("name", FIELDS)
def test_fields_of_a_real_proxy_say_who_the_client_is(sites: Sites, name: str, forged: tuple[str, ...]) -> None:
    environ = ask(sites.ports[name], "tls" in name, *forged)
    scheme = "https" if "tls" in name else "http"
    keys = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO")
    assert [environ[key] for key in keys] == [CLIENT, scheme, "a.test:8443", "a.test", "8443", "", "/environ"]
    assert "REMOTE_PORT" not in environ
    sites.plain.wait_for_log(f'{CLIENT} "GET /environ')


CONTRADICTING = [
    "Forwarded: for=8.8.8.8",
    "Forwarded: for=127.0.0.1",
    "Forwarded: for=unknown",
    "Forwarded: proto=https",
]
ALONE = ["X-Forwarded-Host: evil", "X-Forwarded-Port: 666", "X-Forwarded-Prefix: /environ", "X-Forwarded-For: 6.6.6.6"]
ALONE += ["X-Forwarded-Proto: https", "Forwarded: host=evil", "Forwarded: for=", "X-Forwarded-For: junk, unknown"]


@pytest.mark.parametrize("field", [*ALONE, *CONTRADICTING])
@pytest.mark.parametrize("name", ["nginx-guide", "haproxy-guide"])
def test_what_a_client_adds_behind_the_proxy_of_everybody_is_not_believed(sites: Sites, name: str, field: str) -> None:
    with Client(sites.ports[name], source=CLIENT) as client:
        response = client.get("/environ/environ", field)
        assert response.status == (400 if field in CONTRADICTING else 200)
        if field in CONTRADICTING:
            response = client.get("/environ/environ")
    environ = answered(response)
    keys = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO")
    assert [environ[key] for key in keys] == [CLIENT, "http", "test", "test", "80", "", "/environ/environ"]


@pytest.mark.parametrize("name", HEADERS)
def test_the_header_of_a_real_proxy_says_who_the_client_is(sites: Sites, name: str) -> None:
    if name not in sites.ports:
        pytest.skip("nginx has no stream module")
    environ = ask(sites.ports[name], False, *FORGED)
    assert [environ[key] for key in ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST")] == [CLIENT, "http", "a.test:8443"]
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(sites.ports[name]))
    assert environ["HTTP_X_FORWARDED_FOR"] == "6.6.6.6"
    assert int(environ["REMOTE_PORT"]) > 0
    sites.proxied.wait_for_log(f'{CLIENT} "GET /environ')


@pytest.mark.daily("threads-1-nginx", "greenlets-1-haproxy")
@pytest.mark.parametrize("front", ["nginx", "haproxy"])
@pytest.mark.parametrize("processes", [1, 3])
def test_a_rolling_restart_behind_a_proxy_loses_nothing(
    backend: tuple[str, ...], tmp_path: Path, front: str, processes: int
) -> None:
    """nginx with kept connections and fields, HAProxy with kept ones that began with a PROXY header."""
    program(front)
    shutil.copy(APPS / "versioned.py", tmp_path)
    deploy(tmp_path, "1")
    flags = ("--proxy-protocol", "on") if front == "haproxy" else ()
    with ExitStack() as stack:
        server = stack.enter_context(
            Server("versioned:app", "--no-access-log", "-p", str(processes), *flags, *backend, cwd=tmp_path)
        )
        where = f"127.0.0.1:{server.port}"
        if front == "nginx":
            ports = stack.enter_context(nginx(tmp_path / "n", site=where))
        else:
            ports = stack.enter_context(haproxy(tmp_path / "h", site=f"{where} send-proxy-v2"))
        idle = stack.enter_context(Client(ports["site"]))
        assert idle.get("/version").body == b"1"
        with Load(ports["site"]) as load:
            load.wait_for(300)
            for version in range(processes):
                restart(server, tmp_path, f"new {version}")
                load.wait_for(300)
        assert load.wrong == []
        assert {b"new %d" % version for version in range(processes)} <= load.bodies
        assert idle.get("/version").body == b"new %d" % (processes - 1)


def warnings(server: Server) -> list[str]:
    return [line.partition(" WARNING ")[2] for line in server.log if " WARNING " in line]


@pytest.mark.daily("threads")
def test_fields_of_a_stranger_stay_ordinary_and_are_explained_once(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "--trusted-proxies", "10.0.0.0/8", "unix", *backend) as server:
        for _ in range(3):
            environ = json.loads(get(server.port, "/environ", *FORGED).body)
        assert server.stop() == 0
    assert (environ["REMOTE_ADDR"], environ["SERVER_PORT"], environ["SCRIPT_NAME"]) == (
        "127.0.0.1",
        str(server.port),
        "",
    )
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("http", "test")
    assert (environ["HTTP_X_FORWARDED_FOR"], environ["HTTP_FORWARDED"]) == ("6.6.6.6", "for=6.6.6.6;host=evil")
    (said,) = warnings(server)
    assert said.endswith("--trusted-proxies 10.0.0.0/8,unix,127.0.0.1")


@pytest.mark.daily("greenlets")
def test_what_is_malformed_or_contradictory_is_said_once_and_escaped(backend: tuple[str, ...]) -> None:
    fields = ["X-Forwarded-For: 1.2.3.4 \xe2\x80\xa8evil\x85", "X-Forwarded-Proto: ftp"]
    with Server("plain:app", *backend) as server:
        for _ in range(2):
            environ = json.loads(get(server.port, "/environ", *fields).body)
            assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("", "http")
            assert get(server.port, "/environ", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=5.6.7.8").status == 400
        assert server.stop() == 0
    malformed, contradiction = warnings(server)
    assert malformed.endswith(r"X-Forwarded-For is malformed: '1.2.3.4 \xe2\x80\xa8evil\x85'")
    assert contradiction.startswith(
        "Forwarded and X-Forwarded-* contradict each other about the client, so the request"
    )


@pytest.mark.parametrize(
    ("listen", "trusted", "warned"),
    [
        ("0.0.0.0:0", "*", True),
        ("0.0.0.0:0", "0.0.0.0/0", True),
        ("127.0.0.1:0", "*", False),
        ("0.0.0.0:0", "::1", False),
    ],
)
def test_trust_of_everybody_on_a_public_listener_is_warned_of(listen: str, trusted: str, warned: bool) -> None:
    with Server("plain:app", "--trusted-proxies", trusted, "--no-gevent", listen=listen) as server:
        environ = json.loads(get(server.port, "/environ", "X-Forwarded-For: 1.2.3.4").body)
        assert server.stop() == 0
    assert (environ["REMOTE_ADDR"] == "1.2.3.4") is (trusted != "::1")
    assert any("name your proxies instead, as in --trusted-proxies" in line for line in warnings(server)) is warned


def test_nobody_cannot_send_a_header() -> None:
    done = run("plain:app", "--trusted-proxies", "none", "--proxy-protocol", "on")
    assert done.returncode == 2
    assert done.stderr.endswith("accepts connections of --trusted-proxies only, and none are trusted; name them\n")


@pytest.mark.daily("threads")
def test_a_request_that_comes_too_late_is_explained(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "--keep-alive-timeout", "0.2", *backend) as server, Client(server.port) as client:
        assert client.get("/hello").status == 200
        assert client.rest() == b""  # its end; a balancer would not have seen it yet
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_for_log("longer than 0.2 s: raise --keep-alive-timeout")


@pytest.mark.daily("greenlets")
def test_signals_reach_servers_that_wait_for_headers(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "--proxy-protocol", "on", *backend) as server, Client(server.port) as client:
        client.send(b"PROXY UNK")
        with Client(server.port) as other:
            other.send(b"PROXY UNKNOWN\r\n")
            assert other.get("/hello").status == 200
            server.signal(signal.SIGTERM)
            wait_for(lambda: not listens(server.port))  # so the end has begun
            client.send(b"NOWN\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = client.read()
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
        client.close()
        assert server.wait() == 0


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can become somebody else")
def test_nginx_of_another_user_reaches_the_socket_that_is_described() -> None:
    """It cannot without the settings of the document, and can with them."""
    program("nginx")
    (line,) = {each for each in DOCUMENT.splitlines() if each.startswith("zibai ") and "--unix-socket-group" in each}
    command = shlex.split(line)
    assert command[2:4] == ["--listen", "unix:/run/hello/hello.sock"]
    if not any(each.gr_name == command[-1] for each in grp.getgrall()):
        pytest.skip("there is no such group")
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)  # those of pytest are root's
        (folder / "hello").mkdir()
        where = f"unix:{folder}/hello/hello.sock"
        with nginx(folder / "n", user=command[-1], site=where) as ports:
            for flags, status in [((), 502), (command[4:], 200)]:
                with Server("plain:app", *flags, listen=where):
                    assert get(ports["site"], "/environ").status == status
    finally:
        shutil.rmtree(folder)
