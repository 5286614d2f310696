"""The sandbox, with real foreign code in each tier that this machine offers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meuse.runtime import sandbox
from meuse.runtime.sandbox import FileRefusedError, Limits, Order, harvest, landlock, tiers
from meuse.runtime.sandbox.run import run_in

MIB = 1 << 20
SURVEY = sandbox.survey()
OFFERED = [
    pytest.param(
        tier, marks=pytest.mark.skipif(tier in SURVEY.refused, reason=SURVEY.refused.get(tier, ""))
    )
    for tier in (2, 1)
]
every_tier = pytest.mark.parametrize("tier", OFFERED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


def order(folder: Path, code: str, **limits: float) -> Order:
    """An order to run `code` as a module that lies in the folder."""
    (folder / "foreign.py").write_text(code)
    bounds = {"wall_s": 20.0, "memory_bytes": 512 * MIB, "processes": 24, **limits}
    place = {"PYTHONPATH": f"{tiers._source()}:{tiers.INSIDE}:{folder}"}
    return Order("foreign", folder, (str(folder),), environment=place, limits=Limits(**bounds))


def test_a_tier_is_offered_and_named() -> None:
    """CI has bubblewrap; elsewhere the survey says what is missing."""
    assert SURVEY.tier in (0, 1, 2)
    assert SURVEY.text.startswith(f"tier {SURVEY.tier}: {tiers.NAMES[SURVEY.tier]}")
    for tier, why in SURVEY.refused.items():
        assert why
        assert f"tier {tier} does not work: {why}" in SURVEY.text


@every_tier
def test_code_runs_and_leaves_its_files_and_words(tier: int, folder: Path) -> None:
    heard: list[str] = []
    code = "import pathlib; pathlib.Path('out.txt').write_text('42'); print('one'); print('two')"
    ended = run_in(tier, order(folder, code), heard.append)
    assert ended.ok, ended
    assert heard == ["one", "two"]
    assert ended.output == "one\ntwo\n"
    assert ended.tier == tier
    assert sandbox.take(folder, "out.txt", 10) == b"42"
    assert not (folder / "tmp").exists()


REACHES = [
    "socket.socket(socket.AF_INET).connect(('127.0.0.1', 1))",
    "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "socket.socket(socket.AF_UNIX)",
    "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "os.open('/etc/meuse-was-here', os.O_CREAT | os.O_WRONLY)",
    "os.open('/usr/meuse-was-here', os.O_CREAT | os.O_WRONLY)",
    "os.unlink(meuse.__file__)",
    "open('/etc/shadow').read()",
    "os.listdir(os.path.expanduser('~root'))",
    "call(libc.ptrace(16, 1, 0, 0))",
    "call(libc.unshare(0x10000000))",
    "call(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
    "call(libc.syscall(319, b'x', 0) if os.uname().machine == 'x86_64' else -1)",
    "os.chroot('/')",
    "os.mknod('device', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
]


@every_tier
def test_what_reaches_outside_fails(tier: int, folder: Path) -> None:
    code = (
        "import ctypes, meuse, os, socket, stat\n"
        "libc = ctypes.CDLL(None)\n"
        "def call(result):\n"
        "    if result == -1: raise OSError\n"
        f"for attempt in {REACHES!r}:\n"
        "    try: eval(attempt)\n"
        "    except OSError: print('refused')\n"
        "    else: print(attempt)\n"
    )
    ended = run_in(tier, order(folder, code))
    assert ended.ok, ended
    assert ended.output.splitlines() == ["refused"] * len(REACHES)


@every_tier
def test_no_secret_of_ours_is_in_the_environment(
    tier: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEUSE_SECRET", "swordfish")
    code = "import os; print(sorted(os.environ)); print(open('/proc/self/environ').read())"
    ended = run_in(tier, order(folder, code))
    assert ended.ok, ended
    assert "swordfish" not in ended.output
    assert "MEUSE" not in ended.output


@every_tier
def test_our_processes_are_out_of_reach(tier: int, folder: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        code = (
            "import os, signal\n"
            f"for pid in ({bystander.pid}, {os.getpid()}):\n"
            "    try: os.kill(pid, signal.SIGKILL)\n"
            "    except OSError: pass\n"
            "    try: print(open(f'/proc/{pid}/environ').read(), 'read it')\n"
            "    except OSError: pass\n"
        )
        ended = run_in(tier, order(folder, code))
        assert ended.ok, ended
        assert ended.output == ""
        assert bystander.poll() is None
    finally:
        bystander.send_signal(signal.SIGKILL)
        bystander.wait()


@every_tier
def test_a_fork_bomb_is_bounded_and_leaves_nothing(tier: int, folder: Path) -> None:
    code = (
        "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)\n"
    )
    ended = run_in(tier, order(folder, code, wall_s=2.0))
    assert ended.stopped == "time"
    assert ended.seconds < 15.0
    assert not _processes(str(folder))


@every_tier
def test_processes_are_counted(tier: int, folder: Path) -> None:
    """Tier 2 allows some, tier 1 none."""
    code = (
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 100:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(30); os._exit(0)\n"
        "        made += 1\n"
        "except OSError as error:\n"
        "    print(made, type(error).__name__, flush=True); os._exit(0)\n"
    )
    ended = run_in(tier, order(folder, code))
    made, name = ended.output.split()
    assert name in ("BlockingIOError", "PermissionError")
    assert 10 < int(made) < 24 if tier == 2 else int(made) == 0


@every_tier
def test_memory_time_and_output_end_it(tier: int, folder: Path) -> None:
    hoard = "kept = []\nwhile True: kept.append(bytearray(16 << 20))"
    ended = run_in(tier, order(folder, hoard))
    assert not ended.ok
    assert "MemoryError" in ended.output or ended.stopped == "memory"
    shared = (  # what RLIMIT_DATA does not count
        "import mmap\nkept = []\n"
        "while True:\n"
        "    m = mmap.mmap(-1, 16 << 20); m.write(b'x' * (16 << 20)); kept.append(m)\n"
    )
    ended = run_in(tier, order(folder, shared))
    assert ended.stopped == "memory", ended
    assert "512 MiB" in ended.why(Limits(memory_bytes=512 * MIB))
    ended = run_in(tier, order(folder, "import time; time.sleep(60)", wall_s=0.5))
    assert ended.stopped == "time"
    ended = run_in(tier, order(folder, "while True: print('x' * 1000)", output_bytes=100_000))
    assert ended.stopped == "output"
    assert len(ended.output) < 200_000
    big = "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))"
    ended = run_in(tier, order(folder, big, file_bytes=4 * MIB))
    assert ended.status == 1
    assert "File too large" in ended.output
    assert (folder / "big").stat().st_size <= 4 * MIB


@every_tier
def test_it_ends_with_whoever_started_it(tier: int, folder: Path) -> None:
    given = order(folder, "open('started', 'w').close()\nimport time; time.sleep(60)")
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from meuse.runtime.sandbox import Limits, Order\n"
        "from meuse.runtime.sandbox.run import run_in\n"
        f"folder = Path({str(folder)!r})\n"
        f"there = {dict(given.environment)!r}\n"
        f"run_in({tier}, Order('foreign', folder, (str(folder),), environment=there))\n"
    )
    source = str(tiers._source())
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": source}
    )
    deadline = time.monotonic() + 20
    try:
        while not (folder / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len(_processes(str(folder))) > 1
    finally:
        process.kill()
        process.wait()
    while _processes(str(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_taken_out_is_a_regular_file(folder: Path) -> None:
    (folder / "good").write_bytes(b"abc")
    assert harvest.take(folder, "good", 3) == b"abc"
    assert harvest.take(folder, "absent", 3) is None
    (folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    os.link(folder / "good", folder / "hard")
    (folder / "dir").mkdir()
    for name in ("link", "pipe", "hard", "dir", "../folder/good", "", ".."):
        with pytest.raises(FileRefusedError):
            harvest.take(folder, name, 3)
    os.unlink(folder / "hard")
    with pytest.raises(FileRefusedError, match="more than 2"):
        harvest.take(folder, "good", 2)


def test_a_machine_without_a_tier_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    tiers.survey.cache_clear()
    try:
        found = tiers.survey()
        assert found.tier == 0
        assert "bubblewrap is not installed" in found.text
        assert "the kernel has no Landlock" in found.text
        with pytest.raises(sandbox.NoSandboxError, match="apt-get install bubblewrap"):
            tiers.good_enough(1)
        assert tiers.good_enough(0) == 0
    finally:
        tiers.survey.cache_clear()


def _processes(text: str) -> list[str]:
    """Command lines of live processes that have `text`, but for this one's."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if text in line and int(place.name) != os.getpid():
            found.append(place.name)
    return found
