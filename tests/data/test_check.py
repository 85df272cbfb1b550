"""data/check.py: every fault named by its record, and a file of exactly the others."""

import os
import struct

import numpy as np
import pytest
from conftest import assert_refused, run_script
from mutations import mutate
from record_files import COUNT, IMAGES, contents, edit, offsets, run, splice, write

from common.cli import UserError
from common.records.class_names import read_class_names
from common.records.format import MAGIC_BYTES as MAGIC
from common.records.index import index_path
from common.records.walk import open_records
from data import check


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "x", IMAGES, np.arange(COUNT) % 3)


def test_a_whole_file_has_no_faults(path, tmp_path, capsys):
    code, lines = run(capsys, path, "--decode", "--repair", tmp_path / "out")
    assert code == 0
    assert lines == [
        f"{path}: 10 records good, 0 faulty",
        f"{tmp_path}/out.rec: not written, there is nothing to repair",
    ]
    assert not os.path.exists(tmp_path / "out.rec")


def read(path, at, count):
    with open(path, "rb") as rec:
        rec.seek(at)
        return rec.read(count)


def word(at, value):
    """A fault: another number in the word ``at`` bytes behind a record's start."""
    kind = "<f" if isinstance(value, float) else "<I"
    return lambda path, start: edit(path, start + at, struct.pack(kind, value))


def longer(path, start):
    (length,) = struct.unpack("<I", read(path, start + 4, 4))
    edit(path, start + 4, struct.pack("<I", length + 64))


NO_NUMBER = "its label is not a class number"


FAULTS = {
    "magic number": (word(0, 0), "has no magic number"),
    "length too short": (word(4, 100), "ends at byte"),
    "length too long": (longer, "ends at byte"),
    "length beyond the file": (word(4, (1 << 29) - 1), "is cut off, or its length is wrong"),
    "flag": (word(4, 2 << 29 | 100), "has a part out of place"),
    "zeros": (lambda path, start: edit(path, start, bytes(64)), "has no magic number"),
    "number of labels": (word(8, 2), "has 2 labels"),
    "negative label": (word(12, -1.0), NO_NUMBER),
    "fraction": (word(12, 0.5), NO_NUMBER),
    "infinite label": (word(12, float("inf")), NO_NUMBER),
    "no number": (word(12, float("nan")), NO_NUMBER),
    "label beyond": (word(12, 3.0), "its label is not one of 3 classes, 0 to 2"),
    "no picture": (word(32, 0), "holds no JPEG, PNG, BMP or TIFF image"),
    "lost bytes": (lambda path, start: splice(path, start + 100, 40), "ends at byte"),
    "more bytes": (lambda path, start: splice(path, start + 100, 0, b"more"), "ends at byte"),
}


@pytest.mark.parametrize("with_index", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("fault", FAULTS)
def test_two_faults_are_named_and_the_other_records_kept(path, tmp_path, capsys, fault, with_index):
    damage, cause = FAULTS[fault]
    good, starts = contents(path), offsets(path)
    if not with_index:
        os.unlink(index_path(path))
    size = os.path.getsize(path)
    for number in (6, 2):  # the later one first: the offset of the earlier stays
        damage(path, starts[number])
    shift = (os.path.getsize(path) - size) // 2

    code, lines = run(capsys, path, "--repair", tmp_path / "out.rec")

    assert code == 1
    assert lines[0].startswith(f"record 2 at byte {starts[2]}")
    assert lines[1].startswith(f"record 6 at byte {starts[6] + shift}")
    assert cause in lines[0] and cause in lines[1]
    assert f"{path}: 8 records good, 2 faulty" in lines
    if not shift:  # moved records are rightly not where the index has them
        assert len(lines) == 4 + (not with_index)
    kept = [pair for number, pair in enumerate(good) if number not in (2, 6)]
    assert contents(str(tmp_path / "out.rec")) == kept
    assert read_class_names(str(tmp_path / "out.rec")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "length, cause", [(0, "is too short"), (20, "is too short"), (24, "holds no")]
)
def test_a_record_without_an_image_is_a_fault(path, capsys, length, cause):
    start, end = offsets(path)[2:4]
    splice(path, start + 4, end - start - 4, struct.pack("<I", length) + bytes(length))
    os.unlink(index_path(path))
    code, lines = run(capsys, path)
    assert code == 1
    assert lines[0].startswith(f"record 2 at byte {start}") and f": {cause}" in lines[0]
    assert lines[-1] == f"{path}: 9 records good, 1 faulty"


def test_a_line_has_the_label_where_it_is_known(path, capsys):
    edit(path, offsets(path)[7] + 12, struct.pack("<f", 4))
    _, lines = run(capsys, path)
    assert lines[0] == (
        f"record 7 at byte {offsets(path)[7]}, label 4: its label is not one of 3 classes, 0 to 2"
    )


def test_the_number_of_classes_can_be_given(path, capsys):
    assert run(capsys, path, "--num-classes", 3)[0] == 0
    code, lines = run(capsys, path, "--num-classes", 2)
    assert code == 1 and sum("not one of 2 classes" in line for line in lines) == 3
    os.unlink(path[:-4] + "-classes.txt")
    assert run(capsys, path)[0] == 0


def test_a_damaged_middle_part_is_the_fault_of_its_record(path, capsys):
    start = offsets(path)[3]
    with open_records(path) as content:
        second = content.find(MAGIC, start + 4)
    assert second < offsets(path)[4]
    edit(path, second, b"\0")
    code, lines = run(capsys, path)
    assert code == 1 and len(lines) == 2
    assert lines[0] == f"record 3 at byte {start}, label 0: has no magic number at byte {second}"


def test_with_an_index_each_record_in_a_destroyed_stretch_is_named(path, capsys):
    starts = offsets(path)
    edit(path, starts[3], bytes(starts[6] - starts[3]))
    code, lines = run(capsys, path)
    assert code == 1
    assert [line.split(":")[0] for line in lines[:3]] == [
        f"record {number} at byte {starts[number]}" for number in (3, 4, 5)
    ]
    assert lines[3:] == [f"{path}: 7 records good, 3 faulty"]


def test_a_cut_file_keeps_what_is_before_the_cut(path, tmp_path, capsys):
    good, starts = contents(path), offsets(path)
    os.truncate(path, starts[8] + 100)
    code, lines = run(capsys, path, "--repair", tmp_path / "out")
    assert code == 1
    assert lines[0].startswith(f"record 8 at byte {starts[8]}, label 2: is cut off")
    assert any(f"x.idx: 1 {NO_RECORD}" in line for line in lines)
    assert contents(str(tmp_path / "out.rec")) == good[:8]


@pytest.mark.parametrize("garbage", [b"abc", b"garbage.", b"0" * 999, MAGIC, MAGIC * 5])
def test_what_was_appended_costs_no_record(path, tmp_path, capsys, garbage):
    good, size = contents(path), os.path.getsize(path)
    splice(path, size, 0, garbage)
    code, lines = run(capsys, path, "--repair", tmp_path / "out")
    assert code == 1 and lines[0].startswith(f"record 10 at byte {size}")
    assert contents(str(tmp_path / "out.rec")) == good


def test_a_damaged_beginning_is_a_fault_like_any_other(path, capsys):
    edit(path, 0, b"\0")
    code, lines = run(capsys, path)
    assert code == 1 and lines[0] == "record 0 at byte 0: has no magic number"


NO_RECORD = "entries point where no record begins"


NO_ENTRY = "good records have no entry"


TWICE = "offsets are listed more than once"


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda lines: lines[:4] + lines[5:], f"1 {NO_ENTRY}; the first at byte {{4}}"),
        (lambda lines: [*lines, b"10\t8\n"], f"1 {NO_RECORD}; the first at byte 8"),
        (lambda lines: [*lines, b"10\t9\n"], f"1 {NO_RECORD}; the first at byte 9"),
        (lambda lines: [*lines, b"10\t0\n"], f"1 {TWICE}; the first at byte 0"),
        (lambda lines: [*lines, b"garbage\n"], "is not a record index"),
        (lambda lines: lines[:1] * 10, "is not a record index"),
        (None, "is missing"),
    ],
)
def test_a_wrong_index_is_a_fault_and_repaired(path, tmp_path, capsys, change, line):
    good, starts, index = contents(path), offsets(path), index_path(path)
    with open(index, "rb") as lines:
        listed = lines.readlines()
    os.unlink(index)
    if change:
        with open(index, "wb") as lines:
            lines.writelines(change(listed))

    code, lines = run(capsys, path, "--repair", tmp_path / "out")

    assert code == 1
    assert lines[0].startswith(f"{index}: {line.format(*starts)}")
    assert lines[1:] == [
        f"{path}: 10 records good, 0 faulty",
        f"{tmp_path}/out.rec: has the 10 good records; the faulty ones were left out",
    ]
    assert contents(str(tmp_path / "out.rec")) == good


@pytest.mark.parametrize("with_index", [True, False])
def test_of_mutated_files_a_repair_keeps_each_undamaged_record(path, tmp_path, capsys, with_index):
    good, starts = contents(path), [*offsets(path), os.path.getsize(path)]
    whole = read(path, 0, starts[-1])
    heads = [at + word for at in starts[:-1] for word in range(0, 36, 4)]
    if not with_index:
        os.unlink(index_path(path))
    repaired = 0
    for seed in range(200):
        content = mutate(whole, seed, heads)
        with open(path, "wb") as rec:
            rec.write(content)
        try:
            code, _ = run(capsys, path, "--repair", tmp_path / "out", "--overwrite")
        except UserError as refusal:
            assert "no good record" in str(refusal) or "empty" in str(refusal)
            continue
        if code:
            repaired += 1
            kept = contents(str(tmp_path / "out.rec"))
            for number, pair in enumerate(good):
                at = content.find(whole[starts[number] : starts[number + 1]])
                assert at < 0 or at % 4 or pair in kept, (seed, number)
    assert repaired > 100


def test_the_input_is_never_written_to(path, tmp_path):
    before = read(path, 0, -1)
    os.symlink(path, tmp_path / "link.rec")
    edit(path, 0, b"\0")
    damaged = read(path, 0, -1)
    assert damaged != before
    for out in (path, path[:-4], tmp_path / "link.rec", f"{tmp_path}/../{tmp_path.name}/x"):
        with pytest.raises(UserError, match="is the file that is checked; choose another name"):
            check.main([path, "--repair", str(out), "--overwrite"])
    assert read(path, 0, -1) == damaged


def test_output_that_is_there_is_kept_unless_told(path, tmp_path, capsys):
    edit(path, 0, b"\0")
    (tmp_path / "out.idx").write_text("mine")
    with pytest.raises(UserError, match="out.idx: already exists.*--overwrite"):
        check.main([path, "--repair", str(tmp_path / "out")])
    assert (tmp_path / "out.idx").read_text() == "mine"
    assert run(capsys, path, "--repair", tmp_path / "out", "--overwrite")[0] == 1
    assert len(contents(str(tmp_path / "out.rec"))) == 9


def test_the_command_says_all_on_stdout_and_in_its_exit_code(path, tmp_path):
    assert run_script("-m", "data.check", path).returncode == 0
    start = offsets(path)[4]
    edit(path, start, b"\0")
    done = run_script("-m", "data.check", path, "--decode", "--data-nthreads", 2)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"record 4 at byte {start}: has no magic number",
        f"{path}: 9 records good, 1 faulty",
    ]
    assert "9/9 images" in done.stderr
    assert_refused(run_script("-m", "data.check", tmp_path / "none.rec"), "none.rec: no such")
    assert_refused(run_script("-m", "data.check", __file__), "is not an MXNet record file")


def test_checking_does_not_import_mxnet():
    assert (
        run_script("-c", "import sys, data.check; sys.exit('mxnet' in sys.modules)").returncode == 0
    )
