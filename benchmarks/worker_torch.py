"""One measurement of the same AlexNet in a peer, for bench_alexnet.py: prints a JSON line.

    python benchmarks/worker_torch.py train|infer PEER alexnet|alexnet2012 BATCH STEPS

PEER: nchw or channels_last (PyTorch in that memory layout); onnxruntime or openvino (inference of
the same PyTorch weights in float32). It runs in an environment of its own, without MXNet.
"""

import io
import json
import resource
import sys
import time

import torch
from torch import nn

SIDE = 227


def network(name):
    """The graph of symbols/alexnet.py: one tower, or two groups in conv2, conv4 and conv5."""
    groups = {"alexnet": 1, "alexnet2012": 2}[name]

    def norm_and_pool():
        return [nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2), nn.MaxPool2d(3, 2)]

    layers = [nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(inplace=True), *norm_and_pool()]
    layers += [nn.Conv2d(96, 256, 5, padding=2, groups=groups), nn.ReLU(inplace=True)]
    layers += norm_and_pool()
    for channels, out, split in ((256, 384, 1), (384, 384, groups), (384, 256, groups)):
        layers += [nn.Conv2d(channels, out, 3, padding=1, groups=split), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2), nn.Flatten()]
    for features in (9216, 4096):
        layers += [nn.Linear(features, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


def train_step(model, data):
    """A function that trains on ``data`` once."""
    label = torch.randint(0, 1000, data.shape[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loss = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(model(data), label).backward()
        optimizer.step()

    return step


def infer_step(peer, model, data):
    """A function that runs ``data`` once; softmax included, as in MXNet's graph."""
    model = nn.Sequential(model, nn.Softmax(dim=1)).eval()
    if peer == "onnxruntime":
        import onnxruntime

        file = io.BytesIO()
        torch.onnx.export(model, data, file, dynamo=False, input_names=["data"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file.getvalue(), options)
        inputs = {"data": data.numpy()}
        return lambda: session.run(None, inputs)
    if peer == "openvino":
        import openvino

        graph = openvino.convert_model(model, example_input=data)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
        return lambda: compiled([data.numpy()])

    def step():
        with torch.inference_mode():
            model(data)

    return step


def main():
    """Time one step after the other; the first three only warm up."""
    mode, peer, name, batch_size, steps = sys.argv[1:]
    torch.manual_seed(0)
    model = network(name)
    data = torch.randn(int(batch_size), 3, SIDE, SIDE) * 60
    if peer == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        data = data.to(memory_format=torch.channels_last)
    step = train_step(model, data) if mode == "train" else infer_step(peer, model, data)
    seconds = []
    for i in range(int(steps) + 3):
        start = time.perf_counter()
        step()
        if i >= 3:
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


if __name__ == "__main__":
    main()
