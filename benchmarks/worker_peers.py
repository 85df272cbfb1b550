"""One measurement of AlexNet in a peer, for bench_alexnet.py: prints a JSON line.

    python benchmarks/worker_peers.py train|infer FORM NETWORK BATCH STEPS WARMUP [X.onnx]

FORM is an engine and how it is asked to run, such as pytorch,last,compiled: bench_alexnet.py has
the list. X.onnx is the network as export_onnx.py writes it, with this batch and with LRN as one
operator; PyTorch builds its own. It runs in an environment of its own, without MXNet.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from torch import nn

THREADS = int(os.environ["OMP_NUM_THREADS"])


def one_weird_trick(num_classes=1000):
    """torchvision's AlexNet (its models/alexnet.py), the graph of symbols/alexnet_owt.py."""
    features = [
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    ]
    features += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
    for channels, out in ((192, 384), (384, 256), (256, 256)):
        features += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]
    classifier = []
    for inputs in (9216, 4096):
        classifier += [nn.Dropout(0.5), nn.Linear(inputs, 4096), nn.ReLU(inplace=True)]
    net = nn.Sequential()
    net.add_module("features", nn.Sequential(*features, nn.MaxPool2d(3, 2)))
    net.add_module("avgpool", nn.AdaptiveAvgPool2d(6))
    net.add_module("flatten", nn.Flatten())
    net.add_module("classifier", nn.Sequential(*classifier, nn.Linear(4096, num_classes)))
    return net


def network(name, side=227):
    """The graph of symbols/alexnet.py: one tower, or two groups in conv2, conv4 and conv5.

    side: of the pictures; alexnet_owt takes any.
    """
    if name == "alexnet_owt":
        return one_weird_trick()
    groups = {"alexnet": 1, "alexnet2012": 2}[name]

    def norm_and_pool():
        return [nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2), nn.MaxPool2d(3, 2)]

    layers = [nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(inplace=True), *norm_and_pool()]
    layers += [nn.Conv2d(96, 256, 5, padding=2, groups=groups), nn.ReLU(inplace=True)]
    layers += norm_and_pool()
    for channels, out, split in ((256, 384, 1), (384, 384, groups), (384, 256, groups)):
        layers += [nn.Conv2d(channels, out, 3, padding=1, groups=split), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2), nn.Flatten()]
    side = (side - 11) // 4 + 1  # of conv1's maps; then of those behind each pooling
    for _ in range(3):
        side = (side - 3) // 2 + 1
    for features in (256 * side * side, 4096):
        layers += [nn.Linear(features, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


def pytorch(mode, name, data, last=False, compiled=False, bf16=False):
    """PyTorch's step; ``last``: channels last; ``bf16``: by autocast, with float32 weights."""
    model = network(name, data.shape[2])
    data = torch.from_numpy(data)
    if last:
        model = model.to(memory_format=torch.channels_last)
        data = data.to(memory_format=torch.channels_last)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    if mode == "infer":
        model = nn.Sequential(model, nn.Softmax(dim=1)).eval()
        if compiled:
            from torch._inductor import config

            config.freezing = True
            model = torch.compile(model)

        def infer():
            with torch.inference_mode(), autocast:
                model(data)

        return infer
    label = torch.randint(0, 1000, data.shape[:1])
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True
    )
    loss = nn.CrossEntropyLoss()
    forward = torch.compile(model) if compiled else model

    def train():
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            value = loss(forward(data), label)
        value.backward()
        optimizer.step()

    return train


def onnx_of_torch(name, data, path):
    """Write the file that PyTorch's own exporter makes: its LRN is ten operators."""
    model = nn.Sequential(network(name, data.shape[2]), nn.Softmax(dim=1)).eval()
    torch.onnx.export(model, torch.from_numpy(data), path, dynamo=False, input_names=["data"])


def quantized(source, data, path):
    """Write ``source`` in int8: static, QDQ, a scale for each output channel, LRN in float32."""
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"data": data}]

        def get_next(self):
            return self.left.pop() if self.left else None

    quantization.quantize_static(
        source, path, Images(), per_channel=True, quant_format=quantization.QuantFormat.QDQ
    )


def onnxruntime(path, data):
    """ONNX Runtime's step."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda: session.run(None, {"data": data})


def openvino(path, data, precision="f32", hint="LATENCY"):
    """OpenVINO's step, the batch fixed by the file; LATENCY gives one request all threads."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": THREADS,
    }
    compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
    request, inputs = compiled.create_infer_request(), {0: openvino.Tensor(data)}
    return lambda: request.infer(inputs, share_inputs=True)


def mnn(path, data, precision="high"):
    """MNN's step, converted by its own tool; "high" is float32, "low" may be bf16."""
    import MNN

    made = f"{path}.mnn"
    tool = os.path.join(os.path.dirname(sys.executable), "mnnconvert")
    _quietly(tool, "-f", "ONNX", "--modelFile", path, "--MNNModel", made)
    settings = {"precision": precision, "backend": "CPU", "numThread": THREADS}
    manager = MNN.nn.create_runtime_manager((settings,))
    module = MNN.nn.load_module_from_file(made, ["data"], ["softmax"], runtime_manager=manager)
    images = MNN.expr.placeholder(data.shape, MNN.expr.NCHW)
    images.write(data)
    return lambda: module.forward([images])[0].read()


def ncnn(path, data):
    """ncnn's step, converted by pnnx; it knows no batch: one image after the other."""
    import ncnn

    tool = os.path.join(os.path.dirname(sys.executable), "pnnx")
    _quietly(tool, path, "fp16=0", f"inputshape=[1,3,{data.shape[2]},{data.shape[3]}]")
    net = ncnn.Net()
    net.opt.num_threads = THREADS
    net.load_param(path.replace(".onnx", ".ncnn.param"))
    net.load_model(path.replace(".onnx", ".ncnn.bin"))

    def step():
        for image in data:
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(image))
            extractor.extract("out0")

    return step


def _quietly(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    """Time one step after the other; the first ones only warm up."""
    mode, form, name, batch, steps, warmup, *source = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    name, _, side = name.partition("@")
    side = int(side or {"alexnet_owt": 224}.get(name, 227))
    data = (np.random.default_rng(0).standard_normal((int(batch), 3, side, side)) * 60).astype("f4")
    with tempfile.TemporaryDirectory() as folder:
        step = prepare(mode, form, name, data, source, folder)
        seconds = []
        for _ in range(int(warmup) + int(steps)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds[int(warmup) :], "peak_mib": peak}))


def prepare(mode, form, name, data, source, folder):
    """The function of one step; files of the engines' own go to ``folder``."""
    engine, *options = form.split(",")
    chosen = dict(option.split("=") if "=" in option else (option, True) for option in options)
    if engine == "pytorch":
        return pytorch(mode, name, data, **chosen)
    path = os.path.join(folder, "network.onnx")
    if chosen.pop("decomposed", False):
        onnx_of_torch(name, data, path)
    elif chosen.pop("int8", False):
        quantized(source[0], data, path)
    else:
        os.symlink(os.path.abspath(source[0]), path)
    engines = {"onnxruntime": onnxruntime, "openvino": openvino, "mnn": mnn, "ncnn": ncnn}
    return engines[engine](path, data, **chosen)


if __name__ == "__main__":
    main()
