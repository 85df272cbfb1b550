"""Train a network on record files.

    python train_imagenet.py --gpus 0,1 --network alexnet --data-train X.rec --data-val Y.rec

Without --gpus it trains on the CPU. The defaults are the recipe of --network on --dataset
(common/train/recipes.py); flags override it, and the run prints what it resolved. --benchmark 1
trains on synthetic images and needs no records.
"""

import contextlib
import os
import sys

import symbols
from common import cli
from common.checkpoint.config import save_config
from common.checkpoint.lock import lock
from common.cli import UserError
from common.evaluate import evaluator
from common.input import pipeline
from common.records import records
from common.runtime import devices
from common.train import finetune, loop, recipes, resume


def parse_args():
    """The command line over the recipe it names, checked as far as it can be without data."""
    choice = cli.ArgumentParser(add_help=False)
    choice.add_argument("--network", default="alexnet", choices=symbols.NETWORKS)
    choice.add_argument("--dataset", default="imagenet", help="whose recipe to follow")
    chosen, _ = choice.parse_known_args()
    recipe = recipes.recipe(chosen.network, chosen.dataset)

    parser = cli.ArgumentParser(description=__doc__.splitlines()[0], parents=[choice])
    loop.add_fit_args(parser)
    pipeline.add_data_args(parser)
    parser.set_defaults(**recipe.settings)
    args = parser.parse_args()
    loop.check_fit_args(args)
    pipeline.check_data_args(args)
    if not (args.data_train or args.benchmark):
        raise UserError("--data-train: needed; data/README.md says how to make record files")
    changed = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    return args, recipe, changed


def main():
    """Check everything, then train."""
    args, recipe, changed = parse_args()
    contexts = devices.contexts(args.gpus, args.cpus)
    devices.check_kv_store(args.kv_store, contexts)
    training = validation = None
    if args.benchmark:
        args.num_classes = args.num_classes or 1000
        images = args.num_examples or 50 * args.batch_size
    else:
        training = pipeline.open_records(args.data_train, least=args.batch_size)
        args.num_classes = pipeline.count_classes(training, args.num_classes)
        images = pipeline.count_examples(training, args.num_examples)
        if args.data_val:
            validation = pipeline.open_records(
                args.data_val, args.num_classes, classes=training.classes
            )
    symbol = symbols.get_symbol(args.network, args.num_classes)
    with cli.blaming("--image-shape"):
        symbols.check_image_shape(symbol, args.image_shape)
    evaluator.resolve_top_k(args)
    pretrained = finetune.load(args, symbol) if args.pretrained else None
    print(recipes.describe(args, recipe, contexts, changed))
    if pretrained:
        print(finetune.describe(args, pretrained))
    if args.test_io:
        batches = pipeline.training_iterator(args, contexts[0], images, count=len(training))
        loop.test_io(args, batches, images)
        return

    devices.check_memory(
        symbol,
        contexts,
        batch_size=args.batch_size,
        image_shape=args.image_shape,
        optimizer=args.optimizer,
        dtype=args.dtype,
    )
    fingerprint = training and records.fingerprint(training.path)
    with lock(args.model_prefix) if args.model_prefix else contextlib.nullcontext():
        resumed = resume.prepare(args, fingerprint)
        if args.model_prefix:
            save_config(args.model_prefix, vars(args), training and training.classes)
        if args.benchmark:
            batches = pipeline.synthetic(args, contexts[0])
        else:
            first = resumed.state.batches if resumed else 0
            batches = pipeline.training_iterator(args, contexts[0], images, first, len(training))
        validate = validation and evaluator.Evaluator(symbol, contexts, args, validation)
        run = loop.Run(symbol, contexts, args, images, fingerprint, resumed, pretrained)
        run.train(batches, validate)
    if args.model_prefix:
        python = os.path.relpath(sys.executable)
        checkpoint_flags = f"--model-prefix {args.model_prefix} --load-epoch {args.num_epochs}"
        print(f"Name a picture with it: {python} predict.py {checkpoint_flags} PICTURE")


if __name__ == "__main__":
    cli.run(main)
