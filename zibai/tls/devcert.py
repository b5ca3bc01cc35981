"""``--tls-dev``: a certificate for localhost, made at each start and gone at the end.

It is signed by an authority that is made with it. Clients can be told to trust that authority; browsers show a warning.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..config.options import Options
from ..errors import MissingExtra, UsageError
from ..logger import logger


@contextmanager
def certified(options: Options, owner: tuple[int, int] | None = None) -> Iterator[Options]:
    """``options`` with the files of a certificate, which all workers can read, and no other user.

    ``owner`` is the user and the group that the server is going to be. Raises MissingExtra without trustme, and
    UsageError where no file can be made.
    """
    try:
        import trustme
    except ImportError as error:
        text = "--tls-dev needs trustme; pip install 'zibai-server[tls-dev]'"
        raise MissingExtra.because(error, "trustme", text) from None
    authority = trustme.CA(organization_name="zibai --tls-dev")
    made = authority.issue_cert("localhost", "127.0.0.1", "::1", common_name="localhost")
    try:
        directory = TemporaryDirectory(prefix="zibai-tls-dev-", ignore_cleanup_errors=True)
    except OSError:
        raise UsageError("--tls-dev needs a directory for temporary files; set TMPDIR") from None
    with directory as folder:
        path = Path(folder)
        made.private_key_and_cert_chain_pem.write_to_path(str(path / "localhost.pem"))
        authority.cert_pem.write_to_path(str(path / "authority.pem"))
        if owner is not None and sys.platform != "win32":
            for each in (path, *path.iterdir()):
                os.chown(each, *owner)
        logger.info("certificate for localhost, for development only; clients may trust %s", path / "authority.pem")
        yield replace(options, certfile=str(path / "localhost.pem"))
