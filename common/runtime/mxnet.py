"""MXNet, ready to use; no other module of the project imports it.

from common.runtime.mxnet import mx
"""

from common import cli

from . import amx, bootstrap

try:
    bootstrap.prepare()
    with amx.asked_for() as asked:
        from prepare_mxnet import mx

        if asked:  # a first layer
            mx.nd.FullyConnected(*map(mx.nd.ones, [(1, 8), (8, 8), 8]), num_hidden=8).wait_to_read()
except cli.UserError as error:
    cli.refuse_import(str(error))
except ImportError as error:
    cli.refuse_import(f"{error}; or . .venv/bin/activate, where make has made it")

__all__ = ["mx"]
