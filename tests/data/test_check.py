"""data/check.py: every fault named by its record, and a file of exactly the others."""

import multiprocessing
import os
import signal
import struct

import cv2
import numpy as np
import pytest
from conftest import assert_refused, run_script
from mutations import mutate
from pictures import BAD, CUT, KINDS, file, jpeg, photo

from common.cli import UserError
from common.records.classes import read_class_names
from common.records.format import MAGIC_BYTES as MAGIC
from common.records.format import read_image
from common.records.index import index_path, read_index
from common.records.scan import scan_records
from common.records.walk import open_records
from common.records.writer import create_records
from data import check

COUNT = 10
# Every second one has a comment that holds the magic number: such a record is stored in parts.
IMAGES = [
    jpeg(20 + i, 30, seed=i)[:2]
    + (b"\xff\xfe\0\x0axx" + MAGIC + b"xx") * (i % 2)
    + jpeg(20 + i, 30, seed=i)[2:]
    for i in range(COUNT)
]


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "x", IMAGES, np.arange(COUNT) % 3)


def write(prefix, images, labels):
    with create_records(str(prefix), ["a", "b", "c"]) as writer:
        for image, label in zip(images, labels):
            writer.write(label, image)
    return f"{prefix}.rec"


def offsets(path):
    return read_index(path).tolist()


def contents(path):
    """[(label, image)] of a whole file."""
    found = scan_records(path)
    with open_records(path) as content:
        images = [read_image(content, at) for at in found.offsets.tolist()]
    return list(zip(found.labels.tolist(), images))


def edit(path, at, new):
    """Write ``new`` over the bytes at ``at``."""
    with open(path, "r+b") as rec:
        rec.seek(at)
        rec.write(new)


def splice(path, at, count, new=b""):
    """Put ``new`` in the place of ``count`` bytes."""
    with open(path, "rb") as rec:
        content = rec.read()
    with open(path, "wb") as rec:
        rec.write(content[:at] + new + content[at + count :])


def run(capsys, *argv):
    """The exit code and the lines on stdout."""
    code = check.main([str(argument) for argument in argv])
    return code, capsys.readouterr().out.splitlines()


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
TWICE = "offsets are there more than once"


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


PNG = file(".png", photo(40, 40))
IDAT = PNG.index(b"IDAT")


def flipped(image, at):
    return image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :]


UNDECODABLE = {
    **{name: image for name, (image, _) in BAD.items() if name not in ("empty.jpg", "text.jpg")},
    "half.jpg": jpeg(200, 300)[: len(jpeg(200, 300)) // 2],
    "half, progressive.jpg": jpeg(200, 300, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)[:4000],
    "its scan in zeros.jpg": CUT[:2000] + bytes(2000) + CUT[4000:] + b"\xff\xd9",
    "data.png": flipped(PNG, IDAT + 400),
    "checksum of the data.png": flipped(PNG, PNG.index(b"IEND") - 5),
    "checksum of the end.png": flipped(PNG, len(PNG) - 1),
    "text chunk.png": PNG[:33] + struct.pack(">I", 2) + b"tEXta\0" + bytes(4) + PNG[33:],
    "without its end.png": PNG[:-12],
}
UNDECODABLE.pop("cut.webp")


def test_decoding_finds_every_damaged_picture_and_no_other(tmp_path, capsys):
    good = [image for name, image in KINDS.items() if not name.endswith(("webp", "ppm"))]
    images = good + list(UNDECODABLE.values())
    path = write(tmp_path / "x", images, [1] * len(images))
    assert run(capsys, path)[0] == 0, "without decoding nothing is seen"

    code, lines = run(capsys, path, "--decode", "--repair", tmp_path / "out")

    assert code == 1
    named = [line.split(", label 1: ")[0] for line in lines[:-2]]
    assert named == [
        f"record {number} at byte {offsets(path)[number]}"
        for number in range(len(good), len(images))
    ]
    assert contents(str(tmp_path / "out.rec")) == [(1, image) for image in good]


def test_a_jpeg_is_found_wherever_it_is_cut(tmp_path, capsys):
    whole = jpeg(60, 80)
    images = [whole[:length] for length in range(20, len(whole) - 1, 7)]
    path = write(tmp_path / "x", images, [0] * len(images))
    code, lines = run(capsys, path, "--decode")
    assert code == 1
    assert lines[-1] == f"{path}: 0 records good, {len(images)} faulty"


def test_a_killed_process_is_an_error_and_not_a_hang(tmp_path):
    path = write(tmp_path / "x", [CUT, *[jpeg(300, 400)] * 999], [0] * 1000)
    with open_records(path) as content:
        found = list(check.structure(content))
    faults = check.undecodable(path, found, workers=1)
    assert next(faults).number == 0
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match="x.rec: a process died"):
        list(faults)
    assert multiprocessing.active_children() == []


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


def test_a_changed_label_is_named_and_left_out(path, tmp_path, capsys):
    good, at = contents(path), offsets(path)[4]
    edit(path, at + 12, struct.pack("<f", (good[4][0] + 1) % 3))
    code, lines = run(capsys, path, "--repair", tmp_path / "out")
    assert code == 1
    assert lines[0].startswith(f"record 4 at byte {at}, label {(good[4][0] + 1) % 3:g}: ")
    assert lines[0].endswith(f"has another checksum: label {good[4][0]:g} was written")
    assert contents(str(tmp_path / "out.rec")) == good[:4] + good[5:]
    assert run(capsys, tmp_path / "out.rec")[0] == 0


def test_every_flipped_bit_of_a_picture_is_named(path, tmp_path, capsys):
    whole, starts = read(path, 0, -1), [*offsets(path), os.path.getsize(path)]
    for seed in range(60):
        number = seed % 10
        picture = read_image(whole, starts[number])
        at = whole.index(picture[-60:], starts[number]) + seed  # unpadded, and not its beginning
        flipped = bytes([whole[at] ^ 1 << seed % 8])
        edit(path, at, flipped)
        code, lines = run(capsys, path)
        assert code == 1 and len(lines) == 2
        assert lines[0].startswith(f"record {number} at byte {starts[number]}, label ")
        assert lines[0].endswith("has another checksum: its picture was changed")
        edit(path, at, whole[at : at + 1])


def test_a_record_that_was_moved_keeps_its_checksum(path, tmp_path, capsys):
    good, starts = contents(path), offsets(path)
    splice(path, starts[2], starts[3] - starts[2])
    os.unlink(index_path(path))
    code, lines = run(capsys, path, "--repair", tmp_path / "out")
    assert code == 1
    assert lines[:2] == [
        f"{index_path(path)}: is missing",
        f"{path[:-4]}-checksums.npy: has 1 rows more than there are records",
    ]
    assert contents(str(tmp_path / "out.rec")) == good[:2] + good[3:]


def test_checksums_of_another_file_condemn_no_record(path, tmp_path, capsys):
    other = write(tmp_path / "y", [jpeg(40, 41)] * 10, [1] * 10)
    os.replace(f"{other[:-4]}-checksums.npy", f"{path[:-4]}-checksums.npy")
    code, lines = run(capsys, path)
    assert code == 1
    assert "x-checksums.npy: does not fit" in lines[0] and "10 records good" in lines[1]


def test_damaged_checksums_are_a_fault_and_repaired(path, tmp_path, capsys):
    good = contents(path)
    with open(f"{path[:-4]}-checksums.npy", "wb") as file:
        file.write(b"\x93NUMPY")
    code, lines = run(capsys, path, "--repair", tmp_path / "out")
    assert code == 1 and "x-checksums.npy: is damaged" in lines[0]
    assert contents(str(tmp_path / "out.rec")) == good


def test_the_input_is_never_written_to(path, tmp_path):
    before = read(path, 0, -1)
    os.symlink(path, tmp_path / "link.rec")
    edit(path, 0, b"\0")
    damaged = read(path, 0, -1)
    assert damaged != before
    for out in (path, path[:-4], tmp_path / "link.rec", f"{tmp_path}/../{tmp_path.name}/x"):
        with pytest.raises(UserError, match="is what is checked; choose another name"):
            check.main([path, "--repair", str(out), "--overwrite"])
    assert read(path, 0, -1) == damaged


def test_output_that_is_there_is_kept_unless_told(path, tmp_path, capsys):
    edit(path, 0, b"\0")
    (tmp_path / "out.idx").write_text("mine")
    with pytest.raises(UserError, match="out.idx: is there already.*--overwrite"):
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
