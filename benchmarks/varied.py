"""Requests of which no two are alike, as Lua for wrk, which asks for the next request before it sends it.

Real clients repeat some lines of a head and change others. So each request has a path, a query, a cookie and a request
id of its own, and repeats the other lines. The numbers come from a generator with a fixed seed: every server gets the
same requests in the same order. The text is put together from pieces that are made once, since the time that Lua takes
is time of wrk, and wrk must not become the limit.
"""

from collections.abc import Callable
from typing import Final

HOST: Final = "Host: shop.example:8000\r\n"

# A few browsers of 2026 and what each of them says, so that a hundred clients have a hundred different heads.
AGENTS: Final = tuple(
    f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) {browser}"
    for system in (
        "X11; Linux x86_64",
        "Windows NT 10.0; Win64; x64",
        "Macintosh; Intel Mac OS X 10_15_7",
        "iPhone; CPU iPhone OS 18_1 like Mac OS X",
        "Linux; Android 14; Pixel 8",
    )
    for browser in (
        "Chrome/131.0.0.0 Safari/537.36",
        "Chrome/129.0.0.0 Safari/537.36 Edg/129.0.0.0",
        "Version/18.1 Safari",
    )
)
LANGUAGES: Final = (
    "en-GB,en;q=0.9",
    "de-DE,de;q=0.8,en;q=0.5",
    "zh-CN,zh;q=0.9",
    "fr",
    "es-ES,es;q=0.9,pt;q=0.4",
    "ja",
    "pl",
)

_BEGINNING = """\
local n, seed = 0, 20261128
local function number()
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed
end
local function field(name, value) return name .. ": " .. value .. "\\r\\n" end
"""

_PATH: Final = '"/shop/item-" .. number() .. "/view?page=" .. n % 97 .. "&ref=" .. number()'
_ID: Final = 'field("X-Request-Id", number() .. "-" .. n)'
_OWN: Final = 'field("Cookie", "session=" .. number() .. number() .. "; theme=dark") .. ' + _ID


def quote(text: str) -> str:
    """A string of Lua."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
    return f'"{escaped}"'


def _get(*fields: str) -> str:
    """A function that gives a GET with these expressions for the lines of its head."""
    return f"""\
request = function()
  n = n + 1
  return "GET " .. {_PATH} .. " HTTP/1.1\\r\\n" .. {" .. ".join(fields)} .. "\\r\\n"
end
"""


def varied(headers: dict[str, str]) -> str:
    """Path, query, cookie and request id differ; ``headers`` stay."""
    return f"{_BEGINNING}local fixed = {quote(_lines(headers))}\n{_get('fixed', _OWN)}"


def forwarded(headers: dict[str, str]) -> str:
    """The same, as a proxy passes it on for clients with different addresses."""
    more = (
        'field("X-Forwarded-For", "203.0." .. number() % 256 .. "." .. n % 256) .. field("X-Forwarded-Proto", "https")'
    )
    return f"{_BEGINNING}local fixed = {quote(_lines(headers))}\n{_get('fixed', _OWN, more)}"


def post(headers: dict[str, str]) -> str:
    """A JSON body that differs each time, in its length as well."""
    return f"""\
{_BEGINNING}local fixed = {quote(_lines(headers))}
request = function()
  n = n + 1
  local items = {{}}
  for i = 1, 1 + n % 8 do
    items[i] = '{{"name": "book ' .. number() .. '", "price": ' .. number() % 100 .. '}}'
  end
  local listed = table.concat(items, ", ")
  local body = '{{"id": ' .. n .. ', "customer": "client ' .. number() .. '", "items": [' .. listed .. "]}}"
  return "POST " .. {_PATH} .. " HTTP/1.1\\r\\n" .. fixed .. {_OWN}
    .. field("Content-Length", #body) .. "\\r\\n" .. body
end
"""


def clients(headers: dict[str, str]) -> str:
    """A hundred clients, each with its browser's head, which differs from the others' in some lines."""
    heads = []
    for client in range(100):
        own = {
            "User-Agent": AGENTS[client % len(AGENTS)],
            "Accept-Language": LANGUAGES[client % len(LANGUAGES)],
            "Cookie": f"client={client:04}; theme={'dark' if client % 3 else 'light'}",
        }
        heads.append(quote(_lines(headers | own)))
    listed = ",\n".join(heads)
    return f"{_BEGINNING}local heads = {{\n{listed}\n}}\n{_get('heads[1 + number() % 100]', _ID)}"


def _lines(headers: dict[str, str]) -> str:
    return HOST + "".join(f"{name}: {value}\r\n" for name, value in headers.items())


SCRIPTS: Final[dict[str, Callable[[dict[str, str]], str]]] = {
    "varied": varied,
    "forwarded": forwarded,
    "post": post,
    "clients": clients,
}
