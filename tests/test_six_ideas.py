"""docs/six-ideas.md is true: its lines of code exist, its variants are the study's."""

import json
import os
import re

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT
from small_checkpoints import SETTINGS, save_lenet
from test_house_page import FILE, defines, text

from common.checkpoint import store
from common.checkpoint.config import save_config
from common.cli import UserError
from common.study import definition, report
from docs import draw

PAGE = text("docs/six-ideas.md")


def test_the_lines_that_build_an_idea_exist():
    named = re.findall(rf"`({FILE}):([\w.]+)`", PAGE)
    assert len(named) > 8
    assert [pair for pair in named if not defines(*pair)] == []


def test_every_idea_has_its_switch_and_all_variants_have_an_idea():
    ideas = PAGE.split("\n## ")[1:]
    assert len(ideas) == 6
    for idea in ideas:
        for item in ("built by", "switch", "variants", "Krizhevsky", "Mishkin"):
            assert f"\n- {item}: " in idea, idea
    listed = re.findall(r"^- variants: ([\w, -]+)", PAGE, re.MULTILINE)
    named = [name for line in listed for name in line.split(", ")]
    study = definition.read(os.path.join(ROOT, "studies", "cifar10.json"))
    assert sorted([*named, "baseline", "lenet"]) == sorted(study.variants)
    for name in named:
        words = study.variants[name]
        assert all(flag in PAGE for flag in words if flag.startswith("--")), name


def test_the_table_of_relu_is_that_of_its_results():
    results = json.loads(text("docs/results/relu.json"))
    assert results["study"] == "studies/relu.json" and results["missing"] == []
    tables = [report.table(results, error).splitlines()[2:] for error in (0.5, 0.4)]
    for half, lower in zip(*([row.split("|")[1:-1] for row in table] for table in tables)):
        row = "|" + "|".join([*half[:4], half[-1], lower[-1]]) + "|"
        assert row in PAGE.splitlines()
    means = {
        (name, error): np.mean(
            [report.epochs_to(r["epochs"], error) for r in figures["runs"].values()]
        )
        for name, figures in results["variants"].items()
        for error in (0.5, 0.4)
    }
    times = [means["tanh", error] / means["relu", error] for error in (0.5, 0.4)]
    assert "{:.1f} times to 50%, {:.1f} times to 40%".format(*times) in PAGE.replace("\n", " ")
    rates = results["variants"]["tanh"]["rates"]
    best = max(rates, key=lambda rate: rates[rate]["top-1"])
    assert float(best) == results["variants"]["tanh"]["lr"] == max(map(float, rates))


def test_what_the_page_says_of_the_rate_is_so():
    def reached(epochs):
        return f"{epochs[-1]['holdout']['top-1']:.1%}"

    half = json.loads(text("docs/results/half-rate.json"))["variants"]["baseline"]
    variants = json.loads(text("docs/results/cifar10.json"))["variants"]
    baseline = variants["baseline"]
    runs = [reached(baseline["runs"][seed]["epochs"]) for seed in "01"]
    without = [variants[f"no-{step}"] for step in ("crop", "mirror", "lighting")]
    others = sorted(reached(r["epochs"]) for figures in without for r in figures["runs"].values())
    slower = reached(half["runs"]["0"]["epochs"])
    said = " ".join(PAGE.split())
    assert f"the baseline reaches {slower} on the holdout" in said
    assert f"its two seeds reach {runs[0]} and {runs[1]}" in said
    assert f"the baseline has {slower}, and they have {others[0]} to {others[-1]}" in said
    assert {figures["lr"] for figures in without} == {0.025}
    assert (baseline["lr"], half["lr"]) == (0.05, 0.025)
    assert baseline["flags"] == half["flags"] == ""


def test_what_the_page_says_of_overfitting_is_so():
    variants = json.loads(text("docs/results/small.json"))["variants"]
    least = {
        name: [
            1 + int(np.argmin([epoch["holdout"]["loss"] for epoch in run["epochs"]]))
            for run in figures["runs"].values()
        ]
        for name, figures in variants.items()
    }
    said = " ".join(PAGE.split())
    assert "after {} and {} epochs of the baseline's two seeds".format(*least["baseline"]) in said
    assert "{} and {} without dropout".format(*least["no-dropout"]) in said
    assert "{} and {} without augmentation".format(*least["no-augmentation"]) in said
    changed = abs(variants["no-dropout"]["difference"])
    assert f"changes little: .{1000 * changed:.0f} points" in said
    assert f"differ by .{1000 * variants['baseline']['spread']:.0f}." in said
    lost = f"{-100 * variants['no-augmentation']['difference']:.1f} points"
    assert PAGE.count(lost) == 2
    assert all(figures["train"]["loss"] < 0.01 for figures in variants.values())


def test_what_the_page_says_of_lrn_is_so():
    before, after = draw.answers()
    ratio = before[before > 0] / after[before > 0]
    assert f"divided by {ratio.min():.3f} to {ratio.max():.3f}." in PAGE
    assert f"2 ** 0.75 = {2**0.75:.3f}:" in PAGE
    assert f"the largest is {before.max():.1f}." in PAGE
    std = draw.recipes.recipe("alexnet", "cifar10").settings["rgb_std"]
    assert set(std) == {60}


def test_views_are_crops_mirrored_and_lit_as_their_row_says():
    settings = draw.recipes.recipe("alexnet", "imagenet").settings
    picture = draw.scene(256)
    windows = [picture[y : y + 227, x : x + 227] for y in range(30) for x in range(30)]
    crops = {window.tobytes() for window in windows}
    mirrored = {window[:, ::-1].tobytes() for window in windows}
    plain = draw.seen(picture, settings, ["--random-mirror", "0", "--pca-noise", "0"])
    assert len({view.tobytes() for view in plain} & crops) == 6
    both = draw.seen(picture, settings, ["--pca-noise", "0"])
    assert all(view.tobytes() in crops | mirrored for view in both)
    assert 0 < sum(view.tobytes() in mirrored for view in both) < 6
    shift = draw.seen(picture, settings, []).astype(int) - both
    inside = np.ma.masked_where((both < 20) | (both > 235), shift)
    assert (
        inside.max(axis=(1, 2)) == inside.min(axis=(1, 2))
    ).all()  # the same for all pixels of a channel
    assert 3 <= abs(inside).max() < 20


def test_each_picture_can_be_drawn_again():
    pytest.importorskip("matplotlib")
    from figures import overlapping

    for function in draw.PICTURES:
        assert overlapping(function()) == []
        assert f"(pictures/{function.__name__}.png)" in PAGE


def test_a_checkpoint_gives_its_first_layer(tmp_path, monkeypatch):
    path = tmp_path / "conv1.npz"
    monkeypatch.setattr(draw, "CONV1", str(path))
    other, prefix = str(tmp_path / "lenet"), str(tmp_path / "net")
    save_lenet(other, ["cat", "dog"])
    with pytest.raises(UserError, match=f"^{other}: has not AlexNet's conv1"):
        draw.keep_conv1(other, 1)
    assert not path.exists()
    net = mx.sym.Convolution(mx.sym.Variable("data"), name="conv1", num_filter=96, kernel=(11, 11))
    weights = {"conv1_weight": mx.nd.ones((96, 3, 11, 11)) / 3, "conv1_bias": mx.nd.arange(96)}
    save_config(prefix, SETTINGS, None)
    store.save(prefix, 1, net, weights, {})
    draw.keep_conv1(prefix, 1)
    kept = draw.conv1()
    assert kept.keys() == weights.keys()
    assert all(np.array_equal(array, weights[name].asnumpy()) for name, array in kept.items())


def test_the_pictures_exist_and_are_small():
    pages = PAGE + text("docs/your-photographs.md")
    shown = re.findall(r"!\[[^]]+\]\((pictures/[\w-]+\.png)\)", pages)
    sizes = {name: os.path.getsize(os.path.join(ROOT, "docs", name)) for name in shown}
    assert sizes and max(sizes.values()) < 200_000
    drawn = os.listdir(os.path.join(ROOT, "docs", "pictures"))
    assert sorted(drawn) == sorted(os.path.basename(name) for name in shown)


def test_the_studies_are_whole():
    for name in os.listdir(os.path.join(ROOT, "studies")):
        study = definition.read(os.path.join(ROOT, "studies", name))
        assert json.loads(text(f"studies/{name}"))["about"] == study.about
        for variant in study.variants:
            assert study.settings(variant).lr > 0
