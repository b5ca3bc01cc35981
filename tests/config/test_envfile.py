"""The file of ``--env-file``, however it was written."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from zibai.config.envfile import read
from zibai.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_spec("dotenv") is None, reason="python-dotenv is not installed")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(b"A=red\nB=\nC\n", {"A": "red", "B": ""}, id="plain"),
        pytest.param(b"\xef\xbb\xbfA=red\r\nB='caf\xc3\xa9'\r\n", {"A": "red", "B": "caf\xe9"}, id="Windows"),
        pytest.param(b"export A=red\nB=${A}s\n", {"A": "red", "B": "reds"}, id="shell"),
        pytest.param(b"", {}, id="empty"),
    ],
)
def test_what_is_read(tmp_path: Path, data: bytes, found: dict[str, str]) -> None:
    (tmp_path / ".env").write_bytes(data)
    assert read(str(tmp_path / ".env")) == found


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param("A=red\n".encode("utf-16"), "is not UTF-8", id="UTF-16"),
        pytest.param(b"A=caf\xe9\n", "is not UTF-8", id="Latin-1"),
        pytest.param(b"A=a\0b\n", "has a null character, which no variable can hold", id="null"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, data: bytes, told: str) -> None:
    path = str(tmp_path / ".env")
    (tmp_path / ".env").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(caught.value) == f"--env-file: {path!r} {told}"


def test_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--env-file: cannot read "):
        read(str(tmp_path))
