"""Small record files for the tests of records/ and data.check, and ways to damage them."""

from pictures import jpeg

from common.records.format import MAGIC_BYTES as MAGIC
from common.records.format import read_image
from common.records.index import read_index
from common.records.scan import scan_records
from common.records.walk import open_records
from common.records.writer import create_records
from data import check

JPEG = b"\xff\xd8\xff\xe0"  # how one begins
PAYLOADS = {
    "plain": b"picture!",
    "empty": b"",
    "one byte": b"x",
    "not a multiple of four": b"picture",
    "magic alone": MAGIC,
    "magic first": MAGIC + b"rest",
    "magic last": b"head" + MAGIC,
    "magic twice": MAGIC * 2,
    "magic twice inside": b"head" + MAGIC * 2 + b"tail",
    "magic apart": b"head" + MAGIC + b"body" + MAGIC + b"tai",
    "magic out of step": b"x" + MAGIC + b"tail",
    "magic out of step, then in step": b"x" + MAGIC + b"abc" + MAGIC,
    "half a magic last": b"head" + MAGIC[:3],
}


def read(path):
    with open(path, "rb") as file:
        return file.read()


def rewrite(path, content):
    with open(path, "wb") as file:
        file.write(content)


def three_records(folder):
    """Three records of two classes, the middle one stored in parts; the path of the .rec."""
    prefix = str(folder / "x")
    with create_records(prefix, ["cat", "dog"]) as writer:
        writer.write(1, JPEG + b"picture!!")
        writer.write(0, JPEG + MAGIC + b"body" + MAGIC + b"tail")
        writer.write(1, JPEG)
    return f"{prefix}.rec"


COUNT = 10
# Every second one has a comment that holds the magic number: such a record is stored in parts.
IMAGES = [
    jpeg(20 + i, 30, seed=i)[:2]
    + (b"\xff\xfe\0\x0axx" + MAGIC + b"xx") * (i % 2)
    + jpeg(20 + i, 30, seed=i)[2:]
    for i in range(COUNT)
]


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
