"""The baton, without luck: an application that blocks on events of the test, and a lock that admits whom the test says.

The first half drives the backend with a scripted loop; the second is the real loop with real sockets. `BATON_LIMIT` is
either 0, so that the deputy takes the baton as soon as it looks, or so long that it never does.
"""

from __future__ import annotations

import itertools
import logging
import socket
import threading
from collections import Counter, deque
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from zibai.engine.backends import baton, threads
from zibai.engine.backends.baton import LONGEST_SPELL, SPELL
from zibai.engine.backends.threads import BATON_LIMIT, CERTAIN_WITHIN, Threads
from zibai.engine.health import Health
from zibai.engine.loop import Loop
from zibai.net.listener import Listener
from zibai.net.poller import READ
from zibai.telemetry.scoreboard import Row

from rig import ANSWER, GET, make_service, read
from support import DEADLINE, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zibai.engine.stream import Stream

NEVER = 3600.0


class Exchange:
    """A connection whose application runs until the test lets it go."""

    def __init__(self, quick: bool = False) -> None:
        self.entered, self.leave, self.left = threading.Event(), threading.Event(), threading.Event()
        self.thread = ""
        self.since = 0.0
        if quick:
            self.leave.set()

    def exchange(self, slot: object = None, now: float = 0.0) -> None:
        self.thread = threading.current_thread().name
        self.entered.set()
        assert self.leave.wait(DEADLINE)
        self.left.set()


class Turns:
    """A loop as the backend sees it: gives what the test puts in, and writes down what becomes of it."""

    def __init__(self, slots: int) -> None:
        self.finished = False
        self.log: list[tuple[str, Any]] = []
        self.turns = 0
        self.leaders: list[str] = []  # who is in a turn: never two
        self._slots = slots
        self.running = 0
        self._news = threading.Condition()
        self._ready: deque[Any] = deque()
        self._back: deque[Any] = deque()
        self._quit = False

    def watch(self, fd: int, callback: object) -> None:
        """The bell, which this loop does not need."""

    # The test's.

    def put(self, *exchanges: Exchange) -> None:
        with self._news:
            self._ready.extend(exchanges)
            self._news.notify_all()

    def quit(self) -> None:
        with self._news:
            self._quit = True
            self._news.notify_all()

    def wait_for(self, *entry: Any) -> None:
        with self._news:
            assert self._news.wait_for(lambda: entry in self.log, DEADLINE), (entry, self.log)

    def of(self, exchange: Exchange) -> list[str]:
        with self._news:
            return [what for what, which in self.log if which is exchange]

    def done(self, exchange: Exchange) -> bool:
        return self.of(exchange)[-1:] in (["finished"], ["back"])

    def settled(self, exchange: Exchange) -> bool:
        """Whether nothing more will be heard of it."""
        return sorted(self.of(exchange)) in (["finished"], ["away", "back"])

    def _note(self, what: str, which: Any) -> None:
        with self._news:
            self.log.append((what, which))
            self._news.notify_all()

    # The backend's.

    def turn(self, block: bool) -> None:
        assert block
        me = threading.current_thread().name
        with self._news:
            self.leaders.append(me)
            assert self.leaders == [me], "two leaders"
            self.turns += 1
            self._news.notify_all()
            assert self._news.wait_for(
                lambda: self._back or self._quit or (self._ready and self.running < self._slots), NEVER
            )
            while self._back:
                self._back.popleft()
                self.running -= 1
            self.finished = self._quit
            self.leaders.clear()

    def timeout(self) -> None:
        return None

    def take(self) -> Any:
        with self._news:
            return self._ready.popleft() if self._ready and self.running < self._slots else None

    def give_away(self, exchange: Any) -> None:
        self.running += 1
        self._note("away", exchange)

    def finish(self, exchange: Any) -> None:
        self._note("finished", exchange)

    def give_back(self, exchange: Any, since: float | None = None) -> None:
        with self._news:
            self._back.append(exchange)
        self._note("back", exchange)


class Gatekeeper:
    """In the place of the backend's lock: while it is closed, the test says who enters and when."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._inside = False
        self._open = True
        self._left: Counter[str] = Counter()
        self.waiting: list[str] = []

    def close(self) -> None:
        with self._state:
            self._open = False

    def open(self) -> None:
        with self._state:
            self._open = True
            self._state.notify_all()

    def wait_for(self, *names: str) -> None:
        with self._state:
            assert self._state.wait_for(lambda: set(names) <= set(self.waiting), DEADLINE), self.waiting

    def admit(self, name: str) -> None:
        """Let one enter, and wait until it has left."""
        with self._state:
            before = self._left[name]
            self.waiting.remove(name)
            self._state.notify_all()
            assert self._state.wait_for(lambda: self._left[name] > before, DEADLINE)

    def __enter__(self) -> None:
        name = threading.current_thread().name
        with self._state:
            if not self._open:
                self.waiting.append(name)
                self._state.notify_all()
                assert self._state.wait_for(lambda: self._open or name not in self.waiting, DEADLINE)
            assert self._state.wait_for(lambda: not self._inside, DEADLINE)
            self._inside = True

    def __exit__(self, *_: object) -> None:
        with self._state:
            self._inside = False
            self._left[threading.current_thread().name] += 1
            self._state.notify_all()


class Stage:
    """A backend that leads a scripted loop."""

    def __init__(self, patch: pytest.MonkeyPatch, slots: int = 4, patience: float = NEVER) -> None:
        patch.setattr(threads, "BATON_LIMIT", patience)
        self._patch = patch
        self.backend = Threads(slots, Row.private(slots + 1))
        self.gatekeeper = Gatekeeper()
        self.backend._lock = self.gatekeeper  # type: ignore[assignment]
        self.turns = Turns(slots)
        self._before = set(threading.enumerate())

    def __enter__(self) -> Self:
        self.backend.start(self.turns)  # type: ignore[arg-type]
        return self

    def __exit__(self, *_: object) -> None:
        self.gatekeeper.open()
        self.turns.quit()
        assert self.backend.join(DEADLINE)
        self.backend.stop()
        wait_for(lambda: not self.threads)

    @property
    def threads(self) -> list[str]:
        return sorted(thread.name for thread in set(threading.enumerate()) - self._before)

    def patience(self, seconds: float) -> None:
        """Whoever looks after so long takes the baton at once, however late the machine lets him look."""
        self._patch.setattr(threads, "BATON_LIMIT", seconds)
        self._patch.setattr(threads, "CERTAIN_WITHIN", inf)

    def block(self) -> Exchange:
        """An exchange that has begun."""
        exchange = Exchange()
        self.turns.put(exchange)
        assert exchange.entered.wait(DEADLINE)
        return exchange

    def taken(self, exchange: Exchange) -> None:
        """Wait until the baton was taken from its runner, with all that is noted of it."""
        self.turns.wait_for("away", exchange)
        with self.gatekeeper:  # who takes it does so under the lock, and notes the spell after this is said
            pass

    def parked(self, count: int) -> None:
        wait_for(lambda: len(self.backend._parked) == count)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the backend, standing still until the test moves it."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(threads, "clock", lambda: clock.now)
    return clock


# --- with a scripted loop ---------------------------------------------------------------------------


def test_quick_exchanges_stay_with_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage(monkeypatch) as stage:
        exchanges = [Exchange(quick=True) for _ in range(100)]
        stage.turns.put(*exchanges)
        for exchange in exchanges:
            stage.turns.wait_for("finished", exchange)
        assert {exchange.thread for exchange in exchanges} == {"zibai-1"}
        assert len(stage.turns.log) == 100
        assert len(stage.threads) == 2  # one leads, one watches; more are not needed


def test_no_thread_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage(monkeypatch, slots=3, patience=0) as stage:
        wait_for(lambda: stage.turns.turns == 1)
        assert stage.threads == ["zibai-1"]
        exchanges = []
        for number in range(3):
            exchanges.append(stage.block())
            stage.turns.wait_for("away", exchanges[-1])
            wait_for(lambda number=number: len(stage.threads) == number + 2)
        for exchange in exchanges:
            exchange.leave.set()
            stage.turns.wait_for("back", exchange)
        for _ in range(20):
            exchange = stage.block()
            exchange.leave.set()
            # "finished" where it has ended before a deputy has looked.
            wait_for(lambda exchange=exchange: stage.turns.done(exchange))
        assert len(stage.threads) == 4  # one more than slots, and never another


def test_the_deputy_takes_the_baton(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage(monkeypatch, patience=0) as stage:
        slow = stage.block()
        assert slow.thread == "zibai-1"
        stage.turns.wait_for("away", slow)
        quick = Exchange(quick=True)
        stage.turns.put(quick)
        assert quick.left.wait(DEADLINE)
        assert quick.thread != "zibai-1"
        slow.leave.set()
        stage.turns.wait_for("back", slow)
        assert stage.turns.of(slow) == ["away", "back"]


def test_finishing_comes_before_taking(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage(monkeypatch) as stage:
        exchange = stage.block()
        stage.parked(1)
        stage.gatekeeper.close()
        stage.patience(0)
        stage.backend._parked[0].ring()
        stage.gatekeeper.wait_for("zibai-2")
        exchange.leave.set()
        stage.turns.wait_for("finished", exchange)
        stage.gatekeeper.admit("zibai-2")
        stage.gatekeeper.open()
        again = Exchange(quick=True)
        stage.turns.put(again)
        assert again.left.wait(DEADLINE)
        assert stage.turns.of(exchange) == ["finished"]


def test_taking_comes_before_finishing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage(monkeypatch) as stage:
        exchange = stage.block()
        stage.parked(1)
        stage.gatekeeper.close()
        stage.patience(0)
        stage.backend._parked[0].ring()
        stage.gatekeeper.wait_for("zibai-2")
        stage.gatekeeper.admit("zibai-2")
        assert stage.turns.of(exchange) == ["away"]
        exchange.leave.set()
        stage.turns.wait_for("back", exchange)
        stage.gatekeeper.wait_for("zibai-1")  # it queues up, as anybody
        stage.gatekeeper.open()
        again = Exchange(quick=True)
        stage.turns.put(again)
        assert again.left.wait(DEADLINE)
        assert again.thread == "zibai-2"
        assert stage.turns.of(exchange) == ["away", "back"]


def test_who_has_lost_the_baton_does_not_take_a_later_leaders_for_his(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    """The exchange lasts longer than the spell, and ends while the leader of then runs inline again."""
    with Stage(monkeypatch, patience=0) as stage:
        slow = stage.block()
        stage.taken(slow)
        stage.patience(NEVER)
        clock.now += SPELL + 1
        inline = stage.block()
        slow.leave.set()
        stage.turns.wait_for("back", slow)
        assert stage.turns.of(slow) == ["away", "back"]
        inline.leave.set()
        stage.turns.wait_for("finished", inline)
        assert stage.turns.of(inline) == ["finished"]


def test_nobody_is_lost_or_doubled_however_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deputy's time is up just when exchanges end, hundreds of times."""

    class Brief(Exchange):
        """An exchange that is over at once, or so late that the deputy is about to take the baton, or has taken it."""

        def __init__(self, pause: float) -> None:
            super().__init__(quick=True)
            self._pause = pause

        def exchange(self, slot: object = None, now: float = 0.0) -> None:
            if self._pause:
                threading.Event().wait(self._pause)
            super().exchange(slot, now)

    with Stage(monkeypatch, patience=0) as stage:
        monkeypatch.setattr(baton, "SPELL", 0.0)
        monkeypatch.setattr(baton, "LONGEST_SPELL", 0.0)
        exchanges = [Brief((number % 6) * 0.00002) for number in range(500)]
        for exchange in exchanges:
            stage.turns.put(exchange)
        for exchange in exchanges:
            assert exchange.left.wait(DEADLINE), stage
        try:
            wait_for(lambda: all(map(stage.turns.settled, exchanges)))
        finally:
            ends = Counter(" ".join(stage.turns.of(exchange)) for exchange in exchanges)
        # If the exchange has just ended, the deputy logs `away` after the leader has logged `back`.
        assert set(ends) <= {"finished", "away back", "back away"}, ends
        assert ends["finished"], ends
        assert ends.total() > ends["finished"], ends
        wait_for(lambda: stage.turns.running == 0)


def test_an_exchange_that_ends_while_the_baton_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given back before it has been given away, and counts as any other."""
    monkeypatch.setattr(baton, "SPELL", 0.0)
    with Stage(monkeypatch, slots=1) as stage:
        give_away = stage.turns.give_away

        def late(exchange: Exchange) -> None:
            exchange.leave.set()
            stage.turns.wait_for("back", exchange)
            give_away(exchange)

        monkeypatch.setattr(stage.turns, "give_away", late)
        for _ in range(3):
            exchange = stage.block()
            stage.parked(1)
            stage.patience(0)
            with stage.gatekeeper:
                for deputy in stage.backend._parked:
                    deputy.ring()
            wait_for(lambda exchange=exchange: stage.turns.settled(exchange))
            assert stage.turns.of(exchange) == ["back", "away"]
            wait_for(lambda: stage.turns.running == 0)
            stage.patience(NEVER)


def test_it_passes_the_baton_for_a_spell(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    with Stage(monkeypatch, patience=0) as stage:
        slow = stage.block()
        stage.taken(slow)
        stage.patience(NEVER)

        clock.now += SPELL - 0.001
        passed = Exchange(quick=True)
        stage.turns.put(passed)
        stage.turns.wait_for("back", passed)
        assert stage.turns.of(passed) == ["away", "back"]  # before it ran, whoever would have watched

        clock.now += 0.001
        inline = Exchange(quick=True)
        stage.turns.put(inline)
        stage.turns.wait_for("finished", inline)
        slow.leave.set()
        stage.turns.wait_for("back", slow)


def test_the_spell_is_longer_each_time_and_forgets(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    backend = Threads(1, Row.private(2))
    spells = []
    for _ in range(6):
        backend._spell.note(clock.now)
        spells.append(backend._spell.until - clock.now)
        clock.now = backend._spell.until + 0.5
    assert spells == [SPELL, 2, 4, 8, LONGEST_SPELL, LONGEST_SPELL]
    clock.now = backend._spell.until + LONGEST_SPELL
    backend._spell.note(clock.now)
    assert backend._spell.until == clock.now + SPELL
    backend.stop()


def test_what_is_passed_on_within_the_spell_does_not_prolong_it(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    """How long it takes says nothing on a busy machine. The spell ends; if it still blocks, the next one is longer."""
    with Stage(monkeypatch, patience=0) as stage:
        first = stage.block()
        stage.taken(first)
        until = stage.backend._spell.until
        stage.patience(NEVER)
        clock.now += SPELL / 2
        second = stage.block()  # passed on
        stage.patience(0)
        second.leave.set()
        stage.turns.wait_for("back", second)
        assert stage.backend._spell.until == until
        first.leave.set()
        stage.turns.wait_for("back", first)


def test_a_deputy_that_is_late_itself_gives_the_leader_twice_the_time(clock: SimpleNamespace) -> None:
    """It has waited for the GIL or the processor, and so may the leader."""
    backend = Threads(1, Row.private(2))
    backend._loop = given = Turns(1)  # type: ignore[assignment]
    exchange: Any = Exchange()

    leader = threads.Runner(lambda _: None, backend._row.slots[0])

    def look() -> float | None:
        return backend._watch(leader, backend._turns)

    leader.stake.append((exchange, clock.now))
    clock.now += BATON_LIMIT + 2 * CERTAIN_WITHIN
    assert (look(), backend._spell.until) == (BATON_LIMIT, 0.0)
    clock.now += BATON_LIMIT + 2 * CERTAIN_WITHIN
    assert look() is None, "the same exchange still: late or not, it lasts too long"
    assert given.of(exchange) == ["away"]
    # The next one is another exchange, and begins anew.
    leader.stake.append((exchange, clock.now))
    clock.now += BATON_LIMIT + CERTAIN_WITHIN / 2
    assert look() is None, "who comes in time is sure at once"
    backend.stop()


def test_an_exchange_that_ends_while_the_deputy_looks_is_not_taken(clock: SimpleNamespace) -> None:
    """Who takes the stake away has the baton: only one of the two can."""
    backend = Threads(1, Row.private(2))
    backend._loop = given = Turns(1)  # type: ignore[assignment]
    leader = threads.Runner(lambda _: None, backend._row.slots[0])
    first: Any = Exchange()
    second: Any = Exchange()

    class Ends(list[Any]):
        """The leader ends its exchange between the deputy's look and its grasp, and may have begun the next."""

        def __init__(self, *following: Any) -> None:
            super().__init__([(first, clock.now)])
            self.following = following

        def __getitem__(self, part: Any) -> Any:
            seen = super().__getitem__(part)
            self[:] = self.following
            return seen

    leader.stake = Ends()
    clock.now += BATON_LIMIT + CERTAIN_WITHIN / 2
    assert backend._watch(leader, backend._turns) == BATON_LIMIT
    assert given.of(first) == []

    leader.stake = Ends((second, clock.now))
    clock.now += BATON_LIMIT + CERTAIN_WITHIN / 2
    assert backend._watch(leader, backend._turns) is None
    assert (given.of(first), given.of(second)) == ([], ["away"]), "what is taken is what is given away"
    assert backend._spell.until == 0.0, "and nothing is known of it"
    assert not leader.stake, "so its leader finds out"
    backend.stop()


@pytest.mark.parametrize("slots", [1, 3])
def test_the_loop_has_a_leader_while_every_slot_is_busy(monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    with Stage(monkeypatch, slots=slots, patience=0) as stage:
        exchanges = [stage.block() for _ in range(slots)]
        for exchange in exchanges:
            stage.turns.wait_for("away", exchange)
        waiting = Exchange(quick=True)
        stage.turns.put(waiting)
        wait_for(lambda: stage.turns.leaders)  # somebody is in a turn
        assert not waiting.entered.is_set()
        exchanges[0].leave.set()
        assert waiting.left.wait(DEADLINE)
        for exchange in exchanges:
            exchange.leave.set()
            stage.turns.wait_for("back", exchange)


def test_an_idle_server_does_not_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps: list[float] = []

    class Gate:
        def __init__(self, gate: Any) -> None:
            self._gate = gate
            self.locked, self.release = gate.locked, gate.release

        def acquire(self, timeout: float) -> bool:
            sleeps.append(timeout)
            return bool(self._gate.acquire(timeout=timeout))

    class Runner(threads.Runner):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.gate = Gate(self.gate)  # type: ignore[assignment]

    monkeypatch.setattr(threads, "Runner", Runner)
    with Stage(monkeypatch, patience=0.001) as stage:
        exchange = Exchange(quick=True)
        stage.turns.put(exchange)
        wait_for(lambda: stage.turns.done(exchange))
        wait_for(lambda: sleeps and sleeps[-1] == -1.0)  # without a time limit, and nobody has rung
        seen = len(sleeps)
        stage.gatekeeper.close()  # whoever looks has to come through the lock
        assert stage.gatekeeper.waiting == []
        assert len(sleeps) == seen
        stage.gatekeeper.open()
        exchange = stage.block()
        stage.turns.wait_for("away", exchange)
        exchange.leave.set()
        stage.turns.wait_for("back", exchange)


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with Stage(monkeypatch, slots=4, patience=0) as stage, caplog.at_level(logging.ERROR, "zibai"):
        wait_for(lambda: stage.threads == ["zibai-1"])

        def fail(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threads.Runner, "start", fail)
            exchange = stage.block()
        exchange.leave.set()
        stage.turns.wait_for("finished", exchange)
        for _ in range(3):  # it goes on with what it has, and does not try for ever
            exchange = stage.block()
            exchange.leave.set()
            stage.turns.wait_for("finished", exchange)
        assert stage.threads == ["zibai-1"]
        assert caplog.messages == [
            "can't start new thread, see ulimit -u and limits of the container; serving with 1 threads"
        ]


def test_not_even_one_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads.Runner, "start", fail)
    backend = Threads(1, Row.private(2))
    with pytest.raises(RuntimeError, match="can't start"):
        backend.start(Turns(1))  # type: ignore[arg-type]
    backend.stop()


def test_the_end_leaves_runners_that_are_busy_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stage(monkeypatch, patience=0) as stage:
        exchange = stage.block()
        stage.turns.wait_for("away", exchange)
        stage.turns.quit()
        assert stage.backend.join(DEADLINE)
        stage.backend.stop()
        wait_for(lambda: stage.threads == ["zibai-1"])
        exchange.leave.set()
        stage.turns.wait_for("back", exchange)
        wait_for(lambda: not stage.threads)  # it goes when it is done


# --- with the real loop -----------------------------------------------------------------------------


class Theatre:
    """A backend that leads the real loop; the application blocks where the path says so."""

    def __init__(self, slots: int) -> None:
        self.gates: dict[str, Exchange] = {}
        self.served: list[str] = []
        origin = socket.create_server(("127.0.0.1", 0))
        self.port = origin.getsockname()[1]
        row = Row.private(slots + 1)
        self.backend = Threads(slots, row)
        service = make_service(
            application=self._run, readiness=self.backend.readiness, report=self.backend.report, row=row
        )
        self.loop = Loop(service, self.backend, [Listener(origin)], Health(service, self.backend), slots)
        service.lend = self.loop.lend
        self.given_away: list[int] = []  # descriptors
        give_away = self.loop.give_away

        def watched(stream: Stream) -> None:
            give_away(stream)
            self.given_away.append(stream.connection.fd)

        self.loop.give_away = watched  # type: ignore[method-assign]

    def is_disarmed(self, fd: int) -> bool:
        """Whether the poller watches it no longer."""
        try:
            self.backend.poller.modify(fd, READ)
        except (OSError, KeyError):
            return True
        return False

    def _run(self, stream: Stream) -> None:
        assert stream.request is not None
        target = stream.request.target
        if gate := self.gates.get(target):
            gate.exchange()
        self.served.append(target)
        stream.send(ANSWER)

    def gate(self, target: str) -> Exchange:
        return self.gates.setdefault(target, Exchange())

    def client(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)


@pytest.fixture
def theatre(request: pytest.FixtureRequest) -> Iterator[Theatre]:
    theatre = Theatre(getattr(request, "param", 4))
    theatre.backend.start(theatre.loop)
    theatre.loop.admission.start_accepting()
    yield theatre
    for gate in theatre.gates.values():
        gate.leave.set()
    theatre.loop.quit()
    assert theatre.backend.join(DEADLINE)
    theatre.backend.stop()


def get(target: str) -> bytes:
    return GET.replace(b"/", target.encode(), 1)


def test_the_loser_gives_back_and_its_connection_is_served_again(theatre: Theatre) -> None:
    gate = theatre.gate("/slow")
    with theatre.client() as slow, theatre.client() as other:
        for _ in range(3):
            for event in (gate.entered, gate.leave, gate.left):
                event.clear()
            slow.sendall(get("/slow"))
            assert gate.entered.wait(DEADLINE)
            slow.sendall(get("/quick"))  # nobody may read that meanwhile
            other.sendall(get("/other"))
            assert read(other) == ANSWER
            wait_for(lambda: theatre.is_disarmed(theatre.given_away[0]))  # its event would come again and again
            gate.leave.set()
            assert read(slow, 2 * len(ANSWER)) == 2 * ANSWER
        assert theatre.served == ["/other", "/slow", "/quick"] * 3


@pytest.mark.parametrize("theatre", [1], indirect=True)
def test_what_is_given_back_before_it_is_given_away_is_served_again(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exchange ends after the deputy has taken the baton and before it has said so. The only slot comes free."""
    monkeypatch.setattr(baton, "SPELL", 0.0)  # a leader within a spell gives away before it runs
    gate = theatre.gate("/slow")
    give_away = theatre.loop.give_away
    early = []

    def late(stream: Stream) -> None:
        if gate.entered.is_set() and not gate.left.is_set():
            gate.leave.set()
            early.append(wait_for(lambda: len(theatre.loop._inbox.items)))
        give_away(stream)
        gate.leave.set()

    theatre.loop.give_away = late  # type: ignore[method-assign]
    with theatre.client() as client, theatre.client() as other:
        while len(early) < 3:  # a deputy may come before the application has been called
            for event in (gate.entered, gate.leave, gate.left):
                event.clear()
            client.sendall(get("/slow"))
            assert read(client) == ANSWER
            other.sendall(get("/quick"))
            assert read(other) == ANSWER
    wait_for(lambda: theatre.loop._running == 0)


@pytest.mark.parametrize("theatre", [1, 2], indirect=True)
def test_all_slots_are_busy_and_the_loop_still_attends_to_clients(theatre: Theatre) -> None:
    slots = theatre.loop._slots
    clients = [theatre.client() for _ in range(slots)]
    last = theatre.client()
    gates = [theatre.gate(f"/{number}") for number in range(slots)]
    try:
        last.sendall(GET)
        assert read(last) == ANSWER  # it was accepted, and is idle
        for number, client in enumerate(clients):
            client.sendall(get(f"/{number}"))
            assert gates[number].entered.wait(DEADLINE)
        last.sendall(b"nonsense\r\n\r\n")  # it takes a leader to refuse that
        assert last.recv(12) == b"HTTP/1.1 400"
        gates[0].leave.set()
        assert read(clients[0]) == ANSWER
    finally:
        for gate in gates:
            gate.leave.set()
        for client in (*clients, last):
            client.close()


def test_many_clients_with_an_application_that_blocks_now_and_then(theatre: Theatre) -> None:
    """By load, after all: everybody gets every answer, whoever had the baton."""
    theatre.gate("/never")
    count, rounds = 16, 60

    numbers = itertools.count()

    def application(stream: Stream) -> None:
        if next(numbers) % 17 == 0:
            threading.Event().wait(0.007)  # app
        stream.send(ANSWER)

    theatre.loop.service.application = application
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with theatre.client() as client:
                for _ in range(rounds):
                    client.sendall(GET)
                    assert read(client) == ANSWER
        except BaseException as error:
            failures.append(error)

    clients = [threading.Thread(target=run) for _ in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(DEADLINE)
    assert not failures
    wait_for(lambda: theatre.loop._running == 0)
