"""What a hostile pickle can't have: memory, time, files, sockets, or a life after its parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from pickle_support import archive_of, name, read, tensor, text, weights

from corepress.identify import pickles
from corepress.identify.pickles.unpickler.child import CPU_S

MEMORY_BYTES = 300 << 20
OPERATIONS = 1_990_000


def pairs(*keys: str) -> bytes:
    """A list of pairs, in the memo at 1, behind what makes a dictionary of one, at 0."""
    items = b"".join(b"(" + text(key) + b"Nt" for key in keys)
    return b"\x80\x02" + name("collections", "OrderedDict") + b"q\x00](" + items + b"e\x85q\x01"


MANY_DICTIONARIES = pairs(*map(str, range(2000))) + b"h\x00h\x01R" * 400_000 + b"."
MUCH_WORK = pairs(*["same"] * 20_000) + b"h\x00h\x01R0" * 400_000 + b"."

BOMBS = {
    "dictionaries": b"\x80\x02" + b"}" * OPERATIONS + b".",
    "marks": b"\x80\x02" + b"(" * OPERATIONS + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * OPERATIONS + b".",
    "a billion laughs": b"\x80\x02)" + b"2\x86" * (OPERATIONS // 2) + b".",
    "laughs as a key": b"\x80\x02})" + b"2\x86" * 500_000 + b"Ns.",
    "objects": b"\x80\x02cfoo\nBar\nq\x00" + b"h\x00)\x81" * (OPERATIONS // 3) + b".",
    "a list of itself": b"\x80\x02]q\x00" + b"h\x00a" * (OPERATIONS // 2) + b".",
    "too many operations": b"\x80\x02" + b"N" * (8 << 20) + b".",
    "wide characters": b"\x80\x02X\x00\x00\xf0\x00\xf0\x9f\x98\x80"
    + b"a" * ((15 << 20) - 4)
    + b".",
    "a text without end": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x3f" + b"a" * 1000,
    "a number without end": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"a" * 1000,
    "many tensors": b"\x80\x02}("
    + text("a")
    + tensor()
    + b"q\x00"
    + b"".join(text(str(number)) + b"h\x00" for number in range(70_000))
    + b"u.",
    "a dictionary of many, many times": MANY_DICTIONARIES,
}


READ = """
import resource, sys
from pathlib import Path
from corepress.domain.errors import PermanentError
from corepress.identify.pickles import read_pickle
from corepress.runtime.files import LocalFile
from corepress.runtime.process_memory import peak_bytes
for path in sys.argv[1:]:
    try:
        read_pickle(LocalFile(Path(path)), "model.ckpt")
    except PermanentError as error:
        print(error.code, error.message, sep="\t")
print(peak_bytes())
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def test_bombs_are_refused_within_bounds(tmp_path: Path):
    for case, pickle in BOMBS.items():
        (tmp_path / case).write_bytes(archive_of(pickle, bytes(16)))
    done = subprocess.run(
        [sys.executable, "-c", READ, *(tmp_path / case for case in BOMBS)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *refusals, ours, childs = done.stdout.splitlines()
    messages = dict(zip(BOMBS, refusals, strict=True))
    assert all(len(message) < 400 for message in refusals)
    for case, words in {
        "a dictionary of many, many times": r"unsafe-pickle.*memory",
        "too many operations": r"unsafe-pickle.*2,000,000 operations",
        "many tensors": r"unsafe-pickle.*65,536 tensors",
        "a text without end": r"corrupt-checkpoint.*only 1000 remain",
        "nested tuples": r"unsupported-checkpoint.*a tuple",
    }.items():
        assert re.match(words, messages[case])
    assert int(ours) < 150 << 20
    assert int(childs) < MEMORY_BYTES


ASK = """
import resource, sys
from corepress.domain.errors import UnsafePickle
from corepress.identify.pickles.sandbox import ask
print("ready", flush=True)
if sys.argv[1:]:
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1])))
try:
    ask(sys.stdin.buffer.read(), "zip", "model.ckpt")
except UnsafePickle as error:
    print(error.message)
"""


def test_endless_work_is_ended():
    assert CPU_S > 2
    done = subprocess.run(
        [sys.executable, "-c", ASK, "2"], input=MUCH_WORK, capture_output=True, check=True
    )
    assert b"too much time" in done.stdout


def test_the_process_dies_with_its_parent():
    with subprocess.Popen(
        [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.stdin.write(MUCH_WORK)
        parent.stdin.close()
        while not (children := psutil.Process(parent.pid).children()):
            os.sched_yield()
        while children[0].cpu_times().user < 0.3:  # it is at work
            os.sched_yield()
        parent.send_signal(signal.SIGKILL)
        gone, _ = psutil.wait_procs(children, timeout=CPU_S / 2)
    assert gone


GIVEN_UP = f"""
import os, socket, sys
sys.path.append({str(Path(pickles.__file__).parent)!r})
from unpickler.child import give_up
give_up()
for attempt in (
    lambda: open("/etc/hostname"),
    lambda: open("PWNED", "w"),
    lambda: socket.socket(),
    lambda: os.pipe(),
    lambda: os.write(int(sys.argv[1]), b"PWNED"),
    lambda: bytearray(300 << 20),
):
    try:
        attempt()
        os.write(1, b"allowed ")
    except (OSError, MemoryError) as error:
        os.write(1, type(error).__name__.encode() + b" ")
"""


def test_what_the_process_gave_up(tmp_path: Path):
    with (tmp_path / "open").open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", GIVEN_UP, str(file.fileno())],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            pass_fds=[file.fileno()],
            check=False,
            preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
        )
    assert done.stdout.split() == [b"OSError"] * 5 + [b"MemoryError"]
    assert [path.name for path in tmp_path.iterdir()] == ["open"]
    assert not (tmp_path / "open").stat().st_size


def test_the_oldest_pickles_need_nothing_that_was_given_up():
    data = b"(dp0\nV\\u0061\np1\n" + tensor() + b"s."
    assert read(archive_of(data, bytes(16))).keys() == {"a"}
    assert read(archive_of(weights(a=tensor()), bytes(16))).keys() == {"a"}
