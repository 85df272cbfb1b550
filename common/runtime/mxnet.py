"""MXNet, ready to use; no other module of the project imports it.

from common.runtime.mxnet import mx
"""

from . import bootstrap

bootstrap.prepare()

import mxnet as mx  # noqa: E402  it must come after bootstrap.prepare()

__all__ = ["mx"]
