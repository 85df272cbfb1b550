"""Whether oneDNN is let use AMX: it is where the CPU has it and Linux agrees, and nowhere else."""

import os
import platform

import numpy as np
import pytest
from conftest import run_script

from common.io.children import ROOT
from common.runtime import amx

HAS_AMX = amx.permitted()

# What oneDNN computes with when asked_for() has asked for sys.argv[1], and what is left of that.
SHOW = """
import os, sys
from common.runtime import amx
amx.permitted, amx.LEVEL = lambda: True, sys.argv[1]
from common.runtime.mxnet import mx
print("left:", os.environ.get(amx.VARIABLE))
"""
COMPARE = """
import numpy as np
from common.runtime.mxnet import mx
from common.evaluate import network
from common.runtime import native
native.has_int8 = lambda: False
from test_dequantize import made, quantized
plain, images = made("alexnet")
module = network.bind(*quantized(plain, images), images.shape, [mx.cpu()])
np.save("said.npy", network.outputs(module, mx.nd.array(images)).asnumpy())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN has no such levels there")
def test_onednn_reads_the_level_and_children_do_not_inherit_it():
    result = run_script("-c", SHOW, "SSE41", DNNL_VERBOSE="1")
    assert result.returncode == 0, result.stderr
    assert "isa:Intel SSE4.1" in result.stdout
    assert "left: None" in result.stdout


@pytest.mark.skipif(HAS_AMX, reason="this CPU has AMX")
def test_without_amx_linux_is_asked_and_says_no(tmp_path, monkeypatch):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("flags\t\t: avx2 amx_tile amx_int8\n")
    assert not amx.permitted(str(tmp_path))
    monkeypatch.setenv(amx.VARIABLE, amx.LEVEL)
    with amx.asked_for() as asked:
        assert not asked and amx.VARIABLE not in os.environ
    with amx.asked_for() as asked:
        assert not asked and amx.VARIABLE not in os.environ


def test_a_level_of_the_users_own_stays(monkeypatch):
    monkeypatch.setattr(amx, "permitted", lambda: True)
    for level, wanted in (("AVX2", False), (amx.LEVEL, True)):
        monkeypatch.setenv(amx.VARIABLE, level)
        with amx.asked_for() as asked:
            assert asked == wanted and os.environ[amx.VARIABLE] == level
        assert os.environ[amx.VARIABLE] == level


@pytest.mark.skipif(not HAS_AMX, reason="this CPU has no AMX, or Linux keeps it")
def test_int8_layers_say_with_amx_what_they_say_with_vnni(tmp_path):
    folders = [ROOT, os.path.join(ROOT, "tests"), os.path.join(ROOT, "tests", "graph")]
    path, said = os.pathsep.join(folders), []
    for level in ({}, {amx.VARIABLE: "AVX512_CORE_VNNI"}):
        result = run_script("-c", COMPARE, cwd=tmp_path, PYTHONPATH=path, DNNL_VERBOSE="1", **level)
        assert result.returncode == 0, result.stderr
        assert ("amx" in result.stdout) == (not level)
        said.append(np.load(tmp_path / "said.npy"))
    assert np.array_equal(*said)
