"""The records that a log file could not take, and what is said about them.

A full disk or a broken pipe fails every record, and a server makes one for each request. ``logging`` would print a
traceback for each on standard error. So there is one line at most each :data:`~zibai.logger.COMPLAINT_INTERVAL`
seconds: in the log of the server, or on standard error if that log is the same file. As soon as the file can be written
again, the log says how many records are missing.
"""

import time

from ..logger import COMPLAINT_INTERVAL, logger
from ..system import standard


class Losses:
    """The records that the log file at ``path`` could not take. A thread uses it with the lock of the file's handler.

    ``number`` is how many records were lost since the file could be written last. ``beginning`` comes before the next
    one: it ends a line of which only a part was written.
    """

    def __init__(self, path: str) -> None:
        self.number = 0
        self.beginning = b""
        self._path = path
        self._silent_until = 0.0
        self._reason = ""

    def add(self, error: OSError) -> None:
        """A record is lost. Never raises."""
        self.number += 1
        self._reason = error.strerror or str(error)
        now = time.monotonic()
        if now < self._silent_until:
            return
        self._silent_until = now + COMPLAINT_INTERVAL
        many = f"{self.number:,} record{' is' if self.number == 1 else 's are'} lost"
        text = f"{self._path} cannot be written: {self._reason}; {many}"
        if any(getattr(each, "baseFilename", None) == self._path for each in logger.handlers):
            standard.say(f"zibai: {text}\n")
        else:
            logger.error("%s", text)

    def end(self) -> None:
        """The file can be written again. Never raises."""
        number, self.number, self.beginning, self._silent_until = self.number, 0, b"", 0.0
        many = "1 record is missing" if number == 1 else f"{number:,} records are missing"
        logger.warning("%s could not be written for a while (%s), so %s", self._path, self._reason, many)
