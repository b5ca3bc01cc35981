"""TLS by the standard library: from options to a context, and from a handshake to the environ.

A context is made whole or not at all. A renewed certificate gets a new context: open connections keep the old one, and
a broken or half-written file changes nothing. Only AEAD ciphers with forward secrecy are offered by default; there is
no compression and no renegotiation.

OpenSSL never prompts for a password: a server that waits for its terminal would hang.
"""

import os
import re
import ssl
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from ..config.options import Options
from ..errors import UsageError
from ..logger import logger
from ..system import home

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Ciphers of TLS 1.2; those of TLS 1.3 are all safe, and Python cannot choose among them."""

FILES_CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks whether the files of a certificate have changed."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_REQUIREMENTS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class Own(NamedTuple):
    """Facts about a context that OpenSSL does not tell of its connections.

    ``certificate`` is the server's, in PEM form, without the chain; None if it cannot be told. ``suites`` are the
    ciphers by OpenSSL's names, each with its two bytes in the protocol as one number.
    """

    certificate: str | None
    suites: dict[str, int]


_own: WeakKeyDictionary[ssl.SSLContext, Own] = WeakKeyDictionary()
"""The facts by context. They cannot be in a subclass, because gevent replaces Python's class."""


def make_context(options: Options, directory: str = "") -> ssl.SSLContext:
    """The context for ``options``. Raises UsageError, in one line, for files and ciphers that cannot be used.

    Relative paths start in ``directory``. Messages name them as they were typed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[options.tls_min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.set_ciphers(options.ciphers or CIPHERS)
    except ssl.SSLError:
        raise UsageError(f"--ciphers: OpenSSL knows no cipher in {options.ciphers!r}") from None
    chain = _load_chain(context, options, directory)
    suites = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
    _own[context] = Own(_first_of(chain), suites)
    if options.ca_certs is not None:
        _read("--ca-certs", options.ca_certs, directory)
        try:
            context.load_verify_locations(cafile=os.path.join(directory, options.ca_certs))
        except (OSError, ValueError) as error:
            raise UsageError(f"--ca-certs: {options.ca_certs!r}: {_reason(error)}") from None
    context.verify_mode = _REQUIREMENTS[options.cert_reqs]
    return context


def _load_chain(context: ssl.SSLContext, options: Options, directory: str) -> bytes:
    """Load certificate and key. Returns the contents of the file of the certificate."""
    certfile, keyfile, variable = options.certfile or "", options.keyfile, options.keyfile_password_env
    flag, key = ("--certfile", certfile) if keyfile is None else ("--keyfile", keyfile)
    if variable is not None and variable not in os.environ:
        raise UsageError(f"--keyfile-password-env: there is no environment variable {variable!r}")
    chain = _read("--certfile", certfile, directory)
    if b"-BEGIN " not in chain:
        raise UsageError(f"--certfile: {certfile!r} has no certificate in PEM form")
    if b" PRIVATE KEY-" not in _read(flag, key, directory):
        hint = "; name the file of the key with --keyfile" if keyfile is None else ""
        raise UsageError(f"{flag}: {key!r} has no private key in PEM form{hint}")
    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        if variable is None:
            raise UsageError(f"{flag}: {key!r} is encrypted; name the variable of its password: --keyfile-password-env")
        return os.environ[variable]

    paths = [None if path is None else os.path.join(directory, path) for path in (certfile, keyfile)]
    try:
        context.load_cert_chain(paths[0] or "", paths[1], password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"{flag}: {key!r} is not the key of the certificate {certfile!r}") from None
        if asked:
            raise UsageError(f"{flag}: {key!r}: wrong password in the environment variable {variable!r}") from None
        raise UsageError(f"--certfile: {certfile!r} with the key {key!r}: {_reason(error)}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--certfile: {certfile!r} with the key {key!r}: {_reason(error)}") from None
    return chain


def _first_of(chain: bytes) -> str | None:
    """The first certificate of a file, in the form that Python uses for those of clients."""
    found = _CERTIFICATE.search(chain)
    try:
        return found and ssl.DER_cert_to_PEM_cert(b64decode(found[1]))
    except ValueError:
        return None  # OpenSSL will report the error


_CERTIFICATE: Final = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END ")


def _read(flag: str, path: str, directory: str) -> bytes:
    """The contents of a file: OpenSSL does not report which file it could not read."""
    try:
        with open(os.path.join(directory, path), "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{flag}: {path!r}: {error.strerror}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "OpenSSL cannot read it").replace("_", " ").lower()
    return (isinstance(error, OSError) and error.strerror) or str(error)


class Certificates:
    """The context of new connections, made again after one of its files has changed. Used by the owner of the loop.

    A handshake checks the files, at most once in ``FILES_CHECK_INTERVAL`` seconds. While the new files cannot be used,
    the old context stays in use, and each reason is logged once: a certificate and its key are seldom replaced at the
    same moment. ``report`` is the method of a backend.
    """

    def __init__(self, options: Options, report: Callable[..., None], directory: str = "") -> None:
        self._options = options
        self._report = report
        # A view may change the directory while the server runs.
        self._directory = directory or home.real()
        files = (options.certfile, options.keyfile, options.ca_certs)
        self._paths = [os.path.join(self._directory, path) for path in files if path is not None]
        self._context: ssl.SSLContext
        self._used: list[Any] = []  # the stamps of the files in it
        self._look_at = 0.0
        self._complaint = ""

    def load(self) -> None:
        """Make the first context; raises UsageError for files and ciphers that cannot be used."""
        self._used = self._stamps()  # before they are read, so that the next check sees a change in between
        self._context = make_context(self._options, self._directory)

    def context(self, now: float) -> ssl.SSLContext:
        """The context for a handshake that begins now."""
        if now >= self._look_at:
            self._look_at = now + FILES_CHECK_INTERVAL
            stamps = self._stamps()
            if stamps != self._used:
                self._renew(stamps)
        return self._context

    def _renew(self, stamps: list[Any]) -> None:
        try:
            self._context = make_context(self._options, self._directory)
        except UsageError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._report(logger.error, "the old certificate stays in use: %s", error)
        else:
            self._used, self._complaint = stamps, ""
            self._report(logger.info, "certificate %s has changed and is in use", self._options.certfile)

    def _stamps(self) -> list[Any]:
        stamps: list[Any] = []
        for path in self._paths:
            try:
                info = os.stat(path)
                stamps.append((info.st_mtime_ns, info.st_size, info.st_ino))
            except OSError:
                stamps.append(None)
        return stamps


# The variables for the application have the names of Apache's mod_ssl.


def facts(secured: ssl.SSLObject) -> dict[str, str]:
    """The environ of a connection whose handshake is done."""
    cipher = secured.cipher()
    found = {
        "HTTPS": "on",
        "wsgi.url_scheme": "https",
        "SSL_PROTOCOL": secured.version() or "",
        "SSL_CIPHER": cipher[0] if cipher is not None else "",
        "SSL_CLIENT_VERIFY": "NONE",
    }
    der = secured.getpeercert(binary_form=True)
    certificate: Any = secured.getpeercert()
    if der and certificate:  # empty if it was not verified
        found |= {
            "SSL_CLIENT_VERIFY": "SUCCESS",
            "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(der),
            "SSL_CLIENT_S_DN": distinguished_name(certificate["subject"]),
            "SSL_CLIENT_I_DN": distinguished_name(certificate["issuer"]),
            "SSL_CLIENT_M_SERIAL": certificate["serialNumber"],
            "SSL_CLIENT_V_START": certificate["notBefore"],
            "SSL_CLIENT_V_END": certificate["notAfter"],
        }
    return found


def extension(secured: ssl.SSLObject, told: Mapping[str, str]) -> dict[str, Any]:
    """The ``tls`` extension of the scope, after the handshake (ASGI TLS Extension 0.2). ``told`` has the
    :func:`facts`.

    A client whose certificate is not accepted has no connection, so there is never an error to report.
    """
    own, cipher = _own.get(secured.context, Own(None, {})), secured.cipher()
    subject, pem = told.get("SSL_CLIENT_S_DN"), told.get("SSL_CLIENT_CERT")
    return {
        "server_cert": own.certificate,
        "client_cert_chain": [] if pem is None else [pem],
        "client_cert_name": None if subject is None else subject.encode("latin-1").decode("utf-8", "replace"),
        "client_cert_error": None,
        "tls_version": _NUMBERS.get(told["SSL_PROTOCOL"]),
        "cipher_suite": None if cipher is None else own.suites.get(cipher[0]),
    }


_NUMBERS: Final = {version.name.replace("_", "."): int(version) for version in ssl.TLSVersion if version > 0}
"""The versions by OpenSSL's names, as the protocol writes them."""

_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


def distinguished_name(name: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """As RFC 2253 writes it, the last part first, and as a native string of PEP 3333."""
    parts = ["+".join(f"{_SHORT.get(kind, kind)}={_escape(value)}" for kind, value in part) for part in name]
    return ",".join(reversed(parts)).encode("utf-8", "surrogateescape").decode("latin-1")


def _escape(value: str) -> str:
    text = "".join(
        f"\\{char}" if char in ',+"\\<>;' else f"\\{ord(char):02X}" if char < " " or char == "\x7f" else char
        for char in value
    )
    if text[:1] in ("#", " "):
        text = "\\" + text
    return text[:-1] + "\\ " if len(value) > 1 and value.endswith(" ") else text
