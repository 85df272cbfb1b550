"""Write docs/results.md and other pages' tables of results, from the committed files of results.

    python -m docs.results            after a benchmark, a study or a score
    python -m docs.results --check    exit code 2 if a page holds anything else than the files

The files are benchmarks/results/CPU.json, which the benchmarks write, and docs/results/*.json:
``score.py --json`` of the demo's checkpoint, and reports of ablate.py.
"""

import functools
import glob
import json
import os
import re
from statistics import median
from typing import Any, Dict, List

from benchmarks.report import OWN
from common import cli
from common.evaluate.scores import wilson
from common.io.files import atomic
from common.study import report

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Around a table: README's, or one of a study's baseline and the variants named; the study is
# studies/cifar10.json unless it is named, too. Or one of _OF_PHOTOGRAPHS.
_START, _END = "<!-- python -m docs.results writes this table", "<!-- end of the table -->"
_TABLE = re.compile(
    rf"({_START}(?: of (?:(\w+): )?([\w, -]+))? -->\n).*?({_END})",
    re.DOTALL,
)
_ENGINES = {
    "pytorch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "mnn": "MNN",
    "ncnn": "ncnn",
    **OWN,
}
_OPTIONS = {
    "last": "channels last",
    "decomposed": "LRN taken apart",
    "precision=bf16": "bf16",
}
# README's rows: files of docs/results/, titles in those of benchmarks/results/
_SCORES = ["center", "ten-crops", "int8"]
_ROWS = [
    "train, alexnet, batch 32, float32",
    "train, alexnet, batch 128, float32",
    "train, alexnet@67, batch 32, float32",
    "infer, alexnet, batch 32, float32",
    "infer, alexnet, batch 1, float32",
    "infer, alexnet, batch 32, int8",
    "infer, alexnet, batch 1, int8",
]
# Both READMEs' words: the heads of the two tables, then the rows.
_WORDS = {
    "README.md": [
        "| CIFAR-10, 10,000 test images | top-1 (95% interval) |",
        "img/s, at 227 unless said: ours / the best peer's: ratio",
        "`make demo`, centre crop",
        "the same, ten crops",
        "the same in int8, centre crop",
        "training, batch 32, float32",
        "training, batch 128, float32",
        "training at 67 px, as the demo's, batch 32, float32",
        "inference, batch 32, float32",
        "inference, batch 1, float32",
        "inference, batch 32, int8",
        "inference, batch 1, int8",
    ],
    "README.zh-CN.md": [
        "| CIFAR-10，10,000 张测试图片 | top-1（95% 置信区间） |",
        "每秒图片数（未注明者为 227 像素）：本项目 / 最快的同类软件：比值",
        "`make demo`，中心裁剪",
        "同一个检查点，十个裁剪",
        "同一个检查点，int8，中心裁剪",
        "训练，批大小 32，float32",
        "训练，批大小 128，float32",
        "67 像素的训练（同演示），批大小 32，float32",
        "推理，批大小 32，float32",
        "推理，批大小 1，float32",
        "推理，批大小 32，int8",
        "推理，批大小 1，int8",
    ],
}

# Pages on studies; the words for the columns of their tables where they are not the report's own.
_STUDY_PAGES = {
    "docs/training.md": "",
    "docs/six-ideas.md": "",
    "docs/six-ideas.zh-CN.md": "| 变体 | 学习率 | top-1 | 种子之差 | 与基线之差"
    " | 测试损失 | 训练 top-1 | 训练损失 | 种子数 |",
}

_PHOTOGRAPHS = "docs/your-photographs.md"
_SETS = {"flowers": "Oxford's 17 flowers", "caltech": "Caltech-101"}  # also in studies' names


def machines() -> List[Dict[str, Any]]:
    """The content of each file in benchmarks/results/, one a processor."""
    return [_json(path) for path in sorted(glob.glob(f"{_ROOT}/benchmarks/results/*.json"))]


def _json(path):
    with open(os.path.join(_ROOT, path), encoding="utf-8") as file:
        return json.load(file)


def _name(form):
    engine, *options = form.split(",")
    return ", ".join([_ENGINES[engine], *(_OPTIONS.get(option, option) for option in options)])


def _speeds(case):
    """{form: median images a second} of those that took turns."""
    return {form: median(found["img_per_s"]) for form, found in case["contestants"].items()}


def _peers(case):
    return {f: s for f, s in _speeds(case).items() if f not in OWN}


def _cell(case):
    """Ours, and the best peer's in the same number format; bf16 too: theirs if it is faster."""
    ours, peers = _speeds(case)[case["ours"]], _peers(case)
    plain = {form: speed for form, speed in peers.items() if "bf16" not in form}
    best = max(plain, key=plain.__getitem__)
    text = f"{ours:.1f} / {plain[best]:.1f} ({_name(best)}): {ours / plain[best]:.2f}"
    reduced = {form: speed for form, speed in peers.items() if form not in plain}
    if reduced and max(reduced.values()) > plain[best]:
        best = max(reduced, key=reduced.__getitem__)
        text += f"; {reduced[best]:.1f} ({_name(best)}): {ours / reduced[best]:.2f}"
    if "bf16" in _speeds(case):
        text += f"; {_speeds(case)['bf16']:.1f} ({_name('bf16')})"
    return text


def _machine(about):
    held = f" held to {about['held_to']}" if about["held_to"] else ""
    return f"{about['cores']} cores of {about['cpu']}; {about['instructions']}{held}"


def readme_table(words: List[str]) -> str:
    """README's two tables: accuracies of the demo; img/s beside the best peer's, a column a CPU."""
    accuracies, speeds, *rows = words
    lines = [accuracies, "|---|---|"]
    for name, row in zip(_SCORES, rows):
        lines.append(f"| {row} | {_accuracy(_json(f'docs/results/demo-{name}.json'))} |")
    files = machines()
    heads = " | ".join(_machine(file["machine"]) for file in files)
    lines += ["", f"| {speeds} | {heads} |", "|---" * (1 + len(files)) + "|"]
    for title, row in zip(_ROWS, rows[len(_SCORES) :]):
        found = (file["results"].get(title) for file in files)
        lines.append(f"| {row} | {' | '.join(_cell(case) if case else '-' for case in found)} |")
    return "\n".join(lines)


def _accuracy(score):
    return _share(score["top-1"], score["interval95"]["top-1"])


def _share(share, interval):
    low, high = interval
    return f"{share:.1%} ({low:.1%} to {high:.1%})"


def page() -> str:
    """docs/results.md."""
    parts = [
        "# Results",
        "`python -m docs.results` writes this page from benchmarks/results/ and docs/results/."
        " Speeds are medians of interleaved rounds, each a process of its own; ratios are of those"
        " medians. Other machines have other speeds, and so has one machine at another hour:"
        " compare within a table. [benchmarks/NOTES.md](../benchmarks/NOTES.md) says what paid and"
        " what did not.",
    ]
    parts += ["## Accuracy of the demo's checkpoint, CIFAR-10's 10,000 test images", _scores()]
    for file in machines():
        parts.append(f"## {_machine(file['machine'])}")
        for title, found in file["results"].items():
            parts.append(f"### {title}")
            parts += _SECTIONS.get(title.partition(",")[0], _alexnet)(found)
            parts.append(f"Measured {found['date']}, Python {found['python']}.")
    return "\n\n".join(parts) + "\n"


def study_table(head: str, study: str, names: List[str]) -> str:
    """A study's baseline beside variants of it, as the report has them; ``head``: the columns."""
    variants = _json(f"docs/results/{study}.json")["variants"]
    chosen = {name: variants[name] for name in [next(iter(variants)), *names]}
    said, *rest = report.table({"variants": chosen}).splitlines()
    return "\n".join([head or said, *rest])


def _scores():
    rows = []
    for name in _SCORES:
        score = _json(f"docs/results/demo-{name}.json")
        rows.append([name, _accuracy(score), f"{score['top-5']:.2%}", f"{score['loss']:.4f}"])
    return _table(["", "top-1 (95% interval)", "top-5", "loss"], rows)


def _table(head, rows):
    lines = [head, *rows]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(head), *lines[1:]]
    )


def _alexnet(case):
    speeds = _speeds(case)
    rows = []
    for form, found in case["contestants"].items():
        low, high = min(found["img_per_s"]), max(found["img_per_s"])
        figures = f"{speeds[form]:.1f}", f"{low:.1f} to {high:.1f}"
        ratio = f"{speeds[case['ours']] / speeds[form]:.2f}"
        rows.append(
            [_name(form), *figures, ratio, f"{found['p99_ms']:.0f}", str(found["peak_mib"])]
        )
    head = ["", "img/s", "range", "ours / theirs", "p99 ms a step", "peak MiB"]
    tried = "; ".join(f"{_name(form)} {speed:.1f}" for form, speed in case["calibration"].items())
    versions = ", ".join(f"{name} {version}" for name, version in case["versions"].items())
    return [_table(head, rows), f"Forms tried, img/s: {tried}.", f"With {versions}."]


def _rates(groups, base):
    """A table of {name: {img_per_s, cpu_ms}}; ``base`` names what each is compared with."""
    rows = []
    for name, found in groups.items():
        speed, cpu = median(found["img_per_s"]), median(found["cpu_ms"])
        ratio = speed / median(groups[base(name)]["img_per_s"])
        rows.append([name, f"{speed:.0f}", f"{ratio:.2f}", f"{cpu:.2f}"])
    return _table(["", "img/s", "ratio", "CPU ms an image"], rows)


def _input(found):
    groups = {
        name: {key: [one[key] for one in measured] for key in ("img_per_s", "cpu_ms")}
        for name, measured in found["rounds"].items()
    }
    return [
        f"Ratios over PyTorch's DataLoader; JPEGs of {found['settings']['mean_bytes']} bytes.",
        _rates(groups, lambda name: "dataloader"),
    ]


def _pack(found):
    base = lambda name: name.replace("data.folder", "im2rec.py")  # noqa: E731
    return ["Ratios over MXNet's im2rec.py.", _rates(found["packers"], base)]


def _checkpoint(found):
    middle = {name: median(values) for name, values in found["seconds"].items()}
    step = middle["a training step"]
    rows = [[n, f"{s * 1000:.0f}", f"{s / step:.2f}"] for n, s in middle.items()]
    return [_table(["", "ms", "training steps"], rows)]


def _limits(found):
    threads = [name for name in found if name.endswith(" threads")]
    rows = [[name, *(f"{found[t][name]:.1f}" for t in threads)] for name in found[threads[0]]]
    return [_table(["", *threads], rows)]


def _growth(found):
    tables = []
    for mode, batches in found["img_per_s"].items():
        threads = list(next(iter(batches.values())))
        rows = []
        for batch, speeds in batches.items():
            middle = [median(speeds[t]) for t in threads]
            rows.append([batch, *(f"{s:.1f}" for s in middle), f"{middle[-1] / middle[0]:.2f}"])
        head = [f"{mode}, batch", *(f"{t}, img/s" for t in threads), "ratio"]
        tables.append(_table(head, rows))
    return tables


def _scaling(found):
    middle = {name: [median(n) for n in zip(*steps)] for name, steps in found["steps"].items()}
    alone, _ = middle["one process"]
    rows = [
        [name, f"{seconds * 1000:.0f}", f"{seconds / alone:.2f}", f"{sent / 1e6:.0f}"]
        for name, (seconds, sent) in middle.items()
    ]
    said = f"AlexNet at 227, {found['batch_size']} images a step, which all divide among them."
    return [said, _table(["", "ms a step", "times", "MB a step"], rows)]


def _best(found):
    """Of torchvision's trainings, the one that is best on the pictures set apart."""
    return max(found["trained"], key=lambda one: one["val"]["right"])


def _photos(found):
    best = _best(found)
    rows = [["make_classifier.py", "", _right(found["ours"]), f"{found['ours']['epochs']:.1f}"]]
    for one in found["trained"]:
        name = f"torchvision, {one['start']} weights, rate {one['rate']}"
        test = _right(one["test"]) if one is best else ""
        rows.append([name, _right(one["val"]), test, f"{one['epochs']:.1f}"])
    said = f"{found['minutes']:g} minutes each, {found['side']} px; 95% intervals."
    return [said, _table(["", "pictures set apart", "test pictures", "epochs"], rows)]


def photographs_table() -> str:
    """The test pictures that make_classifier.py and the best of torchvision's trainings name."""
    rows = []
    for file in machines():
        for name, title in _SETS.items():
            found = file["results"].get(f"photos, {name}")
            if found:
                best = _best(found)
                size = f"{found['side']} px, {found['minutes']:g} minutes"
                rows.append([title, size, _right(found["ours"]), _right(best["test"])])
    return _table(["", "", "this command", "torchvision's"], rows)


def rates_table(which: str = "") -> str:
    """The best rate of each variant of two studies, on pictures set apart.

    They are those of the recipe for photographs, or with ``which`` "transfer-" of fine-tuning.
    """
    studies = [_json(f"docs/results/{which}{name}.json")["variants"] for name in _SETS]
    rows = []
    for variant in studies[0]:
        cells = []
        for study in studies:
            tried = study.get(variant, {"rates": {}})["rates"]
            ended = [(one["top-1"], rate) for rate, one in tried.items() if "top-1" in one]
            cells.append("{:.1%}, rate {}".format(*max(ended)) if ended else "-")
        rows.append([variant, *cells])
    return _table(["", *_SETS.values()], rows)


_OF_PHOTOGRAPHS = {
    "photographs": photographs_table,
    "rates": rates_table,
    "transfer": functools.partial(rates_table, "transfer-"),
}


def _right(scored):
    right, images = scored["right"], scored["images"]
    return _share(right / images, wilson(right, images))


_SECTIONS = {
    "limits": _limits,
    "growth": _growth,
    "scaling": _scaling,
    "photos": _photos,
    "input": _input,
    "pack": _pack,
    "checkpoint": _checkpoint,
}


def pages() -> Dict[str, str]:
    """{path: what it should hold}; UserError if a page lacks the lines around a table."""
    found = {"docs/results.md": page()}
    for path in (*_WORDS, *_STUDY_PAGES, _PHOTOGRAPHS):
        with open(os.path.join(_ROOT, path), encoding="utf-8") as file:
            text = file.read()
        found[path], count = _TABLE.subn(functools.partial(_filled, path), text)
        marks = text.count(_START), text.count(_END)
        if not count or marks != (count, count) or (path in _WORDS and count > 1):
            raise cli.UserError(f"{path}: needs the lines {_START} --> and {_END}")
    return found


def _filled(path, marks):
    start, study, names, end = marks.groups()
    if path == _PHOTOGRAPHS:
        table = _OF_PHOTOGRAPHS[names]()
    elif names:
        table = study_table(_STUDY_PAGES[path], study or "cifar10", names.split(", "))
    else:
        table = readme_table(_WORDS[path])
    return f"{start}\n{table}\n\n{end}"


def main() -> None:
    """Write the pages, or compare them."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    for path, text in pages().items():
        full = os.path.join(_ROOT, path)
        if args.check:
            with open(full, encoding="utf-8") as file:
                if file.read() != text:
                    raise cli.UserError(
                        f"{path}: is not what the results give; python -m docs.results"
                    )
            continue
        with atomic(full) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    cli.run(main)
