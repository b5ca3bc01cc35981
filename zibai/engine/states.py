"""The states of a connection: the owner in each, what is watched, what ends it, and which state follows.

A connection has one owner at a time. The *loop* never blocks; a *runner* (a thread or a greenlet) may. A *task* waits
in the event loop that also turns the server loop, so both run in one thread. The loop's owner sets the state, at the
request of the others: a runner takes a connection and gives it back by calls of the loop. The deadline is the loop's,
too, and in TASK also the task's. When it passes, the loop calls ``expire``; what that leads to stands at each state.

The states are strings, compared by ``is``. Nothing checks the table while the server runs; the tests of the engine
put :class:`Checked` in the place of the attribute, so that a change that the table does not allow fails there.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ..net.poller import READ

PROXY: Final = "proxy"
"""Waits for the header of the PROXY protocol, which comes before everything else. After ``header_timeout``: CLOSED."""

HANDSHAKE: Final = "handshake"
"""Waits for the client in the TLS handshake. After ``header_timeout``: CLOSED."""

PASSED: Final = "passed"
"""A stage before the connection is done. The next stage or the connection replaces it, in the same step, and inherits
what the poller watches. See :mod:`.preamble`."""

HEAD: Final = "head"
"""Waits for a request, or for the rest of its head.

Until the first byte it is *idle*: after ``keep_alive_timeout`` (``header_timeout`` for a new client) LINGER or CLOSED.
From the first byte on, after ``header_timeout``: a 408 in FLUSH.
"""

BODY: Final = "body"
"""Waits for the rest of the body. After ``socket_timeout`` without a byte, or below ``min_body_rate``: a 408 in FLUSH;
without room for it, a 503."""

READY: Final = "ready"
"""Has a whole request (or its head, where bodies are streamed) and waits for a runner. It has no deadline of its own:
the :class:`~zibai.engine.queueing.Queue` refuses it by a 503 after ``queue_timeout``."""

APP: Final = "app"
"""The application runs. *Inline*, the loop stands still until its runner is done, and the poller stays armed; *given
away*, the loop goes on. It has no deadline until the runner has *lent* something: handed it to the
loop to be sent. Then the client has to take that fast enough, or the connection is cut, and the runner learns of
that at its next send."""

TASK: Final = "task"
"""A task runs the application, and waits; the loop reads on for it. The deadline is the earliest of three: for the
body, for unsent bytes, and for the ping or close frame that the client of a WebSocket must answer."""

FLUSH: Final = "flush"
"""The application has returned, and the client has not taken the whole response yet. Too slow by ``socket_timeout`` or
``min_send_rate``: CLOSED, by a reset."""

DISCARD: Final = "discard"
"""Reads the rest of a body that the application left unread. After two seconds, or 256 KiB: LINGER."""

LINGER: Final = "linger"
"""The last response is out; reads on for a moment, so that the client does not lose the response. Every two seconds:
CLOSED, unless the client's system has taken some of the unsent bytes since the last look."""

PARTED: Final = "parted"
"""The last, small response is out to a client that asked for the end. The socket goes to :mod:`.parting`, which closes
it; no object is in this state for longer than a step."""

CLOSED: Final = "closed"
"""Nothing more comes; the loop closes the socket."""


class Rule(NamedTuple):
    """What holds in a state.

    ``watch`` is what the loop asks the poller for when it settles the connection, beside WRITE while something waits to
    be sent. With 0, in READY and APP, the poller is not told at once: READ stays armed until an event comes. Most
    requests see none. ``after`` has the states that may follow, with what leads to each. CLOSED may follow every state:
    the client has left, or is at fault.
    """

    owner: str
    watch: int
    after: dict[str, str]


def _rule(owner: str, watch: int, after: dict[str, str] | None = None) -> Rule:
    return Rule(owner, watch, {**(after or {}), CLOSED: "the client has left, or is at fault"})


_OVER: Final = {
    FLUSH: "the application is done, and some of the response is not sent yet",
    DISCARD: "all is sent, and some of the body was left unread",
    HEAD: "all is sent",
    LINGER: "all is sent, and the connection is not kept",
    PARTED: "the same, after a small response to a client that asked for the end",
}

RULES: Final = {
    PROXY: _rule("loop", READ, {PASSED: "the header is whole"}),
    HANDSHAKE: _rule("loop", READ, {PASSED: "it is done", LINGER: "it has failed, and the client is told why"}),
    PASSED: _rule("loop", 0),
    HEAD: _rule(
        "loop",
        READ,
        {
            BODY: "the head is whole, and a body follows",
            READY: "the request is whole, or its head where bodies are streamed",
            FLUSH: "it is refused",
            LINGER: "it has been idle for too long",
        },
    ),
    BODY: _rule("loop", READ, {READY: "the body is whole", FLUSH: "it is refused"}),
    READY: _rule("loop", 0, {APP: "a runner takes it", FLUSH: "it has waited for too long"}),
    TASK: _rule("task", READ, _OVER),
    APP: _rule("runner", 0, {TASK: "the first step of a task does not complete the response", **_OVER}),
    FLUSH: _rule("loop", 0, {state: event for state, event in _OVER.items() if state is not FLUSH}),
    DISCARD: _rule("loop", READ, {HEAD: "the body has ended", LINGER: "it is too long, or too slow"}),
    LINGER: _rule("loop", READ),
    PARTED: _rule("loop", 0),
    CLOSED: _rule("loop", 0),
}

WATCH: Final = {state: rule.watch for state, rule in RULES.items()}
"""What the loop asks the poller for in each state, as one look-up."""


class Checked:
    """Replaces the attribute ``state`` of a class in tests: asserts each change against :data:`RULES`.

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


# Why the loop does not read from a connection although its state asks for it. 0 means that there is no pause.

LATER: Final = 1
"""It goes on in the next turn, and needs no further byte for that."""

STARVED: Final = 2
"""There is no room for its body."""

STOPPED: Final = 4
"""Its task must first use the bytes at hand, or its client must take its pongs; or nothing is read any more, since its
client has ended its side or an error has cut it."""

CHOKED: Final = 3
"""Its client does not take records that TLS sends by itself."""
