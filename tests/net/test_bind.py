"""Listeners: what can be bound, what is refused in one line, and what happens to the file of a unix socket."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from zibai.errors import BindError, UsageError
from zibai.net import unix_socket as sockets
from zibai.net.bind import create_bind_socket, describe, listen
from zibai.net.listener import Listener
from zibai.net.unix_socket import unlink_unix_socket
from zibai.system.machine import raise_descriptor_limit

posix = pytest.mark.skipif(sys.platform == "win32", reason="no unix sockets there")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")

Bind = Callable[..., socket.socket]


@pytest.fixture
def bind() -> Iterator[Bind]:
    """``create_bind_socket``, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(create_bind_socket(*args, **options))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short name: pytest's own is too long for a socket on macOS."""
    with tempfile.TemporaryDirectory(prefix="z") as name:
        yield Path(name)


def connect(sock: socket.socket) -> None:
    with socket.socket(sock.family, socket.SOCK_STREAM) as client:
        client.connect(sock.getsockname())


# --- tcp --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "family", "host"),
    [
        ("127.0.0.1:0", socket.AF_INET, "127.0.0.1"),
        ("localhost:0", socket.AF_INET, "127.0.0.1"),
        (":0", socket.AF_INET, "0.0.0.0"),
        pytest.param("[::1]:0", socket.AF_INET6, "[::1]", marks=ipv6),
        pytest.param("[::]:0", socket.AF_INET6, "[::]", marks=ipv6),
    ],
)
def test_binds_and_listens(bind: Bind, value: str, family: socket.AddressFamily, host: str) -> None:
    sock = bind(value)
    port = sock.getsockname()[1]
    assert sock.family == family
    assert sock.type == socket.SOCK_STREAM
    assert port > 0
    assert not sock.get_inheritable()
    assert describe(sock) == f"http://{host}:{port}"
    assert describe(sock, "https") == f"https://{host}:{port}"
    listen(sock, 5)
    if host not in ("0.0.0.0", "[::]"):
        connect(sock)


@pytest.mark.skipif(sys.platform == "win32", reason="not known to be inherited from the listener")
@pytest.mark.parametrize("value", ["127.0.0.1:0", pytest.param("[::1]:0", marks=ipv6)])
def test_connections_ask_silent_clients_whether_they_are_there(bind: Bind, value: str) -> None:
    sock = bind(value)
    listen(sock, 5)
    with socket.create_connection(sock.getsockname()[:2]), sock.accept()[0] as accepted:
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, every, count = (accepted.getsockopt(socket.IPPROTO_TCP, name) for name in names)
            assert idle + every * count == 120


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")
def test_a_listener_that_was_passed_on_keeps_its_times(bind: Bind) -> None:
    sock = bind("127.0.0.1:0")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7)
    listen(sock, 5)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7


def test_does_not_listen_by_itself(bind: Bind) -> None:
    sock = bind("127.0.0.1:0")
    with pytest.raises(ConnectionRefusedError):
        connect(sock)


@ipv6
@pytest.mark.parametrize("value", [":0", "[::]:0"])
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no dual stack on this system")
def test_dual_stack(bind: Bind, value: str) -> None:
    sock = bind(value, dualstack_ipv6=True)
    listen(sock, 5)
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    port = sock.getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port)).close()


class Without6(socket.socket):
    """The sockets of a system without IPv6."""

    missing: ClassVar[int]

    def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
        if family == socket.AF_INET6 and self.missing == errno.EAFNOSUPPORT:
            raise OSError(self.missing, os.strerror(self.missing))
        super().__init__(family, *args, **kwargs)

    def bind(self, address: Any) -> None:
        if ":" in address[0]:
            raise OSError(self.missing, os.strerror(self.missing))  # IPv6 is there, and switched off
        super().bind(address)


@pytest.mark.parametrize("missing", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize("value", [":0", "[::]:0"])
def test_dual_stack_without_ipv6_is_ipv4(
    bind: Bind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str, missing: int
) -> None:
    monkeypatch.setattr(Without6, "missing", missing, raising=False)
    monkeypatch.setattr(socket, "socket", Without6)
    sock = bind(value, dualstack_ipv6=True)
    assert sock.getsockname()[0] == "0.0.0.0"
    assert ["this system has no IPv6" in record.getMessage() for record in caplog.records] == [True]
    for other in ("[::1]:0", "[::]:0"):
        with pytest.raises(BindError):  # who asks for IPv6 alone must not get something else
            bind(other, dualstack_ipv6=other == "[::1]:0")


@ipv6
def test_ipv6_alone(bind: Bind) -> None:
    assert bind("[::]:0").getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


@posix
def test_the_port_can_be_had_again_but_never_shared(bind: Bind) -> None:
    sock = bind("127.0.0.1:0")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) != 0
    if hasattr(socket, "SO_REUSEPORT"):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_windows_binds_exclusively(monkeypatch: pytest.MonkeyPatch, bind: Bind) -> None:
    """There SO_REUSEADDR would take the port of another server; 15 stands for a constant that only Windows has."""
    options = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", 15, raising=False)
    monkeypatch.setattr(socket.socket, "setsockopt", lambda self, *option: options.append(option))
    bind("127.0.0.1:0")
    assert options == [(socket.SOL_SOCKET, 15, 1)]


def test_a_taken_port_is_one_line(bind: Bind) -> None:
    first = bind("127.0.0.1:0")
    listen(first, 5)
    taken = f"127.0.0.1:{first.getsockname()[1]}"
    with pytest.raises(BindError) as caught:
        bind(taken)
    assert str(caught.value) == f"{taken} is in use; stop what listens there, or choose another address"
    assert caught.value.exit_code == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the second cannot even be bound")
def test_two_bound_sockets_cannot_both_listen(bind: Bind) -> None:
    first = bind("127.0.0.1:0")
    taken = f"127.0.0.1:{first.getsockname()[1]}"
    second = bind(taken)
    listen(first, 5)
    with pytest.raises(BindError, match=rf"^{taken} is in use; "):
        listen(second, 5)


@pytest.mark.parametrize("value", ["host.invalid:80", f"{'a' * 70}.b:80", "a..b:80", "[not-an-address::]:80"])
def test_unknown_host(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    original = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "host.invalid":  # no name server is asked by a test
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return original(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(BindError) as caught:
        create_bind_socket(value)
    assert str(caught.value).startswith(f"cannot listen on {value}: unknown host '")


def test_an_address_of_another_machine() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737) and nobody's
    with pytest.raises(BindError, match=r"^cannot listen on 192\.0\.2\.1:80: this machine has no such address$"):
        create_bind_socket("192.0.2.1:80")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "no permission to listen on 127.0.0.1:80; choose another address"),
        (errno.ENOBUFS, f"cannot listen on 127.0.0.1:80: {os.strerror(errno.ENOBUFS)}"),
    ],
)
def test_what_the_system_refuses(monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    """Also: the socket is closed, or the warning of its collection fails this test."""

    def refuse(self: socket.socket, address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(BindError) as caught:
        create_bind_socket("127.0.0.1:80")
    assert str(caught.value) == message


def test_a_name_whose_first_address_is_not_here(monkeypatch: pytest.MonkeyPatch, bind: Bind) -> None:
    tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    found = [(socket.AF_INET, *tcp, (host, 0)) for host in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    assert bind("twins:0").getsockname()[0] == "127.0.0.1"


def test_a_name_with_both_kinds_of_address_gets_ipv4(monkeypatch: pytest.MonkeyPatch, bind: Bind) -> None:
    tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    found = [(socket.AF_INET6, *tcp, ("::1", 0, 0, 0)), (socket.AF_INET, *tcp, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    assert bind("localhost:0").family == socket.AF_INET


@pytest.mark.parametrize("value", ["", "8000", "example:app", "::1:80", "unix:"])
def test_malformed(value: str) -> None:
    with pytest.raises(UsageError, match="is no address; write HOST:PORT"):
        create_bind_socket(value)


# --- unix -------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("perms", [0o600, 0o666])
def test_a_unix_socket_has_its_permissions_before_anybody_can_connect(bind: Bind, folder: Path, perms: int) -> None:
    path = folder / "s"
    umask = os.umask(0o077)
    try:
        sock = bind(f"unix:{path}", unix_socket_perms=perms)
    finally:
        assert os.umask(umask) == 0o077, "the umask is not ours to change"
    assert stat.S_IMODE(path.stat().st_mode) == perms
    with pytest.raises(ConnectionRefusedError):
        connect(sock)
    listen(sock, 5)
    connect(sock)
    assert describe(sock) == describe(sock, "https") == f"unix:{path}"


@posix
def test_a_unix_socket_has_its_group(bind: Bind, folder: Path) -> None:
    import grp

    others = [gid for gid in os.getgroups() if gid != os.getgid()] or ([12345] if os.geteuid() == 0 else [os.getgid()])
    bind(f"unix:{folder / 'a'}", unix_socket_group=str(others[0]))
    assert (folder / "a").stat().st_gid == others[0]
    bind(f"unix:{folder / 'b'}", unix_socket_group=grp.getgrgid(os.getgid()).gr_name)
    assert (folder / "b").stat().st_gid == os.getgid()
    with pytest.raises(UsageError, match="--unix-socket-group: there is no group 'no-such-group'"):
        bind(f"unix:{folder / 'c'}", unix_socket_group="no-such-group")
    assert not (folder / "c").exists()


@posix
def test_a_group_that_it_may_not_have_is_an_error(bind: Bind, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(BindError, match=r"no permission to give unix:\S+ to the group 12345; start the server as a"):
        bind(f"unix:{folder / 's'}", unix_socket_group="12345")
    assert not (folder / "s").exists()


@posix
def test_a_stale_socket_is_replaced(bind: Bind, folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    listen(bind(f"unix:{path}"), 5)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@posix
def test_a_socket_in_use_is_left_alone(bind: Bind, folder: Path) -> None:
    path = folder / "s"
    sock = bind(f"unix:{path}")
    listen(sock, 5)
    with pytest.raises(BindError, match=rf"^unix:{path} is in use; "):
        bind(f"unix:{path}")
    connect(sock)


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog refuses elsewhere")
def test_a_busy_server_is_in_use_too(bind: Bind, folder: Path) -> None:
    sock = bind(f"unix:{folder / 's'}")
    listen(sock, 0)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(folder / "s"))
        with pytest.raises(BindError, match="is in use"):
            bind(f"unix:{folder / 's'}")


@posix
@pytest.mark.parametrize("make", [lambda path: path.write_text("precious"), lambda path: path.mkdir()])
def test_what_is_no_socket_survives(bind: Bind, folder: Path, make: Callable[[Path], object]) -> None:
    path = folder / "precious"
    make(path)
    before = path.stat()
    with pytest.raises(BindError) as caught:
        bind(f"unix:{path}")
    assert str(caught.value) == f"cannot listen on unix:{path}: the path exists and is no socket; move it away"
    assert path.stat() == before


@posix
def test_a_link_survives(bind: Bind, folder: Path) -> None:
    link = folder / "link"
    link.symlink_to(folder / "nothing")
    with pytest.raises(BindError, match="no socket"):
        bind(f"unix:{link}")
    assert link.is_symlink()


@posix
def test_a_socket_of_another_type_survives(bind: Bind, folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(BindError, match=rf"^cannot listen on unix:{path}: "):
            bind(f"unix:{path}")
        assert path.is_socket()


@posix
def test_paths_that_cannot_be(bind: Bind, folder: Path) -> None:
    with pytest.raises(BindError, match=r"^cannot listen on unix:.*: AF_UNIX path too long$"):
        bind(f"unix:{folder / ('x' * 200)}")
    with pytest.raises(BindError, match=r"/s: No such file or directory$"):
        bind(f"unix:{folder / 'no' / 's'}")


@posix
def test_a_unix_socket_is_never_found_with_other_permissions(
    monkeypatch: pytest.MonkeyPatch, bind: Bind, folder: Path
) -> None:
    """And nothing follows a link that somebody puts in its place."""

    def refuse(path: str, *args: object, **more: object) -> None:
        raise AssertionError("no window")

    monkeypatch.setattr(os, "chmod", refuse)
    for perms in (0o600, 0o660, 0o777):
        bind(f"unix:{folder / str(perms)}", unix_socket_perms=perms)
        assert stat.S_IMODE((folder / str(perms)).stat().st_mode) == perms


@posix
def test_nothing_is_left_when_it_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch, bind: Bind, folder: Path) -> None:
    lstat = os.lstat

    def refuse(path: str) -> os.stat_result:
        lstat(path)  # it is not there before the bind
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", refuse)
        with pytest.raises(BindError, match=r"^no permission to listen on unix:"):
            bind(f"unix:{folder / 's'}")
    assert not (folder / "s").exists()


def test_no_unix_sockets_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UsageError) as caught:
        create_bind_socket("unix:/tmp/x")
    assert str(caught.value) == "unix:/tmp/x: there are no unix sockets on this system; listen on HOST:PORT"


@posix
def test_the_file_is_removed_once(monkeypatch: pytest.MonkeyPatch, bind: Bind, folder: Path) -> None:
    monkeypatch.chdir(folder)
    sock = bind("unix:here")
    monkeypatch.chdir("/")  # a relative path means what it meant at first
    unlink_unix_socket(sock)
    assert not (folder / "here").exists()
    (folder / "here").touch()
    unlink_unix_socket(sock)
    assert (folder / "here").exists()


@posix
@pytest.mark.parametrize("successor", [None, "file", "socket"])
def test_only_the_file_that_we_made_is_removed(bind: Bind, folder: Path, successor: str | None) -> None:
    path = folder / "s"
    sock = bind(f"unix:{path}")
    path.unlink()
    if successor == "file":
        path.touch()
    elif successor == "socket":
        bind(f"unix:{path}")
    unlink_unix_socket(sock)
    assert path.exists() is (successor is not None)


@posix
def test_only_the_process_that_made_it_removes_it(monkeypatch: pytest.MonkeyPatch, bind: Bind, folder: Path) -> None:
    path = folder / "s"
    sock = bind(f"unix:{path}")
    with socket.socket(fileno=os.dup(sock.fileno())) as inherited:  # what a spawned worker has
        unlink_unix_socket(inherited)
    assert path.exists()
    with monkeypatch.context() as forked:  # what a forked worker has
        forked.setattr(sockets, "_socket_files", copy.copy(sockets._socket_files))
        forked.setattr(os, "getpid", lambda: -1)
        unlink_unix_socket(sock)
    assert path.exists()
    unlink_unix_socket(sock)
    assert not path.exists()


@posix
@pytest.mark.parametrize("answered", [True, False])
def test_a_shared_file_goes_when_nobody_answers(bind: Bind, folder: Path, answered: bool) -> None:
    path = folder / "s"
    sock = bind(f"unix:{path}")
    listen(sock, 5)
    made = sockets.socket_file(sock)
    assert made is not None
    with socket.socket(fileno=os.dup(sock.fileno())) as successor:
        sockets.take_socket_file(successor, *made[:3])
        sock.close()
        if not answered:
            successor.close()
        unlink_unix_socket(sock, shared=True)
        assert path.exists() is answered
        successor.close()
        unlink_unix_socket(successor, shared=True)
        assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
def test_an_abstract_socket_has_a_name_and_no_file() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"\0zibai-test-{os.getpid()}")
        assert describe(sock) == f"unix:@zibai-test-{os.getpid()}"
        assert sockets.socket_file(sock) is None


def test_tcp_has_no_file(bind: Bind) -> None:
    unlink_unix_socket(bind("127.0.0.1:0"))


@posix
def test_a_collected_socket_is_forgotten(folder: Path) -> None:
    gc.collect()  # what earlier tests have left is not to go meanwhile
    before = len(sockets._socket_files)
    create_bind_socket(f"unix:{folder / 's'}").close()
    assert len(sockets._socket_files) == before


# --- descriptors ------------------------------------------------------------------------------------


class Limit:
    """A stand-in for ``resource``."""

    RLIMIT_NOFILE = 7
    RLIM_INFINITY = 2**63 - 1

    def __init__(self, soft: int, hard: int, ceiling: int) -> None:
        self.limits, self.ceiling = (soft, hard), ceiling

    def getrlimit(self, which: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        if limits[0] > self.ceiling:
            raise ValueError("current limit exceeds maximum limit")
        self.limits = limits


@posix
@pytest.mark.parametrize(
    ("soft", "hard", "ceiling", "raised"),
    [
        (1024, 4096, 4096, 4096),
        (4096, 4096, 4096, 4096),
        (256, Limit.RLIM_INFINITY, Limit.RLIM_INFINITY, Limit.RLIM_INFINITY),
        (256, Limit.RLIM_INFINITY, 24576, 10240),  # macOS
        (20000, Limit.RLIM_INFINITY, 24576, 20000),
        (256, Limit.RLIM_INFINITY, 1000, 256),
        (Limit.RLIM_INFINITY, Limit.RLIM_INFINITY, 0, Limit.RLIM_INFINITY),
    ],
)
def test_the_descriptor_limit(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, ceiling: int, raised: int) -> None:
    limit = Limit(soft, hard, ceiling)
    monkeypatch.setitem(sys.modules, "resource", limit)
    raise_descriptor_limit()
    assert limit.limits == (raised, hard)


@posix
def test_the_real_descriptor_limit() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, before[1]), before[1]))
    try:
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_listener_never_makes_the_socket_blocking_that_other_processes_accept_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They share the flag, and an accept() that blocks for one moment takes a whole server loop out of service."""
    with create_bind_socket("127.0.0.1:0") as sock:
        listen(sock, 1)
        first = Listener(sock)
        blocking: list[bool] = []
        for name in ("setblocking", "settimeout", "dup"):
            original = getattr(socket.socket, name)

            def spied(self: socket.socket, *args: object, original: Any = original) -> Any:
                result = original(self, *args)
                blocking.append(os.get_blocking(first.fd))
                return result

            monkeypatch.setattr(socket.socket, name, spied)
        with socket.socket(fileno=os.dup(sock.fileno())) as shared:
            second = Listener(shared)
            assert not os.get_blocking(first.fd)
            assert not any(blocking)
            second.close()
        first.close()
