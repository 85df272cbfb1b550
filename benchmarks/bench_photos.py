"""A classifier of photographs in so many minutes: make_classifier.py against torchvision's AlexNet.

    python -m benchmarks.bench_photos PHOTOS TEST --name flowers --out FOLDER --minutes 8

PHOTOS and TEST hold a folder for each class, the same ones. Both train from scratch on the same
pictures for about as many minutes. torchvision's has the input size that make_classifier.py takes;
it is trained with each of its initial weights (PyTorch's default, He's) and rates, and the one that
is best on the pictures that make_classifier.py sets apart counts. Prints a table, writes
``photos, NAME`` into benchmarks/results.
"""

import json
import os
import subprocess
import sys

from benchmarks import report
from common import cli
from common.evaluate.scores import wilson
from common.io.files import read_json
from common.records.format import read_image
from common.records.scan import scan_records
from common.records.walk import open_records

ROOT = os.path.dirname(report.HERE)
WORKER = "worker_photos_torch.py"
RATES = {"default": (0.01, 0.03), "kaiming": (0.003, 0.01, 0.03)}


def main() -> None:
    """Train, choose, score, print."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("photos", metavar="PHOTOS")
    parser.add_argument("test", metavar="TEST")
    parser.add_argument("--name", required=True, help="of the set of pictures, in the results")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new one")
    parser.add_argument("--minutes", type=cli.number(above=0), default=8, help="of each training")
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="Python with torch, PIL")
    args = parser.parse_args()
    mine, test = os.path.join(args.out, "mine"), os.path.join(args.out, "test")
    run("make_classifier.py", args.photos, "--out", mine, "--minutes", args.minutes)
    run("-m", "data.folder", args.test, test)
    for name, prefix in (("train", "photos-train"), ("val", "photos-val")):
        unpack(os.path.join(mine, f"{prefix}.rec"), os.path.join(args.out, name))
    unpack(f"{test}.rec", os.path.join(args.out, "test"))
    side, epochs = read_json(os.path.join(mine, "plan.json"), "delete it")["training"]
    ours = score(mine, epochs, f"{test}.rec")
    trained = []
    for start, rates in RATES.items():
        for rate in rates:
            arguments = args.out, side, start, rate, args.minutes
            figures = report.run_worker(WORKER, *arguments, python=args.peers)
            trained.append({"start": start, "rate": rate, **figures})
            said = text({**figures["val"], "epochs": figures["epochs"]})
            print(f"torchvision, {start}, {rate}, set apart: {said}", flush=True)
    best = max(trained, key=lambda one: one["val"]["right"])
    theirs = {**best["test"], "epochs": best["epochs"]}
    print(f"{side} px, {args.minutes:g} minutes each, {ours['images']} pictures of {args.name}")
    print(f"make_classifier.py: {text(ours)}")
    print(f"torchvision's AlexNet, {best['start']} weights, {best['rate']}: {text(theirs)}")
    found = {"minutes": args.minutes, "side": side, "ours": ours, "trained": trained}
    print("written to", report.save(f"photos, {args.name}", **found))


def run(*arguments) -> None:
    """Run a script of the project, its output with ours."""
    command = [sys.executable, *map(str, arguments)]
    if subprocess.call(command, cwd=ROOT):
        raise cli.UserError(f"{' '.join(command)}: failed")


def score(folder: str, epochs: int, records: str) -> dict:
    """How many test pictures make_classifier.py's network names right."""
    path = os.path.join(folder, "test.json")
    net = ["--model-prefix", os.path.join(folder, "net"), "--load-epoch", epochs]
    run("score.py", *net, "--data-val", records, "--json", path)
    with open(path) as file:
        figures = json.load(file)
    return {"right": figures["right"]["top-1"], "images": figures["images"], "epochs": epochs}


def text(figures: dict) -> str:
    """Accuracy with its 95% interval, and the epochs."""
    low, high = wilson(figures["right"], figures["images"])
    share = figures["right"] / figures["images"]
    return f"{share:.1%} ({low:.1%} to {high:.1%}) after {figures['epochs']:.1f} epochs"


def unpack(path: str, folder: str) -> None:
    """Write the pictures of a record file below ``folder``, a folder for each class."""
    found = scan_records(path)
    with open_records(path) as content:
        for i, (at, label) in enumerate(zip(found.offsets.tolist(), found.labels.tolist())):
            name = os.path.join(folder, f"{int(label):04d}", f"{i}.jpg")
            os.makedirs(os.path.dirname(name), exist_ok=True)
            with open(name, "wb") as file:
                file.write(read_image(content, at))


if __name__ == "__main__":
    cli.run(main)
