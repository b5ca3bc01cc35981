"""The keywords of ``serve()`` and ``aserve()``: from keywords to checked options."""

from collections.abc import Sequence
from socket import socket

from ..config.addresses import Trust
from ..config.effects import remarks, remarks_on
from ..config.keywords import ServeOptions
from ..config.options import Options, declared
from ..errors import UsageError
from ..gateway.interface import Application, refusal, resolve
from ..logger import logger
from ..net.bind import describe, is_public
from ..supervise.worker import describe as describe_function


def check(name: str, app: Application, sockets: Sequence[socket], options: ServeOptions) -> Options:
    """The options that the keywords of a function of this ``name`` mean. Raises the errors of :func:`serve`."""
    if not sockets:
        raise ValueError(f"{name} needs a bind_socket or bind_sockets")
    known = {name for each in declared() if each.embedded for name in (each.name, *each.aliases)}
    for option in options.keys() - known:
        raise TypeError(f"{name} takes no option {option!r}")
    # Never None, or the environment variable would count, which is for the whole process.
    options["url_prefix"] = (options.get("url_prefix") or "").rstrip("/")
    settings = Options("", **options)
    settings.validate()
    if settings.interface == "auto" and (text := refusal(app, describe_function(app), typed=False)):
        raise UsageError(text)
    warn_of_strangers(settings, sockets)
    for text in (*remarks(settings), *remarks_on(settings, resolve(app, settings.interface))):
        logger.warning("%s", text)
    return settings


def warn_of_strangers(options: Options, sockets: Sequence[socket]) -> None:
    """Warn when every client of the internet may connect, and may claim another address."""
    public = [describe(sock) for sock in sockets if is_public(sock)]
    if public and Trust(options.trusted_proxies).whole_internet:
        logger.warning(
            "--trusted-proxies %s trusts every client, so each that reaches %s can claim another address; name your "
            "proxies instead, as in --trusted-proxies 10.0.0.0/8,unix",
            " ".join(options.trusted_proxies),
            ", ".join(public),
        )
