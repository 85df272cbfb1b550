"""The figures: what they show, that nothing lies on anything else, and their files."""

import sys

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")
from figures import LARGEST, overlapping, texts  # noqa: E402
from pictures import photo  # noqa: E402

import symbols  # noqa: E402
from common.cli import UserError  # noqa: E402
from common.draw import network, pictures, study, style, tiles  # noqa: E402
from common.draw.confusion import confusion  # noqa: E402
from common.draw.curves import Curve, Panel, curves  # noqa: E402
from docs import draw  # noqa: E402


def words(figure):
    return [text for text, _ in texts(figure)]


def assert_fit_to_print(figure, tmp_path):
    assert overlapping(figure) == []
    path = tmp_path / "x.png"
    style.write(figure, str(path))
    assert path.stat().st_size < LARGEST
    assert cv2.imread(str(path)).shape[1] > 1000
    return cv2.imread(str(path))


@pytest.mark.parametrize("name", symbols.NETWORKS)
def test_a_diagram_tells_each_layer_and_nothing_overlaps(name, tmp_path):
    symbol, shape = symbols.get_symbol(name), symbols.IMAGE_SHAPES[name]
    figure = network.diagram(symbol, shape, name)
    assert_fit_to_print(figure, tmp_path)
    shown = words(figure)
    assert {v.name for v in network.volumes(symbol, shape)} <= set(shown)


def test_the_diagram_of_the_paper_has_two_columns():
    shown = words(network.diagram(symbols.get_symbol("alexnet2012"), (3, 227, 227), "x"))
    for size in ("55x55x48", "27x27x128", "13x13x192", "13x13x128", "2048"):
        assert shown.count(size) == {"13x13x192": 4, "2048": 4}.get(size, 2)
    assert shown.count("227x227x3") == shown.count("1000") == 1
    conv1 = next(text for text in shown if text.startswith("96 kernels"))
    assert conv1.split("\n") == [
        *("96 kernels 11x11", "stride 4", "ReLU", "LRN"),
        *("max pool 3x3,", "  stride 2, to 27x27"),
    ]


def test_the_diagram_of_one_column_has_whole_volumes():
    figure = network.diagram(symbols.get_symbol("alexnet", 10), (3, 67, 67), "x")
    shown = words(figure)
    assert shown.count("15x15x96") == shown.count("4096") - 1 == shown.count("10") == 1


def test_a_curve_is_the_mean_of_its_runs_and_its_band_their_range():
    runs = np.array([[1.0, 2, np.nan], [3, 6, 5]])
    figure = curves([Panel("loss", [Curve("a", [1, 2, 3], runs)])], "epochs", "note")
    line, band = figure.axes[0].lines[0], figure.axes[0].collections[0].get_paths()[0].vertices
    assert line.get_ydata().tolist() == [2, 4, 5]
    assert {tuple(point) for point in band} >= {(1, 1), (1, 3), (2, 2), (2, 6), (3, 5)}
    assert overlapping(figure) == [] and {"loss", "epochs", "note"} <= set(words(figure))


def test_training_errors_stand_at_the_middles_of_epochs(tmp_path):
    runs = {
        str(seed): {"epochs": [{"train": {"top-1": right}} for right in (0.4, 0.5 + seed / 10)]}
        for seed in (0, 1)
    }
    variants = {"relu": {"runs": runs}, "tanh": {"runs": {**runs, "2": {"diverged": "loss nan"}}}}
    figure = draw.training_error({"seeds": [0, 1, 2], "variants": variants})
    assert_fit_to_print(figure, tmp_path)
    for line in figure.axes[0].lines[:2]:
        assert line.get_xdata().tolist() == [0.5, 1.5]
        assert line.get_ydata() == pytest.approx([0.6, 0.45])
    assert {"relu", "tanh"} <= set(words(figure))


def test_losses_of_the_holdout_stand_at_the_ends_of_epochs_and_those_of_training_are_dashed():
    epochs = [{"train": {"loss": 2.0}, "holdout": {"loss": 1.5}}] * 2
    variants = {name: {"runs": {"0": {"epochs": epochs}}} for name in ("baseline", "no-dropout")}
    lines = draw.losses({"seeds": [0], "variants": variants}).axes[0].lines[:4]
    shown = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in lines]
    assert shown == [([1, 2], [1.5, 1.5])] * 2 + [([0.5, 1.5], [2, 2])] * 2
    assert [line.is_dashed() for line in lines] == [False, False, True, True]
    assert [line.get_color() for line in lines[:2]] == [line.get_color() for line in lines[2:]]


def made_up(top1, *seeds):
    """A variant of these seeds' accuracies, in the form of common/study/report.py."""
    runs = {
        str(n): {"top-1": seed, "interval95": [seed - 0.01, seed + 0.01]}
        for n, seed in enumerate(seeds)
    }
    return {"runs": {**runs, "9": {"diverged": "loss nan"}}, "top-1": top1}


def test_a_study_is_sorted_and_its_baseline_marked(tmp_path):
    variants = {
        "baseline": made_up(0.72, 0.71, 0.73),
        "a-variant-of-a-long-name": made_up(0.65, 0.64, 0.66),
        **{f"idea-{n}": made_up(0.7 - n / 100, 0.7 - n / 100) for n in range(10)},
        "better": made_up(0.75, 0.74, 0.76),
        "diverged": {"runs": {"0": {"diverged": "loss nan"}}},
    }
    figure = study.study_chart({"variants": variants})
    assert_fit_to_print(figure, tmp_path)
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-3:] == ["idea-0", "baseline", "better"]
    assert names[0] == "idea-9" and "diverged" not in names
    assert [text.get_text() for text in axes.texts][-2:] == ["72.00%", "75.00%"]
    interval, mean, seeds = axes.lines[-7:-4]  # then those of better, then the baseline's rule
    assert interval.get_xdata() == pytest.approx([0.70, 0.74])
    assert list(mean.get_xdata()) == [0.72, 0.72] and list(seeds.get_xdata()) == [0.71, 0.73]
    colours = [line.get_color() for line in axes.lines]
    assert colours.count(style.COLOURS[1]) == 4 and axes.lines[-1].get_xdata() == [0.72, 0.72]
    assert any("no result: diverged" in text for text in words(figure))


def test_seven_long_labels_do_not_overlap(tmp_path):
    listed = [
        Curve(f"an idea of a long name {i}", range(50), np.ones((2, 50)) * i) for i in range(7)
    ]
    figure = curves([Panel("loss", listed), Panel("top-1", listed, True)], "epochs")
    assert_fit_to_print(figure, tmp_path)
    colours = {line.get_color() for line in figure.axes[0].lines}
    assert len(colours) == 7


def test_kernels_of_two_columns_are_apart():
    weights = np.random.default_rng(0).normal(0, 1, (96, 3, 11, 11))
    pixels = [
        pictures.kernels(weights, "x", columns).axes[0].images[0].get_array() for columns in (1, 2)
    ]
    assert pixels[1].shape[0] > pixels[0].shape[0]
    middle = pixels[1][pixels[1].shape[0] // 2]
    assert (middle == 255).all() and pixels[0].shape[1] == pixels[1].shape[1]


def test_a_kernel_is_grey_at_zero_and_on_its_own_scale():
    weights = np.zeros((2, 3, 2, 2))
    weights[0, 0, 0, 0], weights[1, 2, 1, 1] = 5, -0.01
    made = tiles.kernel_tiles(weights)
    assert made.shape == (2, 2, 2, 3)
    assert made[0, 0, 0].tolist() == [255, 128, 128] and made[1, 1, 1].tolist() == [128, 128, 0]
    assert tiles.kernel_tiles(np.ones((1, 1, 2, 2))).tolist() == [[[[255] * 3] * 2] * 2]
    assert np.unique(tiles.kernel_tiles(np.zeros((1, 3, 2, 2)))).tolist() == [128]


def test_maps_are_on_one_scale_and_the_strongest_are_chosen():
    maps = np.stack([np.full((3, 3), value) for value in (1.0, -9, 4, 2)])
    assert tiles.strongest(maps, 2).tolist() == [2, 3]
    made = tiles.map_tiles(maps)
    assert made[1].min() == 255 and made[2].max() < 100
    assert (made[0].mean(), made[3].mean()) == tuple(sorted((made[0].mean(), made[3].mean())))[::-1]
    assert np.unique(tiles.map_tiles(-maps[:1])).tolist() == [255]


def test_heat_is_orange_where_it_is_positive_and_blue_where_negative():
    heat = np.array([[1.0, 0, -1]])
    orange, grey, blue = tiles.heat_over(np.full((1, 3, 3), 100, np.uint8), heat)[0].astype(int)
    assert orange[0] > orange[2] + 50 and blue[2] > blue[0] + 50
    assert len(set(grey)) == 1


def test_a_sheet_leaves_gaps_and_enlarges_by_whole_factors():
    made = tiles.sheet(np.zeros((5, 4, 4, 3), np.uint8), columns=3, least=9)
    assert made.shape == (25, 38, 3)
    assert (made[:, 12] == 255).all() and (made[13:, 26:] == 255).all()
    assert made[:12, :12].max() == 0


def test_pictures_are_fit_to_print(tmp_path):
    rng = np.random.default_rng(0)
    seen = photo(67, 67)
    answers = [
        pictures.Answer(name, rng.normal(0, 1, (count, side, side)))
        for name, count, side in (("conv1", 96, 15), ("conv2", 256, 7), ("conv5", 20, 3))
    ]
    figure = pictures.maps(seen, answers, "what each layer answers")
    assert_fit_to_print(figure, tmp_path)
    assert "conv1: 96 maps of 15x15, the 24 strongest" in words(figure)
    assert "conv5: 20 maps of 3x3" in words(figure)
    figure = pictures.occlusion(seen, rng.normal(0, 0.1, (67, 67)), "golden retriever", 0.87)
    assert_fit_to_print(figure, tmp_path)
    assert "golden retriever: 87%" in words(figure)
    views = [(f"step {n}", np.stack([photo(60, 60)] * 6)) for n in range(4)]
    assert_fit_to_print(draw.variations(seen, views), tmp_path)
    row = pictures.Neighbours(seen, "x" * 60, [seen] * 6, [("golden retriever", 123.4)] * 6)
    assert_fit_to_print(pictures.nearest([row, row]), tmp_path)


def test_maps_before_and_after_have_one_scale(tmp_path):
    before = np.random.default_rng(0).uniform(0, 1, (30, 8, 8))
    answers = pictures.Answer("conv1", before), pictures.Answer("lrn", before / 4)
    figure = draw.before_and_after(*answers)
    assert_fit_to_print(figure, tmp_path)
    darkest = [axes.images[0].get_array().min() for axes in figure.axes]
    assert darkest[0] < 30 and darkest[1] > 150
    assert "lrn: up to 0.2, 24 of 30 maps" in words(figure)


@pytest.mark.parametrize("count", [3, 12])
def test_a_confusion_matrix_has_all_names(count):
    names = [f"golden retriever {i}" for i in range(count)]
    figure = confusion(np.full((count, count), 1234), names)
    assert overlapping(figure) == [] and set(names) <= set(words(figure))


def test_the_same_picture_is_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        panel = Panel("loss", [Curve("a", [1, 2], np.ones((1, 2)))])
        style.write(curves([panel], "epochs"), str(tmp_path / name))
    for kind in ("svg", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


@pytest.mark.filterwarnings("error")
def test_characters_that_no_font_has_are_named_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(style, "_FONTS", ["DejaVu Sans"])
    panel = Panel("loss", [Curve("猫与狗", [1, 2], np.ones((1, 2)))])
    style.write(curves([panel], "epochs"), str(tmp_path / "x.png"))
    line = (
        f"{tmp_path}/x.png: no font here has 与狗猫; install one, such as Debian's fonts-noto-cjk\n"
    )
    assert capsys.readouterr() == ("", line)


@pytest.mark.filterwarnings("error")
def test_another_font_is_taken_for_characters_that_the_first_lacks(tmp_path, monkeypatch, capsys):
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from matplotlib import font_manager

    font, pen = FontBuilder(1000), TTGlyphPen(None)
    for number, corner in enumerate([(0, 0), (0, 900), (900, 0)]):
        (pen.lineTo if number else pen.moveTo)(corner)
    pen.closePath()
    font.setupGlyphOrder([".notdef", "cat"])
    font.setupCharacterMap({ord("猫"): "cat"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "SimHei", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(str(tmp_path / "x.ttf"))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    monkeypatch.setattr(style, "_FONTS", ["DejaVu Sans", "SimHei"])
    font_manager.fontManager.addfont(str(tmp_path / "x.ttf"))
    panel = Panel("loss", [Curve("a 猫", [1, 2], np.ones((1, 2)))])
    style.write(curves([panel], "epochs"), str(tmp_path / "x.png"))
    assert capsys.readouterr() == ("", "")


def test_a_large_photograph_becomes_a_small_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    figure = style.new_figure(4, 4)
    style.show_pixels(figure.subplots(), noise)
    style.write(figure, str(tmp_path / "x.png"))
    assert cv2.imread(str(tmp_path / "x.png")).shape[0] > 700


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(UserError, match=r"^--out: .* matplotlib; pip install '\.\[plots\]'$"):
        style.check("--out")


def test_a_label_that_begins_with_an_underscore_is_in_the_legend(tmp_path):
    drawn = [Curve(label, [1, 2], np.ones((1, 2))) for label in ("_a longer name", "b")]
    figure = curves([Panel("loss", drawn)], "epoch")
    assert_fit_to_print(figure, tmp_path)
    assert {"_a longer name", "b"} <= set(words(figure))
