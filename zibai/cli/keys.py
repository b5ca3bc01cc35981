"""The keyboard of a terminal, one key at a time, without waiting for the end of a line.

On POSIX the terminal is set to pass each key on and not to show it. Ctrl-C still interrupts. Ctrl-Z is a key without a
meaning, since a stopped program would leave the terminal with these settings. Windows needs no setting.
"""

import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Final, Self

UP, DOWN, PAGE_UP, PAGE_DOWN, ENTER, ESCAPE = "up", "down", "page up", "page down", "enter", "escape"

if sys.platform == "win32":
    import msvcrt

    _SPECIAL: Final = {"H": UP, "P": DOWN, "I": PAGE_UP, "Q": PAGE_DOWN}
    _STEP: Final = 0.05

    class Keyboard:
        """A context manager. ``read`` returns the name of a key, or its character; empty if none was pressed."""

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

        def read(self, timeout: float) -> str:
            """The next key, for which it waits so many seconds."""
            until = time.monotonic() + timeout
            while not msvcrt.kbhit():
                if time.monotonic() >= until:
                    return ""
                time.sleep(_STEP)
            key = msvcrt.getwch()
            if key in ("\0", "\xe0"):
                return _SPECIAL.get(msvcrt.getwch(), "")
            if key == "\x03":
                raise KeyboardInterrupt
            return {"\r": ENTER, "\x1b": ESCAPE}.get(key, key)

else:
    import select
    import termios

    _SEQUENCES: Final = {
        "\x1b[A": UP, "\x1bOA": UP, "\x1b[B": DOWN, "\x1bOB": DOWN, "\x1b[5~": PAGE_UP, "\x1b[6~": PAGE_DOWN,
        "\r": ENTER, "\n": ENTER,
    }  # fmt: skip
    _AT_ONCE: Final = 0.05
    """Seconds in which the rest of a sequence comes. If nothing comes, the key was Escape."""

    class Keyboard:
        """A context manager. ``read`` returns the name of a key, or its character; empty if none was pressed."""

        def __init__(self) -> None:
            self._fd = sys.stdin.fileno()
            self._pressed: deque[str] = deque()
            self._before: list[Any] = []

        def __enter__(self) -> Self:
            self._before = termios.tcgetattr(self._fd)
            now = termios.tcgetattr(self._fd)
            now[3] &= ~(termios.ICANON | termios.ECHO)
            now[6][termios.VMIN], now[6][termios.VTIME] = 1, 0
            now[6][termios.VSUSP] = os.fpathconf(self._fd, "PC_VDISABLE").to_bytes(1, "little")
            termios.tcsetattr(self._fd, termios.TCSADRAIN, now)
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            try:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
            except termios.error:
                pass  # the terminal is gone

        def read(self, timeout: float) -> str:
            """The next key, for which it waits so many seconds. EOFError when the terminal is gone."""
            if not self._pressed and self._is_ready(timeout):
                data = os.read(self._fd, 256)
                if not data:
                    raise EOFError
                if data == b"\x1b" and self._is_ready(_AT_ONCE):
                    data += os.read(self._fd, 256)
                self._pressed.extend(split(data.decode("utf-8", "replace")))
            return self._pressed.popleft() if self._pressed else ""

        def _is_ready(self, timeout: float) -> bool:
            return bool(select.select([self._fd], [], [], timeout)[0])

    def split(text: str) -> list[str]:
        """The keys in what a terminal has sent. Sequences that have no meaning here are left out."""
        keys = []
        while text:
            found = next((each for each in _SEQUENCES if text.startswith(each)), "")
            if found:
                keys.append(_SEQUENCES[found])
            elif text.startswith(("\x1b[", "\x1bO")):
                length = next((place for place in range(2, len(text)) if text[place] in _FINAL), len(text) - 1)
                found = text[: length + 1]
            else:
                found = text[0]
                keys.append(ESCAPE if found == "\x1b" else found)
            text = text[len(found) :]
        return keys

    _FINAL: Final = frozenset(map(chr, range(0x40, 0x7F)))
    """The last character of a control sequence (ECMA-48, 5.4)."""
