"""MXNet, ready to use: the one module of the project that imports it.

from common.runtime.mxnet import mx
"""

from . import bootstrap

bootstrap.prepare()

import mxnet as mx  # noqa: E402  it must come after bootstrap.prepare()

__all__ = ["mx"]
