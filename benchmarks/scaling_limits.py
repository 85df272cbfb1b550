"""Arithmetic, not measurement: what network and decoding allow AlexNet on many GPUs.

    python -m benchmarks.scaling_limits

docs/scaling.md has the formulas and this table.
"""

import math
from typing import Dict, Tuple

import symbols
from common import cli
from common.graph import columns
from common.graph.graph import Graph
from common.runtime.mxnet import mx

IMAGES = 2994  # a second on a V100: MXNet's own performance page
BATCH = 128  # images a GPU
IN_MACHINE = 8  # GPUs
DECODED = 950  # images a second and core: ImageRecordIter read 1,906 a second on 2 cores here
NETWORKS = (10, 25, 100)  # Gbit/s


def weights() -> dict:
    """Bytes of the gradients of AlexNet's convolutions and of its fully connected layers."""
    symbol = symbols.get_symbol("alexnet")
    shapes, _, _ = symbol.infer_shape(data=(1, 3, 227, 227))
    sizes = {name: 4 * math.prod(shape) for name, shape in zip(symbol.list_arguments(), shapes)}
    return {
        kind: sum(size for name, size in sizes.items() if name.startswith(kind))
        for kind in ("conv", "fc")
    }


def limit(gpus: int, gbits: float, size: float, bits: float = 32) -> float:
    """Images a second of all GPUs, if communication and computation overlap wholly.

    Args:
        size: bytes of all gradients.
        bits: of each gradient on its way to the servers; the answers have 32.
    """
    machines = gpus / IN_MACHINE
    # A machine sends its gradients as a worker, and as a server 1/machines of the sums to each.
    sent = size * (bits / 32 + 1) * (machines - 1) / machines
    step = max(BATCH / IMAGES, sent / (gbits * 1e9 / 8))
    return gpus * BATCH / step


def crossing(symbol: mx.sym.Symbol, data: Tuple[int, ...]) -> Dict[str, int]:
    """Bytes that pass between the devices of two columns in a training step.

    A node's name -> bytes: of its output, and of the gradient that comes back, if there is one.
    ``symbol`` is what ``columns.in_columns`` made, ``data`` its input as a pair of devices sees it.
    """
    graph = Graph(symbol)
    shapes = graph.shapes(data=data)
    images, sent = set(), {}  # images: what no weight changes has no gradient
    for node in graph.nodes:
        sources = [one.node for one in node.inputs]
        if node.name == "data" or sources and images.issuperset(sources):
            images.add(node)
        for source in sources:
            if source.attrs["__ctx_group__"] != node.attrs["__ctx_group__"]:
                size = 4 * math.prod(shapes.get(f"{source.name}_output") or shapes[source.name])
                sent[source.name] = size if source in images else 2 * size
    return sent


def main() -> None:
    """Print the tables."""
    parts = weights()
    size = sum(parts.values())
    print(f"gradients: {size / 1e6:.0f} MB, of convolutions {parts['conv'] / 1e6:.0f}\n")
    print("| GPUs | perfect, img/s |", *(f"{g} Gbit/s | 2-bit |" for g in NETWORKS))
    print("|---" * (2 + 2 * len(NETWORKS)) + "|")
    for gpus in (8, 64, 256):
        cells = [f"{gpus}", f"{gpus * IMAGES:,}"]
        for gbits in NETWORKS:
            for bits in (32, 2):
                cells.append(f"{limit(gpus, gbits, size, bits) / (gpus * IMAGES):.0%}")
        print(f"| {' | '.join(cells)} |")
    cores = IN_MACHINE * IMAGES / DECODED
    print(f"\nbetween two columns of alexnet2012, {BATCH} images, MB a step:")
    network = columns.in_columns(symbols.get_symbol("alexnet2012"))
    for name, sent in crossing(network, (BATCH, 3, 227, 227)).items():
        print(f"  {name:24}{sent / 1e6:6.1f}")
    print(f"\ndecoding: {IN_MACHINE * IMAGES:,} img/s a machine, {cores:.0f} cores")


if __name__ == "__main__":
    cli.run(main)
