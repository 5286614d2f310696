"""Job children forked from a process that has everything imported: the nursery.

A job's own work begins only when torch and what exports a model are imported, which takes seconds
of a core each time. The nursery imports them once and forks a child per job. It has one thread,
touches no accelerator and computes nothing, so that what it forks is as good as new. It is started
for the first job and ends when no job has come for a while, or when control is gone.

Knows nothing of what jobs do. One message per job goes to the nursery: its folder, with the
descriptors of its reports, lifeline, log and a socket. On that socket the child says its pid once
it leads a group of its own, and the nursery how it ended. It remains a zombie until control has
closed the socket: until then no other process can have its pid.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import select
import selectors
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NoReturn

from meuse.jobs.process import Running, Start

log = logging.getLogger(__name__)

LOST = 255
"""The exit status of a child that was never born, or whose nursery died before it."""
_MESSAGE = 8192


class Forked:
    """A child of the nursery, as control sees it (`jobs.process.Running`)."""

    def __init__(self, status: socket.socket, on_end: Callable[[bool], None]) -> None:
        """`on_end` is told whether it was ever born."""
        self._status = status
        self._on_end = on_end
        self._pidfd: int | None = None
        self._lost = False
        self._pid: int | None = None
        self._code: int | None = None

    @property
    def pid(self) -> int | None:
        """None until it has been born, which takes as long as the nursery's imports."""
        self.poll()
        return self._pid

    def poll(self) -> int | None:
        while self._code is None and self._can_read(0):
            self._read()
        return self._code

    def wait(self) -> int:
        while self._code is None:
            if self._pid is None and not self._can_read(0):
                self._code = LOST
                break
            self._can_read(None)
            self._read()
        self._close()
        return self._code

    def _can_read(self, timeout: float | None) -> bool:
        """Whether there is news; a lost child's is that it ends."""
        fd = self._pidfd if self._lost and self._pidfd is not None else self._status.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))

    def _read(self) -> None:
        if self._lost:
            self._code = LOST
            return
        try:
            data, fds, _, _ = socket.recv_fds(self._status, _MESSAGE, 1)
        except OSError:
            data, fds = b"", []
        if not data:
            self._lost = True
            if self._pidfd is None:
                self._code = LOST  # it was never born
            return
        said: dict[str, int] = json.loads(data)
        if "pid" in said:
            self._pid, [self._pidfd] = said["pid"], fds
        else:
            self._code = said["status"]

    def _close(self) -> None:
        self._status.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        on_end, self._on_end = self._on_end, lambda _born: None
        on_end(self._pid is not None)


class Nursery:
    """Control's end. `start` is a `jobs.process.Start`; safe from any thread."""

    def __init__(
        self,
        command: Callable[[int], list[str]],
        fresh: Start,
        output: Path,
        idle_s: float,
        environment: Mapping[str, str],
    ) -> None:
        """`command` of the nursery by the descriptor of its link; `fresh` starts a child without
        one, when there is none; what it says goes to `output`. It ends `idle_s` after a job."""
        self._command = command
        self._fresh = fresh
        self._output = output
        self._idle_s = idle_s
        self._environment = dict(environment)
        self._lock = threading.Lock()  # of all below
        self._link: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._running = 0
        self._failed = False  # to bear its last child: the next one is started without it
        self._timer: threading.Timer | None = None

    def start(self, folder: Path, events: int, lifeline: int, output: IO[bytes]) -> Running:
        """Raises OSError when not even a child without a nursery can be started."""
        if self._failed:
            self._failed = False
            return self._fresh(folder, events, lifeline, output)
        try:
            return self._fork(folder, (events, lifeline, output.fileno()))
        except OSError as error:
            log.warning("no child of the nursery: %s; this job has a process of its own", error)
            self.close()
            return self._fresh(folder, events, lifeline, output)

    def _fork(self, folder: Path, fds: tuple[int, ...]) -> Running:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            try:
                link = self._opened()
                socket.send_fds(link, [str(folder).encode()], [*fds, theirs.fileno()])
            except BaseException:
                ours.close()
                raise
            self._running += 1
            self._stop_timer()
        return Forked(ours, self._one_less)

    def _opened(self) -> socket.socket:
        """The link to a nursery that lives. Raises OSError."""
        if self._link is not None and self._process is not None and self._process.poll() is None:
            return self._link
        self._close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._output.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    self._command(theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=self._environment,
                )
            except BaseException:
                ours.close()
                raise
        self._link = ours
        return ours

    def _one_less(self, was_born: bool) -> None:
        with self._lock:
            self._running -= 1
            self._failed = not was_born
            if self._running == 0 and self._link is not None:
                self._timer = threading.Timer(self._idle_s, self._end_idle)
                self._timer.daemon = True
                self._timer.start()

    def _end_idle(self) -> None:
        with self._lock:
            if self._running == 0:
                self._close()

    def close(self) -> None:
        """End the nursery; children that run go on, and nobody will know how they ended."""
        with self._lock:
            self._close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        """Its link at an end, the nursery ends; one that still imports does so afterwards."""
        self._stop_timer()
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            threading.Thread(target=self._process.wait, daemon=True).start()  # no zombie
            self._process = None


Birth = Callable[[Path, int, int], int]
"""(folder, events fd, lifeline fd) → exit status: what a child does."""


def serve(link: socket.socket, birth: Birth, prepare: Iterable[Callable[[], object]] = ()) -> None:
    """The nursery's end: fork a child for each message, until the link is closed. Each of `prepare`
    is called when nothing else is to be done: what a child finds missing it imports itself."""
    if threading.active_count() > 1:
        log.warning("children are forked beside threads: %s", threading.enumerate())
    with selectors.DefaultSelector() as selector:
        _Server(link, birth, selector).run(iter(prepare))


class _Server:
    def __init__(self, link: socket.socket, birth: Birth, selector: selectors.BaseSelector) -> None:
        self._link = link
        self._birth = birth
        self._selector = selector
        self._told: dict[int, socket.socket] = {}  # control's socket of a child, by its pidfd

    def run(self, prepare: Iterator[Callable[[], object]]) -> None:
        self._selector.register(self._link, selectors.EVENT_READ, self._bear)
        step = next(prepare, None)
        while self._link.fileno() >= 0:
            # Not beside a child: it has the cores for itself.
            idle = step is not None and not self._told
            news = self._selector.select(0 if idle else None)
            if not news and step is not None:
                step()
                step = next(prepare, None)
            for key, _ in news:
                key.data()

    def _bear(self) -> None:
        """Fork a child for the next message; close the link at its end."""
        try:
            data, fds, _, _ = socket.recv_fds(self._link, _MESSAGE, 4)
        except OSError:
            data, fds = b"", []
        if not data:
            self._selector.unregister(self._link)
            self._link.close()
            return
        *used, status = fds
        events, lifeline, output = used
        gc.freeze()  # what is imported stays in pages that all children share
        pid = os.fork()
        if pid == 0:

            def life() -> int:
                self._leave(output)
                _introduce(status)
                return self._birth(Path(os.fsdecode(data)), events, lifeline)

            _live(life)
        for fd in used:
            os.close(fd)
        child = os.pidfd_open(pid)
        self._told[child] = socket.socket(fileno=status)
        self._selector.register(child, selectors.EVENT_READ, lambda: self._tell(child))

    def _tell(self, child: int) -> None:
        """A child has ended: say how, and let go of it when control has heard that."""
        self._selector.unregister(child)
        result = os.waitid(os.P_PIDFD, child, os.WEXITED | os.WNOWAIT)
        assert result is not None
        exited = result.si_code == os.CLD_EXITED
        status = result.si_status if exited else -result.si_status
        told = self._told[child]
        with contextlib.suppress(OSError):  # control is gone
            told.send(json.dumps({"status": status}).encode())
        self._selector.register(told, selectors.EVENT_READ, lambda: self._release(child))

    def _release(self, child: int) -> None:
        told = self._told.pop(child)
        self._selector.unregister(told)
        told.close()
        os.waitid(os.P_PIDFD, child, os.WEXITED)
        os.close(child)

    def _leave(self, output: int) -> None:
        """In a child: let go of all that is the nursery's. What is closed here stays in the
        selector that parent and child share, so nothing is taken out of it."""
        os.setsid()
        self._selector.close()
        self._link.close()
        for sibling, told in self._told.items():
            os.close(sibling)
            told.close()
        null = os.open(os.devnull, os.O_RDONLY)
        for here, there in ((null, 0), (output, 1), (output, 2)):
            os.dup2(here, there)
        os.close(null)
        os.close(output)
        random.seed()  # of a sibling's numbers none may be drawn twice


def _live(life: Callable[[], int]) -> NoReturn:
    """And nothing after it: threads that libraries of the nursery's would wait for at the end of
    a process are not in this one."""
    status = 1
    try:
        status = life()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _introduce(status: int) -> None:
    """Tell control who this child is."""
    with socket.socket(fileno=status) as told:
        me = os.pidfd_open(os.getpid())
        with contextlib.suppress(OSError):  # control is gone: so is the lifeline
            socket.send_fds(told, [json.dumps({"pid": os.getpid()}).encode()], [me])
        os.close(me)
