"""common/records/class_names.py: label files as their makers write them."""

import json

import pytest

from common.cli import UserError
from common.records.class_names import read_names, read_plain
from data import imagenet

# ImageNet's classes as (id, number in the challenge, synonyms), in label order.
with open(imagenet.__file__.replace("imagenet.py", "imagenet_classes.txt"), encoding="utf-8") as f:
    TABLE = [line.rstrip("\n").split("\t") for line in f]
FIRST = [synonyms.split(", ")[0] for _, _, synonyms in TABLE]
BY_CHALLENGE = sorted(TABLE, key=lambda row: int(row[1]))
MAKERS = {
    "ours": [f"{wnid}\t{number}\t{names}" for wnid, number, names in TABLE],
    "Caffe's synset_words.txt": [f"{wnid} {names}" for wnid, _, names in TABLE],
    "in another order": [f"{wnid} {names}" for wnid, _, names in BY_CHALLENGE],
    "the kit's map_clsloc.txt": [
        f"{wnid} {number} {names.split(', ')[0].replace(' ', '_')}"
        for wnid, number, names in BY_CHALLENGE
    ],
    "Keras's class index": json.dumps(
        {i: [wnid, n.split(", ")[0].replace(" ", "_")] for i, (wnid, _, n) in enumerate(TABLE)}
    ),
    "JSON list": json.dumps([names for _, _, names in TABLE]),
    "JSON, indented": json.dumps(FIRST, indent=1),
    "id2label": json.dumps({str(i): names for i, (_, _, names) in enumerate(TABLE)}),
    "class_to_idx": json.dumps({name: i for i, name in reversed(list(enumerate(FIRST)))}),
    "Python": "{" + ",\n ".join(f"{i}: {names!r}" for i, (_, _, names) in enumerate(TABLE)) + "}",
    "numbered": [f"{i}: {names}" for i, (_, _, names) in enumerate(TABLE)],
    "numbered, in another order": [f"{i} {name}" for i, name in reversed(list(enumerate(FIRST)))],
    "CSV": ["index,name", *(f"{i},{name}" for i, name in enumerate(FIRST))],
    "CSV, quoted": ["id;label", *(f'{i};"{row[2]}"' for i, row in enumerate(TABLE))],
    "CSV, the number last": ["name,id", *(f"{name},{i}" for i, name in enumerate(FIRST))],
    "with TensorFlow's background": ["background", *FIRST],
    "with a byte order mark and blank lines": ["\ufeff" + FIRST[0], *FIRST[1:], "", ""],
}


def written(path, text):
    text = text if isinstance(text, str) else "".join(f"{line}\n" for line in text)
    path.write_bytes(text.encode())
    return str(path)


@pytest.mark.parametrize("maker", MAKERS)
def test_each_makers_file_names_each_class_rightly(maker, tmp_path):
    assert read_names(written(tmp_path / "names.txt", MAKERS[maker]), 1000) == FIRST


def test_wordnet_ids_tell_equal_names_apart(tmp_path):
    names = [f"{wnid} {name.split(' (')[0]}" for (wnid, _, _), name in zip(TABLE, FIRST)]
    found = read_names(written(tmp_path / "names.txt", names), 1000)
    assert [found[i] for i in (134, 517)] == ["crane (n02012849)", "crane (n03126707)"]
    assert len(set(found)) == 1000
    alone = [name.split(" ", 1)[1] for name in names]
    with pytest.raises(UserError, match="crane twice, as class 134 and 517; .*imagenet_classes"):
        read_names(written(tmp_path / "names.txt", alone), 1000)


@pytest.mark.parametrize(
    "text, names",
    [
        ("0\n1\n2\n", ["0", "1", "2"]),
        ('{"0": "0", "1": "1"}', ["0", "1"]),
        ("nurse shark\n", ["nurse shark"]),
        ("18 wheeler\nvan\n", ["18 wheeler", "van"]),
        ("n02\nn01440764\n", None),
        ("n02119789\nn01440764\n", ["n01440764", "n02119789"]),
        ("background\ncat\n", ["background", "cat"]),  # two classes, one of them the background
        ("names:\n  0: cat\n  1: dog\n", ["cat", "dog"]),
        ("n01440764 tench\nkit fox\n", None),
        ("0: cat\ndog\n", None),
        ("1 cat\n2 dog\n", None),
        ("0 cat\n0 dog\n", None),
        ("0 cat\n2 dog\n", None),
        ("cat,feline\ndog,canine\n", None),
        ("0,cat,feline\n1,dog,canine\n", None),
        ("'cat',\n'dog',\n", None),
        ("[cat,\ndog]\n", None),
        ("{'cat', 'dog'}", None),
        ("{[0]: 'cat'}", None),
        ("[" * 100000, None),
        ("- cat\n- dog\n", None),
        ('["cat", ""]', None),
        ("cat\n\ndog\n", None),
        ("class\nclass\n", None),
        ("0 n02119789 kit fox\n1 n01440764 tench\n", None),
        ("n01440764 tench\nn01440764 carp\n", None),
        ("", None),
    ],
)
def test_other_forms_are_read_rightly_or_refused_by_name(text, names, tmp_path):
    path = written(tmp_path / "names.txt", text)
    if names:
        assert read_names(path, 2 if "background" in text else None) == names
    else:
        with pytest.raises(UserError, match="names.txt: ") as refusal:
            read_names(path)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("count", [998, 1001])
def test_another_number_of_names_is_refused(count, tmp_path):
    with pytest.raises(UserError, match=f"has 1000 names, but the network has {count} classes"):
        read_names(written(tmp_path / "names.txt", FIRST), count)


def test_names_of_record_files_may_look_like_any_form(tmp_path):
    names = ["10 euro", "5 euro", "a, b", "n01440764-tench", "x,y", "[z"]
    assert read_plain(written(tmp_path / "x-classes.txt", names)) == names


def test_other_makers_files_as_names_of_record_files(tmp_path):
    path = tmp_path / "x-classes.txt"
    assert read_plain(written(path, MAKERS["JSON list"])) == FIRST
    with pytest.raises(UserError, match="WordNet ids are not in order"):
        read_plain(written(path, MAKERS["the kit's map_clsloc.txt"]))
