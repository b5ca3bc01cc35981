"""Tasks over TLS: while a task waits, and when its response is over, TLS may hold what no poller knows of."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from harness import asgi, request, respond, until
from tlsclient import Records, logging_secrets

from zibai.engine.async_stream import HIGH
from zibai.engine.states import CHOKED, STOPPED, TASK
from zibai.engine.task_loop import TaskLoop
from zibai.tls import certificates
from zibai.tls.connection import TLSConnection

from support import DEADLINE, Client, wait_for

if TYPE_CHECKING:
    from credentials import Credentials


class Waiting:
    """An application that responds to ``/wait`` when the test says so, and to everything else at once."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            self.entered.set()
            await until(self.go)
        elif scope["path"] == "/moment":
            await asyncio.sleep(0.02)
        await respond(send)


class Speaker:
    """A client that encrypts by itself, so that the test says what is a record, and what goes out when."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self._until_done(self.tls.do_handshake)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, *records: bytes, goodbye: bool = False) -> None:
        """Send each as a record of its own, all of them at once."""
        for record in records:
            self.tls.write(record)
        if goodbye:
            with pytest.raises(ssl.SSLWantReadError):
                self.tls.unwrap()
        self.socket.sendall(self.outgoing.read())

    def rest(self) -> bytes:
        """Everything until the server says goodbye."""
        data = b""
        while True:
            try:
                piece = self._until_done(self.tls.read)
            except ssl.SSLZeroReturnError:
                return data
            if not piece:
                return data
            data += piece

    def _until_done(self, step: Any) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.socket.sendall(self.outgoing.read())
                self.incoming.write(self.socket.recv(65536) or pytest.fail("the server ends without goodbye"))
            finally:
                self.socket.sendall(self.outgoing.read())


@pytest.mark.parametrize("together", [True, False], ids=["with its request", "while the task waits"])
def test_a_client_that_says_goodbye_is_not_kept(credentials: Credentials, together: bool) -> None:
    """Its end lies behind the request, inside TLS; nothing tells of it once the response is out."""
    app = Waiting()
    with asgi(app, certfile=credentials.server, keep_alive_timeout=4 * DEADLINE) as server:
        with Speaker(server.port, credentials.context()) as client:
            client.say(request("/wait"), goodbye=together)
            assert app.entered.wait(DEADLINE)
            if not together:
                client.say(goodbye=True)
            with Client(server.port, tls=credentials.context()) as other:
                assert other.get("/").body == b"fine"  # the end has come, too
            app.go.set()
            assert client.rest().endswith(b"fine")


class Choking:
    """A client that asks for new keys while its task waits, and takes none."""

    def __init__(self, port: int, credentials: Credentials, keylog: Path) -> None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(DEADLINE)
        plain.connect(("127.0.0.1", port))
        tls = logging_secrets(credentials.context(), keylog).wrap_socket(plain, server_hostname="localhost")
        cipher = tls.cipher()
        assert cipher is not None
        self.records = Records(keylog, cipher[0])
        self.socket = socket.socket(fileno=tls.detach())

    def flood(self, connection: TLSConnection) -> None:
        """Ask for keys until the server reads no more of it."""
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.socket.setblocking(False)
        rest = b""

        def is_choked() -> bool:
            nonlocal rest
            rest = rest or b"".join(self.records.key_update() for _ in range(100))
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                pass  # the server reads no more, or has not read yet
            return connection.sock.choked and connection.pause is CHOKED

        wait_for(is_choked)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The last connection that has read while its task waits, and the turns of the loop."""
    found: dict[str, Any] = {"turns": 0}
    readable, turn = TLSConnection.readable, TaskLoop.turn

    def watch(connection: TLSConnection, now: float) -> None:
        readable(connection, now)
        if connection.state is TASK:
            found["connection"] = connection

    def count(loop: TaskLoop, *, block: bool = True) -> None:
        found["turns"] += 1
        turn(loop, block=block)

    monkeypatch.setattr(TLSConnection, "readable", watch)
    monkeypatch.setattr(TaskLoop, "turn", count)
    return found


def test_what_came_in_small_records_behind_a_request_is_served(
    credentials: Credentials, watched: dict[str, Any]
) -> None:
    """The loop stops reading at 64 KiB. What it had read by then stays inside TLS, and no event tells of that."""
    app = Waiting()
    one = request("/following", "X: " + "a" * 30)
    count = (HIGH + 2000) // len(one)  # no more, or the kernel would have some of it, which is an event
    following = one * count + request("/last", "Connection: close")
    with asgi(app, certfile=credentials.server, keep_alive_timeout=4 * DEADLINE) as server:
        with Speaker(server.port, credentials.context()) as client:
            client.say(request("/wait"))
            assert app.entered.wait(DEADLINE)
            client.say(*(following[at : at + 60] for at in range(0, len(following), 60)))
            wait_for(lambda: "connection" in watched and watched["connection"].pause is STOPPED)
            app.go.set()
            assert client.rest().count(b"HTTP/1.1 200 OK\r\n") == count + 2


@pytest.mark.parametrize("then", ["takes them", "leaves"])
def test_a_client_that_takes_no_keys_does_not_keep_the_loop_busy(
    credentials: Credentials, tmp_path: Path, watched: dict[str, Any], then: str
) -> None:
    app = Waiting()
    with asgi(app, certfile=credentials.server) as server:
        client = Choking(server.port, credentials, tmp_path / "keys")
        with client.socket:
            client.socket.sendall(client.records.data(request("/wait")))
            assert app.entered.wait(DEADLINE)
            client.socket.sendall(client.records.key_update())
            wait_for(lambda: "connection" in watched)
            client.flood(watched["connection"])
            before = watched["turns"]
            with Client(server.port, tls=credentials.context()) as other:
                for _ in range(20):
                    assert other.get("/moment").body == b"fine"
            assert watched["turns"] - before < 20 * 20
            if then == "takes them":
                client.socket.setblocking(True)
                client.socket.settimeout(DEADLINE)
                taken = 0
                while watched["connection"].pause is CHOKED:
                    taken += len(client.socket.recv(65536))
                assert taken
            else:
                client.socket.close()
                wait_for(lambda: watched["connection"].sender.broken)
        app.go.set()


# --- what applications are told ---------------------------------------------------------------------


class Told:
    """Notes what it is told of TLS, and spoils it."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        tls = scope["extensions"].get("tls")
        self.found.append(None if tls is None else {**tls, "client_cert_chain": [*tls["client_cert_chain"]]})
        if tls is not None:
            tls["client_cert_chain"].append("spoiled")
            tls.clear()
        await respond(send, scope["scheme"].encode())


def leaf(path: str) -> str:
    """The first certificate of a file."""
    text = Path(path).read_text()
    begin = text.index("-----BEGIN CERTIFICATE-----")
    end = "-----END CERTIFICATE-----\n"
    return text[begin : text.index(end, begin) + len(end)]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("known", [False, True], ids=["no certificate", "certificate"])
def test_the_scope_tells_of_tls(credentials: Credentials, version: str, known: bool) -> None:
    """ASGI TLS Extension 0.2."""
    app = Told()
    options = {"certfile": credentials.server, "ca_certs": credentials.authority, "cert_reqs": "optional"}
    context = credentials.context(credentials.client if known else "")
    context.maximum_version = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
    context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384")
    with asgi(app, **options) as server, Client(server.port, tls=context) as client:
        assert [client.get("/").body for _ in range(2)] == [b"https"] * 2
        assert isinstance(client.socket, ssl.SSLSocket)
        der = client.socket.getpeercert(binary_form=True)
        assert der is not None
    first, second = app.found
    assert first == second, "what one request does to it, the next does not see"
    assert first.pop("cipher_suite") in ((0xC02C, 0xC030) if version == "1.2" else (0x1301, 0x1302, 0x1303))
    assert first == {
        "server_cert": ssl.DER_cert_to_PEM_cert(der),
        "client_cert_chain": [leaf(credentials.client)] if known else [],
        "client_cert_name": first["client_cert_name"] if known else None,
        "client_cert_error": None,
        "tls_version": 0x0303 if version == "1.2" else 0x0304,
    }
    if known:
        assert first["client_cert_name"].startswith("CN=Ann \\+ Bob,")
        assert "O=M\u00fcller\\, S\u00f6hne" in first["client_cert_name"]


def test_a_renewed_certificate_is_told(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an open connection keeps the one that it was opened with."""
    monkeypatch.setattr(certificates, "FILES_CHECK_INTERVAL", 0.0)
    app = Told()
    path = credentials.issue("renewed")
    before = leaf(path)
    with asgi(app, certfile=path) as server, Client(server.port, tls=credentials.context()) as old:
        old.get("/")
        credentials.issue("renewed")
        with Client(server.port, tls=credentials.context()) as client:
            client.get("/")
        old.get("/")
    assert [found["server_cert"] for found in app.found] == [before, leaf(path), before]
    assert before != leaf(path)


def test_without_tls_nothing_is_told_of_it() -> None:
    """Also where a proxy has spoken TLS with the client."""
    app = Told()
    with asgi(app) as server, Client(server.port) as client:
        assert client.get("/").body == b"http"
        assert client.get("/", "X-Forwarded-Proto: https", "X-Forwarded-For: 10.0.0.1").body == b"https"
    assert app.found == [None, None]
