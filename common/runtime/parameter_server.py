"""``python -m common.runtime.parameter_server``: a server or the scheduler of dist_* stores.

DMLC_ROLE says which, as ps-lite has it. ``import mxnet`` would begin to serve at once and not
return; here it is imported as a worker does, so that an optimizer of ours can be sent to a server.
"""

import os
import sys

from common import cli


def main() -> None:
    """Serve until the workers have ended."""
    role = os.environ.pop("DMLC_ROLE", "")
    if role not in ("server", "scheduler"):
        raise cli.UserError(f"DMLC_ROLE={role}: is not server or scheduler; launch.py sets it")
    from common.runtime.mxnet import mx

    os.environ["DMLC_ROLE"] = role
    mx.kvstore.kvstore_server._init_kvstore_server_module()


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    cli.run(main)
