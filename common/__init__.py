"""What the entry scripts share. Importing it readies the process for ``import mxnet``."""

from common import compat

compat.prepare()
