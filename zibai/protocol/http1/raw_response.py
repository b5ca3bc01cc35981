"""Responses whose fields are bytes, as in ASGI. They are checked as text (:mod:`.response`), once for each head."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from .response import HOP_BY_HOP, ResponseHead, is_kept, prepare_text, validate

_MAX_HEADS: Final = 256

# The cache of heads of bytes. Each of them is in the cache of text, too, so there are not more of them.
_raw_heads: dict[tuple[int, tuple[tuple[bytes, bytes], ...]], ResponseHead] = {}


def prepare_raw(status: int, fields: Iterable[Iterable[bytes]]) -> ResponseHead:
    """The head of a response whose fields are bytes, as in ASGI. Raises what :func:`prepare` raises."""
    key: Any = status, tuple(fields)
    try:
        # A float that equals a status would find that head if it is there, and be an error otherwise.
        head = _raw_heads.get(key) if isinstance(key[0], int) else None
    except TypeError:
        head = None  # pairs that are lists cannot be keys of a dict
    return head or _prepare_raw(*key)


def _prepare_raw(status: Any, fields: tuple[Iterable[Any], ...]) -> ResponseHead:
    if not isinstance(status, int):
        raise TypeError(f"the status must be an int, not {status!r}")
    if not 200 <= status <= 999:
        raise ValueError(f"{status} is no final status")
    pairs = tuple((_exact_bytes(name), _exact_bytes(value)) for name, value in fields)
    line = _lines_by_code.get(status) or f"{status:d} "
    text = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)
    head = prepare_text(line, text)
    if is_kept(line, text, head):  # it has come for the second time
        if len(_raw_heads) >= _MAX_HEADS:
            _raw_heads.clear()
        _raw_heads[int(status), pairs] = head
    return head


_lines_by_code = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def _exact_bytes(value: object) -> bytes:
    """The same as :func:`_exact`, for bytes."""
    if type(value) is bytes:
        return value
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"names and values of fields must be bytes, not {value!r}")
    return memoryview(value).tobytes()


def decode_fields(fields: Iterable[Iterable[bytes]]) -> list[tuple[str, str]]:
    """Fields as text, not checked. Raises ``TypeError``, for the application, for names or values that are no bytes."""
    return [(_exact_bytes(name).decode("latin-1"), _exact_bytes(value).decode("latin-1")) for name, value in fields]


def trailer_lines(fields: Iterable[Iterable[bytes]]) -> list[bytes]:
    """The lines of trailers, whose fields are bytes. Raises what :func:`prepare` raises.

    Fields that frame or route a message are no trailers (RFC 9110 6.5.1); they are left out.
    """
    pairs = decode_fields(fields)
    validate("200 OK", pairs)
    left_out = HOP_BY_HOP | {"content-length", "host", "content-encoding", "content-type", "content-range"}
    return [f"{name}: {value}\r\n".encode("latin-1") for name, value in pairs if name.lower() not in left_out]
