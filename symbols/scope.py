"""A network's own naming scope, so that it has the same graph whoever builds it and how often."""

import contextlib

from common.runtime.mxnet import mx


class _OwnAttributes(mx.AttrScope):
    """An attribute scope that passes on nothing of the scopes around it."""

    def get(self, attr):
        return attr or {}


@contextlib.contextmanager
def own_scope():
    """Context or decorator: automatic names count from 0, and no attribute of the caller leaks in.

    MXNet numbers unnamed layers for the whole process (a second network would start at
    ``activation7``) and stamps the caller's ``mx.AttrScope`` on every node.
    """
    with mx.name.NameManager(), _OwnAttributes():
        yield
