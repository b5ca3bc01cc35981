"""The bar chart, an SVG written by hand: one workload, each server as a share of the bare loop.

It has no background, and its greys are in the middle, so that it is readable on white and on black.
"""

from xml.sax.saxutils import escape

from . import results as r
from .results import Results
from .servers import LIMIT, OURS
from .tables import figure, names
from .workloads import BY_KEY, Workload

WIDTH, LABEL, VALUE, ROW, BAR = 760, 150, 150, 26, 18
TEXT, OTHERS, HIGHLIGHT, REFERENCE = "#7d8590", "#8b949e", "#2f81f7", "#bf8700"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def draw(results: Results, work: Workload = BY_KEY["varied"]) -> str | None:
    """None without the bare loop, or without anything to compare."""
    workload = work.key
    limit = r.of(results.measurements, LIMIT, workload)
    bars: list[tuple[float, str, float]] = []
    for name in names(results):
        rounds = r.of(results.measurements, name, workload)
        share, rate = r.ratio(rounds, limit, r.rate), r.typical(rounds, r.rate)
        if share is not None and rate is not None:
            bars.append((share, name, rate))
    if len(bars) < 2:
        return None
    bars.sort(reverse=True)
    height = ROW * len(bars) + 40
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" font-size="13" role="img">',
        f"<title>{work.title}: requests a second, as a share of the bare loop</title>",
        f'<text x="{LABEL}" y="16" fill="{TEXT}">{work.title}: share of the bare loop, requests/s</text>',
    ]
    longest = max(share for share, _, _ in bars)
    for index, (share, name, rate) in enumerate(bars):
        parts.append(_bar(30 + ROW * index, name, share, rate, (WIDTH - LABEL - VALUE) * share / longest))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(top: int, name: str, share: float, rate: float, width: float) -> str:
    ours = name in OURS
    colour = HIGHLIGHT if ours else REFERENCE if name == LIMIT else OTHERS
    style = f'fill="{HIGHLIGHT}" font-weight="bold"' if ours else f'fill="{TEXT}"'
    middle = top + BAR - 5
    return (
        f'<text x="{LABEL - 8}" y="{middle}" text-anchor="end" {style}>{escape(name)}</text>'
        f'<rect x="{LABEL}" y="{top}" width="{max(width, 1):.1f}" height="{BAR}" rx="2" fill="{colour}"/>'
        f'<text x="{LABEL + max(width, 1) + 6:.1f}" y="{middle}" {style}>{share:.2f} · {figure(rate)}/s</text>'
    )
