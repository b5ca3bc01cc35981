"""Records of TLS 1.3 that no client library sends: one byte each, and KeyUpdates that ask for new keys of the server.

The handshake is the standard library's, which writes down the secret of the client (`SSLKEYLOGFILE`); what comes after
it is encrypted here (RFC 8446 5.2, 7.1, 7.2).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

DATA, HANDSHAKE = b"\x17", b"\x16"
KEY_UPDATE = b"\x18\x00\x00\x01\x01"


class Records:
    """What a client says after its handshake, of which ``keylog`` tells. ``cipher`` is its name."""

    def __init__(self, keylog: Path, cipher: str) -> None:
        lines = [line.split() for line in keylog.read_text(encoding="ascii").splitlines()]
        self._secret = bytes.fromhex([fields[2] for fields in lines if fields[0] == "CLIENT_TRAFFIC_SECRET_0"][-1])
        self._hash, self._key_size = {
            "TLS_AES_256_GCM_SHA384": ("sha384", 32),
            "TLS_AES_128_GCM_SHA256": ("sha256", 16),
        }[cipher]
        self._take_keys()

    def data(self, data: bytes) -> bytes:
        return self._record(data, DATA)

    def single_bytes(self, data: bytes) -> bytes:
        """A record for each byte."""
        return b"".join(self.data(data[at : at + 1]) for at in range(len(data)))

    def key_update(self) -> bytes:
        record = self._record(KEY_UPDATE, HANDSHAKE)
        self._secret = self._expand(b"traffic upd", hashlib.new(self._hash).digest_size)
        self._take_keys()
        return record

    def _take_keys(self) -> None:
        self._cipher = AESGCM(self._expand(b"key", self._key_size))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")
        self._number = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return hmac.digest(self._secret, info + b"\1", self._hash)[:size]

    def _record(self, data: bytes, kind: bytes) -> bytes:
        head = b"\x17\x03\x03" + (len(data) + 17).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._cipher.encrypt(nonce, data + kind, head)


def logging_secrets(context: ssl.SSLContext, keylog: Path) -> ssl.SSLContext:
    """A context of a client whose handshakes :class:`Records` can read about."""
    context.keylog_filename = str(keylog)
    return context
