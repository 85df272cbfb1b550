"""Serve a page on this machine: drop pictures on it, see what a checkpoint makes of them.

    python app.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3
    python app.py --model-prefix checkpoints/a --model-prefix checkpoints/b --load-epoch 9

Two prefixes are shown side by side. The page asks no other host for anything.
"""

import argparse
import ipaddress
import socket
import sys

from common import cli
from common.cli import UserError
from common.page import server
from common.page.models import Models


def parse_args() -> argparse.Namespace:
    """The command line; ``load_epoch`` has a number for each of ``model_prefix``."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument(
        "--model-prefix",
        required=True,
        action="append",
        help="where train_imagenet.py saved it; twice: two networks side by side",
    )
    parser.add_argument(
        "--load-epoch",
        type=int,
        required=True,
        action="append",
        help="which of its checkpoints is shown first; twice: one for each prefix",
    )
    port = cli.number(int, least=0, most=65535)
    parser.add_argument("--port", type=port, default=7860, help="0: one that is free")
    parser.add_argument("--host", default="127.0.0.1", help="who may reach it; 0.0.0.0: everybody")
    args = parser.parse_args()
    count = len(args.model_prefix)
    if count > 2:
        raise UserError(f"--model-prefix: is given {count} times; two networks fit side by side")
    if len(args.load_epoch) not in (1, count):
        raise UserError("--load-epoch: give it once, or once for each --model-prefix")
    args.load_epoch = (args.load_epoch * count)[:count]
    return args


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; UserError if the address is in use, or none of this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", "is no name of a host")
        raise UserError(f"--host {host} --port {port}: {cause}; --port 0 takes a free one")


def main() -> None:
    """Check everything, then serve until Ctrl-C."""
    args = parse_args()
    with bind(args.host, args.port) as listening:
        models = Models(args.model_prefix, args.load_epoch)
        address, port = listening.getsockname()[:2]
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            print(f"warning: --host {args.host}: other machines may use it", file=sys.stderr)
        name = f"[{address}]" if ":" in address else address
        print(f"http://{name}:{port}/  (Ctrl-C ends it)", flush=True)
        server.server(server.application(models, args.host)).run(sockets=[listening])


if __name__ == "__main__":
    cli.run(main)
