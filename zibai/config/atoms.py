"""The language of ``--access-log-format``: gunicorn's atoms, such as ``%(h)s``, and the formats that have a name.

:func:`parse` parses a format once, at the start. So a mistake is reported at once, and writing a line needs no lookup.
:mod:`zibai.telemetry.access` has the values of the atoms.
"""

import re
from difflib import get_close_matches
from typing import Final, NamedTuple

from ..errors import UsageError

COMMON: Final = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s'
COMBINED: Final = COMMON + ' "%(f)s" "%(a)s"'

NAMED: Final = {"common": COMMON, "combined": COMBINED}
"""The formats of Apache and nginx, by their names."""

WORDS: Final = ("default", "json", *NAMED)
"""All names of formats."""

ATOMS: Final = {
    "h": ("address of the client", "addr", "remote_addr", "client", "host"),
    "l": ("-", "logname", "ident"),
    "u": ("user of Basic authentication", "user", "remote_user"),
    "t": ("time", "time", "asctime", "date"),
    "r": ("request line", "request", "message", "request_line"),
    "m": ("method", "method", "request_method"),
    "U": ("path", "path", "url", "uri", "path_info", "request_uri"),
    "q": ("query", "query_string", "args"),
    "H": ("protocol", "protocol", "server_protocol", "http_version"),
    "s": ("status", "status_code", "code"),
    "B": ("bytes of the body", "response_length", "body_bytes_sent", "size", "length"),
    "b": ("bytes of the body, - for none", "bytes"),
    "f": ("Referer", "referer", "http_referer", "referrer"),
    "a": ("User-Agent", "user_agent", "http_user_agent", "agent"),
    "T": ("seconds", "seconds"),
    "D": ("microseconds", "microseconds", "dt_us"),
    "M": ("milliseconds", "milliseconds", "dt_ms", "ms"),
    "L": ("seconds with six decimals", "duration", "request_time", "elapsed"),
    "p": ("process id", "pid", "process", "process_id"),
}
"""The meaning of each atom of one letter, and words that people write for it."""

WIDEST: Final = 999
"""The most characters to which an atom may be padded."""

_PART: Final = re.compile(
    r"%(?:(?P<percent>%)|\((?P<name>(?:\{[^}]*\}[^)]*|[^()]*))\)(?P<pad>-?\d*)s|(?P<wrong>.?.?))", re.DOTALL
)
_FIELD: Final = re.compile(r"\{([^{}\s]+)\}([ioe])")


class Atom(NamedTuple):
    """A part of a format that differs from request to request.

    ``letter`` is a key of :data:`ATOMS`; or it is ``i`` (a field of the request), ``o`` (a field of the response) or
    ``e`` (a key of the environ), and ``name`` says which. ``pad`` is the width, negative for text on the left.
    """

    letter: str
    name: str = ""
    pad: int = 0


def parse(text: str) -> list[str | Atom]:
    """The parts of a format, in their order. Raises UsageError for an unknown atom, and for an empty format."""
    text = NAMED.get(text, text)
    parts: list[str | Atom] = []
    end = 0
    for found in _PART.finditer(text):
        parts.append(text[end : found.start()])
        end = found.end()
        if found["percent"]:
            parts.append("%")
        elif found["name"] is None:
            raise UsageError(_explain_percent(found["wrong"]))
        else:
            pad = 0 if found["pad"] in ("", "-") else int(found["pad"])
            if abs(pad) > WIDEST:
                raise UsageError(f"%({found['name']}){pad}s is too wide: a width is at most {WIDEST}")
            parts.append(_atom(found["name"], pad))
    parts.append(text[end:])
    if not text.strip() or any(not part.replace("\t", "").isprintable() for part in parts if isinstance(part, str)):
        raise UsageError("a line of the log is made of it, so it must be text without line ends")
    return [part for part in parts if part]


def check_format(text: str) -> None:
    """Raise UsageError unless it is a format, or the name of one."""
    if text in WORDS:
        return
    if "%" not in text:
        near = get_close_matches(text.lower(), WORDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"it is {', '.join(WORDS)}, or a format such as '%(h)s %(r)s'"
        raise UsageError(f"{text!r} has no atom; {hint}")
    parse(text)


def _atom(name: str, pad: int) -> Atom:
    if name in ATOMS:
        return Atom(name, "", pad)
    field = _FIELD.fullmatch(name)
    if field is not None:
        return Atom(field[2], field[1], pad)
    near = _nearest(name)
    raise UsageError(f"there is no %({name})s" + (f"; did you mean %({near})s?" if near else f"; {_all()}"))


def _nearest(name: str) -> str:
    """The atom that was probably meant; empty if there is none."""
    plain = name.strip("{} ").lower()
    if name.startswith("{"):
        inner, _, kind = name[1:].partition("}")
        inner, letter = "-".join(inner.split()), kind[:1].lower()
        return f"{{{inner}}}{letter if letter in ('i', 'o', 'e') else 'i'}" if inner else ""
    words = {word: atom for atom, (_, *known) in ATOMS.items() for word in (atom, *known)}
    words |= {atom.lower(): atom for atom in ATOMS if atom.lower() not in words}
    if plain in words:
        return words[plain]
    if plain.startswith("http_"):
        return f"{{{plain.removeprefix('http_').replace('_', '-')}}}i"
    near = get_close_matches(plain, words, 1)
    return words[near[0]] if near else ""


def _explain_percent(after: str) -> str:
    """The fault of a percent sign and the two characters after it."""
    letter = after.removeprefix(">")[:1]
    if letter in ATOMS:  # as Apache and nginx have them
        return f"%{after[: after.index(letter) + 1]} is no atom; write %({letter})s, and %% for a percent sign"
    if letter == "(":
        return "an atom ends with )s, as %(h)s does; write %% for a percent sign"
    return f"%{after[:1].strip()} is no atom; write it as in %(h)s, and %% for a percent sign"


def _all() -> str:
    return "there are " + " ".join(f"%({atom})s" for atom in ATOMS) + " %({header}i)s %({header}o)s %({variable}e)s"
