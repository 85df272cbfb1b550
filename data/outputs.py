"""Where record files are written: refuses to replace existing files."""

import os

from common.cli import UserError
from common.io.files import check_is_local
from common.records.writer import record_paths


def prefix_of(path: str) -> str:
    """'X' -> 'X', and 'X.rec' -> 'X'."""
    return path[:-4] if path.endswith(".rec") else path


def prepare_output(prefix: str, overwrite: bool) -> None:
    """Make the folder of ``prefix``, where record files will be written.

    UserError if one of the files exists, and ``overwrite`` is false; or ``prefix`` is an address
    or names a folder.
    """
    check_is_local(prefix, "OUT_PREFIX")
    if os.path.basename(prefix) in ("", ".", ".."):
        raise UserError(f"{prefix}: is a folder; give the files a name: {prefix.rstrip('/')}/NAME")
    for path in record_paths(prefix):
        if os.path.exists(path) and not overwrite:
            raise UserError(f"{path}: already exists; choose another name or pass --overwrite")
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
