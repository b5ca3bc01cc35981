"""What a stranger relies on before reading any code: version and changelog agree, the README leads somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from zibai import __version__

from support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SECTION = re.compile(r"^## \[([^]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOME = "https://github.com/abersheeran/zibai/"


def test_the_changelog_has_the_version() -> None:
    sections = SECTION.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert sections[0] == ("Unreleased", "")
    assert all(date for _, date in sections[1:]), "each released version has its date"
    newest = sections[1][0]
    if __version__.endswith(".dev0"):
        assert __version__ > newest, "the next version is being made"
    else:
        assert __version__ == newest


def test_the_readme_is_short_and_its_links_lead_to_files_that_are_there() -> None:
    assert len(README.splitlines()) <= 150
    links = re.findall(r"\]\(([^)]+)\)", README)
    ours = [link.removeprefix(f"{HOME}blob/main/") for link in links if link.startswith(HOME)]
    assert [path for path in ours if not (ROOT / path.partition("#")[0]).is_file()] == []
    relative = [link for link in links if not link.startswith(("https://", "#"))]
    assert relative == [], "a relative link leads nowhere on the page of a package index"
    headings = {
        re.sub(r"[^a-z]+", "-", line.lower()).strip("-") for line in re.findall(r"^## (.+)$", README, re.MULTILINE)
    }
    assert [link for link in links if link.startswith("#") and link[1:] not in headings] == []


@pytest.mark.parametrize("page", ["index.md", "frameworks.md", "configuration.md", "migrating.md", "options.md"])
def test_a_page_for_newcomers_knows_both_interfaces(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert "ASGI" in text
    assert not re.search(r"ASGI is (not|refused)|a2wsgi|no WSGI application|is a WSGI server", text)


def test_what_is_installed_is_this_program() -> None:
    """The name has an older program on the package index, with other options."""
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"pip install '?zibai-server(?:\[[^]]*\])?(?!(?:\[[^]]*\])?>=)['\s]", text) == [], path.name


@pytest.mark.skipif(not (ROOT / ".ci" / "run").exists(), reason="needs the repository")
def test_one_step_of_ci_can_be_run() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    listed = subprocess.run([bash, ROOT / ".ci" / "run", "--list"], capture_output=True, text=True, check=True)
    assert {"tests", "lint", "types", "layers", "docs", "wine", "pythons"} <= set(listed.stdout.split())
    wrong = subprocess.run([bash, ROOT / ".ci" / "run", "nosuch"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "there is no step nosuch; .ci/run --list names them\n")


@pytest.mark.skipif(sys.platform == "win32", reason="it is about Linux and macOS")
@pytest.mark.parametrize("what", [["tests.wine"], ["tests.pythons", "3.99t"]], ids=["wine", "pythons"])
def test_a_python_that_a_machine_cannot_have_is_no_failure(what: list[str], tmp_path: Path) -> None:
    """CI says why it was skipped."""
    command = [sys.executable, "-m", *what, "--folder", str(tmp_path / "made")]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "skipped: " in done.stdout
