"""--model-parallel: two devices train, stop, resume and save what one device does."""

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, bands, before_batch, terminate, train, write_records
from test_distributed import assert_close, launch

FLAGS = ["--network", "alexnet2012", "--dataset", "cifar10", "--dropout", 0, "--deterministic"]
FLAGS += ["--batch-size", 8, "--num-epochs", 1, "--initializer", "xavier"]
PAIR = ["--cpus", 2, "--model-parallel"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Of one epoch of three batches."""
    folder = tmp_path_factory.mktemp("pictures")
    images = bands(24, seed=1, size=70, channels=3)
    return [*FLAGS, "--data-train", write_records(folder / "train", *images)]


def test_a_pair_trains_and_resumes_as_one_device_does(flags, tmp_path):
    assert train(*flags, "--model-prefix", tmp_path / "one").returncode == 0
    pair = [*flags, *PAIR, "--model-prefix", tmp_path / "pair"]
    with before_batch(1, terminate):
        assert train(*pair).returncode == 143
    result = train(*pair, "--resume")
    assert result.returncode == 0, result.stderr
    names = [path.name.replace("one", "pair") for path in tmp_path.glob("one*")]
    assert sorted(names) == sorted(path.name for path in tmp_path.glob("pair*"))
    graphs = {(tmp_path / f"{name}-symbol.json").read_bytes() for name in ("one", "pair")}
    assert len(graphs) == 1
    for kind in ("", "-optimizer"):
        one, two = (mx.nd.load(str(tmp_path / f"{p}-0001{kind}.params")) for p in ("one", "pair"))
        assert one.keys() == two.keys()
        for name, array in one.items():
            assert np.abs(array.asnumpy() - two[name].asnumpy()).max() < 1e-6, name


@pytest.mark.parametrize(
    "more, word",
    [
        (["--cpus", 3], "--model-parallel: needs pairs of devices; --cpus 3"),
        (["--cpus", 2, "--network", "alexnet"], "alexnet: has no convolution in two groups"),
    ],
)
def test_what_has_no_pairs_is_refused(flags, more, word):
    assert_refused(train(*flags, "--model-parallel", *more), word)


@pytest.mark.slow
def test_two_workers_of_a_pair_each_train_as_one_device_does(flags, tmp_path):
    flags = [*flags, "--random-crop", 0, "--random-mirror", 0, "--pca-noise", 0]
    assert train(*flags, "--model-prefix", tmp_path / "one").returncode == 0
    result = launch(tmp_path, 2, *flags, *PAIR, "--model-prefix", tmp_path / "x")
    assert result.returncode == 0, result.stderr
    assert_close(tmp_path / "x", tmp_path / "one", epoch=1)
