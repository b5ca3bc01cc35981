"""Inherited listeners: what the environment says, which descriptors will do, and what becomes of those of a server."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zibai.config.options import Options
from zibai.errors import BindError, UsageError
from zibai.logger import logger
from zibai.net import inherited
from zibai.net.bind import create_bind_socket
from zibai.net.inherited import Given, adopt, from_environment
from zibai.server.listeners import Listeners

if TYPE_CHECKING:
    from collections.abc import Iterator

posix = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are inherited on POSIX")
ME = str(os.getpid())


@pytest.fixture
def given() -> Iterator[socket.socket]:
    """A listener that somebody has opened, and passes on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        os.set_inheritable(sock.fileno(), True)
        yield sock


def passed(sock: socket.socket) -> int:
    """A descriptor of its own for who takes it."""
    fd = os.dup(sock.fileno())
    os.set_inheritable(fd, True)
    return fd


# --- the environment --------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, []),
        ({"SERVER_STARTER_PORT": "80=3"}, [(3, "80")]),
        (
            {"SERVER_STARTER_PORT": "127.0.0.1:80=3;[::1]:81=4;/run/a=b.sock=15"},
            [(3, "127.0.0.1:80"), (4, "[::1]:81"), (15, "/run/a=b.sock")],
        ),
        ({"LISTEN_FDS": "2", "LISTEN_PID": ME}, [(3, ""), (4, "")]),
        ({"LISTEN_FDS": "2", "LISTEN_PID": ME, "LISTEN_FDNAMES": "web:"}, [(3, "web"), (4, "")]),
        ({"LISTEN_FDS": "0", "LISTEN_PID": ME, "LISTEN_FDNAMES": "web"}, []),
        ({"LISTEN_PID": ME, "LISTEN_PIDFDID": "7"}, []),
    ],
)
def test_what_is_given(variables: dict[str, str], expected: list[tuple[int, str]]) -> None:
    environ = {"HOME": "/", "SERVER_STARTER_GENERATION": "1", **variables}
    found = from_environment(environ)
    assert [(each.fd, each.name) for each in found] == expected
    assert all(each.kept for each in found)
    assert environ == {"HOME": "/", "SERVER_STARTER_GENERATION": "1"}, "nobody takes them again"


@posix
@pytest.mark.parametrize("pid", [{"LISTEN_PID": "1"}, {}])
def test_what_is_for_another_process(
    pid: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    environ = {"LISTEN_FDS": "1", **pid}
    assert from_environment(environ) == []
    assert environ == {}
    assert f"LISTEN_FDS is for process {pid.get('LISTEN_PID', 'unknown')} and this is {ME}" in caplog.text


@posix
@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"SERVER_STARTER_PORT": "80"}, "SERVER_STARTER_PORT"),
        ({"SERVER_STARTER_PORT": "80=3;81=x"}, "SERVER_STARTER_PORT"),
        ({"LISTEN_FDS": "two", "LISTEN_PID": ME}, "LISTEN_FDS"),
        ({"LISTEN_FDS": "-1", "LISTEN_PID": ME}, "LISTEN_FDS"),
    ],
)
def test_another_form(variables: dict[str, str], name: str) -> None:
    with pytest.raises(UsageError, match=f"^environment variable {name}: '.*' is n"):
        from_environment(dict(variables))


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherited.sys, "platform", "win32")
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": ME}
    assert from_environment(environ) == []
    with pytest.raises(UsageError, match=r"^fd:3: descriptors are not inherited on this system; listen on HOST:PORT$"):
        create_bind_socket("fd:3")


# --- descriptors ------------------------------------------------------------------------------------


@posix
def test_a_listener_is_taken_over(given: socket.socket) -> None:
    fd = passed(given)
    with create_bind_socket(f"fd:{fd}") as sock:
        assert sock.fileno() == fd
        assert not os.get_inheritable(fd)
        assert sock.getsockname() == given.getsockname()
        socket.create_connection(given.getsockname()).close()
    socket.create_connection(given.getsockname()).close()  # it is closed here, and not shut down


@posix
def test_what_is_no_listener() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as file, socket.socket() as unbound:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket(socket.AF_UNIX) as nameless:
            for fd, why in (
                (987, "is not open"),
                (10**30, "is not open"),
                (file.fileno(), "is no socket"),
                (ours.fileno(), "is a connection"),
                (unbound.fileno(), "is bound to no address"),
                (nameless.fileno(), "is bound to no address"),
                (datagrams.fileno(), "is no stream socket"),
            ):
                with pytest.raises(BindError, match=f"^fd:N: descriptor {fd} {why}.*[;:,] "):
                    adopt(fd, "fd:N")
            ours.send(b"it is still open")


@posix
def test_a_name_alone_is_nothing() -> None:
    with pytest.raises(UsageError, match=r"^fd:web: systemd has passed on no listener of this name$"):
        create_bind_socket("fd:web")


# --- the listeners of a server ----------------------------------------------------------------------


def names(listeners: Listeners) -> list[object]:
    return [sock.getsockname() for sock in listeners.sockets]


@posix
def test_without_listen_all_that_is_given(given: socket.socket) -> None:
    environment = [Given(passed(given), "LISTEN_FDS", "web", kept=True)]
    with Listeners(Options("a:b"), environment) as listeners:
        assert names(listeners) == [given.getsockname()]
        assert listeners.are_kept


@posix
def test_with_listen_what_it_says(
    given: socket.socket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        web, rest = passed(given), passed(other)
        environment = [Given(web, "LISTEN_FDS", "web", kept=True), Given(rest, "LISTEN_FDS", "rest", kept=True)]
        with Listeners(Options("a:b", listen=["fd:web", "127.0.0.1:0"]), environment) as listeners:
            assert names(listeners)[0] == given.getsockname()
            assert len(listeners.sockets) == 2
            assert not listeners.are_kept, "one of them is ours alone"
        assert f"LISTEN_FDS gives descriptor {rest} (rest), which --listen does not name" in caplog.text
        assert not os.get_inheritable(rest)
        os.close(rest)


@posix
def test_one_of_them_for_health(given: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        web, rest = passed(given), passed(other)
        environment = [Given(web, "LISTEN_FDS", "web", kept=True), Given(rest, "LISTEN_FDS", "health", kept=True)]
        with Listeners(Options("a:b", health_listen="fd:health"), environment) as listeners:
            assert names(listeners) == [given.getsockname()], "all the others"
            assert [sock.getsockname() for sock in listeners.health] == [other.getsockname()]
            assert (listeners.are_kept, listeners.is_health_kept) == (True, True)
            assert [for_health for *_, for_health in listeners.pass_on()] == [False, True]
            listeners.stop()
            assert [sock.fileno() >= 0 for sock in (*listeners.sockets, *listeners.health)] == [False, True]
        assert listeners.health[0].fileno() < 0
        with pytest.raises(UsageError, match=r"^--health-listen: fd:x is not given; the environment gives no listener"):
            Listeners(Options("a:b", health_listen="fd:x"), []).__enter__()
    with Listeners(Options("a:b", listen=["127.0.0.1:0"], health_listen="127.0.0.1:0"), []) as listeners:
        assert (listeners.are_kept, listeners.is_health_kept) == (False, False)


@posix
def test_one_name_for_two(given: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        environment = [Given(passed(sock), "LISTEN_FDS", "web", kept=True) for sock in (given, other)]
        with Listeners(Options("a:b", listen=["fd:web"]), environment) as listeners:
            assert names(listeners) == [given.getsockname(), other.getsockname()]


@posix
def test_mistakes(given: socket.socket) -> None:
    fd = passed(given)
    environment = [Given(fd, "LISTEN_FDS", "web", kept=True)]
    with pytest.raises(UsageError, match=rf"^--listen: fd:x is not given; the environment gives fd:{fd} \(web\)$"):
        Listeners(Options("a:b", listen=["fd:x"]), environment).__enter__()
    with pytest.raises(UsageError, match=rf"^--listen: fd:{fd}: descriptor {fd} is there twice$"):
        Listeners(Options("a:b", listen=["fd:web", f"fd:{fd}"]), environment).__enter__()


@posix
def test_a_descriptor_that_the_user_names_may_be_the_last(given: socket.socket) -> None:
    with Listeners(Options("a:b", listen=[f"fd:{passed(given)}"]), []) as listeners:
        assert not listeners.are_kept


@posix
def test_the_file_of_a_given_socket_stays() -> None:
    with tempfile.TemporaryDirectory(prefix="z") as folder, socket.socket(socket.AF_UNIX) as sock:
        path = Path(folder, "s")
        sock.bind(str(path))
        sock.listen()
        environment = [Given(passed(sock), "LISTEN_FDS", "", kept=True)]
        with Listeners(Options("a:b"), environment) as listeners:
            listeners.pass_on()
            listeners.stop()
        assert path.exists()


@posix
def test_the_file_of_ours_goes_when_the_end_begins_but_for_a_successor() -> None:
    with tempfile.TemporaryDirectory(prefix="z") as folder:
        path = Path(folder, "s")
        options = Options("a:b", listen=[f"unix:{path}"])
        with Listeners(options, []) as listeners:
            listeners.stop()
            assert not path.exists()
        with Listeners(options, []) as listeners:
            ((fd, file, for_health),) = listeners.pass_on()
            handed = [(os.dup(fd), file, for_health)]
            listeners.stop()
            assert path.exists()
            with Listeners(options, [], handed) as successor:
                assert names(successor) == [str(path)]
            assert not path.exists(), "the last one"


@posix
def test_the_listener_of_the_redirect_is_the_last_one_also_of_a_successor(given: socket.socket) -> None:
    fd = passed(given)
    options = Options("", listen=None, redirect_http="127.0.0.1:0")
    with Listeners(options, [Given(fd, "a test")]) as first:
        names = [sock.getsockname() for sock in first.sockets]
        assert names[0] == given.getsockname()
        assert len(set(names)) == 2
        handed = [(os.dup(fd), *rest) for fd, *rest in first.pass_on()]
        for number, *_ in handed:
            os.set_inheritable(number, True)
        with Listeners(options, [], handed) as second:  # type: ignore[arg-type]
            assert [sock.getsockname() for sock in second.sockets] == names


@posix
def test_a_name_of_two_listeners_is_none_for_the_redirect(given: socket.socket) -> None:
    both = [Given(passed(given), "a test", "web"), Given(passed(given), "a test", "web")]
    with pytest.raises(UsageError, match="--redirect-http: fd:web is more than one listener"):
        with Listeners(Options("", listen=["127.0.0.1:0"], redirect_http="fd:web"), both):
            pass
