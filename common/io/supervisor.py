"""The processes of a distributed job: started together, watched, ended together."""

import collections
import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import IO, Deque, Dict, List, NamedTuple, Optional, Sequence, cast

from .children import as_child, is_stopped
from .heartbeat import MARK
from .leash import SILENCE, STOPPED
from .signals import handle

_SHOWN = 5  # of a process's lines, when it has failed
_REFUSED = 2  # the exit code for a mistake, which a restart does not mend
_NO_CONNECTION = 255  # the exit code of ssh
_START = 300  # seconds without a word that are allowed until a worker's first batch
_GRACE = 20  # seconds: how long a signal to stop, or the end of the workers, may take


class Task(NamedTuple):
    """A process to start."""

    name: str  # such as "worker 0"
    host: str
    command: List[str]
    environment: Dict[str, str]
    is_remote: bool = False  # the command runs leash.py on another machine

    @property
    def log(self) -> str:
        """The name of its log file."""
        return f"{self.name.replace(' ', '-')}.log"

    @property
    def is_worker(self) -> bool:
        """Whether the job is about it; servers and the scheduler only serve the workers."""
        return self.name.startswith("worker")


class Failure(NamedTuple):
    """What ended a job: in words, and as an exit code."""

    text: str
    code: int
    is_final: bool = False  # the same would happen again, or a user wants it to end


class _Process:
    """A task that runs; its output goes to a log file, and worker 0's to the terminal."""

    def __init__(self, task: Task, path: str):
        self.task, self.path = task, path
        self._log = open(path, "ab")  # noqa: SIM115  open for the process's whole life
        options = as_child(**task.environment)
        # A session of its own: Ctrl-C reaches the launcher alone, and killpg all that it starts.
        options.update(stdout=subprocess.PIPE, start_new_session=True)
        if task.is_remote:
            options["stdin"] = subprocess.PIPE
        self.popen = subprocess.Popen(task.command, **options)
        self.output = cast(IO[bytes], self.popen.stdout)
        os.set_blocking(self.output.fileno(), False)
        self.batches, self.seen, self._part = -1, time.monotonic(), b""
        self.heard = self._told = 0.0  # of leash.py; when it last got a line
        self._stopped, self._ran = False, time.monotonic()
        self.last: Deque[str] = collections.deque(maxlen=_SHOWN)

    def read(self) -> bool:
        """Take all that it has said since; whether it may say more."""
        while True:
            try:
                data = os.read(self.output.fileno(), 1 << 16)
            except BlockingIOError:
                return True
            *lines, self._part = (self._part + data).split(b"\n")
            if not data and self._part:
                lines, self._part = [self._part], b""
            for line in lines:
                self._take(line.decode("utf-8", "replace"))
            if not data:
                return False

    def _take(self, line):
        now, mark = time.monotonic(), line[len(MARK) :]
        if line.startswith(MARK) and not mark.isdecimal():
            self.heard, self._stopped = now, mark == STOPPED
            return
        self.seen = now
        if line.startswith(MARK):
            self.batches = int(mark)
            return
        self._log.write(f"{line}\n".encode())
        self._log.flush()
        if line.strip():
            self.last.append(line)
        if self.task.name == "worker 0":
            print(f"[{self.task.name}] {line}", flush=True)

    def stopped_for(self) -> float:
        """The seconds that a signal such as SIGSTOP has held it."""
        now = time.monotonic()
        if not (self._stopped or is_stopped(self.popen.pid)):
            self._ran = now
        return now - self._ran

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self.task.is_remote:
            self._tell(b"%d\n" % number)
        else:
            self.popen.send_signal(number)

    def is_lost(self) -> bool:
        """Whether nothing comes from its machine any more; it is told that this one is there."""
        now = time.monotonic()
        if not self.task.is_remote:
            return False
        if now - self._told > 1:
            self._told = now
            self._tell(b"\n")
        return bool(self.heard) and now - self.heard > SILENCE

    def _tell(self, line):
        with contextlib.suppress(OSError):
            os.write(cast(IO[bytes], self.popen.stdin).fileno(), line)

    def kill(self) -> None:
        """End it, and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.read()
        self._log.close()

    def failure(self, cause: str, code: int) -> Failure:
        """What to say of it."""
        said = "".join(f"\n    {line}" for line in self.last) or " it said nothing"
        text = f"{self.task.name} on {self.task.host} {cause}; its last lines ({self.path}):{said}"
        return Failure(text, code, is_final=code == _REFUSED)


class Job:
    """Run tasks until all workers have ended well, or until the first of all tasks fails.

    Their logs are appended to files in ``folder``. ``stall`` seconds without a word from a worker
    are a failure.
    """

    def __init__(self, tasks: Sequence[Task], folder: str, stall: float):
        self._tasks, self._folder, self._stall = tasks, folder, stall
        self._processes: List[_Process] = []
        self._signal, self._until, self._told = 0, 0.0, False

    def run(self) -> Optional[Failure]:
        """Start all tasks and wait: what failed first, or None. No process is left afterwards.

        A signal such as SIGTERM is passed on to worker 0, which saves; the failure then has the
        exit code 128 + its number.
        """
        earlier = handle(self._stop)
        try:
            with selectors.DefaultSelector() as selector:
                for task in self._tasks:
                    process = _Process(task, os.path.join(self._folder, task.log))
                    self._processes.append(process)
                    selector.register(process.output, selectors.EVENT_READ, process)
                return self._watch(selector)
        finally:
            for process in self._processes:
                process.kill()
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _stop(self, number, _frame):
        self._until = 0 if self._signal else time.monotonic() + _GRACE
        self._signal = number

    def _watch(self, selector):
        done = None  # when all workers had ended
        while True:
            for key, _ in selector.select(timeout=0.2):
                if not key.data.read():
                    selector.unregister(key.fileobj)
            running = [p for p in self._processes if p.popen.poll() is None]
            failure = self._failed(running)
            if failure:
                return failure
            if not any(p.task.is_worker for p in running):
                done = done or time.monotonic()
                if not running or time.monotonic() - done > _GRACE:
                    return None

    def _failed(self, running):
        lost = [p for p in running if p.is_lost()]
        if self._signal:
            return self._stopped(running)
        ended = [p for p in self._processes if p.popen.returncode]
        # A signal's victim is a cause; what exits with a code may be a consequence.
        for process in sorted(ended, key=lambda p: p.popen.returncode > 0):
            process.read()
            code, about = process.popen.returncode, ""
            if process.task.is_remote and (code < 0 or code == _NO_CONNECTION):
                about = f"cannot be reached: {os.path.basename(process.task.command[0])} "
            elif process.task.is_remote and code > 128:
                code = 128 - code
            if code < 0:
                said = f"{about}was killed by {signal.Signals(-code).name}"
                return process.failure(said, 128 - code)
            return process.failure(f"{about}ended with exit code {code}", code)
        if lost:
            return lost[0].failure(f"cannot be reached: nothing has come for {SILENCE} seconds", 1)
        return self._stalled(running)

    def _stopped(self, running):
        """Worker 0 saves and ends; the others have nothing that is not in its checkpoint."""
        first = next(p for p in self._processes if p.task.is_worker)
        if first in running and time.monotonic() < self._until:
            if not self._told:
                self._told = True
                first.send(self._signal)
            return None
        name = signal.Signals(self._signal).name
        return Failure(f"stopped by {name}", 128 + self._signal, is_final=True)

    def _stalled(self, running):
        now, workers = time.monotonic(), [p for p in running if p.task.is_worker]
        limits = [self._stall if p.batches >= 0 else max(self._stall, _START) for p in workers]
        silent = any(now - p.seen >= limit for p, limit in zip(workers, limits))
        # The scheduler may be stopped for long before the workers miss it, at their end.
        stopped = {p: p.stopped_for() for p in running}
        if max(stopped.values(), default=0) >= (0.1 if silent else self._stall):
            return max(running, key=stopped.get).failure("is stopped by a signal", 1)
        if not silent:
            return None
        slowest = min(workers, key=lambda p: (p.batches, p.seen))
        return slowest.failure(f"has done nothing for {now - slowest.seen:.0f} seconds", 1)
