"""The table of states, and that a change that it does not allow is found."""

from __future__ import annotations

import pytest

from zibai.engine.states import APP, BODY, CLOSED, HEAD, READY, RULES, WATCH, Checked


class Thing:
    __slots__ = ("kept", "state")


Thing.state = Checked(Thing.kept)  # type: ignore[attr-defined]


def test_the_table_is_whole() -> None:
    for rule in RULES.values():
        assert rule.after.keys() <= RULES.keys()
        assert all(rule.after.values())
        assert CLOSED in rule.after
        assert rule.owner in ("loop", "runner", "task")
    assert WATCH.keys() == RULES.keys()
    reached = set().union(*(rule.after for rule in RULES.values()))
    assert set(RULES) - reached <= {"proxy", "handshake"}, "only what a client can begin with follows nothing"


def test_what_the_table_allows() -> None:
    thing = Thing()
    for state in (HEAD, HEAD, BODY, READY, APP, CLOSED):
        thing.state = state
        assert thing.state is state


@pytest.mark.parametrize(("before", "after"), [(HEAD, APP), (BODY, HEAD), (CLOSED, HEAD), (APP, READY)])
def test_what_the_table_forbids(before: str, after: str) -> None:
    thing = Thing()
    thing.state = before
    with pytest.raises(AssertionError, match=f"{after} may not follow {before}"):
        thing.state = after
    assert thing.state is before
