"""Argument types, and how a command ends."""

import argparse
import os
import subprocess
import sys

import pytest
from conftest import ROOT, assert_refused, run_script

from common import cli
from common.io.files import atomic
from common.version import VERSION


@pytest.mark.parametrize("text", ["", "3", "3,227", "2,227,227", "3,0,227", "3,a,227", "3,1,1,1"])
def test_an_image_shape_that_is_none_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="channels,height,width"):
        cli.image_shape(text)


@pytest.mark.parametrize("script", ["train_imagenet.py", "show.py"])
def test_each_script_says_its_version(script):
    said = run_script(script, "--version")
    assert (said.returncode, said.stdout) == (0, f"alexnet-mxnet {VERSION}\n")


def test_a_room_is_named_as_it_is_called():
    for flags in ([], ["alexnet", "--image-shape", "3,9,9"]):  # argparse's error and ours
        assert_refused(run_script("-m", "symbols", *flags), "python -m symbols: error: ")


def test_lists_are_read():
    assert cli.integers("0,1") == [0, 1]
    assert cli.numbers("0.5,1") == [0.5, 1.0]
    assert cli.image_shape("3,227,227") == (3, 227, 227)
    assert cli.image_shape("1,1,1") == (1, 1, 1)


@pytest.mark.parametrize("text", ["", "1,", "0;1", "a", "9" * 400])
def test_malformed_lists_are_refused(text):
    for kind in (cli.integers, cli.numbers):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a list of"):
            kind(text)


def script(tmp_path, body):
    path = tmp_path / "job.py"
    path.write_text(f"from common import cli\ndef main():\n    {body}\ncli.run(main)\n")
    return path


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path):
    result = run_script(script(tmp_path, "raise cli.UserError('x.rec: is empty')"))
    assert result.stderr == "job.py: error: x.rec: is empty\n"
    assert result.returncode == 2


def test_an_error_of_the_system_names_its_file(tmp_path):
    assert_refused(run_script(script(tmp_path, "open('/no/such')")), "/no/such", "No such file")


def test_a_defect_keeps_its_traceback(tmp_path):
    result = run_script(script(tmp_path, "1 / 0"))
    assert "ZeroDivisionError" in result.stderr and result.returncode == 1


def test_a_reader_that_goes_away_makes_no_traceback(tmp_path):
    path = script(tmp_path, "[print('y' * 100) for _ in range(100000)]")
    command = f"'{sys.executable}' '{path}' | head -1"
    result = subprocess.run(
        command,
        shell=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stderr == ""


def test_files_appear_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(str(first), str(second)) as (one, two):
        for path in (one, two):
            with open(path, "w") as file:
                file.write("new")
        assert first.read_text() == "old" and not second.exists()
        1 / 0  # noqa: B018
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and first.read_text() == "old"
    with atomic(str(first), str(second)) as (one, two):
        for path in (one, two):
            with open(path, "w") as file:
                file.write("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "new", "b": "new"}
