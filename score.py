"""Measure how good a checkpoint is on a record file.

    python score.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3 --data-val val.rec

Each image counts exactly once, as its centre crop. Size, mean and classes come from the
checkpoint's own record of how it was trained. float32 and int8 checkpoints are scored alike.
"""

import argparse
import os
import time

import common  # noqa: F401  readies the process for MXNet, so it comes first
from common import checkpoint, cli, data, devices, evaluate, int8
from common.cli import UserError


def parse_args():
    """The command line."""
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    checkpoint.add_args(parser)
    parser.add_argument("--data-val", required=True, metavar="X.rec", help="images to score it on")
    parser.add_argument("--batch-size", type=cli.positive_int, default=32, help="over all devices")
    parser.add_argument("--top-k", type=cli.positive_int, help="accuracy reported; default: 5")
    parser.add_argument("--gpus", type=cli.integers, help="such as 0,1; default: the CPU")
    parser.add_argument(
        "--data-nthreads", type=cli.positive_int, default=os.cpu_count(), help="decoding threads"
    )
    parser.add_argument("--verbose", action="store_true", help="let MXNet talk, too")
    return parser.parse_args()


def main():
    """Check everything, score, print one line."""
    args = parse_args()
    contexts = devices.contexts(args.gpus)
    if args.batch_size < len(contexts):
        raise UserError(f"--batch-size {args.batch_size}: is fewer than one image a device")
    config = checkpoint.load_config(args.model_prefix)
    symbol, *weights = checkpoint.load(args.model_prefix, args.load_epoch)
    if args.gpus and int8.is_quantized(symbol):
        raise UserError("--gpus: an int8 checkpoint runs on the CPU only; leave the flag out")
    # What the network was trained with, save for what the command line says.
    settings = argparse.Namespace(**{**config["args"], **vars(args)})
    evaluate.resolve_top_k(settings)
    found = data.open_records(args.data_val, settings.num_classes, classes=config["classes"])

    evaluator = evaluate.Evaluator(symbol, contexts, settings, found)
    started = time.time()
    scores = evaluator(*weights)
    speed = scores.count / (time.time() - started)
    print(
        f"{scores.count} images  loss {scores.loss:.4f}  top-1 {scores.top1:.2%}"
        f"  top-{scores.top_k} {scores.topk:.2%}  |  {speed:.0f} img/s"
    )


if __name__ == "__main__":
    cli.run(main)
