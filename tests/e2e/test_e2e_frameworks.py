"""Flask, Django, Falcon and Bottle: each serves the same four routes, on each backend. And processes beside them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from support import ROOT, Server, get

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from requests import Session


@pytest.fixture(scope="module", params=["flask", "django", "falcon", "bottle"])
def url(request: pytest.FixtureRequest, backend: tuple[str, ...]) -> Iterator[str]:
    pytest.importorskip(request.param)
    with Server(f"{request.param}_app:app", *backend) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture
def http() -> Iterator[Session]:
    with pytest.importorskip("requests").Session() as session:
        session.trust_env = False  # no proxy of this machine
        yield session


def test_query(url: str, http: Session) -> None:
    answer = http.get(f"{url}/hello", params={"name": "Zī Bái"}, timeout=20)
    assert (answer.status_code, answer.text) == (200, "Hello Zī Bái!")


def test_form(url: str, http: Session) -> None:
    form = {"name": "Zī Bái", "eats": "tigers & leopards", "empty": ""}
    answer = http.post(f"{url}/form", data=form, timeout=20)
    # Falcon leaves empty values out.
    assert (answer.status_code, {"empty": ""} | answer.json()) == (200, form)


def test_json(url: str, http: Session) -> None:
    document = {"name": "Zī Bái", "pages": list(range(10_000))}
    answer = http.post(f"{url}/json", json=document, timeout=20)
    assert (answer.status_code, answer.json()) == (200, document)


def test_streaming(url: str, http: Session) -> None:
    with http.get(f"{url}/stream", stream=True, timeout=20) as answer:
        assert [int(line) for line in answer.iter_lines()] == list(range(1000))
    assert "Content-Length" not in answer.headers


def test_not_found_and_the_connection_goes_on(url: str, http: Session) -> None:
    assert http.get(f"{url}/nowhere", timeout=20).status_code == 404
    assert http.get(f"{url}/hello", params={"name": "you"}, timeout=20).text == "Hello you!"


@pytest.mark.daily("threads-2", "greenlets-0")
@pytest.mark.parametrize("processes", [0, 2])
def test_an_application_may_have_processes_of_its_own(backend: tuple[str, ...], processes: int, tmp_path: Path) -> None:
    """As docs/hooks.md has it."""
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    (text,) = re.findall(r'```python title="executor.py"\n(.*?)```', page, re.DOTALL)
    (tmp_path / "executor.py").write_text(text, encoding="utf-8")
    hooks = ["--before-serve", "executor:before_serve", "--before-died", "executor:before_died"]
    with Server("executor:app", *hooks, "-p", str(processes), *backend, cwd=tmp_path) as server:
        for _ in range(3):
            assert get(server.port).body == b"Hello World!"
        assert server.stop() == 0
    assert "Traceback" not in "\n".join(server.log)
