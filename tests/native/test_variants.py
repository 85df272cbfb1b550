"""Each operator as processors without AVX-512, and without AVX2, compute it: native/variants.h."""

import os

import pytest
from conftest import ROOT, run_script

from common.io import cpus
from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
VARIANTS = {"ALL": "AVX-512", "AVX2": "AVX2", "SSE41": "baseline"}  # the best one first
# Of each operator, what reaches all of its code.
OPERATORS = (
    "channels_and_filters or (fourier and 33) or first_convolution or groups or"
    " output_and_gradients or whole_tiles or past_the_caches or (many_zeros and 193) or"
    " max_pooling_alone or fused or ten_updates or (lrn_equals and 60) or int8 or crop or normali"
)


def lesser():
    """Settings whose variants this processor has, but would not choose."""
    names = list(VARIANTS.values())
    best = names.index(native.variant()) if native.load() else len(names)
    return [isa for isa in VARIANTS if names.index(VARIANTS[isa]) > best]


@pytest.mark.parametrize("isa", lesser())
def test_the_doctor_names_the_variant_that_the_setting_chooses(isa):
    result = run_script("-m", "common.doctor", DNNL_MAX_CPU_ISA=isa)
    assert f"built, loaded; {VARIANTS[isa]} variant;" in result.stdout, result.stdout


@pytest.mark.skipif("avx_vnni" not in cpus.instructions(), reason="no VNNI of 256 bits")
def test_vnni_of_256_bits_computes_the_same():
    path = os.path.join(ROOT, "tests", "native", "test_int8.py")
    result = run_script("-m", "pytest", "-p", "no:cacheprovider", path,
                        DNNL_MAX_CPU_ISA="AVX2_VNNI", timeout=300)  # fmt: skip
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("isa", lesser())
def test_processors_with_less_compute_the_same(isa):
    files = [
        os.path.join(ROOT, "tests", name)
        for name in (
            "native/test_convolution.py",
            "native/test_fully_connected.py",
            "native/test_native.py",
            "native/test_int8.py",
            "input/test_prefetch.py",
        )
    ]
    result = run_script("-m", "pytest", "-p", "no:cacheprovider", "-k", OPERATORS, *files,
                        DNNL_MAX_CPU_ISA=isa, timeout=900)  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.rpartition(" passed")[0].split()[-1]) > 200, result.stdout
