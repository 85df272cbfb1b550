"""System libraries that installed packages load, and the Debian packages that contain them.

Slim containers lack some of them. A missing one becomes one line with its remedy.
"""

PACKAGES = {
    "libgomp.so.1": "libgomp1",
    "libquadmath.so.0": "libquadmath0",
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libSM.so.6": "libsm6",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libxcb.so.1": "libxcb1",
    "libstdc++.so.6": "libstdc++6",
    "libz.so.1": "zlib1g",
}


def remedy(cause: str, otherwise: str) -> str:
    """What installs the library that a loader's error message names; else ``otherwise``."""
    package = PACKAGES.get(cause.partition(":")[0])
    return f"apt-get install {package}" if package else otherwise
