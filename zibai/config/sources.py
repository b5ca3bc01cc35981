"""The sources of the values of options: flags, variables, a file, defaults.

The order is: the command line; variables ``ZIBAI_<NAME>``; the file of ``--config``, or ``./zibai.toml``, or
``[tool.zibai]`` of ``./pyproject.toml``, in which the table of ``--profile`` comes before the rest; the variables that
platforms set (``PORT``, ``WEB_CONCURRENCY``, ``FORWARDED_ALLOW_IPS``); and the defaults of :class:`Options`.

A layer is a dict from the names of options to a :class:`Setting`, which knows its origin, so an error message names the
place of the mistake. Only the sources have the names ``host`` and ``port``: together they are an address of ``listen``.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Final, NamedTuple

from ..errors import UsageError
from .addresses import read_address
from .foreign import key_translation
from .option import Bounds, Option
from .options import APPLICATION, LISTENING, Options, declared
from .values import Setting, read_text, read_value

CONFIG = Option(
    name="config",
    group=APPLICATION,
    metavar="FILE",
    short="-c",
    default=None,
    nullable=True,
    brief="read options from this TOML file",
    help="read options from this TOML file; by default zibai.toml in the current directory, or the table [tool.zibai] "
    "of pyproject.toml there; flags and ZIBAI_... variables count more",
)
PROFILE = Option(
    name="profile",
    group=APPLICATION,
    metavar="NAME",
    default=None,
    nullable=True,
    help="use the table of this name in the file as well, such as [production] or [tool.zibai.production]; its values "
    "count more than the others of the file",
)
HOST = Option(
    name="host",
    group=LISTENING,
    metavar="HOST",
    default=None,
    nullable=True,
    brief="with --port instead of --listen",
    help="the host of the one address to listen on, as another way to write --listen; 0.0.0.0 is every interface",
)
PORT = Option(
    name="port",
    group=LISTENING,
    kind=int,
    metavar="NUMBER",
    default=None,
    nullable=True,
    bounds=Bounds(minimum=0, maximum=65535),
    brief="port; by default $PORT, or 8000",
    help="the port of the one address to listen on; where neither this nor --listen is given, the environment variable "
    "PORT is used, with the host 0.0.0.0",
)

PREFIX: Final = "ZIBAI_"
_LINE_END: Final = "\r\n"
"""Line ends in values: from a file of variables with the line ends of Windows, or from a secret in a file."""
_INTERNAL: Final = frozenset({"ZIBAI_UPGRADE", "ZIBAI_NEED_BROWSER"})


Layer = dict[str, Setting]


class Settings(NamedTuple):
    """The valid options of the command, and the origin of each value that is no default."""

    options: Options
    origins: dict[str, str]
    warnings: list[str]


@cache
def listed() -> tuple[Option, ...]:
    """All options that a user may give, in the order of the help, with the names that only sources have."""
    found: list[Option] = []
    for option in declared():
        found.append(option)
        if option.name == "call":
            found += [CONFIG, PROFILE]
        if option.name == "listen":
            found += [HOST, PORT]
    return tuple(found)


@cache
def names() -> dict[str, Option]:
    """Each name of an option in variables and files, with ``_`` between words: older names and known flags too."""
    found = {}
    for option in listed():
        flags = [flag[2:].replace("-", "_") for flag in option.known_as if flag.startswith("--")]
        for name in (option.name, *option.aliases, *flags):
            found[name] = option
    return found


def gather(flags: Layer, environ: Mapping[str, str]) -> Settings:
    """The options from all sources. Raises UsageError, in one line that names the source."""
    from .file import read_file

    variables, warnings = from_variables(environ)
    place = flags.get("config") or variables.get("config")
    profile = flags.get("profile") or variables.get("profile")
    layers = [flags, variables, *read_file(place, profile), from_platform(environ)]
    merged: Layer = {}
    for layer in reversed(layers):
        merged.update(layer)
    address = join_address(layers)
    for name in ("config", "profile", "host", "port", "listen"):
        merged.pop(name, None)
    if address is not None:
        merged["listen"] = address
    if "app" not in merged:
        raise UsageError("which application? Name it as module:attribute, for example: zibai example:app")
    known = {option.name: option for option in declared()}
    for name, setting in merged.items():
        check(known[name], setting)
    options = Options(**{name: setting.value for name, setting in merged.items()})
    options.validate()
    return Settings(options, {name: setting.origin for name, setting in merged.items()}, warnings)


def check(option: Option, setting: Setting) -> None:
    """Raise UsageError, which names the origin, unless the value may be used."""
    try:
        option.validate(setting.value)
    except UsageError as error:
        text = str(error).removeprefix(option.flag)
        if isinstance(setting.value, bool) or option.kind is bool:
            text = text.replace("True", "true").replace("False", "false")  # as TOML and variables have it
        raise UsageError(f"{setting.origin}{text}") from None


def from_variables(environ: Mapping[str, str]) -> tuple[Layer, list[str]]:
    """The layer of ``ZIBAI_...`` variables, and warnings of names that are probably mistyped."""
    layer: Layer = {}
    warnings = []
    for variable in sorted(environ):
        text, name = environ[variable].rstrip(_LINE_END), variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or variable in _INTERNAL or not text:
            continue
        option = names().get(name)
        if option is None:
            # No error: Kubernetes makes ZIBAI_SERVICE_HOST and others for a service that is called zibai.
            near = get_close_matches(name, names(), n=1, cutoff=0.8)
            if near:
                warnings.append(
                    f"environment variable {variable} is no option; did you mean {PREFIX}{near[0].upper()}?"
                )
        elif option is not PORT or "://" not in text:  # the same Kubernetes: ZIBAI_PORT=tcp://10.0.0.1:80
            _put(layer, option, read_text(option, text, f"environment variable {variable}"))
    return layer, warnings


def from_platform(environ: Mapping[str, str]) -> Layer:
    """The layer of variables that platforms and other servers have made usual."""
    layer: Layer = {}
    for option in declared():
        text = environ.get(option.environment or "", "").rstrip(_LINE_END)
        if text:
            # As one item: proxies are separated by commas within it.
            origin = f"environment variable {option.environment}"
            layer[option.name] = Setting([text], origin) if option.kind is list else read_text(option, text, origin)
    # Listeners that systemd or server_starter pass on come before an address that is only a default.
    port = environ.get("PORT", "").rstrip(_LINE_END)
    if port and not environ.get("LISTEN_FDS") and not environ.get("SERVER_STARTER_PORT"):
        layer["port"] = Setting(port, "environment variable PORT")
        layer["host"] = Setting("0.0.0.0", "environment variable PORT")
    return layer


def join_address(layers: list[Layer]) -> Setting | None:
    """The listeners of the first layer that has any.

    A layer that has only a host or a port takes the other one from the layers below it.
    """
    host: Setting | None = None
    port: Setting | None = None
    for layer in layers:
        is_platform = layer is layers[-1]
        if "listen" in layer:
            for name in ("host", "port"):
                if name in layer:
                    part, whole = layer[name].origin, layer["listen"].origin
                    raise UsageError(f"{part} and {whole} both say where to listen; leave one out")
            if host is None and port is None:
                return layer["listen"]
            break
        if not (is_platform and port is not None):
            # The host 0.0.0.0 belongs to $PORT. With another port the server listens on this machine only.
            host = host or layer.get("host")
            port = port or layer.get("port")
    if host is None and port is None:
        return None
    origin = (port or host or Setting(None, "")).origin
    number = 8000 if port is None else port.value
    if isinstance(number, str):
        if not re.fullmatch(r"[0-9]{1,5}", number) or int(number) > 65535:
            raise UsageError(f"{origin}: {number!r} is no port number")
        number = int(number)
    if port is not None:
        check(PORT, Setting(number, origin))
    if host is not None:
        check(HOST, host)
    name = "127.0.0.1" if host is None else host.value.strip("[]")
    if host is not None and ":" in name and read_address(name) is None:
        raise UsageError(f"{host.origin}: {host.value!r} is no host; write a name or an address, and the port as port")
    name = "" if name == "*" else f"[{name}]" if ":" in name else name
    return Setting([f"{name}:{number}"], origin)


def read_table(table: Mapping[str, Any], place: str) -> Layer:
    """The layer of a table of a file; tables in it are profiles."""
    layer: Layer = {}
    for key, value in table.items():
        option = names().get(key.replace("-", "_"))
        if option is CONFIG or option is PROFILE:
            raise UsageError(f"{place}: {key} is for the command line, or for {PREFIX}{key.upper()}")
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            raise UsageError(f"{place}: [[{key}]] is a list of tables; a profile is one table: [{key}]")
        if isinstance(value, dict):
            if option is not None:
                raise UsageError(f"{place}: {key} is an option, so no profile can have this name")
        elif option is None:
            raise UsageError(f"{place}: there is no option {key!r}{_advice(key.replace('-', '_'))}")
        else:
            _put(layer, option, read_value(option, value, f"{place}: {key}"))
    return layer


def _put(layer: Layer, option: Option, setting: Setting) -> None:
    if option.name in layer:
        raise UsageError(f"{setting.origin} and {layer[option.name].origin} are the same option; leave one out")
    layer[option.name] = setting


def _advice(key: str) -> str:
    if f"no_{key}" in names():
        return f"; it is on unless you write no_{key} = true"
    if text := key_translation(key):
        return f"; {text}"
    near = get_close_matches(key, names(), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def profiles(table: Mapping[str, Any]) -> Iterator[str]:
    """The names of the profiles of a file."""
    return (key for key, value in table.items() if isinstance(value, dict))
