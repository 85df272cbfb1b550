"""Train on several processes or machines: start them all, watch them, end them together.

    python launch.py -n 4 -- SCRIPT.py --flags

It starts MXNet's scheduler, servers and workers. The first process that fails, is killed or does
nothing for --stall-seconds ends the job, and is named. docs/scaling.md has more.
"""

import argparse
import os
import shlex
import socket
import sys
from typing import Dict, List, NamedTuple

from common import cli
from common.cli import UserError
from common.io import cpus
from common.io.children import ROOT
from common.io.files import delete
from common.io.heartbeat import WORKER
from common.io.supervisor import Job, Task

_LOOPBACK = "127.0.0.1"
_SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
_PORT = 9091


def parse_args() -> argparse.Namespace:
    """The command line; ``command`` is the workers' script and its flags."""
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("-n", "--num-workers", type=cli.positive_int, required=True, help="processes that train")
    add("-s", "--num-servers", type=cli.positive_int, default=1, help="MXNet's parameter servers")
    add(
        "--max-restarts",
        type=cli.number(int, least=0),
        default=0,
        help="how often all start again, from the last checkpoint, after one has failed",
    )
    add(
        "--stall-seconds",
        type=cli.number(above=0),
        default=600,
        help="a worker that says nothing and trains no batch for so long has failed",
    )
    add("--hosts", metavar="FILE", help="machines, a line each: HOST [ADDRESS]; default: this one")
    add("--rsh", type=shlex.split, default=_SSH, help="what runs a command on HOST; default: ssh")
    add(
        "--port",
        type=cli.number(int, least=1, most=65535),
        help=f"of the scheduler; default: {_PORT}, or any on this machine",
    )
    add("--log-dir", default="launch-logs", help="folder of the processes' logs")
    add("command", nargs=argparse.REMAINDER, metavar="-- SCRIPT.py [FLAG ...]")
    args = parser.parse_args()
    if args.command[:1] == ["--"]:
        del args.command[0]
    if not args.command:
        raise UserError("-- SCRIPT.py: needed, with its flags; such as -- train_imagenet.py --help")
    if not os.path.isfile(args.command[0]):
        raise UserError(f"{args.command[0]}: no such script")
    given = [word.partition("=")[0] for word in args.command]
    if args.max_restarts and "--model-prefix" not in given:
        raise UserError("--max-restarts: needs --model-prefix after --, to continue from")
    return args


class Host(NamedTuple):
    """A machine: its name for --rsh, and the address at which the others reach it."""

    name: str
    address: str


def read_hosts(path: str) -> List[Host]:
    """The machines that a file lists; UserError if none, or one that the others cannot reach."""
    hosts = []
    with open(path, encoding="utf-8") as file:
        for words in filter(None, (line.partition("#")[0].split() for line in file)):
            try:
                address = socket.gethostbyname(words[-1].rpartition("@")[2])
            except OSError as error:
                raise UserError(f"{path}: {words[-1]}: {error.strerror}; write HOST ADDRESS")
            hosts.append(Host(words[0], address))
    if not hosts:
        raise UserError(f"{path}: lists no machine; write a line HOST [ADDRESS] for each")
    local = [host for host in hosts if host.address.startswith("127.")]
    if 0 < len(local) < len(hosts):  # Debian's /etc/hosts has 127.0.1.1 for a machine's own name
        raise UserError(
            f"{path}: {local[0].name}: {local[0].address} is its address for itself alone; write"
            " HOST ADDRESS"
        )
    return hosts


def free_port(args: argparse.Namespace) -> int:
    """The scheduler's port; on this machine it is free, else UserError."""
    if args.hosts:
        return args.port or _PORT
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((_LOOPBACK, args.port or 0))
        except OSError as error:
            raise UserError(f"--port {args.port}: {error.strerror}; give another, or leave it out")
        return one.getsockname()[1]


def tasks(args: argparse.Namespace, command: List[str]) -> List[Task]:
    """All processes of a job; ps-lite finds its own by these variables."""
    hosts = read_hosts(args.hosts) if args.hosts else [Host(socket.gethostname(), _LOOPBACK)]
    common = {
        "DMLC_PS_ROOT_URI": hosts[0].address,
        "DMLC_PS_ROOT_PORT": str(free_port(args)),
        "DMLC_NUM_WORKER": str(args.num_workers),
        "DMLC_NUM_SERVER": str(args.num_servers),
    }
    if not args.hosts and "OMP_NUM_THREADS" not in os.environ:  # the workers share the cores
        common["OMP_NUM_THREADS"] = str(max(1, cpus.available() // args.num_workers))
    serve = [sys.executable, "-m", "common.runtime.parameter_server"]
    all_tasks = [_task(args, "scheduler", hosts[0], serve, {**common, "DMLC_ROLE": "scheduler"})]
    for number in range(args.num_servers):
        name, host = f"server {number}", hosts[number % len(hosts)]
        all_tasks.append(_task(args, name, host, serve, {**common, "DMLC_ROLE": "server"}))
    for number in range(args.num_workers):
        name, host = f"worker {number}", hosts[number % len(hosts)]
        own = {**common, "DMLC_ROLE": "worker", WORKER: str(number)}
        all_tasks.append(_task(args, name, host, [sys.executable, *command], own))
    return all_tasks


def _task(args, name, host, command, environment: Dict[str, str]) -> Task:
    # ps-lite listens at this address alone: it has neither passwords nor encryption.
    environment = {**environment, "DMLC_NODE_HOST": host.address}
    if not args.hosts:
        return Task(name, host.name, command, environment)
    environment["PYTHONPATH"] = ROOT
    variables = [f"{key}={value}" for key, value in environment.items()]
    leash = [sys.executable, "-m", "common.io.leash", *command]
    there = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(['env', *variables, *leash])}"
    return Task(name, host.name, [*args.rsh, host.name, there], {}, is_remote=True)


def resuming(command: List[str]) -> List[str]:
    """The workers' command for a restart: it continues from the newest checkpoint."""
    kept, words = [], iter(command)
    for word in words:
        if word == "--load-epoch":
            next(words, None)
        elif word not in ("--overwrite", "--resume") and not word.startswith("--load-epoch="):
            kept.append(word)
    return [*kept, "--resume"]


def main() -> int:
    """Run the job, again if need be."""
    args = parse_args()
    command = args.command
    first = tasks(args, command)  # what is refused is refused before a folder is made
    os.makedirs(args.log_dir, exist_ok=True)
    delete(*(os.path.join(args.log_dir, task.log) for task in first))
    for attempt in range(args.max_restarts + 1):
        failure = Job(tasks(args, command), args.log_dir, args.stall_seconds).run()
        if failure is None:
            return 0
        print(f"launch.py: {failure.text}", file=sys.stderr, flush=True)
        left = args.max_restarts - attempt
        if not left or failure.is_final:
            break
        print(f"launch.py: all start again; {left - 1} restarts are left", file=sys.stderr)
        command = resuming(command)
    return failure.code


if __name__ == "__main__":
    cli.run(main)
