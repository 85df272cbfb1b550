"""The networks' graphs and numbers, and the layer table that prints them."""

import json
import os

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, assert_refused, operators, run_script

import symbols
from symbols import alexnet, alexnet2012, layers, lenet, summary

GOLDEN = os.path.join(ROOT, "tests", "golden", "alexnet-graph.json")


def graph(symbol):
    """What must not change: nodes with all they say, argument order and heads."""
    whole = json.loads(symbol.tojson())
    return {key: whole[key] for key in ("nodes", "arg_nodes", "heads")}


def article_graph():
    with open(GOLDEN) as file:
        golden = json.load(file)
    return {key: golden[key] for key in ("nodes", "arg_nodes", "heads")}


def by_name(symbol, image_shape):
    return {layer.name: layer for layer in summary.layers(symbol, image_shape)}


def total(found, field):
    return sum(getattr(layer, field) for layer in found.values())


# The graphs


def test_alexnet_is_the_articles_graph_every_time_it_is_built():
    for _ in range(3):
        assert graph(alexnet.get_symbol(1000)) == article_graph()
    assert graph(symbols.get_symbol("alexnet")) == article_graph()


def test_nothing_of_the_caller_gets_into_a_graph():
    with mx.name.Prefix("mine_"), mx.AttrScope(ctx_group="mine", lr_mult="2"):
        mx.sym.Activation(mx.sym.Variable("x"), act_type="relu")
        inside = graph(alexnet.get_symbol(1000)), graph(lenet.get_symbol())
    assert inside == (article_graph(), graph(lenet.get_symbol()))


def test_building_a_network_leaves_the_callers_names_alone():
    with mx.name.NameManager():
        alexnet.get_symbol()
        assert mx.sym.Activation(mx.sym.Variable("x"), act_type="relu").name == "activation0"


@pytest.mark.parametrize("option", ["activation", "normalization", "pooling"])
def test_an_unknown_option_is_refused_with_the_known_ones(option):
    with pytest.raises(ValueError, match="maxout: is unknown; choose from .*, "):
        alexnet.get_symbol(**{option: "maxout"})


def test_num_classes_changes_fc3_alone():
    expected = article_graph()
    for node in expected["nodes"]:
        if node["name"].startswith("fc3"):
            node["attrs"]["num_hidden"] = "10"
    assert graph(alexnet.get_symbol(10)) == expected


def test_alexnet2012_is_the_articles_graph_with_two_groups_in_three_layers():
    expected = article_graph()
    for node in expected["nodes"]:
        if node["name"].split("_")[0] in ("conv2", "conv4", "conv5"):
            node["attrs"]["num_group"] = "2"
    assert graph(alexnet2012.get_symbol(1000)) == expected


def test_options_add_nothing_at_their_default():
    said = alexnet2012.get_symbol(1000, knorm=2.0, pooling_convention="valid")
    assert graph(said) == graph(alexnet2012.get_symbol())
    said = alexnet.get_symbol(1000, num_group=1, knorm=2.0, pooling_convention="valid")
    assert graph(said) == article_graph()
    ideas = dict(activation="relu", dropout=0.5, normalization="lrn", pooling="overlapping")
    assert graph(alexnet.get_symbol(1000, **ideas)) == article_graph()


def test_caffes_options_reach_every_layer_they_are_for():
    attrs = alexnet2012.get_symbol(knorm=1, pooling_convention="full").attr_dict()
    assert [attrs[f"lrn{i}"]["knorm"] for i in range(2)] == ["1", "1"]
    assert [attrs[f"pooling{i}"]["pooling_convention"] for i in range(3)] == ["full"] * 3


def test_caffenet_pools_before_it_normalises_and_differs_in_nothing_else():
    caffes = alexnet2012.get_symbol(knorm=1, pooling_convention="full")
    expected = list(operators(caffes).items())
    for first in (2, 6):
        expected[first : first + 2] = reversed(expected[first : first + 2])
    found = symbols.get_symbol("caffenet")
    assert list(operators(found).items()) == expected
    assert found.attr_dict() == caffes.attr_dict()


def test_each_option_reaches_every_layer_it_is_for():
    def ops(**options):
        return list(operators(alexnet.get_symbol(**options)).values())

    article = ops()
    assert ops(activation="elu") == [op.replace("Activation", "LeakyReLU") for op in article]
    assert ops(dropout=0) == [op for op in article if op != "Dropout"]
    assert ops(normalization="none") == [op for op in article if op != "LRN"]
    for kind, pair in (
        ("bn-before", ["BatchNorm", "Activation"]),
        ("bn-after", ["Activation", "BatchNorm"]),
    ):
        found = ops(normalization=kind)
        where = [i for i, op in enumerate(found) if op == "BatchNorm"]
        assert len(where) == 7 and "LRN" not in found
        assert all(found[i : i + 2] == pair for i in (w - pair.index("BatchNorm") for w in where))
    attrs = alexnet.get_symbol(pooling="plain", dropout=0.2).attr_dict()
    assert [attrs[f"pooling{i}"]["kernel"] for i in range(3)] == ["(2, 2)"] * 3
    assert [attrs[f"dropout{i}"]["p"] for i in range(2)] == ["0.2"] * 2


def test_lrn_by_column_normalises_each_half_of_the_channels_alone():
    maps = mx.nd.array(np.random.RandomState(0).normal(0, 99, (2, 16, 3, 3)))
    symbol = layers.by_column(mx.sym.Variable("x"), layers.lrn)
    found = symbol.eval(x=maps)[0].asnumpy()
    halves = [mx.nd.LRN(half, knorm=2, nsize=5).asnumpy() for half in maps.split(2, axis=1)]
    assert np.array_equal(found, np.concatenate(halves, axis=1))
    assert abs(found - mx.nd.LRN(maps, knorm=2, nsize=5).asnumpy()).max() > 0.1


def test_the_second_normalisation_is_cuda_convnets_rnorm():
    maps = np.random.RandomState(0).normal(0, 99, (2, 3, 6, 7))
    expected = np.empty_like(maps)
    for y, x in np.ndindex(6, 7):
        window = maps[:, :, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        total = (window**2).sum((2, 3))
        expected[:, :, y, x] = maps[:, :, y, x] / (1 + 1e-3 / 25 * total) ** 0.75
    symbol = layers.normalise_within_maps(mx.sym.Variable("x"))
    found = symbol.eval(x=mx.nd.array(maps))[0].asnumpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("side, maps", [(224, 55), (227, 55), (228, 56), (231, 56), (67, 15)])
def test_alexnet145_rounds_the_size_of_conv1s_maps_up(side, maps):
    found = by_name(symbols.get_symbol("alexnet145"), (3, side, side))
    assert found["conv1"].output == (96, maps, maps)
    assert maps == -(-(side - 11) // 4) + 1


# Their numbers


@pytest.mark.parametrize(
    "network, side",
    [("alexnet", 227), ("alexnet2012", 227), ("alexnet145", 224), ("caffenet", 227)],
)
def test_neurons_are_the_articles_row_by_row(network, side):
    found = by_name(symbols.get_symbol(network), (3, side, side))
    for name, (_, neurons, _) in summary.ARTICLE.items():
        assert found[name].neurons == neurons, name
    assert total(found, "neurons") == 659_272


@pytest.mark.parametrize("network", ["alexnet2012", "alexnet145", "caffenet"])
def test_two_columns_have_the_articles_weights_row_by_row(network):
    found = by_name(symbols.get_symbol(network), symbols.IMAGE_SHAPES[network])
    for name, (_, _, weights) in summary.ARTICLE.items():
        assert found[name].weights == weights, name
    assert total(found, "weights") == 60_954_656


def test_the_articles_printed_total_is_30_000_short_of_its_rows():
    rows = sum(weights for _, _, weights in summary.ARTICLE.values())
    assert (summary.ARTICLE_PRINTED_WEIGHTS, rows) == (60_924_656, 60_924_656 + 30_000)


def test_alexnet_has_twice_the_articles_weights_in_the_three_split_layers():
    found = by_name(alexnet.get_symbol(), (3, 227, 227))
    for name, (_, _, weights) in summary.ARTICLE.items():
        towers = 2 if name in ("conv2", "conv4", "conv5") else 1
        assert found[name].weights == towers * weights, name
    assert total(found, "weights") == 62_367_776
    assert total(found, "weights") + total(found, "biases") == 62_378_344


@pytest.mark.parametrize("network", ["alexnet", "alexnet2012"])
def test_at_224_the_maps_are_54_26_12_5(network):
    found = by_name(symbols.get_symbol(network), (3, 224, 224))
    sides = [found[name].output[1:] for name in ("conv1", "pooling0", "pooling1", "pooling2")]
    assert sides == [(54, 54), (26, 26), (12, 12), (5, 5)]
    assert found["fc1"].weights == 6_400 * 4096


def test_full_pooling_changes_sizes_at_224_but_not_at_227():
    plain, full = alexnet2012.get_symbol(), alexnet2012.get_symbol(pooling_convention="full")
    assert summary.layers(full, (3, 227, 227)) == summary.layers(plain, (3, 227, 227))
    assert by_name(full, (3, 224, 224))["pooling2"].output == (256, 6, 6)


def test_lenet_has_the_papers_maps_and_parameters():
    found = by_name(lenet.get_symbol(), (1, 32, 32))
    # LeCun et al. 1998, II.B; C3 is connected in full: 16 * (6 * 25 + 1), not the paper's 1,516.
    paper = {
        "c1": ((6, 28, 28), 156),
        "s2": ((6, 14, 14), 0),
        "c3": ((16, 10, 10), 2_416),
        "s4": ((16, 5, 5), 0),
        "c5": ((120, 1, 1), 48_120),
        "f6": ((84,), 10_164),
        "output": ((10,), 850),
    }
    numbers = {
        name: (found[name].output, found[name].weights + found[name].biases) for name in paper
    }
    assert numbers == paper


@pytest.mark.parametrize("options", [{}, {"normalization": "bn-before", "activation": "prelu"}])
def test_the_table_counts_what_mxnet_allocates(options):
    symbol = alexnet2012.get_symbol(7, **options)
    found = by_name(symbol, (3, 99, 67))
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=(1, 3, 99, 67))
    inputs = ("data", "softmax_label")
    allocated = sum(v.size for name, v in executor.arg_dict.items() if name not in inputs)
    assert total(found, "weights") + total(found, "biases") == allocated


def test_multiply_adds_are_those_of_the_loops_over_a_layer():
    found = by_name(alexnet2012.get_symbol(), (3, 227, 227))
    assert found["conv1"].multiply_adds == (55 * 55) * 96 * (11 * 11 * 3)
    assert found["conv2"].multiply_adds == (27 * 27) * 256 * (5 * 5 * 48)
    assert found["fc1"].multiply_adds == 4096 * (6 * 6 * 256)
    assert found["pooling0"].multiply_adds == 0


# What is refused


def test_an_unknown_network_is_refused_with_the_known_ones():
    known = "alexnet, alexnet2012, alexnet145, alexnet_owt, caffenet, lenet"
    with pytest.raises(ValueError, match=f"vgg.*{known}"):
        symbols.get_symbol("vgg")


@pytest.mark.parametrize(
    ("network", "smallest"),
    [
        ("alexnet", 67),
        ("alexnet2012", 67),
        ("alexnet145", 52),
        ("alexnet_owt", 63),
        ("caffenet", 55),
        ("lenet", 32),
    ],
)
def test_the_smallest_image_is_found_and_named(network, smallest):
    symbol = symbols.get_symbol(network)
    symbols.check_image_shape(symbol, (1, smallest, smallest))
    for shape in [(1, smallest - 1, smallest), (1, smallest, smallest - 1), (1, 1, 1)]:
        with pytest.raises(ValueError, match=f"smallest is 1,{smallest},{smallest}"):
            symbols.check_image_shape(symbol, shape)


def test_every_network_accepts_the_image_it_was_designed_for():
    assert symbols.IMAGE_SHAPES.keys() == symbols.NETWORKS.keys()
    sides = {network: shape[1:] for network, shape in symbols.IMAGE_SHAPES.items()}
    small = {"alexnet145": (224, 224), "alexnet_owt": (224, 224), "lenet": (32, 32)}
    assert sides == {**dict.fromkeys(symbols.NETWORKS, (227, 227)), **small}
    for network, image_shape in symbols.IMAGE_SHAPES.items():
        symbols.check_image_shape(symbols.get_symbol(network), image_shape)


# python -m symbols


def test_the_command_prints_totals_and_the_articles_numbers_in_100_columns():
    result = run_script("-m", "symbols", "alexnet")
    assert (result.returncode, result.stderr) == (0, "")
    for number in ("659,272", "62,367,776", "62,378,344", "1,135,256,096"):
        assert number in result.stdout
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) < 100
    (conv2,) = (line for line in lines if line.startswith("C2 "))
    assert conv2.split() == ["C2", "conv2", "186,624", "186,624", "614,400", "307,200", "*"]
    assert "the article counts alexnet2012" in result.stdout
    assert "The article prints 60,924,656, 30,000 short" in result.stdout


def test_the_table_of_alexnet2012_has_no_mark():
    report = summary.report("alexnet2012", alexnet2012.get_symbol(), (3, 227, 227))
    assert "60,954,656" in report
    assert "*" not in report


def test_the_table_says_why_it_differs_at_another_input():
    report = summary.report("alexnet2012", alexnet2012.get_symbol(10), (1, 224, 224))
    notes = [line for line in report.splitlines() if line.startswith("*")]
    assert notes == [
        "* The article's input is 227x227; on 224x224 the maps are 54x54, 26x26, 12x12, 5x5.",
        "* C1: the article's images have 3 channels.",
        "* R3: the article's network has 1000 classes.",
    ]


def test_alexnet_owt_has_torchvisions_parameters_and_maps():
    found = by_name(symbols.get_symbol("alexnet_owt"), (3, 224, 224))
    assert total(found, "weights") + total(found, "biases") == 61_100_840
    shapes = [found[name].output for name in ("conv1", "pooling0", "pooling1", "pooling2")]
    assert shapes == [(64, 55, 55), (64, 27, 27), (192, 13, 13), (256, 6, 6)]
    assert [name for name in found if name.startswith(("dropout", "fc"))] == [
        "dropout0",
        "fc1",
        "dropout1",
        "fc2",
        "fc3",
    ]
    table = summary.report("alexnet_owt", symbols.get_symbol("alexnet_owt"), (3, 224, 224))
    assert "61,100,840 parameters" in table and "the article" not in table


def test_lenets_table_has_no_comparison():
    report = summary.report("lenet", lenet.get_symbol(), (1, 32, 32))
    assert "61,706 parameters" in report
    assert "article" not in report


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vgg"], ["vgg", "alexnet2012"]),
        (["alexnet", "--image-shape", "3,66,66"], ["--image-shape 3,66,66", "3,67,67"]),
        (["alexnet", "--image-shape", "227"], ["--image-shape", "channels,height,width"]),
        (["lenet", "--num-classes", "0"], ["--num-classes", "at least 1"]),
        (["lenet", "--dropout", "0.1"], ["lenet", "has no --dropout"]),
        (["alexnet145", "--pooling", "plain"], ["alexnet145", "has no --pooling"]),
        (["alexnet", "--dropout", "1"], ["--dropout", "'1' is not a number from 0 to below 1"]),
        (
            ["alexnet", "--normalization", "lrn-by-column"],
            ["--normalization lrn-by-column", "alexnet2012"],
        ),
    ],
)
def test_the_command_refuses_bad_input_in_one_line(arguments, words):
    assert_refused(run_script("-m", "symbols", *arguments), *words)
