"""Known idle lines of C code are kept off stderr; all else that any thread writes arrives."""

import pytest
from conftest import run_script

from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
C_CODE = """
import common.runtime.mxnet
import ctypes, os, sys, threading, time
from common.runtime import native

libc = ctypes.CDLL(None)
cpp = ctypes.CDLL("libstdc++.so.6")


def c_says(text):
    libc.fputs(text.encode(), ctypes.c_void_p.in_dll(libc, "stderr"))


def cpp_says(text):
    put = cpp._ZStlsISt11char_traitsIcEERSt13basic_ostreamIcT_ES5_PKc
    put(ctypes.byref(ctypes.c_char.in_dll(cpp, "_ZSt4cerr")), text.encode())


native.drop_lines(["not needed", "[ WARN:"])
"""


def said(code):
    result = run_script("-c", C_CODE + code)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize("says", ["c_says", "cpp_says"])
def test_lines_with_a_known_text_are_dropped_and_others_come_whole(says):
    lines = ["[12:00] this is not needed\n", "[12:00] a warning\n", "[ WARN:0] of OpenCV\n", "a\n"]
    code = "".join(f"{says}({line[:5]!r}); {says}({line[5:]!r})\n" for line in lines)
    code += (
        f"native.drop_lines(['not needed']); {says}('[12:00] this '); {says}('is not needed\\n')"
    )
    assert said(code) == "[12:00] a warning\na\n"


def test_what_can_be_no_known_line_arrives_before_the_line_ends():
    assert said("c_says('working'); os._exit(0)") == "working"


def test_what_a_thread_or_the_process_has_begun_is_written_when_it_ends():
    code = "thread = threading.Thread(target=c_says, args=['[thread']); thread.start()"
    assert sorted(said(f"{code}; c_says('[process')").split("[")) == ["", "process", "thread"]


def test_a_later_call_replaces_the_texts():
    assert said("c_says('not needed\\n'); native.drop_lines(['x']); c_says('not needed\\n')") == (
        "not needed\n"
    )


ITERATORS = """
from common.input import pipeline
from common.input.preparation import Preparation

found = pipeline.checked_records({path!r})
preparation = Preparation((1, 32, 32), None, (0, 0, 0), (1, 1, 1))
done = threading.Event()


def talk(write):
    while not done.is_set():
        write()
        counts[write] += 1
        time.sleep(0.0005)


writers = [lambda: c_says("from C\\n"), lambda: cpp_says("from C++\\n")]
writers += [lambda: os.write(2, b"raw\\n"), lambda: sys.stderr.write("from Python\\n")]
counts = dict.fromkeys(writers, 0)
threads = [threading.Thread(target=talk, args=[write]) for write in writers]
for thread in threads:
    thread.start()
for _ in range(30):
    sum(1 for _ in pipeline.evaluation_batches(found, preparation, 16, 1))
done.set()
for thread in threads:
    thread.join()
print(*counts.values())
"""


def test_nothing_is_lost_that_another_thread_writes_while_an_iterator_starts(small):
    result = run_script("-c", C_CODE + ITERATORS.format(path=small.val))
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    counts = [lines.count(text) for text in ("from C", "from C++", "raw", "from Python")]
    assert counts == list(map(int, result.stdout.split())) and min(counts) > 0
    assert sum(counts) == len(lines)  # MXNet's own line is dropped


def test_a_run_that_cannot_start_its_reader_says_so(small):
    flags = ["--network", "lenet", "--dataset", "mnist", "--data-train", small.train]
    result = run_script("train_imagenet.py", *flags, "--batch-size", 16, "--seed", 10**18)
    assert result.returncode != 0 and result.stderr.strip()
