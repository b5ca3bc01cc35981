"""The server loop of tasks: it reads on from a connection whose task waits.

The thread of the event loop owns it. Tasks call it between two turns. Only ``settle`` may be called within one.
"""

import time

from ..net.poller import READ
from .backends import RunnersSide
from .connection import Connection
from .loop import Loop
from .states import LATER, TASK


class TaskLoop(Loop):
    """See the module, and :class:`zibai.engine.backends.TaskTurns`."""

    @property
    def is_replaced(self) -> bool:
        return self.shutdown.is_replaced

    def suspend(self, stream: RunnersSide) -> None:
        stream.connection.state = TASK
        self._running += 1
        self._table.settle(stream.connection, self._now)

    def conclude(self, stream: RunnersSide) -> None:
        self._running -= 1
        if self.finished:
            stream.connection.close()  # it is no longer in the table
            return
        self._now = time.monotonic()
        # TLS may hold bytes, or the end of the client, that no poller knows of.
        stream.connection.pause = 0 if stream.connection.next_bytes() == READ else LATER
        self.finish(stream)

    def upgrade(self, stream: RunnersSide) -> None:
        self._running -= 1
        self.health.upgraded += 1
        if self.requests_left:
            self._use_up()

    def conclude_upgraded(self, stream: RunnersSide) -> None:
        connection = stream.connection
        self.health.upgraded -= 1
        if self.finished:
            connection.close()
            return
        self._now = time.monotonic()
        connection.pause = 0 if connection.next_bytes() == READ else LATER
        self._table.step(connection, connection.finish, self._now)
        self._backend.wake()

    def settle(self, connection: Connection) -> None:
        self._table.settle(connection, self._now)
        self._backend.wake()
