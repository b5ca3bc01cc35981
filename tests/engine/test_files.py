"""`wsgi.file_wrapper`: the response is what `read()` gives, and what is wrong with a file is not the client's fault."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import sys
import tempfile
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import pytest

from zibai.engine import outgoing
from zibai.gateway.filewrapper import FileWrapper, open_plain

from serving import serving
from support import Client, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

CONTENT = bytes(range(256)) * 12_000  # more than the buffers of a socket take at once
posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no sendfile")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def wrapping(make: Callable[[], Any], *fields: tuple[str, str]) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), *fields])
        wrapper: Iterable[bytes] = environ["wsgi.file_wrapper"](make())
        return wrapper

    return app


def body_of(make: Callable[[], Any], *fields: tuple[str, str]) -> bytes:
    with serving(wrapping(make, *fields), valid=False) as server, Client(server.port) as client:
        answer = client.get()
        assert answer.status == 200
        return answer.body


# --- which bytes ------------------------------------------------------------------------------------


class Upper(io.FileIO):
    def read(self, size: int = -1) -> bytes:
        return super().read(size).replace(b"\x01", b"!")


class First(io.FileIO):
    """The first 1000 bytes, and nobody is to see the rest."""

    def read(self, size: int = -1) -> bytes:
        return super().read(max(0, min(size, 1000 - self.tell())))


class Reversed(io.BufferedReader):
    def read(self, size: int | None = -1) -> bytes:
        return super().read(size)[::-1]


def patched(path: Path) -> Any:
    """A plain file with a ``read`` of its own."""
    file = path.open("rb")
    read = file.read
    file.read = lambda size=-1: read(size).replace(b"\x01", b"!")  # type: ignore[method-assign]
    return file


def written(path: Path) -> Any:
    """A file that is still in a buffer in part."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(CONTENT)
    file.seek(0)
    file.write(b"new")
    file.seek(1)
    return file


def packed(path: Path, opening: Any) -> Any:
    other = path.with_suffix(".packed")
    with opening(other, "wb") as file:
        file.write(CONTENT)
    return opening(other, "rb")


MAKERS: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "gzip": (lambda path: packed(path, gzip.open), CONTENT),
    "buffer over gzip": (lambda path: io.BufferedReader(packed(path, gzip.open)), CONTENT),
    "buffer over bz2": (lambda path: io.BufferedReader(packed(path, bz2.open)), CONTENT),
    "buffer over lzma": (lambda path: io.BufferedReader(packed(path, lzma.open)), CONTENT),
    "subclass": (Upper, CONTENT.replace(b"\x01", b"!")),
    "subclass that cuts": (First, CONTENT[:1000]),
    "buffer over a subclass": (lambda path: io.BufferedReader(First(path)), CONTENT),  # which asks readinto()
    "subclass of a buffer": (lambda path: Reversed(io.FileIO(path)), None),  # type: ignore[dict-item]
    "own read": (patched, CONTENT.replace(b"\x01", b"!")),
    "random access": (written, b"ew" + CONTENT[3:]),
    "plain": (lambda path: path.open("rb"), CONTENT),
    "unbuffered": (lambda path: path.open("rb", 0), CONTENT),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_sent_is_what_read_gives(path: Path, name: str) -> None:
    make, expected = MAKERS[name]
    if expected is None:
        with make(path) as file:
            expected = b"".join(iter(partial(file.read, outgoing.JOINED_AT_ONCE), b""))
    assert body_of(partial(make, path)) == expected


def test_a_text_file_is_an_error_of_the_application(path: Path) -> None:
    path.write_text("text")
    with serving(wrapping(path.open), valid=False) as server, Client(server.port) as client:
        assert client.get().status == 500


def test_which_files_need_no_reading(path: Path) -> None:
    for make in (lambda: path.open("rb"), lambda: path.open("rb", 0), lambda: path.open("r+b")):
        with make() as file:
            found = open_plain(file, by_kernel=True)
            assert found is not None
            assert os.get_inheritable(found.fd) is False
            assert found.left == len(CONTENT)
            assert file.tell() == 0
            found.close()
            found.close()
    closed = path.open("rb")
    closed.close()
    detached = path.open("rb")
    detached.detach().close()
    with path.open("ab") as appending:
        for strange in (closed, detached, appending, io.BytesIO(b"a"), object()):
            assert open_plain(strange, by_kernel=True) is None


def test_a_subclass_of_the_wrapper_is_iterated(path: Path) -> None:
    class Shouting(FileWrapper):
        def __next__(self) -> bytes:
            return super().__next__().replace(b"\x01", b"!")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Shouting(path.open("rb"))  # type: ignore[arg-type]

    with serving(app, valid=False) as server, Client(server.port) as client:
        assert client.get().body == CONTENT.replace(b"\x01", b"!")


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
def test_the_file_is_closed_at_once_and_its_descriptor_when_it_is_sent(path: Path) -> None:
    file = path.open("rb")
    with serving(wrapping(lambda: file), valid=False) as server, Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.file.read(1) == b"H"
        path.unlink()
        rest = client.file.read(len(CONTENT))
        assert file.closed
    assert CONTENT.startswith(rest.partition(b"\r\n\r\n")[2])


# --- when a file cannot be read ---------------------------------------------------------------------


@posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("after", [0, 2])
def test_where_the_kernel_cannot_send_it_a_file_is_read(
    path: Path, number: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = os.sendfile

    def fail(out: int, file: int, offset: int, count: int) -> int:
        calls.append(count)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        return real(out, file, offset, count)

    monkeypatch.setattr(os, "sendfile", fail)
    assert body_of(lambda: path.open("rb")) == CONTENT
    assert len(calls) == after + 1


@posix
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("late", [False, True], ids=["with the runner", "in the loop"])
def test_a_file_that_fails_on_the_way_is_an_error_of_the_server(
    path: Path, number: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sendfile")
    real = os.pread

    def fail(file: int, count: int, offset: int) -> bytes:
        if 2_500_000 * late < offset < len(CONTENT) - 1:
            raise OSError(number, os.strerror(number))
        return real(file, count, offset)

    monkeypatch.setattr(os, "pread", fail)
    path.write_bytes(CONTENT * 4)
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", CONTENT * 4)
    with serving(wrapping(lambda: path.open("rb")), valid=False) as server, Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises((OSError, EOFError, HTTPException, ValueError, AssertionError)):
            client.read()
    [record] = server.logged("zibai.error")
    assert os.strerror(number) in record.getMessage() or os.strerror(number) in str(record.exc_info)
    if late:
        [access] = server.logged("zibai.access")
        assert 0 < access.__dict__["response_length"] < len(CONTENT)


@pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage/enabled"), reason="needs a file of /sys")
def test_a_file_that_is_shorter_than_it_says_is_read() -> None:
    with open("/sys/kernel/mm/transparent_hugepage/enabled", "rb") as file:
        content = file.read()
        assert os.fstat(file.fileno()).st_size > len(content)
    assert body_of(partial(open, "/sys/kernel/mm/transparent_hugepage/enabled", "rb")) == content


@posix
def test_a_file_that_becomes_shorter_is_an_error_of_the_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.sendfile

    def shorten(out: int, file: int, offset: int, count: int) -> int:
        os.truncate(path, 1000)
        return real(out, file, offset, count)

    monkeypatch.setattr(os, "sendfile", shorten)
    with serving(wrapping(lambda: path.open("rb")), valid=False) as server, Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises((OSError, EOFError, HTTPException, ValueError, AssertionError)):
            client.read()
    assert len(server.logged("zibai.error")) == 1


# --- ranges -----------------------------------------------------------------------------------------


def test_the_wrapper_seeks_where_its_file_does(path: Path) -> None:
    with path.open("rb") as file:
        wrapper: Any = FileWrapper(file)
        assert wrapper.seekable()
        wrapper.seek(10)
        assert wrapper.tell() == 10
        assert next(wrapper) == CONTENT[10:][: outgoing.JOINED_AT_ONCE]
    only_read: Any = FileWrapper(type("Own", (), {"read": io.BytesIO(CONTENT).read})())
    assert not any(hasattr(only_read, name) for name in ("seek", "seekable", "tell", "close"))


def test_a_range_at_the_end_reads_no_more_than_that(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flask = pytest.importorskip("flask")
    blocks = []

    def read_next(wrapper: FileWrapper) -> bytes:
        blocks.append(wrapper.file.read(wrapper.block_size))
        return blocks[-1]

    monkeypatch.setattr(FileWrapper, "__next__", read_next)
    app = flask.Flask("ranges")

    @app.get("/")
    def send() -> Any:
        return flask.send_file(path, mimetype="text/plain")

    with serving(app, valid=False) as server, Client(server.port) as client:
        answer: Response = client.get("/", "Range: bytes=-10")
        assert (answer.status, answer.body) == (206, CONTENT[-10:])
    assert sum(map(len, blocks)) == 10
