"""Certificates for the tests: an authority, a server, a client, and a stranger whom the authority does not know."""

from __future__ import annotations

import ssl
from functools import cached_property
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Credentials:
    """PEM files in ``folder``, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = trustme.CA(organization_name='Test, "Authority"', organization_unit_name="é")

    def issue(self, name: str, authority: trustme.CA | None = None, **details: str) -> str:
        """A certificate and its key in one file."""
        path = self.folder / f"{name}.pem"
        made = (authority or self._authority).issue_cert("localhost", "127.0.0.1", **details)
        new = path.with_suffix(".new")
        made.private_key_and_cert_chain_pem.write_to_path(str(new))
        new.replace(path)
        return str(path)

    @cached_property
    def authority(self) -> str:
        path = self.folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(path))
        return str(path)

    @cached_property
    def server(self) -> str:
        return self.issue("server")

    @cached_property
    def client(self) -> str:
        return self.issue("client", common_name="Ann + Bob", organization_name="Müller, Söhne")

    @cached_property
    def stranger(self) -> str:
        return self.issue("stranger", trustme.CA())

    def context(self, certificate: str = "") -> ssl.SSLContext:
        """A client that verifies the server, and may have a certificate."""
        context = ssl.create_default_context(cafile=self.authority)
        if certificate:
            context.load_cert_chain(certificate)
        return context
