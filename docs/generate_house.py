"""Draw docs/pictures/house.svg: the wings of the package and what each is for; ``python docs/generate_house.py``.

The order comes from the contract in pyproject.toml that the import linter checks, the words from the first line of each
wing. A test compares picture and code, so neither can be changed alone.
"""

import ast
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH, ROW, GAP = 760, 52, 26
FILL, LINE, TEXT, WEAK = "#2f81f7", "#8b949e", "#7d8590", "#8b949e"
BOX = f'fill="none" stroke="{FILL}"'
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def layers() -> list[list[str]]:
    """The wings and leaves from the top down; those of one line do not know each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (wings,) = (each for each in contracts if each["id"] == "wings")
    return [[name.strip() for name in line.split("|")] for line in wings["layers"] if not line.startswith("__")]


def purpose(name: str) -> str:
    """The first sentence of a wing's or module's docstring."""
    path = ROOT / "zibai" / name
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ")


def draw() -> str:
    rows, parts = layers(), []
    height = len(rows) * (ROW + GAP) - GAP + 20
    for index, row in enumerate(rows):
        top, width = 10 + index * (ROW + GAP), (WIDTH - 20 - 10 * (len(row) - 1)) / len(row)
        for place, name in enumerate(row):
            left = 10 + place * (width + 10)
            parts += [
                f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{ROW}" rx="6" {BOX}/>',
                f'<text x="{left + 12:.0f}" y="{top + 21}" fill="{FILL}" font-weight="bold">{name}</text>',
                *_words(purpose(name), left + 12, top + 38, width - 20),
            ]
        if index + 1 < len(rows):
            middle, bottom = WIDTH / 2, top + ROW
            parts.append(
                f'<path d="M{middle:.0f} {bottom + 4}v{GAP - 12}m-5 -5l5 5l5 -5" fill="none" stroke="{LINE}"/>'
            )
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" font-size="13" role="img">'
    return "\n".join([head, "<title>The wings of zibai; imports point down</title>", *parts, "</svg>"]) + "\n"


def _words(text: str, left: float, top: float, width: float) -> list[str]:
    """As much of a sentence as there is room for, in small letters."""
    room = int(width / 5.6)
    text = text.rstrip(".")
    if len(text) > room:
        text = text[: text.rfind(" ", 0, room - 1)] + " …"
    return [f'<text x="{left:.0f}" y="{top}" fill="{TEXT}" font-size="11">{escape(text)}</text>']


if __name__ == "__main__":
    picture = ROOT / "docs" / "pictures" / "house.svg"
    picture.parent.mkdir(exist_ok=True)
    picture.write_text(draw(), encoding="utf-8", newline="\n")
