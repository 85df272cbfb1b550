"""One measurement of AlexNet in MXNet, for bench_alexnet.py: prints a JSON line.

    python benchmarks/worker_mxnet.py train|infer ours|stock|int8|bf16 NETWORK BATCH STEPS WARMUP
    python benchmarks/worker_mxnet.py export X.onnx NETWORK BATCH     # for the peers

NETWORK: alexnet, say; alexnet@67 takes pictures of 67 pixels. "ours" runs as
train_imagenet.py and score.py do; "stock" is the same symbol in a plain Module with MXNet's own
operators and optimizer; "int8" is the network that quantize.py makes, run as score.py
does: in float32 on a CPU without VNNI; "bf16" is "ours" with --dtype bfloat16. All start as many
threads as there are cores.
"""

import json
import resource
import sys
import time

import symbols
from common.convert import compare, onnx_writer, quantization
from common.evaluate import network
from common.runtime.mxnet import mx
from common.train import binding
from common.train.schedule import LearningRate

DTYPES = {"ours": "float32", "bf16": "bfloat16"}


def main():
    """Export, or measure."""
    mode, variant, network, *numbers = sys.argv[1:]
    batch_size, *length = map(int, numbers)
    network, _, side = network.partition("@")
    shape = (batch_size, *((3, int(side), int(side)) if side else symbols.designed_for(network)))
    if mode == "export":
        export(variant, network, shape)
    else:
        measure(mode, variant, network, shape, *length)


def measure(mode, variant, network, shape, steps, warmup):
    """Time one step after the other; the first ones only warm up."""
    data = mx.nd.random.normal(0, 60, shape)
    label = mx.nd.floor(mx.nd.random.uniform(0, 1000, shape[0]))
    batch = mx.io.DataBatch([data], [label])
    step = (train_step if mode == "train" else infer_step)(variant, network, shape, batch)
    seconds = []
    for _ in range(warmup + steps):
        start = time.perf_counter()
        step()
        mx.nd.waitall()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds[warmup:], "peak_mib": peak}))


def train_step(variant, name, shape, batch):
    """A function that trains on ``batch`` once."""
    symbol = symbols.get_symbol(name)
    if variant in ("ours", "bf16"):
        settings = binding.ModuleSettings(
            LearningRate(0.01), "sgd", 0.9, 5e-4, initializer="normal", dtype=DTYPES[variant]
        )
        module = binding.bind(symbol, [mx.cpu()], shape, settings)
    else:
        module = mx.mod.Module(symbol)
        module.bind([("data", shape)], [("softmax_label", shape[:1])])
        module.init_params(mx.init.Normal(0.01))
        options = {"learning_rate": 0.01, "momentum": 0.9, "wd": 5e-4}
        module.init_optimizer(optimizer_params=options)

    def step():
        module.forward_backward(batch)
        module.update()

    return step


def stock(name, shape):
    """MXNet's own module for inference, with random weights."""
    module = mx.mod.Module(symbols.get_symbol(name))
    module.bind([("data", shape)], [("softmax_label", shape[:1])], for_training=False)
    module.init_params(mx.init.Normal(0.01))
    return module


def export(path, name, shape):
    """Write the network to ``path`` as export_onnx.py does, its batch fixed."""
    module = stock(name, shape)
    symbol = compare.without_training(module.symbol)
    model = onnx_writer.convert(symbol, *module.get_params(), shape[1:], shape[0])
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


def infer_step(variant, name, shape, batch):
    """A function that runs ``batch`` once."""
    module = stock(name, shape)
    symbol = module.symbol
    if variant == "int8":
        images = batch.data[0].asnumpy()
        quantized = quantization.quantize(symbol, *module.get_params(), images, shape[1:])
        module = network.bind(*quantized, shape, [mx.cpu()])
    elif variant in ("ours", "bf16"):
        module = network.bind(symbol, *module.get_params(), shape, [mx.cpu()], DTYPES[variant])
    return lambda: module.forward(batch, is_train=False)


if __name__ == "__main__":
    main()
