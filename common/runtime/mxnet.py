"""MXNet, ready to use; no other module of the project imports it.

from common.runtime.mxnet import mx
"""

from common import cli

from . import bootstrap

try:
    bootstrap.prepare()
    from prepare_mxnet import mx
except cli.UserError as error:
    cli.refuse_import(str(error))
except ImportError as error:
    cli.refuse_import(f"{error}; or . .venv/bin/activate, where make has made it")

__all__ = ["mx"]
