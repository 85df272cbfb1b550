"""Train a network on record files.

    python train_imagenet.py --gpus 0,1 --network alexnet --data-train X.rec --data-val Y.rec

Without --gpus it trains on the CPU. The defaults are the recipe of --network on --dataset
(common/train/recipes.py); flags override it, and the run prints what it resolved. --benchmark 1
trains on synthetic images and needs no records.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import sys
from typing import List, Optional, Tuple

import symbols
from common import cli
from common.checkpoint import store
from common.checkpoint.config import save_config
from common.checkpoint.fit import read_graph
from common.cli import UserError
from common.evaluate import scores
from common.evaluate.evaluator import Evaluator
from common.graph import columns
from common.graph.lowering import check_bfloat16
from common.input import flags as data_flags
from common.input import pipeline
from common.input.training_data import TrainingData
from common.io.history import log_path
from common.io.lock import lock
from common.io.log import RunLog
from common.records.identity import records_fingerprint
from common.records.scan import Records
from common.runtime import devices
from common.runtime.mxnet import mx
from common.train import binding, feature_cache, finetune, loop, recipes, resume
from common.train import flags as train_flags
from common.train.asynchronous import AsynchronousCluster
from common.train.board import Board
from common.train.checkpoints import Checkpoints
from common.train.cluster import ASYNCHRONOUS, Cluster, check_network
from common.train.schedule import Length
from symbols import options


def parse_args() -> Tuple[argparse.Namespace, recipes.Recipe, List[str], Optional[dict]]:
    """The command line over the recipe's values, checked as far as possible without data.

    Also the recipe, the names of the arguments that differ from it, and the config of --pretrained.
    """
    choice = cli.ArgumentParser(add_help=False)
    _add_network_args(choice)
    choice.add_argument("--dataset", default="imagenet", help="whose recipe to follow")
    finetune.add_args(choice)
    chosen, _ = choice.parse_known_args()
    source = finetune.source_config(chosen.pretrained) if chosen.pretrained else None
    own = source["args"]["network"] if source else None
    if source and not (own or chosen.network):
        raise UserError(
            f"--network: needed, since --pretrained {chosen.pretrained} does not say which its is;"
            " the weights that fit are taken"
        )
    network = chosen.network or own or "alexnet"
    recipe = recipes.recipe(network, chosen.dataset)

    parser = cli.ArgumentParser(__doc__, parents=[choice])
    train_flags.add_train_args(parser)
    data_flags.add_data_args(parser)
    options.add_args(parser)
    taken_over = finetune.preparation_defaults(source["args"]) if source else {}
    if source and source["args"]["network"] == network:  # the source's graph comes with its weights
        taken_over.update({name: source["args"].get(name) for name in options.NAMES})
    parser.set_defaults(**{**recipe.settings, **taken_over})
    args = parser.parse_args(namespace=argparse.Namespace(network=network))
    with cli.blaming(_flag(args)):
        options.resolve(args)
    train_flags.check_train_args(args)
    data_flags.check_data_args(args)
    if not (args.data_train or args.benchmark):
        raise UserError("--data-train: needed; data/README.md says how to make record files")
    given = {name: value for name, value in vars(args).items() if name != "network"}
    changed = [name for name, value in given.items() if value != parser.get_default(name)]
    return args, recipe, changed, source


def _add_network_args(parser):
    networks = ", ".join(symbols.NETWORKS)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--network", type=symbols.known, help=f"{networks}, or a symbols/NAME.py (default: alexnet)"
    )
    which.add_argument(
        "--symbol",
        dest="network",
        type=symbols.own.graph_file,
        metavar="X-symbol.json",
        help="in place of --network: a graph that Symbol.save has written",
    )


def open_data(args: argparse.Namespace) -> Tuple[TrainingData, Optional[Records]]:
    """The training data and the validation records, None without --data-val."""
    if args.benchmark:
        return TrainingData.from_args(args), None
    training = pipeline.checked_records(args.data_train, least=args.batch_size)
    data = TrainingData.from_args(args, training)
    if not args.data_val:
        return data, None
    classes = training.classes
    return data, pipeline.checked_records(args.data_val, data.num_classes, classes=classes)


def build(
    args: argparse.Namespace, source: Optional[dict], classes: Optional[List[str]]
) -> Tuple[mx.sym.Symbol, Optional[finetune.Pretrained]]:
    """The plain network, and the pretrained weights for it, None without --pretrained."""
    where = args.pretrained, args.pretrained_epoch
    own, *weights = store.load(*where) if args.pretrained else (None, {}, {})
    if source and source["args"]["network"] == args.network:
        with cli.blaming(f"--pretrained {args.pretrained}:"):
            options.check_same(args, source["args"])
        symbol = finetune.graph(own, args.pretrained, args.num_classes)
    else:
        symbol = plain(args)
    with cli.blaming(f"{_flag(args)} {args.network}:"):
        symbols.check_outputs(symbol, args.image_shape, args.num_classes)
    with cli.blaming("--image-shape"):
        symbols.check_image_shape(symbol, args.image_shape)
    if args.model_parallel:
        with cli.blaming(f"--model-parallel: {args.network}:"):
            columns.in_columns(symbol)
    if not args.pretrained:
        return symbol, None
    names = source["classes"] if source else None, classes
    weights = {name: array for part in weights for name, array in part.items()}
    return symbol, finetune.select(
        symbol, args.image_shape, args.pretrained, weights, args.freeze, names
    )


def plain(args: argparse.Namespace) -> mx.sym.Symbol:
    """The graph that --network or --symbol names."""
    if _flag(args) == "--network":
        with cli.blaming("--network"):
            return symbols.get_symbol(args.network, args.num_classes, **options.given(args))
    symbol = read_graph(args.network)
    with cli.blaming("--symbol"):
        symbols.own.check(symbol, args.network)
    return symbol


def _flag(args):
    """Which flag has named the network."""
    return "--symbol" if args.network.endswith(".json") else "--network"


def main() -> None:
    """Check everything, then train."""
    args, recipe, changed, source = parse_args()
    contexts = devices.contexts(args.gpus, args.cpus)
    devices.check_kv_store(args.kv_store, contexts)
    data, validation = open_data(args)
    args.num_classes = data.num_classes
    args.top_k = scores.resolve_top_k(args.top_k, args.num_classes)
    classes = data.records and data.records.classes
    symbol, pretrained = build(args, source, classes)
    check_network(symbol, args.kv_store)
    if args.dtype == "bfloat16":
        check_bfloat16(contexts)
    print(recipes.describe(args, recipe, contexts, changed))
    if pretrained:
        print(finetune.describe(args, pretrained, source and source["args"]))
    if args.test_io:
        pipeline.test_io(data, pipeline.training_iterator(data, contexts[0]), args.disp_batches)
        return
    kind = AsynchronousCluster if args.kv_store == ASYNCHRONOUS else Cluster
    cluster = kind.from_args(args)  # what a worker refuses alone, it has refused by now
    data = dataclasses.replace(data, share=cluster.share)
    shape = (args.batch_size // cluster.share.size, *args.image_shape)
    devices.check_memory(symbol, contexts, shape, args.optimizer, args.dtype, args.accumulate)
    if args.gpus:
        devices.set_cudnn(args.cudnn_tune, args.deterministic)
    writes = args.model_prefix and cluster.is_first
    with lock(args.model_prefix) if writes else contextlib.nullcontext(False) as locked:
        trained = train(args, contexts, data, validation, symbol, pretrained, locked, cluster)
    cluster.leave()
    if writes:
        python = os.path.relpath(sys.executable)
        checkpoint_flags = f"--model-prefix {args.model_prefix} --load-epoch {trained}"
        print(f"Name a picture with it: {python} predict.py {checkpoint_flags} PICTURE")


def train(
    args: argparse.Namespace,
    contexts: List[mx.Context],
    data: TrainingData,
    validation: Optional[Records],
    symbol: mx.sym.Symbol,
    pretrained: Optional[finetune.Pretrained],
    locked: bool,
    cluster: Cluster,
) -> int:
    """Plan up to the first batch; then commit: delete, write, train. Returns the epochs trained."""
    length = Length(data.images, data.batch_size, args.num_epochs)
    resumed = resume.find(args, data)
    said = resume.describe(args, resumed)
    if said:
        print(said)
    cluster.check_same(together(args, data, validation, resumed))
    settings = binding.ModuleSettings.from_args(args, cluster.share.size)
    scheduler = settings.learning_rate.scheduler(length)
    part = trained_part(args, contexts, data, validation, symbol, resumed, pretrained)
    shape = (args.batch_size // cluster.share.size, *part.shape)
    start = resumed, pretrained, data.preparation.std if data.dtype == "uint8" else None
    module = binding.bind(part.symbol, contexts, shape, settings, scheduler, *start)
    cluster.start(module)
    state = resumed.state if resumed else resume.State()
    _, seen = length.position(state.batches)
    if seen >= data.batch_size:
        print(f"skipping the {seen} images that the unfinished epoch has had")
    batches = part.batches(state.batches)

    if not cluster.is_first:  # it writes nothing
        args = argparse.Namespace(**{**vars(args), "model_prefix": None, "tensorboard": None})
    log = commit(args, data, resumed, locked)  # nothing has been deleted or written before
    known = {"fingerprint": data.fingerprint, "frozen": part.frozen}
    known["place"] = resumed and args.model_prefix and resumed.place
    checkpoints = Checkpoints.from_args(args, symbol, length, **known)
    looping = loop.LoopSettings.from_args(args)
    shown = Board(args.tensorboard, vars(args), part.symbol, state, part.evaluator)
    run = loop.Run(module, data, length, looping, checkpoints, log, state, cluster, shown)
    return run.train(batches, part.evaluator)


def trained_part(
    args: argparse.Namespace,
    contexts: List[mx.Context],
    data: TrainingData,
    validation: Optional[Records],
    symbol: mx.sym.Symbol,
    resumed: Optional[resume.Resumed],
    pretrained: Optional[finetune.Pretrained],
) -> feature_cache.Part:
    """What the run's module trains: the network, or the tail of it with --cache-features."""
    size = args.batch_size // data.share.size
    how = {"batch_size": size, "threads": args.data_nthreads, "share": data.share}
    evaluator = validation and Evaluator(symbol, contexts, validation, data.preparation, **how)
    if not (args.cache_features and pretrained):
        read = functools.partial(pipeline.run_batches, data, contexts[0])
        return feature_cache.Part(symbol, args.image_shape, read, evaluator)
    weights = {**resumed.arg_params, **resumed.aux_params} if resumed else pretrained.params
    network = symbol, weights, pretrained.frozen
    return feature_cache.cached(*network, contexts, data, args.cache_features, evaluator)


def together(
    args: argparse.Namespace,
    data: TrainingData,
    validation: Optional[Records],
    resumed: Optional[resume.Resumed],
) -> dict:
    """What has to be the same on all workers."""
    own = ("data_train", "data_val", "data_nthreads", "gpus", "cpus")
    return {
        "training records": data.fingerprint,
        "validation records": validation and records_fingerprint(validation.path),
        "flags": {name: value for name, value in vars(args).items() if name not in own},
        "checkpoint": resumed and store.load_record(*resumed.place),
    }


def commit(
    args: argparse.Namespace, data: TrainingData, resumed: Optional[resume.Resumed], locked: bool
) -> RunLog:
    """Delete what the run replaces, write its config, open its log."""
    if args.model_prefix:
        if locked:  # otherwise another run may be using its temporary files
            store.remove_left_over(args.model_prefix)
        resume.clear(args, resumed)
        classes = data.records and data.records.classes
        save_config(args.model_prefix, vars(args), classes)
    log = RunLog(args.model_prefix and log_path(args.model_prefix), append=bool(resumed))
    done = resumed.state.batches if resumed else 0
    log.event("resume" if resumed else "start", batch=done, **vars(args))
    return log


if __name__ == "__main__":
    cli.run(main)
