"""One clock for the whole package, and the Date of responses.

All times within the server are of :data:`clock`, so times of the loop, the scoreboard and the parent can be compared.
"""

import time
from math import inf
from typing import Final

clock = time.perf_counter
"""Seconds since the system came up: the same in all processes of a machine, and unaffected when the time is set."""

AHEAD: Final = 0.0 if abs(time.perf_counter() - time.monotonic()) < 0.001 else time.perf_counter() - time.monotonic()
"""Seconds that :data:`clock` is ahead of ``time.monotonic``, the clock of the server loop: 0 except on Windows."""

# The names of an HTTP date, whatever the locale says. `email.utils` has them, too, but its import is 4 % of a start.
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

day: tuple[float, bytes] = (-inf, b"")
"""The end of the current second, by :data:`clock`, and the result of :func:`head_end` until then. It is replaced as one
tuple, so that no thread sees half of it."""


def head_end() -> bytes:
    """The end of a response's head: the Date (RFC 9110 6.6.1), which is made once a second, and the empty line."""
    global day
    until, end = day
    if clock() >= until:
        now = time.time()
        second = int(now)
        end = b"Date: %b\r\n\r\n" % http_date(second).encode("ascii")
        day = (clock() + second + 1 - now, end)
    return end


def http_date(second: int) -> str:
    """A time as the number of seconds since 1970, as HTTP writes it (RFC 9110 5.6.7)."""
    at = time.gmtime(second)
    date = f"{DAYS[at.tm_wday]}, {at.tm_mday:02} {MONTHS[at.tm_mon - 1]} {at.tm_year:04}"
    return f"{date} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"
