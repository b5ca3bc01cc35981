"""A profile as a picture: a flame graph in SVG, which any browser shows, without a script and without another file.

The root is at the top. Each box is a function; the functions that it called are below it, and its width is the time
that passed in it. All workers are in one picture. The colour shows the origin of the code. The title of a box, which
browsers show under the mouse, has the whole name, the file, and the time.
"""

from collections.abc import Iterator
from typing import Any, Final, Self
from xml.sax.saxutils import escape
from zlib import crc32

WIDTH: Final = 1200
ROW: Final = 18
MARGIN: Final = 12
TOP: Final = 66
CHARACTER: Final = 6.65
"""The largest width of a character in the font of the boxes."""

THINNEST: Final = 0.4
"""Boxes that are thinner than this are left out, with what is below them."""

MAX_ROWS: Final = 120
"""Rows of a picture."""

COLOURS: Final = {"app": 26, "package": 205, "python": 140, "server": 265}
"""The hue of each origin of code, in degrees."""

LEGEND: Final = {"app": "application", "package": "packages", "python": "Python", "server": "server"}
GROUPS: Final = {"request": "requests", "other": "application, without a request", "server": "server"}


class Node:
    """A function, called from its parent's, in all stacks that begin so. ``seconds`` have passed in it."""

    def __init__(self, name: str, place: str = "", origin: str = "") -> None:
        self.name = name
        self.place = place
        self.origin = origin
        self.seconds = 0.0
        self.children: dict[tuple[str, str], Self] = {}

    def child(self, name: str, place: str, origin: str) -> Self:
        """The child of this name and place, which is made when it is new."""
        key = (name, place)
        if key not in self.children:
            self.children[key] = type(self)(name, place, origin)
        return self.children[key]


def merge(workers: dict[int, dict[str, Any]]) -> Node:
    """The stacks of all workers as one tree. ``workers`` as in :func:`zibai.cli.speedscope.describe`."""
    root = Node("all")
    for found in workers.values():
        each = found["seconds"] / max(1, found["looks"])
        for stack, times, kind in found["stacks"]:
            node = root.child(GROUPS.get(kind, kind), "", "")
            passed = [root, node]
            for number in stack[:MAX_ROWS]:
                name, file, line, origin = found["frames"][number]
                node = node.child(name, f"{file}:{line}", origin)
                passed.append(node)
            for every in passed:
                every.seconds += times * each
    return root


def draw(title: str, subtitle: str, workers: dict[int, dict[str, Any]]) -> str:
    """The picture, as the text of a file."""
    root = merge(workers)
    scale = (WIDTH - 2 * MARGIN) / root.seconds if root.seconds else 0.0
    boxes = list(_boxes(root, MARGIN, 0, scale))
    depth = max((row for row, _ in boxes), default=0)
    height = TOP + (depth + 1) * ROW + MARGIN
    return "\n".join([*_head(title, subtitle, height), *(box for _, box in boxes), "</svg>\n"])


def _head(title: str, subtitle: str, height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="11">'
    )
    yield f"<title>{_text(title)}</title>"
    yield "<style>g:hover rect { stroke: #222; stroke-width: 1 } text { pointer-events: none }</style>"
    yield f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    sans = 'font-family="system-ui, sans-serif"'
    yield f'<text x="{MARGIN}" y="24" {sans} font-size="16" font-weight="600" fill="#222">{_text(title)}</text>'
    yield f'<text x="{MARGIN}" y="44" {sans} font-size="12" fill="#555">{_text(subtitle)}</text>'
    x = WIDTH - MARGIN - sum(map(_room, LEGEND.values()))
    for origin, text in LEGEND.items():
        yield f'<rect x="{x}" y="14" width="12" height="12" rx="2" fill="{_colour(origin, 0)}"/>'
        yield f'<text x="{x + 17}" y="24" {sans} font-size="12" fill="#555">{text}</text>'
        x += _room(text)


def _room(text: str) -> int:
    """Width of an entry of the legend."""
    return 36 + 7 * len(text)


def _boxes(node: Node, x: float, row: int, scale: float) -> Iterator[tuple[int, str]]:
    """The box of a node, and those of what is below it, each with its row."""
    width = node.seconds * scale
    if width < THINNEST:
        return
    yield row, _box(node, x, row, width, node.seconds * scale / (WIDTH - 2 * MARGIN))
    for child in sorted(node.children.values(), key=lambda each: (each.name, each.place)):
        yield from _boxes(child, x, row + 1, scale)
        x += child.seconds * scale


def _box(node: Node, x: float, row: int, width: float, share: float) -> str:
    y = TOP + row * ROW
    where = f" ({node.place})" if node.place else ""
    title = f"{node.name}{where}: {node.seconds:.2f} s, {share:.1%}"
    room = int((width - 6) / CHARACTER)
    name = node.name if len(node.name) <= room else node.name[: room - 1] + "…" if room > 3 else ""
    label = f'<text x="{x + 3:.1f}" y="{y + 12}" fill="#1c1c1c">{_text(name)}</text>' if name else ""
    colour = _colour(node.origin, crc32(node.name.encode("utf-8", "replace")) % 8)
    box = f'<rect x="{x:.1f}" y="{y}" width="{max(0.3, width - 0.5):.1f}" height="{ROW - 1}" rx="1.5" fill="{colour}"/>'
    return f"<g><title>{_text(title)}</title>{box}{label}</g>"


def _colour(origin: str, shade: int) -> str:
    """A colour on which black text can be read; functions beside each other have different shades."""
    if origin not in COLOURS:
        return "#dfe3e8"
    return f"hsl({COLOURS[origin]} {62 if origin == 'app' else 38}% {72 + shade}%)"


def _text(text: str) -> str:
    """``text``, the name of a function or file, escaped for XML, which forbids control characters and surrogates."""
    printable = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return escape(printable, {'"': "&quot;"})
