"""The screen of ``zibai top``: its lines, made from the description of a server.

Nothing here asks the server or the keyboard. A :class:`Screen` has the choices of the user: the order, the line, and a
text that is shown instead of the list. :class:`Display` draws on the terminal, by rich.
"""

from collections import deque
from itertools import chain
from typing import Any, Final, NamedTuple, Self

from ..errors import MissingExtra
from ..telemetry.board_view import age
from ..telemetry.rates import sums
from . import keys

try:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text
except ImportError as error:
    text = "zibai top needs rich; pip install 'zibai-server[top]', or use zibai ps, which shows the same once"
    raise MissingExtra.because(error, "rich", text) from None

ORDERS: Final = ("age", "worker", "path")
BARS: Final = " ▁▂▃▄▅▆▇█"
HELP: Final = {"q": "quit", "s": "sort", "↑↓": "choose", "enter": "stack"}
HELP_OF_TEXT: Final = {"q": "back", "↑↓": "scroll"}


class Item(NamedTuple):
    """The object of a line: a worker, or with ``what`` one of its requests, which began at ``began``."""

    pid: int
    what: str = ""
    began: float = 0.0

    def is_same(self, other: Self | None) -> bool:
        """Whether both are the same request or worker. The times of a request differ by rounding."""
        return other is not None and self[:2] == other[:2] and abs(self.began - other.began) < 0.1


class Line(NamedTuple):
    """A line of the list, and its object."""

    text: Text
    item: Item | None = None


class Screen:
    """The choices of the user, and the last look at the server."""

    def __init__(self) -> None:
        self.order = ORDERS[0]
        self.chosen: Item | None = None
        self.title = ""  # of a text that is shown instead of the list
        self.text: list[str] = []
        self.top = 0  # the first line of it that is shown
        self._place = 0  # of the chosen line among those that can be chosen
        self._items: list[Item] = []
        self.history: deque[float] = deque(maxlen=400)  # requests a second

    def press(self, key: str) -> str:
        """Handle a key. Returns the request to the program: ``quit``, ``stack``, or nothing."""
        if self.title:
            self._press_in_text(key)
        elif key == "q":
            return "quit"
        elif key == "s":
            self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        elif key in (keys.ENTER, "d"):
            return "stack" if self.chosen is not None else ""
        elif key in (keys.UP, "k", keys.DOWN, "j", keys.PAGE_UP, keys.PAGE_DOWN) and self._items:
            step = {keys.UP: -1, "k": -1, keys.PAGE_UP: -10, keys.PAGE_DOWN: 10}.get(key, 1)
            self._place = max(0, min(self._place + step, len(self._items) - 1))
            self.chosen = self._items[self._place]
        return ""

    def _press_in_text(self, key: str) -> None:
        if key in ("q", "d", keys.ESCAPE, keys.ENTER):
            self.title = ""
        else:
            step = {keys.UP: -1, "k": -1, keys.DOWN: 1, "j": 1, keys.PAGE_UP: -10, keys.PAGE_DOWN: 10}.get(key, 0)
            self.top = max(0, min(self.top + step, len(self.text) - 1))

    def show(self, title: str, text: str) -> None:
        """Show a text instead of the list, until a key."""
        self.title, self.text, self.top = title, text.splitlines(), 0

    def lines(self, server: dict[str, Any], rates: dict[str, Any], cpu: dict[int, float], size: Any) -> list[Text]:
        """The lines of a terminal of this ``size``, which has ``width`` and ``height``."""
        width, height = max(20, size.width), max(6, size.height)
        if self.title:
            body = [Text(printable(each)) for each in self.text[self.top : self.top + height - 3]]
            return _fill([Text(printable(self.title), "bold"), Text(), *body], HELP_OF_TEXT, "", width, height)
        head = _head(server, rates, list(self.history), width)
        if height < 14:
            head = head[:3]
        body = self._window(list(self._body(server, cpu, width)), width, height - len(head) - 1)
        return _fill([*head, *body], HELP, f"by {self.order}", width, height)

    def _body(self, server: dict[str, Any], cpu: dict[int, float], width: int) -> list[Line]:
        workers = [Line(_worker(each, cpu), Item(each["pid"])) for each in server["workers"]]
        running = [(worker["pid"], each) for worker in server["workers"] for each in worker["running"]]
        order = {
            "age": lambda each: -each[1]["seconds"],
            "worker": lambda each: (each[0], -each[1]["seconds"]),
            "path": lambda each: (each[1]["path"], -each[1]["seconds"]),
        }[self.order]
        requests = [
            Line(
                _request(pid, each, width),
                Item(pid, f"{each['method']} {each['path']}", server["up"] - each["seconds"]),
            )
            for pid, each in sorted(running, key=order)
        ]
        self._choose([line.item for line in chain(workers, requests) if line.item is not None])
        titles = "  worker     state     age    cpu      rss  requests  busy  queue", "  worker     age  phase  request"
        rest = [Line(Text("  no request is running", "dim"))] if not requests else []
        return [Line(Text(titles[0], "bold")), *workers, Line(Text()), Line(Text(titles[1], "bold")), *requests, *rest]

    def _choose(self, items: list[Item]) -> None:
        """Keep the chosen item, wherever it is now. If it is gone, choose the item in its place."""
        self._items = items
        place = next((place for place, each in enumerate(items) if each.is_same(self.chosen)), self._place)
        self._place = max(0, min(place, len(items) - 1))
        self.chosen = items[self._place] if items else None

    def _window(self, lines: list[Line], width: int, height: int) -> list[Text]:
        """The lines that have room, with the chosen one among them."""
        at = next((place for place, line in enumerate(lines) if line.item is not None and line.item == self.chosen), 0)
        start = 0 if at < height else at - height + 1
        shown = []
        for line in lines[start : start + max(1, height)]:
            if line.item is not None and line.item == self.chosen:
                line.text.pad_right(max(0, width - line.text.cell_len))
                line.text.stylize("reverse")
            shown.append(line.text)
        return shown


def _head(server: dict[str, Any], rates: dict[str, Any], history: list[float], width: int) -> list[Text]:
    load, totals = sums(server), server["totals"]
    listen = " ".join(server.get("listen", []))
    first = (
        f"zibai {server.get('version', '')}, {server.get('app', '')}, process {server['pid']}, up {age(server['up'])}"
    )
    rate = f"requests  {rates['rate']:>8.1f} /s  "
    latency = "  ".join(f"{name} {duration(rates[name]):>8}" for name in ("p50", "p95", "p99"))
    room = max(0, min(width - len(rate) - 1, len(history)))
    ends = sum(number for cause, number in totals["ends"].items() if cause != "stopped")
    restarts = totals["restarts"]["begun"]
    full = "bold red" if load["slots"] and load["busy"] >= load["slots"] else "bold green"
    return [
        Text.assemble((printable(first), "bold"), "  ", (printable(listen), "dim")),
        Text.assemble(rate, (bars(history[len(history) - room :]), "cyan")),
        Text(f"latency   {latency}"),
        Text.assemble(
            "busy      ", (_gauge(load["busy"], load["slots"], 20), full), f" {load['busy']} of {load['slots']}",
            "   queue ", (str(load["queue"]), "bold red" if load["queue"] else ""),
            f"   connections {load['connections']}",
        ),
        Text.assemble(
            f"total     {totals['requests']} requests, {restarts} restarts",
            (f", {ends} workers died", "red") if ends else "",
            (f", {rates['errors']:.1f} 5xx /s", "bold red") if rates["errors"] else "",
        ),
        Text(),
    ]  # fmt: skip


def _worker(worker: dict[str, Any], cpu: dict[int, float]) -> Text:
    share = f"{cpu[worker['pid']]:.0%}" if worker["pid"] in cpu else "-"
    memory = "-" if worker["memory"] is None else f"{worker['memory'] / 2**20:.1f} M"
    busy = max(len(worker["running"]), worker["busy"])
    state = {"ready": "green", "starting": "yellow"}.get(worker["state"], "magenta")
    return Text.assemble(
        f"{worker['pid']:>8}",
        (f"{worker['state']:>10}", state),
        f"{age(worker['up']):>8}{share:>7}{memory:>9}{worker['requests']:>10}{busy:>6}{worker['queue']:>7}",
    )


def _request(pid: int, request: dict[str, Any], width: int) -> Text:
    old = "bold red" if request["seconds"] > 10 else "yellow" if request["seconds"] > 1 else ""
    text = printable(f"{request['method']} {request['path']}")
    room = max(8, width - 26)
    text = text if len(text) <= room else text[: room - 1] + "…"
    return Text.assemble(f"{pid:>8}", (f"{_since(request['seconds']):>8}", old), f"  {request['phase']:<7}", text)


def _fill(lines: list[Text], help: dict[str, str], note: str, width: int, height: int) -> list[Text]:  # noqa: A002
    """Lines for the whole screen, with the keys in the last one. None is wider than the screen."""
    lines = [*lines[: height - 1], *[Text()] * (height - 1 - len(lines))]
    last = Text()
    for key, meaning in help.items():
        last.append(f" {key} ", "reverse").append(f" {meaning}  ")
    last.append(note, "dim")
    for line in (*lines, last):
        line.truncate(width)
    return [*lines, last]


def bars(values: list[float]) -> str:
    """A character for each value, as high as the value is; the highest one has the full height."""
    highest = max(values, default=0.0)
    if not highest:
        return BARS[1] * len(values)
    return "".join(BARS[1 + round((len(BARS) - 2) * each / highest)] for each in values)


def _gauge(value: int, most: int, width: int) -> str:
    filled = 0 if not most else min(width, -(-value * width // most))
    return "█" * filled + "░" * (width - filled)


def duration(seconds: float | None) -> str:
    """A duration for people, from microseconds on."""
    if seconds is None:
        return "-"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _since(seconds: float) -> str:
    return age(seconds) if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def printable(text: str) -> str:
    """``text`` of a client, without characters that a terminal would interpret."""
    return "".join(each if each.isprintable() else "?" for each in text)


class Display:
    """The terminal, in a separate screen; a context manager that restores the terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, transient=True)

    @property
    def size(self) -> Any:
        """Its ``width`` and ``height`` at this moment, in characters."""
        return self._console.size

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def draw(self, lines: list[Text]) -> None:
        """Show these lines."""
        for line in lines:
            line.no_wrap = True
        self._live.update(Group(*lines), refresh=True)
