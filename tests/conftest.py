"""Fixtures that more than one file needs; the rest of what tests stand on is in `support`."""

from __future__ import annotations

import gc
import os
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from credentials import Credentials

# A shell starts what it puts into the background with SIGINT ignored, and servers that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A third of the time of all tests would be the compiling of the same modules, in each of 2000 processes. The folders of
# the result are ignored by git.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    from credentials import Credentials

    return Credentials(tmp_path_factory.mktemp("credentials"))


BACKENDS = {"threads": ("--no-gevent",), "greenlets": ()}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The flags of each backend in turn."""
    if request.param == "greenlets" and find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    return BACKENDS[request.param]


UNUSED = pytest.StashKey[dict[str, set[str]]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``daily("worker")``: of the variants of a test, those with that word in the name run daily; the rest is slow."""
    unused = config.stash[UNUSED] = {}
    for item in items:
        marker = item.get_closest_marker("daily")
        if marker is not None:
            found = [word for word in marker.args if word in item.name]
            unused.setdefault(item.nodeid.partition("[")[0], set(marker.args)).difference_update(found)
            if not found:
                item.add_marker(pytest.mark.slow)


@pytest.fixture
def unused_words(pytestconfig: pytest.Config) -> dict[str, set[str]]:
    """Of each test, the words of its mark ``daily`` that no variant has in its name."""
    return {test: words for test, words in pytestconfig.stash[UNUSED].items() if words}


def pytest_collection() -> None:
    """The garbage collector rests while pytest makes its 11 000 items, and passes over them while the tests run.

    Otherwise half of the time of all tests without servers would be the search for garbage in what stays.
    """
    gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # hypothesis asks for the references to an object, even where only its summary runs
