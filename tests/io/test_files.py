"""common/io/files.py on odd file systems, for users without a home, and at the machine's limits."""

import errno
import os
import re
import stat

import pytest
from conftest import run_script

from common.cli import UserError
from common.io import files
from common.io.files import atomic, cache_folder, read_json, write_json


def refusing_folders(code):
    """An os.fsync that fails for folders as some file systems do."""
    fsync = os.fsync

    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    return refuse


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", refusing_folders(code))
    with atomic(str(tmp_path / "x")) as temporary, open(temporary, "w") as file:
        file.write("whole")
    assert (tmp_path / "x").read_text() == "whole"


def test_a_folder_that_fails_to_be_flushed_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refusing_folders(errno.EIO))
    with pytest.raises(OSError), atomic(str(tmp_path / "x")):
        pass


def test_a_file_that_cannot_be_flushed_is_a_failure(tmp_path, monkeypatch):
    def refuse(_handle):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match="x: cannot be written"), atomic(str(tmp_path / "x")):
        pass
    assert os.listdir(tmp_path) == []


def test_a_temporary_name_in_use_is_never_taken(tmp_path, monkeypatch):
    tokens = iter(["a" * 16, "a" * 16, "b" * 16])
    monkeypatch.setattr(files.secrets, "token_hex", lambda _count: next(tokens))
    with atomic(str(tmp_path / "x")) as first, atomic(str(tmp_path / "x")) as second:
        assert first != second
    names = [os.path.basename(name) for name in (first, second)]
    assert all(re.fullmatch("x" + files.TEMPORARY, name) for name in names)


@pytest.mark.parametrize("code, limit", [(errno.EMFILE, "ulimit -n"), (errno.ENOMEM, "ulimit -v")])
def test_a_limit_of_the_machine_is_not_a_full_disk(tmp_path, code, limit):
    refusal = pytest.raises(UserError, match=f"x: cannot be written: .*{limit}")
    with refusal as error, atomic(str(tmp_path / "x")):
        raise OSError(code, os.strerror(code))
    assert "make room" not in str(error.value)


def test_a_user_without_a_home_gets_a_private_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without a passwd entry
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))

    folder = cache_folder()

    assert folder == cache_folder() == str(tmp_path / f"alexnet-mxnet-{os.getuid()}")
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    os.chmod(folder, 0o777)
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        cache_folder()


def test_json_is_read_back_and_every_change_is_noticed(tmp_path):
    path = str(tmp_path / "x.json")
    entries = {"epoch": 3, "classes": ["cat", "écureuil"], "args": {"lr": 0.01, "seed": None}}
    write_json(path, entries)
    assert read_json(path, "copy it anew") == entries
    whole = (tmp_path / "x.json").read_bytes()
    harmless = 0
    for at in range(len(whole)):
        (tmp_path / "x.json").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            harmless += read_json(path, "copy it anew") == entries
        except UserError as error:
            assert "x.json: is damaged" in str(error) and "copy it anew" in str(error)
        else:
            assert harmless  # white space alone may differ


def test_json_without_a_checksum_is_read_only_where_that_is_allowed(tmp_path):
    (tmp_path / "x.json").write_text('{"epoch": 3}')
    assert read_json(str(tmp_path / "x.json"), "", unsigned=True) == {"epoch": 3}
    with pytest.raises(UserError, match="checksum is wrong"):
        read_json(str(tmp_path / "x.json"), "")
    (tmp_path / "x.json").write_text("[3]")
    with pytest.raises(UserError, match="not a JSON object"):
        read_json(str(tmp_path / "x.json"), "", unsigned=True)


LIMITED = """
import resource, sys
limit = resource.RLIMIT_NOFILE
resource.setrlimit(limit, (int(sys.argv[1]), resource.getrlimit(limit)[1]))
from common.cli import run
from data import folder
if __name__ == "__main__":
    sys.argv[1:] = sys.argv[2:]
    run(folder.main)
"""


@pytest.mark.parametrize("allowed", [8, 12, 16])
def test_too_few_files_allowed_are_not_the_pictures_fault(tmp_path, allowed):
    from pictures import jpeg, write_tree

    tree = write_tree(tmp_path / "tree", {"a/x.jpg": jpeg(), "b/x.jpg": jpeg()})
    result = run_script("-c", LIMITED, allowed, tree, tmp_path / "x", "--workers", 4)
    if result.returncode == 0:
        assert allowed == 16
        return
    assert "unreadable" not in result.stderr
    assert "ulimit -n" in result.stderr and result.returncode == 2, result.stderr
