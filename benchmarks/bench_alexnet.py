"""Is this the fastest AlexNet on a CPU? Training and inference against MXNet's own and its peers.

    make bench            or   python -m benchmarks.bench_alexnet --peers .venv-bench/bin/python

Each peer is measured in its best form: a calibration runs every form of FORMS once, and of the
fastest three engines the fastest form goes on. Every measurement is a process of its own; the
contestants take turns, so that a machine whose speed drifts treats all alike. Printed are the
median over rounds of each round's median step, the range, and our speed over theirs.
benchmarks/results/CPU.json keeps the figures of all forms. A case takes two minutes (int8) to seven
(training, 128 images) on 2 cores, all of them an hour. --quick measures one round of fewer steps
and keeps nothing.

What a peer is asked:
- PyTorch: its layout or channels last; eager or torch.compile (inference with frozen weights); SGD
  fused into one pass; bf16 by autocast where the processor has it.
- ONNX Runtime, OpenVINO: the file of export_onnx.py, where LRN is one operator and the batch is
  fixed, or that of PyTorch's exporter, which takes LRN apart; OpenVINO with the LATENCY hint, which
  gives one request all cores, in f32 and, where the processor has it, bf16.
- MNN, ncnn: that file by their own converters, in float32. ncnn takes one image at a time.
- int8: ONNX Runtime's static quantization (QDQ, a scale for each output channel); ONNX Runtime and
  OpenVINO run that file.
"""

import os
import statistics
import tempfile

from benchmarks import report
from common import cli

# mode, network, batch size, steps of a round, of those that only warm up, precision of ours
CASES = [
    ("train", "alexnet", 32, 6, 2, "float32"),
    ("train", "alexnet", 128, 3, 1, "float32"),
    ("train", "alexnet@67", 32, 45, 10, "float32"),  # the demo's, but for its 10 classes
    ("train", "alexnet2012", 128, 3, 1, "float32"),
    ("infer", "alexnet", 32, 12, 3, "float32"),
    ("infer", "alexnet", 1, 100, 10, "float32"),
    ("infer", "alexnet", 32, 12, 3, "int8"),
    ("infer", "alexnet", 1, 100, 10, "int8"),
    ("train", "alexnet_owt", 32, 6, 2, "float32"),  # torchvision's, at 224
    ("train", "alexnet_owt", 128, 3, 1, "float32"),
    ("infer", "alexnet_owt", 32, 12, 3, "float32"),
    ("infer", "alexnet_owt", 1, 100, 10, "float32"),
]
PEERS = 3  # that take turns with ours
PYTORCH = ["pytorch", "pytorch,last", "pytorch,compiled", "pytorch,last,compiled"]
FORMS = {
    ("train", "float32"): PYTORCH,
    ("train", "bf16"): [f"{form},bf16" for form in PYTORCH],
    ("infer", "float32"): [
        *PYTORCH,
        "onnxruntime",
        "onnxruntime,decomposed",
        "openvino",
        "openvino,decomposed",
        "mnn",
        "ncnn",
    ],
    ("infer", "bf16"): [f"{form},bf16" for form in PYTORCH] + ["openvino,precision=bf16"],
    ("infer", "int8"): ["onnxruntime,int8", "openvino,int8"],
}
ENGINES = ["torch", "onnxruntime", "openvino", "MNN", "ncnn"]


def main():
    """Run the cases and print a table for each."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="Python that has them")
    parser.add_argument("--rounds", type=cli.positive_int, default=3)
    parser.add_argument("--cases", type=cli.integers, help="such as 0,3; default: all")
    parser.add_argument("--quick", action="store_true", help="one short round, nothing is kept")
    args = parser.parse_args()
    if not os.path.exists(args.peers):
        raise cli.UserError(f"--peers {args.peers}: not found; make bench makes it")
    numbers = args.cases or range(len(CASES))
    if not set(numbers) <= set(range(len(CASES))):
        raise cli.UserError(f"--cases: are 0 to {len(CASES) - 1}")
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            case = Case(*CASES[number], args, folder)
            if not args.quick:
                print("written to", report.save(case.name, **case.figures))


def versions(peers):
    """What was compared: {package: version}."""
    show = "import json, sys; from importlib.metadata import version as v; "
    show += "print(json.dumps({name: v(name) for name in sys.argv[1:]}))"
    return report.last_line([peers, "-c", show, *ENGINES])


class Case:
    """One case, measured: ``figures`` has what all forms reached, and the rounds of the best."""

    def __init__(self, mode, network, batch, steps, warmup, precision, args, folder):
        self.mode, self.network, self.batch, self.args = mode, network, batch, args
        self.length = (max(1, steps // 4), 1) if args.quick else (steps, warmup)
        self.folder = folder
        ours = ["int8", "ours"] if precision == "int8" else ["ours", "stock"]
        if precision == "float32" and (mode == "infer" or report.has_amx()):
            ours.append("bf16")
        forms = list(FORMS[mode, precision])
        if precision == "float32" and report.has_bf16():
            forms += FORMS[mode, "bf16"]
        calibration = {form: self.speed(form, *self.shorter()) for form in forms}
        contestants = ours + fastest(calibration)
        rounds = {name: [] for name in contestants}
        for _ in range(1 if args.quick else args.rounds):
            for name in contestants:
                rounds[name].append(self.measure(name, *self.length))
        self.name = f"{mode}, {network}, batch {batch}, {precision}"
        self.figures = {
            "ours": contestants[0],
            "calibration": calibration,
            "contestants": {name: self.summary(measured) for name, measured in rounds.items()},
            "versions": versions(args.peers),
        }
        self.show()

    def shorter(self):
        """Steps and warm-up of a calibration."""
        return max(1, self.length[0] // 3), self.length[1]

    def measure(self, name, steps, warmup):
        """A process's seconds of each step and its peak memory."""
        arguments = self.mode, name, self.network, self.batch, steps, warmup
        if name in report.OWN:
            return report.run_worker("worker_mxnet.py", *arguments)
        files = [] if self.mode == "train" else [self.onnx(1 if name == "ncnn" else self.batch)]
        return report.run_worker("worker_peers.py", *arguments, *files, python=self.args.peers)

    def onnx(self, batch):
        """The network's file for ``batch`` images, written at the first call."""
        path = os.path.join(self.folder, f"{self.network}-{batch}.onnx")
        if not os.path.exists(path):
            report.run_worker("worker_mxnet.py", "export", path, self.network, batch)
        return path

    def speed(self, form, steps, warmup):
        """Images a second of ``form``."""
        seconds = statistics.median(self.measure(form, steps, warmup)["seconds"])
        print(f"calibration: {form:28}{self.batch / seconds:8.1f} img/s", flush=True)
        return round(self.batch / seconds, 2)

    def summary(self, measured):
        """Images a second of each round, the slowest percent's milliseconds, peak memory."""
        every = sorted(second for one in measured for second in one["seconds"])
        return {
            "img_per_s": [round(self.batch / statistics.median(m["seconds"]), 2) for m in measured],
            "p99_ms": round(every[min(len(every) - 1, int(0.99 * len(every)))] * 1000, 1),
            "peak_mib": round(max(one["peak_mib"] for one in measured)),
        }

    def show(self):
        """Print the table; ratios are of medians."""
        print(f"\n{self.name}: {self.length[0]} steps a round")
        print(f"{'':32}{'img/s':>8}{'min':>8}{'max':>8}{'ours/theirs':>13}{'p99 ms':>9}{'MiB':>7}")
        contestants = self.figures["contestants"]
        ours = statistics.median(contestants[self.figures["ours"]]["img_per_s"])
        for name, found in contestants.items():
            speeds = found["img_per_s"]
            middle = statistics.median(speeds)
            print(
                f"{name:32}{middle:8.1f}{min(speeds):8.1f}{max(speeds):8.1f}{ours / middle:13.2f}"
                f"{found['p99_ms']:9.1f}{found['peak_mib']:7}",
                flush=True,
            )


def fastest(calibration):
    """The best forms of the ``PEERS`` fastest engines.

    One in bf16 is a contestant of its own where it is faster than the engine's float32.
    """
    best = {}
    for form, speed in calibration.items():
        group = form.split(",")[0], "bf16" in form
        best[group] = max(best.get(group, (0, "")), (speed, form))
    useful = [
        found for (engine, bf16), found in best.items() if not bf16 or found > best[engine, False]
    ]
    return [form for _, form in sorted(useful, reverse=True)[:PEERS]]


if __name__ == "__main__":
    cli.run(main)
