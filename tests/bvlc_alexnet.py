"""Models with the layers of bvlc_alexnet or CaffeNet, as Caffe's files and in ONNX."""

import re

import numpy as np

_LRN = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
_POOL = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
_DROP = "dropout_param { dropout_ratio: 0.5 }"
_IN_ONNX = {
    "Convolution": "Conv",
    "InnerProduct": "Gemm",
    "Pooling": "MaxPool",
    "ReLU": "Relu",
}


def _convolution(text):
    return f"convolution_param {{ {text} }}"


def _layers(classes, caffenet):
    """Name, type and parameters of each layer."""
    hidden = "inner_product_param { num_output: 4096 }"
    layers = [
        ("conv1", "Convolution", _convolution("num_output: 96 kernel_size: 11 stride: 4")),
        ("relu1", "ReLU", ""),
        ("norm1", "LRN", _LRN),
        ("pool1", "Pooling", _POOL),
        ("conv2", "Convolution", _convolution("num_output: 256 pad: 2 kernel_size: 5 group: 2")),
        ("relu2", "ReLU", ""),
        ("norm2", "LRN", _LRN),
        ("pool2", "Pooling", _POOL),
        ("conv3", "Convolution", _convolution("num_output: 384 pad: 1 kernel_size: 3")),
        ("relu3", "ReLU", ""),
        ("conv4", "Convolution", _convolution("num_output: 384 pad: 1 kernel_size: 3 group: 2")),
        ("relu4", "ReLU", ""),
        ("conv5", "Convolution", _convolution("num_output: 256 pad: 1 kernel_size: 3 group: 2")),
        ("relu5", "ReLU", ""),
        ("pool5", "Pooling", _POOL),
        ("fc6", "InnerProduct", hidden),
        ("relu6", "ReLU", ""),
        ("drop6", "Dropout", _DROP),
        ("fc7", "InnerProduct", hidden),
        ("relu7", "ReLU", ""),
        ("drop7", "Dropout", _DROP),
        ("fc8", "InnerProduct", f"inner_product_param {{ num_output: {classes} }}"),
        ("prob", "Softmax", ""),
    ]
    if caffenet:  # pooling before LRN
        for norm in (2, 6):
            layers[norm : norm + 2] = reversed(layers[norm : norm + 2])
    return layers


def prototxt(classes, side, batch=10, caffenet=False):
    """The text of a deploy.prototxt for images of ``side`` x ``side``."""
    lines = ['name: "AlexNet"  # made for the tests']
    shape = f"input_param {{ shape: {{ dim: {batch} dim: 3 dim: {side} dim: {side} }} }}"
    lines.append(f'layer {{ name: "data" type: "Input" top: "data" {shape} }}')
    top = "data"
    for name, kind, parameters in _layers(classes, caffenet):
        bottom, top = top, top if kind in ("ReLU", "Dropout") else name
        ends = f'bottom: "{bottom}" top: "{top}"'
        lines.append(f'layer {{\n  name: "{name}"\n  type: "{kind}"\n  {ends}\n  {parameters}\n}}')
    return "\n".join(lines) + "\n"


def as_train_val(text, side):
    """A deploy.prototxt as the train_val.prototxt of the same network."""
    start, end = text.index("layer {"), text.index('layer {\n  name: "conv1"')
    data = 'layer { name: "data" type: "Data" top: "data" top: "label" include { phase: %s }'
    data += (
        f" transform_param {{ mirror: true crop_size: {side} }} data_param {{ batch_size: 4 }} }}"
    )
    ends = 'bottom: "fc8" bottom: "label"'
    accuracy = f'layer {{ name: "accuracy" type: "Accuracy" {ends} top: "accuracy" }}\n'
    loss = f'layer {{ name: "loss" type: "SoftmaxWithLoss" {ends} top: "loss" }}\n'
    layers = text[end : text.index('layer {\n  name: "prob"')]
    return f"{text[:start]}{data % 'TRAIN'}\n{data % 'TEST'}\n{layers}{accuracy}{loss}"


def weights(classes, features, seed=0, hidden=4096):
    """Name -> weight and bias, at random, scaled so that no layer's values fade.

    Args:
        features: inputs of fc6; 9216 for images of 227x227, 256 for 64x64.
    """
    shapes = {
        "conv1": (96, 3, 11, 11),
        "conv2": (256, 48, 5, 5),
        "conv3": (384, 256, 3, 3),
        "conv4": (384, 192, 3, 3),
        "conv5": (256, 192, 3, 3),
        "fc6": (hidden, features),
        "fc7": (hidden, hidden),
        "fc8": (classes, hidden),
    }
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])) / (60 if name == "conv1" else 1))
        weight = rng.standard_normal(shape, np.float32) * scale
        made[name] = weight, rng.standard_normal(shape[0], np.float32) * np.float32(0.1)
    return made


def caffemodel(arrays, legacy=False, names=()):
    """The bytes of a NetParameter with these weights; ``legacy``: of 2013's V1 format.

    Args:
        names: all layers in order, as Caffe writes them; by default, those that have weights.
    """
    layers = []
    for name in names or arrays:
        blobs = arrays.get(name, ())
        if legacy:  # V1LayerParameter; the type is an enumeration
            head = _bytes(4, name.encode()) + _int(5, 4 if name.startswith("conv") else 14)
            layers.append(_bytes(2, head + b"".join(_bytes(6, legacy_blob(b)) for b in blobs)))
        else:
            kind = b"Convolution" if name.startswith("conv") else b"InnerProduct"
            head = _bytes(1, name.encode()) + _bytes(2, kind)
            layers.append(_bytes(100, head + b"".join(_bytes(7, _blob(b)) for b in blobs)))
    return _bytes(1, b"AlexNet") + b"".join(layers)


def _blob(array):
    shape = _bytes(1, b"".join(map(_varint, array.shape)))
    return _bytes(7, shape) + _bytes(5, array.astype("<f4").tobytes())


def legacy_blob(array):
    """The bytes of a BlobProto of up to four dimensions, as mean.binaryproto is one."""
    four = (1,) * (4 - array.ndim) + array.shape
    sizes = b"".join(_int(field, size) for field, size in enumerate(four, 1))
    return sizes + _bytes(5, array.astype("<f4").tobytes())


def _int(field, value):
    return _varint(field << 3) + _varint(value)


def _bytes(field, content):
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    groups = []
    while True:
        groups.append(value & 127)
        value >>= 7
        if not value:
            return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def onnx_model(arrays, side, opset, caffenet=False):
    """The same network in ONNX, as files of the time of ``opset`` have it: 3, 7 or 12."""
    from onnx import helper

    old = opset < 12
    classes = len(arrays["fc8"][1])
    constants = {"flat_shape": np.array([1, -1])} if opset == 7 else {}
    nodes, top = [], "data"
    for name, kind, text in _layers(classes, caffenet):
        if name == "fc6":
            nodes.append(_flatten(top, opset))
            top = "flat"
        inputs = [top]
        if name in arrays:
            weight, bias = arrays[name]
            constants[f"{name}_w"] = weight if old or kind == "Convolution" else weight.T
            constants[f"{name}_b"] = bias
            inputs += [f"{name}_w", f"{name}_b"]
        attrs = _onnx_attributes(kind, text, opset)
        nodes.append(helper.make_node(_IN_ONNX.get(kind, kind), inputs, [name], name, **attrs))
        top = name

    tensors = [_tensor(*each) for each in constants.items()]
    inputs = [helper.make_tensor_value_info("data", 1, [1, 3, side, side])]
    if old:  # when a constant had to be an input, too
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    else:
        nodes[:0] = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
    outputs = [helper.make_tensor_value_info("prob", 1, [1, classes])]
    graph = helper.make_graph(nodes, "bvlc_alexnet", inputs, outputs, tensors if old else [])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if old else 7
    )


def torchvisions_onnx(arrays, side, exporter):
    """A network of torchvision's layers as torch.onnx writes it; ``exporter``: 'old' or 'new'.

    Args:
        arrays: weight and bias of each layer with weights, in order.
    """
    from onnx import helper

    nodes, tensors, top, left = [], [], "input.1", iter(arrays)

    def add(op, *inputs, **attrs):
        nonlocal top
        nodes.append(helper.make_node(op, [top, *inputs], [f"{op}_{len(nodes)}"], **attrs))
        top = nodes[-1].output[0]

    def weighted(op, **attrs):
        names = [f"{op}.{len(nodes)}.{kind}" for kind in ("weight", "bias")]
        tensors.extend(map(_tensor, names, next(left)))
        if op == "Conv":
            attrs["kernel_shape"] = tensors[-2].dims[2:]
        add(op, *names, **attrs)

    more = {} if exporter == "old" else {"auto_pad": "NOTSET", "pads": [0] * 4, "ceil_mode": 0}
    for stride, pad, pooled in ((4, 2, 1), (1, 2, 1), (1, 1, 0), (1, 1, 0), (1, 1, 1)):
        weighted("Conv", strides=[stride] * 2, pads=[pad] * 4)
        add("Relu")
        if pooled:
            add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], **more)
    add("AveragePool", kernel_shape=[1, 1], strides=[1, 1], **more)
    if exporter == "old":
        add("Flatten", axis=1)
    else:
        tensors.append(_tensor("shape", np.array([1, arrays[5][0].shape[1]])))
        add("Reshape", "shape", allowzero=1)
    for i in range(3):
        weighted("Gemm", transB=1)
        if i < 2:
            add("Relu")
    images = helper.make_tensor_value_info("input.1", 1, [1, 3, side, side])
    scores = helper.make_tensor_value_info(top, 1, [1, len(arrays[-1][1])])
    graph = helper.make_graph(nodes, "main_graph", [images], [scores], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _tensor(name, array):
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def _flatten(top, opset):
    from onnx import helper

    if opset >= 12:
        return helper.make_node("Flatten", [top], ["flat"])
    if opset >= 5:
        return helper.make_node("Reshape", [top, "flat_shape"], ["flat"])
    return helper.make_node("Reshape", [top], ["flat"], shape=[1, -1])


def _onnx_attributes(kind, text, opset):
    """The attributes of a layer, from its parameters in Caffe."""
    said = {key: int(value) for key, value in re.findall(r"(\w+): (\d+)(?![\d.])", text)}
    if kind == "LRN":
        return {"size": 5, "alpha": 1e-4, "beta": 0.75}
    if kind == "InnerProduct":
        return {"transB": 1, **({"broadcast": 1} if opset < 7 else {})} if opset < 12 else {}
    if kind == "Dropout":
        return {"is_test": 1} if opset < 7 else {}
    if kind == "ReLU":
        return {"consumed_inputs": [0]} if opset < 6 else {}
    if kind == "Softmax":
        return {}
    windows = {
        "kernel_shape": [said["kernel_size"]] * 2,
        "strides": [said.get("stride", 1)] * 2,
        "pads": [said.get("pad", 0)] * 4,
    }
    if kind == "Convolution":
        return {**windows, "group": said.get("group", 1)}
    # Sizes are rounded up: by a row more, until opset 10 could say so.
    return {**windows, "ceil_mode": 1} if opset >= 10 else {**windows, "pads": [0, 0, 1, 1]}
