"""What a checkpoint costs: saving and resuming, against a training step and MXNet's own saving.

    python -m benchmarks.bench_checkpoint
    python -m benchmarks.bench_checkpoint --folder /mnt/slow --rounds 9

AlexNet at 227 with 1,000 classes, batch 32: 249 MB of weights and as much momentum. "mxnet" is
``Module.save_checkpoint(..., save_optimizer_states=True)``, which neither flushes to the disk nor
makes checksums. The measurements take turns. Prints a table and keeps the
figures in benchmarks/results/.
"""

import statistics
import tempfile
import time

import symbols
from benchmarks import report
from common import cli
from common.checkpoint import store
from common.runtime.mxnet import mx
from common.train import binding, module_state
from common.train.schedule import LearningRate

SHAPE = (32, 3, 227, 227)


def main():
    """Time each in turn, in a folder that is removed afterwards."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--rounds", type=cli.positive_int, default=5)
    parser.add_argument("--folder", help="on the disk to measure; default: the system's temporary")
    args = parser.parse_args()
    rate = LearningRate(0.01)
    settings = binding.ModuleSettings(rate, "sgd", 0.9, 5e-4, initializer="normal")
    symbol = symbols.get_symbol("alexnet")
    module = binding.bind(symbol, [mx.cpu()], SHAPE, settings)
    batch = mx.io.DataBatch([mx.nd.random.normal(0, 60, SHAPE)], [mx.nd.zeros(SHAPE[0])])

    def step():
        module.forward_backward(batch)
        module.update()
        mx.nd.waitall()

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        ours, theirs = f"{folder}/ours", f"{folder}/theirs"

        def save():
            state = module_state.optimizer_state(module)
            store.save(ours, 1, symbol, *module_state.weights(module), state, batches=1)

        def go_on():
            store.newest(ours)
            store.load(ours, 1, verified=True)
            module_state.restore_optimizer(module, store.load_optimizer(ours, 1))

        measured = {
            "a training step": step,
            "save": save,
            "find, verify and load": go_on,
            "save, mxnet": lambda: module.save_checkpoint(theirs, 1, save_optimizer_states=True),
        }
        seconds = {name: [] for name in measured}
        for _ in range(args.rounds + 1):  # the first warms up
            for name, run in measured.items():
                clock = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - clock)
    steps = statistics.median(seconds["a training step"][1:])
    print(f"{'':24}{'ms':>8}{'min':>8}{'max':>8}{'steps':>8}")
    for name, values in seconds.items():
        median, low, high = statistics.median(values[1:]), min(values[1:]), max(values[1:])
        numbers = "".join(f"{value * 1000:8.0f}" for value in (median, low, high))
        print(f"{name:24}{numbers}{median / steps:8.2f}")
    seconds = {n: [round(value, 4) for value in values[1:]] for n, values in seconds.items()}
    print(f"written to {report.save('checkpoint', seconds=seconds)}")


if __name__ == "__main__":
    cli.run(main)
