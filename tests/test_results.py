"""docs/results.md and README's table hold what the committed files of results give, and no more."""

import json
import shutil

import pytest
from conftest import ROOT, run_script

from common.cli import UserError
from common.train import recipes
from docs import results

PAGES = ["README.md", "README.zh-CN.md", "docs/results.md"]
PAGES += ["docs/six-ideas.md", "docs/six-ideas.zh-CN.md", "docs/your-photographs.md"]
PAGES += ["docs/training.md"]
# What is before the figures of a page.
FIRST = {"docs/your-photographs.md": "| Caltech-101 |", "docs/training.md": "| float32 |"}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the pages and the files of results, which docs.results works on."""
    shutil.copytree(f"{ROOT}/benchmarks/results", tmp_path / "benchmarks/results")
    shutil.copytree(f"{ROOT}/docs/results", tmp_path / "docs/results")
    for page in PAGES:
        shutil.copy(f"{ROOT}/{page}", tmp_path / page)
    monkeypatch.setattr(results, "_ROOT", str(tmp_path))
    return tmp_path


def check(monkeypatch):
    monkeypatch.setattr("sys.argv", ["results", "--check"])
    results.main()


def test_the_pages_are_what_the_files_give(tree, monkeypatch):
    check(monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_a_figure_without_a_file_is_refused(tree, monkeypatch, page):
    text = (tree / page).read_text(encoding="utf-8")
    first = FIRST.get(page, "| baseline |" if "six-ideas" in page else "float32")
    at = text.index(first) + len(first)
    digit = next(i for i in range(at, len(text)) if text[i].isdigit() and text[i] != "9")
    (tree / page).write_text(text[:digit] + "9" + text[digit + 1 :], encoding="utf-8")
    with pytest.raises(UserError, match=f"{page}: is not what the results give"):
        check(monkeypatch)


def test_a_new_measurement_changes_the_pages(tree, monkeypatch):
    path = next((tree / "benchmarks/results").glob("*.json"))
    content = json.loads(path.read_text())
    title = "infer, alexnet, batch 32, float32"
    contestants = content["results"][title]["contestants"]
    contestants["ours"]["img_per_s"] = [100.0, 999.0, 90.0]
    for name in set(contestants) - {"ours"}:
        contestants[name]["img_per_s"] = [20.0, 10.0, 40.0]
    contestants["openvino"]["img_per_s"] = [50.0, 50.0, 50.0]
    contestants["bf16"] = {**contestants["ours"], "img_per_s": [60.0, 60.0, 60.0]}
    path.write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["results"])
    results.main()
    readme = (tree / "README.md").read_text(encoding="utf-8")
    assert "| 100.0 / 50.0 (OpenVINO): 2.00; 60.0 (this project, bf16) |" in readme
    check(monkeypatch)


def test_readme_keeps_its_own_words(tree, monkeypatch):
    before = (tree / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["results"])
    results.main()
    assert (tree / "README.md").read_text(encoding="utf-8") == before
    for text in ("no table", 2 * before, before + results._END):
        (tree / "README.md").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="README.md: needs the lines"):
            results.main()


def test_the_machines_limits_are_kept_and_shown(tree):
    folder = tree / "benchmarks/results"
    code = f"""
from benchmarks import limits, report
limits.READ, limits.SIZES, report.FOLDER = 1 << 20, {{"tiny": (8, 8, 9)}}, {str(folder)!r}
limits.main()
"""
    result = run_script("-c", code)
    assert result.returncode == 0, result.stderr
    found = json.loads((folder / result.stdout.split()[-1]).read_text())["results"]["limits"]
    assert found["1 threads"]["reading, GB/s"] > 0
    assert f"| tiny, GFLOP/s | {found['1 threads']['tiny, GFLOP/s']} |" in results.page()


def test_the_demos_recipe_is_the_best_on_images_that_are_set_apart():
    with open(f"{ROOT}/docs/results/demo.json", encoding="utf-8") as file:
        variants = json.load(file)["variants"]
    tried = {
        (figures["top-1"], name, float(rate))
        for name, variant in variants.items()
        for rate, figures in variant["rates"].items()
    }
    _, name, rate = max(tried)
    settings = recipes.recipe("alexnet", "cifar10").settings
    own = [settings[flag] for flag in ("lr", "mom", "resize", "batch_size")]
    assert (name, own) == ("recipe", [rate, 0.8, 70, 32])
    with open(f"{ROOT}/README.md", encoding="utf-8") as file:
        assert f"the best of {len(tried)} settings" in " ".join(file.read().split())
