"""docs/which-alexnet.md: its counts are those that are printed, and those of our networks."""

import os

import pytest
from conftest import ROOT, run_script

import symbols
from docs import forms
from symbols import summary


def test_the_page_has_the_table_that_the_command_prints():
    result = run_script("-m", "docs.forms")
    assert (result.returncode, result.stderr) == (0, "")
    with open(os.path.join(ROOT, "docs", "which-alexnet.md"), encoding="utf-8") as file:
        assert result.stdout in file.read()


@pytest.mark.parametrize(
    "form, network",
    [("article", "alexnet"), ("paper", "alexnet2012"), ("source of 2012", "alexnet145")],
)
def test_the_counts_are_our_networks(form, network):
    found = summary.layers(symbols.get_symbol(network), symbols.IMAGE_SHAPES[network])
    sums = [sum(getattr(one, kind) for one in found) for kind in ("neurons", "weights", "biases")]
    assert list(forms.counts(form)) == sums


def test_torchvisions_parameters_are_those_it_is_known_for():
    _, weights, biases = forms.counts("torchvision")
    assert weights + biases == 61_100_840
