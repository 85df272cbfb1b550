"""common/checkpoint/store.py and config.py: whole or not there; damage is named."""

import os
import shutil

import mxnet as mx
import numpy as np
import pytest

from common.checkpoint import store
from common.checkpoint.config import load_config, save_config
from common.cli import UserError
from common.io import files
from common.io.lock import lock
from common.version import VERSION

SYMBOL = mx.sym.SoftmaxOutput(
    mx.sym.FullyConnected(mx.sym.Variable("data"), name="fc1", num_hidden=3), name="softmax"
)


class Killed(BaseException):
    """Stands for the death of the process."""


def arrays(seed):
    rng = np.random.RandomState(seed)
    shapes = {"fc1_weight": (3, 5), "fc1_bias": (3,)}
    return {name: mx.nd.array(rng.normal(size=shape)) for name, shape in shapes.items()}


def save(prefix, number, batches=None, symbol=SYMBOL):
    """A checkpoint whose arrays are those of ``number``."""
    weights = arrays(number)
    optimizer = {f"{name}:0": array for name, array in arrays(-number % 1000).items()}
    batches = 10 * number if batches is None else batches
    store.save(prefix, number, symbol, weights, {}, optimizer, batches=batches)


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name].asnumpy(), expected[name].asnumpy()) for name in expected
    )


def contents(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


@pytest.fixture
def prefix(tmp_path):
    """A prefix, with signs that regular expressions know, of two checkpoints."""
    prefix = str(tmp_path / "x+(1)")
    save(prefix, 1)
    save(prefix, 2)
    return prefix


def test_what_is_saved_is_what_stock_mxnet_loads(prefix):
    for number in (1, 2):
        symbol, arg_params, aux_params = store.load(prefix, number)
        stock = mx.model.load_checkpoint(prefix, number)
        assert symbol.tojson() == stock[0].tojson() == SYMBOL.tojson()
        assert equal(arg_params, stock[1]) and equal(arg_params, arrays(number))
        assert aux_params == stock[2] == {}
        optimizer = store.load_optimizer(prefix, number)
        assert equal({name[:-2]: array for name, array in optimizer.items()}, arrays(1000 - number))
        assert store.load_record(prefix, number)["batches"] == 10 * number


def test_without_optimizer_state_there_is_no_file_of_it(prefix):
    store.save(prefix, 3, SYMBOL, arrays(3), {"mean": mx.nd.ones(2)}, batches=30)
    assert not os.path.exists(f"{prefix}-0003-optimizer.params")
    assert store.load_optimizer(prefix, 3) == {}
    assert store.newest(prefix) == ((prefix, 3), [])
    assert equal(store.load(prefix, 3)[2], {"mean": mx.nd.ones(2)})


def test_a_record_of_a_newer_form_names_the_version_that_wrote_it(prefix, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(store, "_FORMAT", 2)
        newer.setattr(store, "versions", lambda: {"alexnet-mxnet": "9.9"})
        save(prefix, 3)
    with pytest.raises(UserError, match=r"x\+\(1\)-0003.json: was written by 9.9 of this program"):
        store.load(prefix, 3)
    assert store.load_record(prefix, 2)["versions"]["alexnet-mxnet"] == VERSION


def test_a_prefix_needs_no_folder_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x-0001.params.tmp1").touch()
    with lock("x"):
        store.remove_left_over("x")
        save("x", 1)
        assert store.newest("x") == (("x", 1), [])
        store.remove("x")
    assert os.listdir(tmp_path) == []


def test_a_records_entries_can_be_changed(prefix):
    before = store.load_record(prefix, 2)
    store.update_record(prefix, 2, reported=True)
    after = store.load_record(prefix, 2)
    assert after.pop("reported") is True
    assert after == before
    store.verify(prefix, 2)


def flip(path):
    with open(path, "r+b") as file:
        middle = os.path.getsize(path) // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


def cut(path):
    os.truncate(path, os.path.getsize(path) - 2)  # a record ends in a newline that tells nothing


def empty(path):
    os.truncate(path, 0)


def replace(path):
    """Another checkpoint's file of the same kind is copied over it."""
    if path.endswith("-symbol.json"):
        save("y", 1, symbol=mx.sym.FullyConnected(SYMBOL, name="fc2", num_hidden=3))
        shutil.copy("y-symbol.json", path)
    else:
        shutil.copy(path.replace("0002", "0001"), path)


@pytest.mark.parametrize("damage", [flip, cut, empty, os.unlink, replace])
@pytest.mark.parametrize(
    "name", ["-0002.params", "-0002-optimizer.params", "-symbol.json", "-0002.json"]
)
def test_every_damage_is_refused_by_the_name_of_the_file(
    prefix, tmp_path, monkeypatch, name, damage
):
    monkeypatch.chdir(tmp_path)
    damage(prefix + name)
    with pytest.raises(UserError) as error:
        store.verify(prefix, 2)
    assert prefix + name in str(error.value) and "\n" not in str(error.value)
    if name in ("-0002.params", "-symbol.json"):
        with pytest.raises(UserError) as error:
            store.load(prefix, 2)
        assert prefix + name in str(error.value) and "\n" not in str(error.value)


def test_no_bit_of_a_record_can_change_unnoticed(prefix):
    path = store.record_path(prefix, 2)
    record = store.load_record(prefix, 2)
    with open(path, "rb") as file:
        whole = file.read()
    refused = 0
    for at in range(len(whole)):
        with open(path, "wb") as file:
            file.write(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            assert store.load_record(prefix, 2) == record
        except UserError as error:
            refused += 1
            assert path in str(error)
    assert refused > 0.9 * len(whole)


def test_the_newest_is_the_one_that_is_furthest_on(prefix):
    partial = store.partial(prefix)
    assert store.newest(prefix) == ((prefix, 2), [])
    save(partial, 25, batches=25)
    assert store.newest(prefix) == ((partial, 25), [])
    save(partial, 9, batches=9)
    save(prefix, 3)
    assert store.newest(prefix) == ((prefix, 3), [])
    assert store.newest(f"{prefix}none") == (None, [])


def test_damaged_and_half_written_ones_are_passed_over(prefix):
    partial = store.partial(prefix)
    save(prefix, 3)
    save(partial, 35, batches=35)
    save(partial, 36, batches=36)
    flip(f"{partial}-0036.params")
    cut(f"{partial}-0035.json")
    os.unlink(f"{prefix}-0003.json")
    place, damaged = store.newest(prefix)
    assert place == (prefix, 2)
    assert sorted(line.split(":")[0] for line in damaged) == [
        f"{partial}-0035.json",
        f"{partial}-0036.params",
    ]
    empty(f"{prefix}-0002-optimizer.params")
    assert store.newest(prefix)[0] == (prefix, 1)
    empty(f"{prefix}-symbol.json")
    assert store.newest(prefix)[0] is None


def test_what_is_no_training_runs_is_not_gone_on_with(prefix):
    store.save(prefix, 5, SYMBOL, arrays(5), {})
    mx.model.save_checkpoint(prefix, 6, SYMBOL, arrays(6), {})
    assert store.newest(prefix) == ((prefix, 2), [])


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_between_two_renames_leaves_the_checkpoint_before(
    prefix, tmp_path, monkeypatch, renames
):
    done = []
    rename = os.replace

    def kill_after_some(source, target):
        if len(done) == renames:
            raise Killed
        done.append(target)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", kill_after_some)
        patch.setattr(files.os, "unlink", lambda path: None)  # the dead tidy up nothing
        with pytest.raises(Killed):
            save(prefix, 3)
    assert not os.path.exists(store.record_path(prefix, 3))
    assert store.newest(prefix) == ((prefix, 2), [])
    assert equal(store.load(prefix, 2)[1], arrays(2))
    assert sum(".tmp" in name for name in os.listdir(tmp_path)) == 4 - renames
    store.check_free(prefix, overwrite=False, after=2)  # half a checkpoint is in nobody's way
    store.remove_left_over(prefix)
    assert not any(".tmp" in name for name in os.listdir(tmp_path))
    save(prefix, 3)
    assert store.newest(prefix) == ((prefix, 3), [])


@pytest.mark.parametrize("before", [0, 1])
def test_what_fails_to_be_saved_changes_nothing(prefix, tmp_path, monkeypatch, before):
    whole, flush, flushed = contents(tmp_path), files._flush, []

    def fail(path):
        if len(flushed) == before:
            raise OSError(28, "No space left on device")
        flushed.append(path)
        flush(path)

    monkeypatch.setattr(files, "_flush", fail)
    with pytest.raises(UserError, match="No space left on device"):
        save(prefix, 2, batches=21)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("removals", range(6))
def test_a_kill_while_old_ones_are_removed_leaves_no_half_for_whole(
    prefix, tmp_path, monkeypatch, removals
):
    save(prefix, 3)
    done, unlink = [], os.unlink

    def kill_after_some(path):
        if len(done) == removals:
            raise Killed
        done.append(path)
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "unlink", kill_after_some)
        with pytest.raises(Killed):
            store.remove(prefix, keep=())
    assert store.newest(prefix) == ((prefix, 3), [])
    store.remove(prefix, keep=(3,))
    assert sorted(os.listdir(tmp_path)) == sorted(
        f"x+(1)-{name}"
        for name in ("0003.json", "0003.params", "0003-optimizer.params", "symbol.json")
    )
    assert equal(store.load(prefix, 3)[1], arrays(3))


def test_remove_keeps_what_it_is_told_and_other_prefixes(prefix, tmp_path):
    other = f"{prefix}-b"
    save(other, 1)
    save(store.partial(prefix), 1)
    save(prefix, 12345)
    store.remove(prefix, keep=(2, 12345))
    assert store.numbers(prefix) == [2, 12345]
    assert not os.path.exists(f"{prefix}-0001.json")
    for number in (2, 12345):
        store.verify(prefix, number)
    store.remove(prefix)
    left = {name[len("x+(1)") :] for name in os.listdir(tmp_path)}
    assert all(name.startswith(("-b-", "-partial-")) for name in left) and len(left) == 8
    store.verify(other, 1)
    store.verify(store.partial(prefix), 1)


def test_an_earlier_runs_checkpoints_are_in_the_way_unless_given_up(prefix, tmp_path):
    with pytest.raises(UserError, match=r"0002\.params exists.*--resume.*--overwrite"):
        store.check_free(prefix, overwrite=False)
    with pytest.raises(UserError, match="--out-prefix") as error:
        store.check_free(prefix, False, "--out-prefix")
    assert "--resume" not in str(error.value)
    store.check_free(prefix, overwrite=True)
    store.check_free(prefix, overwrite=False, after=2)
    with pytest.raises(UserError, match="0002"):
        store.check_free(prefix, overwrite=False, after=1)
    store.check_free(prefix[:-1], overwrite=False)
    store.remove(prefix)
    store.check_free(prefix, overwrite=False)
    save(store.partial(prefix), 7)
    with pytest.raises(UserError, match="partial-0007"):
        store.check_free(prefix, overwrite=False, after=9)


def test_a_config_that_was_changed_is_refused_unless_its_checksum_is_taken_out(tmp_path):
    prefix, path = str(tmp_path / "x"), tmp_path / "x-config.json"
    save_config(prefix, {"rgb_mean": (1.5, 2.0), "resize": None}, ["cat", "dög"], int8={"of": 1})
    config = load_config(prefix)
    assert config["args"] == {"rgb_mean": [1.5, 2.0], "resize": None}
    assert config["classes"] == ["cat", "dög"] and "sha256" not in config
    path.write_text(path.read_text().replace("cat", "rat"))
    with pytest.raises(UserError, match="x-config.json: is damaged.*sha256"):
        load_config(prefix)
    lines = [line for line in path.read_text().splitlines() if "sha256" not in line]
    lines[-2] = lines[-2].rstrip(",")
    path.write_text("\n".join(lines))  # as checkpoints from before it had one, too
    assert load_config(prefix)["classes"] == ["rat", "dög"]


def test_left_over_temporary_files_go_but_not_another_prefixs(tmp_path):
    mine = ["a-0001.params", "a-0001-optimizer.params", "a-0001.json", "a-symbol.json"]
    mine += ["a-partial-12345.params", "a-partial-symbol.json", "a-config.json"]
    theirs = ["a-b-0001.params", "a-b-config.json", "b-0001.params", "aa-symbol.json"]
    theirs += ["a-b-partial-0001.json", "a-val.rec"]
    for name in mine + theirs:
        (tmp_path / f"{name}.tmp123").touch()  # as earlier versions named them
        (tmp_path / f"{name}.tmp123-0123456789abcdef").touch()
    # Of 1 no record came to be, only its temporary file: the kill came in the middle of the set.
    whole = ["a-0002.params", "a-0003.params", "a-0003.json", "a-0003.json.tmp5"]
    for name in ["a-0001.params", "a-0001-optimizer.params", *whole]:
        (tmp_path / name).touch()
    store.remove_left_over(str(tmp_path / "a"))
    left = sorted(os.listdir(tmp_path))
    forms = (".tmp123", ".tmp123-0123456789abcdef")
    assert left == sorted([*(f"{name}{form}" for name in theirs for form in forms), *whole[:-1]])
