"""The user's code in a worker: the application and its hooks, or the page that shows why they fail."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .. import importer
from ..config import envfile
from ..config.options import Options, watched
from ..errors import LoadError, UsageError
from ..gateway.interface import Application, Interface, refusal, resolve
from ..logger import logger
from ..system.patching import patcher
from .ties import Hooks


class Site(NamedTuple):
    """The application and its hooks. With a ``failure``, the application is a WSGI page that shows the error."""

    app: Application
    hooks: Hooks = Hooks()
    failure: LoadError | None = None

    def interface(self, wanted: str) -> Interface:
        """The interface of the application; ``wanted`` is ``--interface``."""
        return resolve(self.app, "auto" if self.failure else wanted)


class Patched(LoadError):
    """The import has patched the standard library, so that this process can serve nothing, not even that page."""


def load(options: Options, app: Application | None = None) -> Site:
    """Import the hooks and the application, which may be given as ``app``. Raises :class:`LoadError`."""
    before = patcher()
    try:
        site = _import(options, app)
    except LoadError:
        _refuse_patches(options, before)  # which may be why the import has failed, since threads are at work already
        raise
    _refuse_patches(options, before)
    if app is None and site.interface(options.interface) == "asgi":
        _find_idle_tasks()
    return site


def _import(options: Options, app: Application | None) -> Site:
    typed = app is None
    if options.env_file is not None:
        _load_variables(options.env_file)
    if app is None:
        importer.add_cwd_to_path()
        if options.app_dir is not None:
            importer.add_to_path(options.app_dir)
        app = importer.load_app(options.app, options.call)
    if options.interface == "auto" and (text := refusal(app, options.app, typed)):
        raise LoadError(text)
    hooks = (
        importer.import_from_string(spec) if spec else None
        for spec in (options.before_serve, options.before_graceful_exit, options.before_died)
    )
    return Site(app, Hooks(*hooks))


def _load_variables(path: str) -> None:
    try:
        envfile.load(path)
    except UsageError as error:  # the file has changed since the server has started
        raise LoadError(str(error)) from None


def _refuse_patches(options: Options, before: str) -> None:
    """Raise :class:`Patched` if the import has patched what threads wait by; ``before`` has done so earlier."""
    if (library := patcher()) != before:
        raise Patched(
            f"{options.app!r} patches the standard library with {library}, on which this server does not run: remove "
            "the call of monkey_patch() or patch_all(); for greenlets install gevent, and leave out --no-gevent"
        )


def _find_idle_tasks() -> None:
    """Warn of tasks that an ASGI application has made while it was imported: no event loop has run then, or will."""
    from ..engine.backends.eventloop import waiting_tasks

    if names := waiting_tasks():
        logger.warning(
            "tasks that the application has made while it was imported never run, since their event loop does not: %s; "
            "make them in the lifespan",
            ", ".join(names),
        )


def run_hook(site: Site) -> Site:
    """Call the hook ``before_serve``, if there is one. Raises :class:`LoadError`."""
    if site.hooks.before_serve is not None:
        importer.guarded("the hook before_serve", site.hooks.before_serve)
    return site


def fail(options: Options, error: LoadError, *, interrupted: bool) -> Site:
    """A worker whose code fails must not serve, so this raises ``error``.

    With ``--reload`` or ``--watchfiles`` it returns a page, which the worker serves until the next change, if the
    process can serve (:class:`Patched`). If this process was ``interrupted``, the code has not failed: it has made
    ``error`` of the KeyboardInterrupt that this raises again.
    """
    if interrupted:
        raise KeyboardInterrupt from None
    if not watched(options) or isinstance(error, Patched):
        raise error
    logger.error("%s\n%s", error, error.trace)
    return Site(_failure_page(error), failure=error)


def _failure_page(error: LoadError) -> Application:
    """An application that shows why the real one cannot be loaded; for developers only."""
    text = f"{error}\n\n{error.trace}".encode("utf-8", "backslashreplace")

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start_response("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")])
        return [text]

    return app
