"""A naming scope for each network: its graph depends neither on the caller nor on earlier calls."""

import contextlib
from typing import Dict, Iterator, Optional

from common.runtime.mxnet import mx


class _OwnAttributes(mx.AttrScope):
    """An attribute scope that ignores the scopes around it."""

    def get(self, attr: Optional[Dict[str, str]]) -> Dict[str, str]:
        """A node's own attributes."""
        return attr or {}


@contextlib.contextmanager
def own_scope() -> Iterator[None]:
    """Context manager or decorator: number unnamed layers from 0, and add no attributes.

    MXNet numbers unnamed layers for the whole process, so a second network would start at
    ``activation7``. It also copies the caller's ``mx.AttrScope`` to every node.
    """
    with mx.name.NameManager(), _OwnAttributes():
        yield
