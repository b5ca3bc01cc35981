"""The states of a connection: the owner in each, what the poller watches, and which state may follow.

A connection has one owner at a time. The *loop* never blocks; a *runner* (a thread or a greenlet) may. Only the owner
changes the state, and with it the deadline.

The states are strings, compared by ``is``. Nothing checks the table while the server runs; the tests of the engine
put :class:`Checked` in the place of the attribute, so that a change that the table does not allow fails there.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ..net.poller import READ

PROXY: Final = "proxy"
"""Waits for the header of the PROXY protocol, which comes before everything else."""

HANDSHAKE: Final = "handshake"
"""Waits for the client in the TLS handshake."""

PASSED: Final = "passed"
"""A stage before the connection is done; what follows takes its place. See :mod:`.preamble`."""

HEAD: Final = "head"
"""Waits for a request, or for the rest of its head."""

BODY: Final = "body"
"""Waits for the rest of the body."""

READY: Final = "ready"
"""Has a whole request (or its head, where bodies are streamed) and waits for a runner."""

APP: Final = "app"
"""The application runs."""

TASK: Final = "task"
"""A task runs the application, and waits; the loop reads on for it."""

FLUSH: Final = "flush"
"""The application has returned, and the client has not taken the whole response yet."""

DISCARD: Final = "discard"
"""Reads the rest of a body that the application left unread."""

LINGER: Final = "linger"
"""The last response is out; reads on for a moment, so that the client does not lose the response. Then it closes."""

PARTED: Final = "parted"
"""The last, small response is out to a client that asked for the end. The socket goes to :mod:`.parting`."""

CLOSED: Final = "closed"
"""Nothing more comes; the loop closes the socket."""


class Rule(NamedTuple):
    """What holds in a state: its owner, what the poller watches (and WRITE while something waits to be sent), and
    the states that may follow. CLOSED may follow every state.
    """

    owner: str
    watch: int
    after: frozenset[str]


def _rule(owner: str, watch: int, *after: str) -> Rule:
    return Rule(owner, watch, frozenset((*after, CLOSED)))


RULES: Final = {
    PROXY: _rule("loop", READ, PASSED),
    HANDSHAKE: _rule("loop", READ, PASSED, LINGER),
    PASSED: _rule("loop", 0),
    HEAD: _rule("loop", READ, BODY, READY, FLUSH, LINGER),
    BODY: _rule("loop", READ, READY, FLUSH),
    READY: _rule("loop", 0, APP, FLUSH),
    TASK: _rule("task", READ, FLUSH, DISCARD, HEAD, LINGER, PARTED),
    APP: _rule("runner", 0, TASK, FLUSH, DISCARD, HEAD, LINGER, PARTED),
    FLUSH: _rule("loop", 0, DISCARD, HEAD, LINGER, PARTED),
    DISCARD: _rule("loop", READ, HEAD, LINGER),
    LINGER: _rule("loop", READ),
    PARTED: _rule("loop", 0),
    CLOSED: _rule("loop", 0),
}

WATCH: Final = {state: rule.watch for state, rule in RULES.items()}
"""What the poller watches in each state, as one look-up."""


class Checked:
    """Put in the place of a class's attribute ``state``: asserts each change against :data:`RULES`.

    ``slot`` is the descriptor that keeps the value. A connection may be made in any state. Only tests use this: it
    costs two calls for each change.
    """

    def __init__(self, slot: Any, report: Callable[[str], object] = lambda fault: None) -> None:
        self._slot = slot
        self._report = report

    def __get__(self, owner: object, cls: type | None = None) -> Any:
        return self if owner is None else self._slot.__get__(owner, cls)

    def __set__(self, owner: object, state: str) -> None:
        try:
            before = self._slot.__get__(owner)
        except AttributeError:
            before = None
        if state is not before and before is not None and state not in RULES[before].after:
            fault = f"{state} may not follow {before}"
            self._report(fault)  # the loop catches errors of a connection's step
            raise AssertionError(fault)
        self._slot.__set__(owner, state)


# Why a connection is not read from although its state would have it so; 0 is no pause.

LATER: Final = 1
"""It goes on in the next turn, and needs no further byte for that."""

STARVED: Final = 2
"""There is no room for its body."""

HELD: Final = 4
"""Its task has not used what has come, or its client has ended its side: there is nothing to be read for now."""

CHOKED: Final = 3
"""Its client does not take what TLS sends by itself."""
