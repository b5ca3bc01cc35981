"""HTTPS as clients meet it: openssl, curl and Python's ssl, on both backends, through renewals and restarts."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apps.plain import pattern
from load import Load
from support import APPS, DEADLINE, GRACEFUL, ROOT, Client, Gate, Server, get, raw, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credentials import Credentials

BIG = 8 * 1024 * 1024
HELLO = b"Hello World!"
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(scope="module")
def flags(credentials: Credentials, backend: tuple[str, ...]) -> list[str]:
    """Those of a server that takes certificates of clients, and does not insist."""
    return [
        *("--certfile", credentials.server, "--ca-certs", credentials.authority, "--cert-reqs", "optional"),
        *backend,
    ]


@pytest.fixture(scope="module")
def server(flags: list[str]) -> Iterator[Server]:
    with Server("plain:validated", *flags) as server:
        yield server


@pytest.fixture
def context(credentials: Credentials) -> ssl.SSLContext:
    return credentials.context()


def environ(server: Server, tls: ssl.SSLContext, *fields: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(get(server.port, "/environ", *fields, tls=tls).body)
    return found


# --- clients agree ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_python_speaks_both_versions(server: Server, context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with Client(server.port, tls=context) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "http/1.1"
        assert client.socket.compression() is None
        for _ in range(3):
            assert client.get().body == HELLO
        facts = json.loads(client.get("/environ", "SSL-Client-S-DN: CN=forged", "SSL_CLIENT_CERT: forged").body)
        assert client.socket.version() == facts["SSL_PROTOCOL"] == f"TLSv1.{2 if version is V12 else 3}"
        cipher = client.socket.cipher()
        assert cipher is not None
        assert facts["SSL_CIPHER"] == cipher[0]
    assert facts["wsgi.url_scheme"] == "https"
    assert facts["HTTPS"] == "on"
    assert facts["SSL_CLIENT_VERIFY"] == "NONE"
    assert facts["SERVER_PORT"] == str(server.port)
    assert "SSL_CLIENT_CERT" not in facts
    assert "SSL_CLIENT_S_DN" not in facts
    assert facts["HTTP_SSL_CLIENT_S_DN"] == "CN=forged"
    assert server.address == f"https://127.0.0.1:{server.port}"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(server: Server, credentials: Credentials, version: str, tmp_path: Path) -> None:
    curl = shutil.which("curl") or pytest.skip("curl is not installed")
    (body := tmp_path / "body").write_bytes(b"".join(pattern(3_000_000)))
    url = f"https://localhost:{server.port}/echo"
    done = subprocess.run(
        [
            *(curl, "-sS", "--fail", "--ipv4", "--cacert", credentials.authority, f"--tlsv{version}"),
            *("--tls-max", version, "--data-binary", f"@{body}", "-w", "%{http_version} %{ssl_verify_result}\\n"),
            *(url, "-o", str(tmp_path / "first"), "--next", "-sS", "--cacert", credentials.authority, "--ipv4"),
            *("--cert", credentials.client, url.replace("echo", "environ")),
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    first, _, rest = done.stdout.partition("\n")
    assert first == "1.1 0"
    assert (tmp_path / "first").read_bytes() == body.read_bytes()
    assert json.loads(rest)["SSL_CLIENT_VERIFY"] == "SUCCESS"


REQUEST = "GET /environ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def s_client(server: Server, *options: str, text: str = REQUEST) -> str:
    """What openssl says, and the answer."""
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    done = subprocess.run(
        [openssl, "s_client", "-connect", f"127.0.0.1:{server.port}", "-ign_eof", *options],
        input=text,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_openssl(server: Server, credentials: Credentials, version: str) -> None:
    wanted = ("-CAfile", credentials.authority, "-verify_return_error", "-servername", "localhost")
    said = s_client(server, f"-tls{version.replace('.', '_')}", "-alpn", "h2,http/1.1", *wanted)
    assert "Verify return code: 0 (ok)" in said
    assert "ALPN protocol: http/1.1" in said
    assert "Compression: NONE" in said
    assert f'"SSL_PROTOCOL": "TLSv{version}"' in said
    if version == "1.2":
        assert "Secure Renegotiation IS supported" in said, "which is that it cannot be inserted, not that it may be"


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_sessions_are_resumed(server: Server, context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    context.minimum_version = context.maximum_version = version
    session = None
    reused = []
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as plain:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as sock:
                sock.sendall(REQUEST.encode())
                while sock.recv(65536):
                    pass
                reused.append(sock.session_reused)
                session = sock.session  # of TLS 1.3, it comes with what is read
    assert reused == [False, True, True]


def test_a_resumed_session_has_its_certificate(server: Server, credentials: Credentials) -> None:
    context = credentials.context(credentials.client)
    session = None
    for reused in (False, True):
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as plain:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as sock:
                sock.sendall(REQUEST.encode())
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
                assert sock.session_reused is reused
                session = sock.session
        assert b'"SSL_CLIENT_VERIFY": "SUCCESS"' in answer
        assert b'"SSL_CLIENT_S_DN": "CN=Ann' in answer


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offer",
    [
        ("-tls1",),
        ("-tls1_1",),
        ("-tls1_2", "-cipher", "AES128-SHA:AES256-SHA:AES128-GCM-SHA256"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-CAMELLIA128-SHA256:DHE-RSA-AES128-SHA:PSK-AES128-CBC-SHA"),
        ("-tls1_2", "-cipher", "NULL:aNULL"),
    ],
    ids=lambda words: words[-1],
)
def test_nothing_weak_is_spoken(server: Server, offer: tuple[str, ...]) -> None:
    weak = (*offer[:-1], offer[-1] + ":@SECLEVEL=0") if "-cipher" in offer else (*offer, "-cipher", "ALL:@SECLEVEL=0")
    said = s_client(server, *weak)
    assert "Cipher is (NONE)" in said or "Cipher    : 0000" in said, said
    assert "HTTP/1.1" not in said
    assert get_plainly(server) == 400  # it lives


def get_plainly(server: Server) -> int:
    return get(server.port).status


def test_nobody_renegotiates(server: Server) -> None:
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    command = [openssl, "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        # Its input stays open, and it has commands, of which R is one.
        client.stdin.write(b"R\n")
        client.stdin.flush()
        said = client.stdout.read()
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said


def test_keys_may_be_changed_on_the_way(server: Server) -> None:
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    command = [openssl, "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for number in range(3):
            # K is a command where nothing comes before it: the other side is to change its key, too.
            for line, answer in ((b"K\n", b"KEYUPDATE"), (REQUEST.encode(), b"SERVER_SOFTWARE")):
                closing = b"close" if number == 2 else b"keep-alive"
                client.stdin.write(line.replace(b"close", closing))
                client.stdin.flush()
                said = b""
                while answer not in said:
                    said += (piece := os.read(client.stdout.fileno(), 65536))
                    assert piece, said
        client.stdout.read()


def test_plain_http_is_answered_plainly(server: Server) -> None:
    answer = get(server.port)
    assert (answer.status, answer.headers["Connection"]) == (400, "close")
    assert b"this port speaks TLS; use https" in answer.body


def test_the_oldest_version_can_be_1_3(credentials: Credentials, context: ssl.SSLContext) -> None:
    with Server("plain:app", "--certfile", credentials.server, "--tls-min-version", "1.3", "--no-gevent") as server:
        assert get(server.port, tls=context).body == HELLO
        context.maximum_version = V12
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            get(server.port, tls=context)


# --- certificates of clients ------------------------------------------------------------------------


def test_the_application_knows_the_client(server: Server, credentials: Credentials) -> None:
    facts = environ(server, credentials.context(credentials.client))
    own = Path(credentials.client).read_text(encoding="ascii")
    assert facts["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert facts["SSL_CLIENT_CERT"] in own
    assert facts["SSL_CLIENT_CERT"].startswith("-----BEGIN CERTIFICATE-----\n")
    # As native strings have it: bytes of UTF-8, each as one character.
    subject = facts["SSL_CLIENT_S_DN"].encode("latin-1").decode()
    assert subject.startswith("CN=Ann \\+ Bob,OU=")
    assert subject.endswith(",O=Müller\\, Söhne")
    assert facts["SSL_CLIENT_I_DN"].encode("latin-1").decode() == 'OU=é,O=Test\\, \\"Authority\\"'
    decoded = ssl._ssl._test_decode_cert(credentials.client)  # type: ignore[attr-defined]
    assert facts["SSL_CLIENT_M_SERIAL"] == decoded["serialNumber"]
    assert facts["SSL_CLIENT_V_START"] == decoded["notBefore"]
    assert facts["SSL_CLIENT_V_END"] == decoded["notAfter"]


def test_a_stranger_is_refused(server: Server, credentials: Credentials) -> None:
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        get(server.port, tls=credentials.context(credentials.stranger))


@pytest.mark.daily("threads")
def test_a_certificate_may_be_required(credentials: Credentials, flags: list[str]) -> None:
    required = [flag if flag != "optional" else "required" for flag in flags]
    with Server("plain:app", *required) as server:
        for version in (V12, V13):
            context = credentials.context()
            context.minimum_version = context.maximum_version = version
            with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"):
                get(server.port, tls=context)
            context.load_cert_chain(credentials.client)
            assert environ(server, context)["SSL_CLIENT_VERIFY"] == "SUCCESS"


# --- bodies, and what waits -------------------------------------------------------------------------


def checksum(size: int) -> str:
    digest = hashlib.sha256()
    for chunk in pattern(size):
        digest.update(chunk)
    return digest.hexdigest()


@pytest.mark.daily("threads-streamed", "greenlets-whole")
@pytest.mark.parametrize("streamed", [(), ("--stream-request-body",)], ids=["whole", "streamed"])
def test_big_bodies_both_ways(flags: list[str], context: ssl.SSLContext, streamed: tuple[str, ...]) -> None:
    with Server("plain:validated", *flags, *streamed) as server:
        client = http.client.HTTPSConnection("localhost", server.port, timeout=DEADLINE, context=context)
        client.request("POST", "/checksum", body=pattern(BIG), headers={"Content-Length": str(BIG)})
        assert client.getresponse().read().decode() == f"{checksum(BIG)} {BIG}"
        client.request("POST", "/checksum", body=pattern(BIG))  # chunked
        assert client.getresponse().read().decode() == f"{checksum(BIG)} {BIG}"
        client.request("GET", f"/download?size={BIG}")
        digest = hashlib.sha256(client.getresponse().read())
        assert digest.hexdigest() == checksum(BIG)
        client.close()
        with Client(server.port, tls=context) as both:
            # The answer comes while the request goes: a runner sends and receives, the loop sends in its stead.
            size = 4_000_000
            head = f"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
            both.send(head.encode())
            for chunk in pattern(size):
                both.send(chunk)
            assert both.read().body == b"".join(pattern(size))
            assert both.rest() == b""


def test_idle_connections_are_served_again(server: Server, context: ssl.SSLContext) -> None:
    clients = [Client(server.port, tls=context) for _ in range(50)]
    try:
        for _ in range(2):
            for client in clients:
                assert client.get().body == HELLO
        for client in clients:
            # Two requests in one record, the second in two.
            request = b"GET /path/x HTTP/1.1\r\nHost: a\r\n\r\n"
            client.send(request + request[:10])
            client.send(request[10:])
            assert [client.read().body for _ in range(2)] == [b"/path/x"] * 2
    finally:
        for client in clients:
            client.close()


def test_an_answer_that_is_cut_is_seen_to_be(server: Server, context: ssl.SSLContext) -> None:
    with Client(server.port, tls=context) as client:
        client.send(b"GET /cut HTTP/1.0\r\nHost: a\r\n\r\n")
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            client.rest()


@pytest.mark.daily("threads")
def test_a_unix_socket_stays_plain(flags: list[str], tmp_path: Path, context: ssl.SSLContext) -> None:
    if sys.platform == "win32":
        pytest.skip("unix sockets")
    path = tmp_path / "s"
    with Server("plain:app", *flags, "--listen", f"unix:{path}") as server:
        assert json.loads(get(path, "/environ").body)["wsgi.url_scheme"] == "http"
        assert environ(server, context)["wsgi.url_scheme"] == "https"


# --- files that change, workers that change -----------------------------------------------------------


def serial(server: Server, context: ssl.SSLContext) -> str:
    with Client(server.port, tls=context) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        found = client.socket.getpeercert()
        assert found
        return str(found["serialNumber"])


@pytest.mark.daily("greenlets")
def test_a_renewed_certificate_is_used_without_a_restart(
    credentials: Credentials, backend: tuple[str, ...], tmp_path: Path, context: ssl.SSLContext
) -> None:
    site = tmp_path / "site.pem"
    shutil.copy(credentials.server, site)
    with Server("plain:app", "--certfile", str(site), *backend) as server, Client(server.port, tls=context) as old:
        assert old.get().body == HELLO
        first = serial(server, context)
        site.write_text("-----BEGIN CERTIFICATE----- half of it", encoding="ascii")
        wait_for(lambda: (serial(server, context), "the old certificate stays in use" in "\n".join(server.log))[1])
        assert serial(server, context) == first
        os.replace(credentials.issue("renewed"), site)
        wait_for(lambda: serial(server, context) != first)
        server.wait_for_log("has changed and is in use")
        assert old.get().body == HELLO


MOVING = """
import os
os.chdir("elsewhere")

def app(environ, start_response):
    os.chdir(environ["QUERY_STRING"] or ".")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.daily("threads-preload")
@pytest.mark.parametrize("processes", [(), ("-p", "1"), ("-p", "1", "--preload")], ids=["single", "worker", "preload"])
def test_an_application_may_change_the_directory(
    credentials: Credentials,
    backend: tuple[str, ...],
    processes: tuple[str, ...],
    tmp_path: Path,
    context: ssl.SSLContext,
) -> None:
    """Relative paths start where the server was started, also for a renewed certificate, and are shown as typed."""
    if "--preload" in processes and sys.platform == "win32":
        pytest.skip("it forks")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "moving.py").write_text(MOVING, encoding="ascii")
    site = tmp_path / "site.pem"
    shutil.copy(credentials.server, site)
    flags = ("--certfile", "site.pem", "--keyfile", "site.pem", *processes, *backend)
    with Server("moving:app", *flags, cwd=tmp_path) as server:
        first = serial(server, context)
        with Client(server.port, tls=context) as client:
            assert client.get(f"/?{tmp_path.parent}").body == b"ok"
        site.write_text("-----BEGIN CERTIFICATE----- half of it", encoding="ascii")
        wait_for(lambda: (serial(server, context), "the old certificate stays in use" in "\n".join(server.log))[1])
        assert "'site.pem'" in server.wait_for_log("the old certificate stays in use")
        os.replace(credentials.issue("moved"), site)
        wait_for(lambda: serial(server, context) != first)


@pytest.mark.daily("greenlets")
@pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP")
def test_a_release_with_the_wrong_key_changes_nothing(
    credentials: Credentials, backend: tuple[str, ...], tmp_path: Path, context: ssl.SSLContext
) -> None:
    """Certificate and key lie behind a link, as renewals put them; the old workers keep serving with the old ones."""

    def release(name: str, certificate: Path, key: Path) -> None:
        (tmp_path / name).mkdir()
        shutil.copy(certificate, tmp_path / name / "cert.pem")
        shutil.copy(key, tmp_path / name / "key.pem")
        os.symlink(name, tmp_path / "next")
        os.replace(tmp_path / "next", tmp_path / "live")

    other = credentials.issue("other")
    release("1", credentials.server, credentials.server)
    live = tmp_path / "live"
    flags = ("--certfile", str(live / "cert.pem"), "--keyfile", str(live / "key.pem"), "-p", "2", *backend)
    with Server("plain:app", *flags) as server:
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 2)
        first, old = serial(server, context), set(server.children())
        release("2", credentials.server, other)
        server.signal(signal.SIGHUP)
        server.wait_for_log("restart aborted")
        wait_for(lambda: set(server.children()) == old)
        assert serial(server, context) == first
        release("3", other, other)
        wait_for(lambda: serial(server, context) != first)
        server.signal(signal.SIGHUP)
        server.wait_for_log("restart done")
        assert serial(server, context) != first
    assert "is not the key" in "\n".join(server.log)
    assert "" not in server.log, "there is no traceback, and no line for it"


@pytest.mark.daily("threads")
@pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP")
def test_restarts_under_load_lose_nothing(flags: list[str], tmp_path: Path, context: ssl.SSLContext) -> None:
    shutil.copy(APPS / "versioned.py", tmp_path)
    (tmp_path / "version.txt").write_text("1", encoding="ascii")
    with (
        Server("versioned:app", "--no-access-log", "-p", "2", *flags, cwd=tmp_path) as server,
        Load(server.port, tls=context) as load,
    ):
        for version in ("2", "3"):
            load.wait_for(150)
            old = set(server.children())
            (tmp_path / "version.txt").write_text(version, encoding="ascii")
            server.signal(signal.SIGHUP)
            wait_for(lambda: len(now := set(server.children())) == len(old) and not now & old)  # noqa: B023
            load.wait_for(150)
    assert load.wrong == []


@pytest.mark.daily("greenlets")
def test_a_graceful_end_finishes_what_runs(flags: list[str], context: ssl.SSLContext) -> None:
    with Server("plain:app", *flags) as server, Gate() as gate:
        with Client(server.port, tls=context) as busy, Client(server.port, tls=context) as idle:
            assert idle.get().body == HELLO
            busy.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            request = gate.arrival()
            server.signal(GRACEFUL)
            assert idle.rest() == b"", "with close_notify, or it would be an error"
            request.close()
            answer = busy.read()
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            assert busy.rest() == b""
        assert server.wait() == 0


# --- redirect, development, mistakes ------------------------------------------------------------------


@pytest.mark.daily("greenlets")
def test_plain_http_is_redirected(flags: list[str], context: ssl.SSLContext) -> None:
    flags = [*flags, "-p", "1", "--redirect-http", "127.0.0.1:0", "--graceful-exit-timeout", "1"]
    with Server("plain:app", *flags) as server:
        line = server.wait_for_log("redirecting http://")
        found = re.search(r"http://127.0.0.1:(\d+) to https", line)
        assert found
        port = int(found[1])
        assert port != server.port
        answer = get(port, "/path/a%20b?c=d")
        assert answer.status == 308
        assert answer.headers["Location"] == f"https://test:{server.port}/path/a%20b?c=d"
        posted = raw(port, b"POST /echo HTTP/1.1\r\nHost: localhost:80\r\nContent-Length: 4\r\n\r\nbody")
        assert posted.startswith(b"HTTP/1.1 308 ")
        assert f"\r\nLocation: https://localhost:{server.port}/echo\r\n".encode() in posted
        assert raw(port, b"GET / HTTP/1.1\r\nHost: evil\\@x/\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        if sys.platform != "win32":
            # An idle client of it is not one of the application's for the next worker.
            with Client(port) as idle:
                old = set(server.children())
                server.signal(signal.SIGHUP)
                wait_for(lambda: (now := set(server.children())) and not now & old)
                assert idle.rest() == b""
            assert get(port).status == 308
        assert get(server.port, tls=context).body == HELLO
        server.wait_for_log('"GET / HTTP/1.1" 308')


@pytest.mark.daily("greenlets-0")
@pytest.mark.parametrize("processes", [0, 2])
def test_plain_requests_change_nothing_for_those_by_https(
    flags: list[str], context: ssl.SSLContext, processes: int
) -> None:
    flags = [*flags, "-p", str(processes), "--url-prefix", "/shop", "--redirect-http", "127.0.0.1:0"]
    with Server("plain:app", *flags) as server:
        found = re.search(r":(\d+) to https", server.wait_for_log("redirecting http://"))
        assert found
        for _ in range(4):
            assert get(int(found[1]), "/shop/environ").status == 308
            facts = json.loads(get(server.port, "/shop/environ", tls=context).body)
            assert (facts["SCRIPT_NAME"], facts["PATH_INFO"]) == ("/shop", "/environ")


@pytest.mark.daily("greenlets")
def test_a_certificate_for_development(backend: tuple[str, ...]) -> None:
    if find_spec("trustme") is None:
        pytest.skip("trustme is not installed")
    with Server("plain:app", "--tls-dev", "-p", "1", *backend) as server:
        authority = server.wait_for_log("for development only").rpartition(" ")[2]
        context = ssl.create_default_context(cafile=authority)
        assert get(server.port, tls=context).body == HELLO
        folder = Path(authority).parent
        if sys.platform != "win32":
            assert folder.stat().st_mode & 0o077 == 0
        assert server.stop() == 0
        assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--certfile", "nowhere.pem"], "zibai: error: --certfile: 'nowhere.pem': No such file or directory\n"),
        (["--keyfile", "nowhere.pem"], "zibai: error: --keyfile needs --certfile\n"),
        (["--certfile", "SERVER", "--ciphers", "NONE"], "zibai: error: --ciphers: OpenSSL knows no cipher in 'NONE'\n"),
    ],
)
def test_a_mistake_is_one_line_before_any_worker(credentials: Credentials, words: list[str], message: str) -> None:
    words = [credentials.server if word == "SERVER" else word for word in words]
    done = run("plain:app", "--listen", "127.0.0.1:0", "-p", "2", *words)
    assert done.returncode == 2
    assert done.stderr.endswith(message)
    assert "Traceback" not in done.stderr
    assert "ready" not in done.stderr


def test_without_trustme_the_extra_is_named(tmp_path: Path) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'trustme'\", name='trustme')"
    (tmp_path / "trustme.py").write_text(missing, encoding="ascii")
    done = run("plain:app", "--listen", "127.0.0.1:0", "--tls-dev", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert done.returncode == 2
    assert done.stderr.endswith("zibai: error: --tls-dev needs trustme; pip install 'zibai-server[tls-dev]'\n")


# --- behind a balancer that only forwards -----------------------------------------------------------


def test_the_proxy_header_comes_before_the_handshake(credentials: Credentials, backend: tuple[str, ...]) -> None:
    with Server("plain:app", "--certfile", credentials.server, "--proxy-protocol", "on", *backend) as server:
        found = []
        for header in (
            b"PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\r\n",
            b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x08\xcb\x00\x71\x01\x12\x67\x01\xbb",
        ):
            with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as sock:
                for byte in header:  # one at a time: not a byte of the handshake may be taken for it, or the reverse
                    sock.send(bytes([byte]))
                with credentials.context().wrap_socket(sock, server_hostname="localhost") as secured:
                    secured.sendall(b"GET /environ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    answer = b"".join(iter(lambda: secured.recv(65536), b""))
            facts = json.loads(answer.partition(b"\r\n\r\n")[2])
            found.append((facts["REMOTE_ADDR"], facts["wsgi.url_scheme"]))
        assert found == [("198.51.100.7", "https"), ("198.51.100.8", "https")]
