"""docs/six-ideas.md is true: its lines of code exist, its variants are the study's."""

import json
import os
import re

from conftest import ROOT
from test_house_page import FILE, defines, text

from common.study import definition, report

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
    rates = results["variants"]["tanh"]["rates"]
    best = max(rates, key=lambda rate: rates[rate]["top-1"])
    assert float(best) == results["variants"]["tanh"]["lr"] == max(map(float, rates))


def test_the_pictures_exist_and_are_small():
    shown = re.findall(r"!\[[^]]+\]\((pictures/[\w-]+\.png)\)", PAGE)
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
