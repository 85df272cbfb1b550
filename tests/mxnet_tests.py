"""MXNet's own unit tests with this Python and numpy: make test-mxnet MXNET=path/to/its/source

The source is MXNet's repository at tag 1.9.1. Each file runs in a process of its own, which a crash
or a hang ends. tests/mxnet_known_failures.txt has the tests that fail and why; any other failure
is one, and the exit code is then 1.
"""

import os
import subprocess
import sys
import tempfile

import cv2
import numpy as np
import pytest

FOLDER = os.path.dirname(os.path.abspath(__file__))
FILES = (
    "module io recordio symbol infer_shape optimizer init metric kvstore model_parallel"
    " multi_device_exec executor attr ndarray image operator"
)
# Of test_operator.py: the layers of our networks, and what they are replaced by
OPERATORS = (
    "activation or binary_op or broadcast_binary or cast or clip or concat or convolution"
    " or dropout or expand_dims or fully_connected or kernel_size or pad or pooling or relu"
    " or reshape or slice or softmax"
)
LONGEST = 1200  # seconds for a file


def known_failures():
    """'test_io.py::test_x' -> why it fails."""
    with open(os.path.join(FOLDER, "mxnet_known_failures.txt"), encoding="utf-8") as file:
        lines = [line for line in file if line.strip() and not line.startswith("#")]
    return dict(line.strip().split(maxsplit=1) for line in lines)


def pytest_collection_modifyitems(items):
    """Mark the tests that are known to fail; those whose reason begins with "hangs" do not run.

    The tests of pictures get some in the current folder, in place of a download.
    """
    reasons = known_failures()
    for item in items:
        if hasattr(item.cls, "IMAGES"):
            item.cls.IMAGES = item.cls.IMAGES or _pictures(16)
        reason = reasons.get(f"{item.path.name}::{item.name}")
        if reason:
            runs = not reason.startswith("hangs")
            item.add_marker(pytest.mark.xfail(reason=reason, run=runs, strict=False))


def _pictures(count):
    rng = np.random.RandomState(0)
    paths = [os.path.abspath(f"{number}.jpg") for number in range(count)]
    for path in paths:
        small = rng.randint(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(path, cv2.resize(small, (320, 240)))
    return paths


def main(source, *names):
    """Run the files, or those of ``names``; 1 if a test fails that is not known to, else 0."""
    tests = os.path.join(os.path.abspath(source), "tests", "python", "unittest")
    if not os.path.isfile(os.path.join(tests, "test_module.py")):
        print(
            f"error: MXNET={source}: has no tests/python/unittest/test_module.py", file=sys.stderr
        )
        return 2
    plugins = ["-p", "prepare_mxnet", "-p", "mxnet_tests", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugins, "-c", os.devnull, "--rootdir", tests]
    environment = dict(os.environ, PYTHONPATH=f"{FOLDER}:{os.path.dirname(FOLDER)}")
    failed = []
    with tempfile.TemporaryDirectory() as scratch:  # what the tests write goes there
        os.mkdir(os.path.join(scratch, "data"))
        for name in names or FILES.split():
            chosen = ["-k", OPERATORS] if name == "operator" else []
            file = os.path.join(tests, f"test_{name}.py")
            more = ["-q", "-W", "ignore", "--tb=short", "-rfExX", "--no-header", *chosen, file]
            try:
                done = subprocess.run(
                    [*command, *more], cwd=scratch, env=environment, timeout=LONGEST
                )
            except subprocess.TimeoutExpired:
                failed.append(name)
            else:
                failed += [name] if done.returncode else []
    print(f"failures: {' '.join(failed)}" if failed else "no failure but the known ones")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
