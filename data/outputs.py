"""Where record files are written: refuses to replace existing files."""

import os

from common.cli import UserError
from common.io.files import check_is_local
from common.records.writer import record_paths


def prepare_output(prefix: str, overwrite: bool) -> None:
    """Make the folder of ``prefix``, where record files will be written.

    Raises:
        UserError: one of the files exists, and ``overwrite`` is false; or ``prefix`` is an address.
    """
    check_is_local(prefix, "OUT_PREFIX")
    for path in record_paths(prefix):
        if os.path.exists(path) and not overwrite:
            raise UserError(f"{path}: already exists; choose another name or pass --overwrite")
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
