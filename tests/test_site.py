"""The documentation as its readers see it: the built site, each page looked at in headless Chromium.

Markdown that one reader understands may be running text to another, and neither the builder nor a test of the source
notices. So the pages are asked in the browser itself. Without Chromium and its driver the tests are skipped, unless
``ZIBAI_NEED_BROWSER`` is set.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urljoin
from urllib.request import urlopen

import pytest

from chromium import WIDTH, browser, needs_browser
from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
PICTURES = sorted(path.name for path in (DOCS / "pictures").glob("*.svg"))
FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)

__all__ = ["browser"]

pytestmark = [needs_browser, pytest.mark.xdist_group("site")]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site; building it has no warning to give."""
    pytest.importorskip("material", reason="needs mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=50, check=False)
    assert built.returncode == 0, built.stderr
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def address(site: str, page: str) -> str:
    return site + re.sub(r"(^|/)index\.html$", r"\1", page.removesuffix(".md").removesuffix("index") + "/").lstrip("/")


def plain(heading: str) -> str:
    """The text of a heading, without the marks of Markdown."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("\\", "").strip()


@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, site: str, browser: Any) -> None:
    browser.get(address(site, page))
    look = browser.execute_script(
        """
        const article = document.querySelector("article");
        const copy = article.cloneNode(true);
        copy.querySelectorAll("a.headerlink, pre").forEach(each => each.remove());
        return {
            headings: [...copy.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(each => each.textContent.trim()),
            text: copy.textContent,
            blocks: article.querySelectorAll("pre").length,
            coloured: article.querySelectorAll("pre code span").length,
            wide: [...article.querySelectorAll("table, pre, img")]
                .filter(each => each.getBoundingClientRect().right
                    > article.querySelector("h1").getBoundingClientRect().right + 1)
                .map(each => each.textContent.trim().slice(0, 80)),
            page: document.documentElement.scrollWidth,
            pictures: [...article.querySelectorAll("img")].filter(each => !each.naturalWidth).map(each => each.src),
            asked: performance.getEntriesByType("resource").map(each => each.name),
        };
        """
    )
    source = (DOCS / page).read_text(encoding="utf-8")
    fences = FENCE.findall(source)
    expected = [plain(heading) for heading in HEADING.findall(FENCE.sub("", source))]
    assert look["headings"] == expected
    assert "```" not in look["text"], "a code block shows as text"
    assert "!!!" not in look["text"], "an admonition shows as text"
    assert look["blocks"] == len(fences)
    assert not look["wide"], "wider than the page"
    assert look["page"] <= WIDTH
    assert not look["pictures"], "a picture that does not load"
    assert look["asked"], "its own style, at least"
    assert not [url for url in look["asked"] if not url.startswith((site, "data:"))], "asks another host"


@pytest.mark.parametrize("name", PICTURES)
def test_picture(name: str, site: str, browser: Any) -> None:
    """No text leaves the picture or the box in which it begins."""
    browser.get(f"{site}pictures/{name}")
    outside = browser.execute_script(
        """
        const svg = document.documentElement, box = svg.viewBox.baseVal;
        const boxes = [...svg.querySelectorAll("rect")].map(each => each.getBBox());
        return [...svg.querySelectorAll("text")].filter(each => {
            const text = each.getBBox();
            const holds = boxes.filter(each => each.x < text.x && text.x < each.x + each.width
                && each.y < text.y && text.y < each.y + each.height);
            return [box, ...holds].some(each => text.x + text.width > each.x + each.width
                || text.y + text.height > each.y + each.height);
        }).map(each => each.textContent);
        """
    )
    assert not outside


class Links(HTMLParser):
    """What a page leads to, and the places in it that a link may name."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is not None and name in ("href", "src"):
                self.links.add(value)
            elif value is not None and name == "id":
                self.ids.add(value)


def test_links(site: str) -> None:
    """Each link within the site leads to a page, and to a heading that is there."""
    found: dict[str, set[str]] = {}
    ids: dict[str, set[str]] = {}
    for page in PAGES:
        here = address(site, page)
        parser = Links()
        with urlopen(here, timeout=10) as response:
            parser.feed(response.read().decode())
        assert parser.links
        found[here], ids[here] = parser.links, parser.ids
    dead = []
    statuses: dict[str, int] = {}
    for here, links in found.items():
        for link in links:
            target, fragment = urldefrag(urljoin(here, link))
            if not target.startswith(site):
                assert not target.startswith("http://127."), target
                continue
            if target not in statuses:
                statuses[target] = status_of(target)
            if statuses[target] != 200 or (fragment and target in ids and fragment not in ids[target] | {"__search"}):
                dead.append((here, link))
    assert not dead


def status_of(url: str) -> int:
    try:
        with urlopen(url, timeout=10) as response:
            return int(response.status)
    except OSError as error:
        return int(getattr(error, "code", 0))


def test_search_finds(site: str, browser: Any) -> None:
    with urlopen(site + "search/search_index.json", timeout=10) as response:
        assert b"systemd" in response.read()


def test_each_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in PAGES if f": {page}\n" not in navigation] == []
