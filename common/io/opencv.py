"""OpenCV, or an error that says what it lacks; no other module of the project imports it.

from common.io.opencv import cv2
"""

from common import cli

from . import libraries

try:
    import cv2
except ImportError as error:
    cause = str(error).strip().splitlines()[0]
    again = "pip install --force-reinstall opencv-python-headless"
    cli.refuse_import(f"cv2: cannot be imported ({cause}); {libraries.remedy(cause, again)}")

__all__ = ["cv2"]
