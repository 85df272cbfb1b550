"""Which class is taken for which."""

import csv

import cv2
import numpy as np
import pytest

from common.evaluate import confusion

NAMES = ["cat", 'dog, "hot"', "é 猫", "frog"]


@pytest.fixture
def counted():
    """A Confusion of 200 images, and the counts that a loop arrives at."""
    rng = np.random.RandomState(0)
    labels = rng.randint(0, 3, 200)  # none of the last class
    probabilities = rng.dirichlet(np.ones(4), 200).astype(np.float32)
    probabilities[range(200), labels] += 0.2
    probabilities[5] = 0.25  # all classes alike: the true one is not the first
    labels[5] = 0
    labels[6], probabilities[6] = 1, np.nan
    counted = confusion.Confusion(2, NAMES)
    counted.update(probabilities[:70], labels[:70].astype(np.float32))
    counted.update(probabilities[70:], labels[70:].astype(np.float32))
    expected = np.zeros((4, 4), int)
    for i, (row, label) in enumerate(zip(probabilities.tolist(), labels)):
        guess = {5: 1, 6: 0}.get(i, row.index(max(row)))
        expected[label, guess] += 1
    return counted, expected


def test_the_mean_recall_is_of_the_classes_that_have_images(counted):
    counted, expected = counted
    recalls = [expected[i, i] / expected[i].sum() for i in range(3)]  # the last has none
    assert confusion.mean_recall(counted) == pytest.approx(np.mean(recalls))


def test_counts_are_those_of_a_loop_and_agree_with_top_1(counted):
    counted, expected = counted
    assert np.array_equal(counted.matrix, expected)
    assert counted.matrix.trace() == counted.right()["top-1"]
    assert counted.matrix.sum() == counted.count == 200


def test_each_class_has_its_accuracy_and_its_most_frequent_wrong_guess(counted):
    counted, expected = counted
    rows = list(confusion.per_class(counted))
    for i, row in enumerate(rows[:3]):
        times, name = max((n, NAMES[j]) for j, n in enumerate(expected[i]) if j != i)
        assert (row.name, row.images, row.right) == (NAMES[i], expected[i].sum(), expected[i, i])
        assert (row.taken_for, row.times) == (name, times)
        assert row.top1 == expected[i, i] / expected[i].sum()
    assert rows[3] == ("frog", 0, 0, None, 0) and rows[3].top1 is None
    lines = confusion.table(counted).splitlines()
    assert len(lines) == 5 and lines[4].split() == ["frog", "0", "-", "-"]
    assert lines[1].endswith(f"  {rows[0].top1:.2%}  {rows[0].taken_for} ({rows[0].times})")


def test_the_csv_reads_back(counted, tmp_path):
    counted, expected = counted
    confusion.write(counted, str(tmp_path / "x.CSV"))
    with open(tmp_path / "x.CSV", newline="", encoding="utf-8") as file:
        (_, *header), *rows = csv.reader(file)
    assert header == NAMES and [row[0] for row in rows] == NAMES
    assert np.array_equal(np.array([row[1:] for row in rows], int), expected)


def test_a_small_picture_has_names_and_numbers(counted, tmp_path):
    pytest.importorskip("matplotlib")
    counted, expected = counted
    axes = confusion.draw(counted.matrix, counted.classes).axes[0]
    numbers = [int(text.get_text()) for text in axes.texts]
    assert np.array_equal(np.reshape(numbers, (4, 4)), expected)
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES


def test_a_large_picture_has_a_dot_for_each_cell(tmp_path):
    pytest.importorskip("matplotlib")
    large = confusion.Confusion(5, [str(i) for i in range(1000)])
    large.matrix[range(1000), range(1000)] = 50
    large.matrix[300:400, 900] = 1
    confusion.write(large, str(tmp_path / "x.png"))
    picture = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_GRAYSCALE)
    dark = np.mean(picture < 100) * picture.size
    assert 4000 < dark < 200000  # two by two pixels a cell, and the legend
    assert list(tmp_path.iterdir()) == [tmp_path / "x.png"]
