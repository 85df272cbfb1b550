"""How much memory is left, as Linux and a container's limit say."""

import pytest

from common.io.limits import available_memory

MIB = 2**20


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9999 kB\nMemAvailable:    8192 kB\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    return tmp_path


def limit(root, most):
    folder = root / "sys/fs/cgroup"
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{3 * MIB}\n")
    (folder / "memory.stat").write_text(f"anon {MIB}\nfile {2 * MIB}\nfile_mapped 7\n")


def test_the_machine_has_what_linux_says(root):
    assert available_memory(str(root)) == 8 * MIB
    limit(root, "max")
    assert available_memory(str(root)) == 8 * MIB


def test_a_containers_limit_holds_too_and_cached_files_are_free(root):
    limit(root, 5 * MIB)
    assert available_memory(str(root)) == 4 * MIB
    limit(root, 500 * MIB)
    assert available_memory(str(root)) == 8 * MIB


def test_where_nothing_is_known_there_is_no_answer(tmp_path):
    assert available_memory(str(tmp_path)) is None
