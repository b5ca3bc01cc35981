"""What gevent has patched is asked by threads that run while the application is imported."""

from __future__ import annotations

import _thread
import sys
from types import ModuleType

import pytest

from zibai.system.patching import is_patched, original


@pytest.mark.parametrize("known", [(), ("saved",), ("is_module_patched",), ("get_original",)], ids=str)
def test_a_half_imported_gevent_has_patched_nothing(known: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    half = ModuleType("gevent.monkey")
    for name in known:
        setattr(half, name, {"is_module_patched": lambda _: False, "get_original": lambda *_: len}.get(name))
    monkeypatch.setitem(sys.modules, "gevent.monkey", half)
    assert not is_patched()
    assert original("_thread", "start_new_thread") is (len if "get_original" in known else _thread.start_new_thread)


def test_without_gevent_nothing_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gevent.monkey", raising=False)
    assert not is_patched()
    assert original("_thread", "start_new_thread") is _thread.start_new_thread
