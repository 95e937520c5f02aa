"""Children that serve requests, and the joining of their streams to the host's."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import posix as os
import sys
from fcntl import ioctl

from banger.guest.agent.resuming import Journal
from banger.guest.agent.system import (
    DEFAULT_SIGNALS,
    SIGCONT,
    SIGHUP,
    SIGTERM,
    close_all,
    describe,
    kill_session,
    quietly,
    ticks_since_boot,
    write_all,
)
from banger.guest.agent.text import JsonReader, to_json
from banger.guest.agent.wire import (
    CREDIT,
    END,
    EOF,
    MAX_JSON,
    MAX_PAYLOAD,
    RESIZE,
    RESUMED,
    SIGNAL,
    STDERR,
    STDIN,
    STDIN_CLOSED,
    STDOUT,
    WINDOW,
    AgentError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from banger.guest.agent.loop import Loop
    from banger.guest.agent.port import Port
    from banger.guest.agent.wire import Body

LINGER_SECONDS = 0.2
HANGUP_SECONDS = 2.0
# asm-generic/ioctls.h
TIOCSCTTY, TIOCSWINSZ = 0x540E, 0x5414


class Output:
    """What a child writes: forwarded as frames of `kind` within the host's credit, or kept."""

    def __init__(self, fd: int, kind: int) -> None:
        self.fd = fd
        self.kind = kind
        self.credit = WINDOW
        self.kept = bytearray()


class Process:
    """A child that serves one request, its pipes or its terminal joined to the request's stream.

    `run` is called in the child. A program's replaces it; a worker's returns the body to answer
    with. `then` is called with its exit code when it has ended, and because of that a worker with
    one goes on even if the host leaves. With a `token` it is kept when its stream is reset.
    """

    def __init__(
        self,
        port: Port,
        run: Callable[[], Body],
        *,
        worker: bool = False,
        size: bytes = b"",
        timeout: float = 0.0,
        token: str = "",
        then: Callable[[int], object] | None = None,
    ) -> None:
        self.port: Port | None = port
        self.carrier: Port | None = port
        self.token = token
        self.journals = {kind: Journal() for kind in (STDOUT, STDERR)} if token else {}
        self.taken = 0
        self.granted = 0
        self.ended: Body | None = None
        self.loop = port.agent.loop
        self.worker = worker
        self.terminal = bool(size)
        self.then = then
        self.input = bytearray()
        self.input_ended = False
        self.owed = 0
        self.status: int | None = None
        self.timed_out = False
        self.cancellers: list[Callable[[], None]] = []
        ours, theirs = open_terminal(size) if size else open_pipes(4 if worker else 3)
        try:
            self.pid = fork_child(run, ours, theirs, self.loop, terminal=bool(size), worker=worker)
        except OSError:
            close_all(ours)
            raise
        finally:
            close_all(set(theirs))

        self.stdin = ours[0]
        self.outputs = [Output(fd, kind) for fd, kind in zip(ours[1:], (STDOUT, STDERR, END))]
        self.answer = self.outputs[-1].kept
        self.pidfd = os.pidfd_open(self.pid)
        self.loop.add(self.pidfd, self.on_exit)
        for fd in ours:
            self.loop.add(fd, self.on_event)

        if timeout:
            self.cancellers.append(self.loop.after(timeout, self.expire))

    def on_event(self, events: int) -> None:
        self.advance()

    def on_frame(self, kind: int, payload: bytes) -> None:
        if kind != CREDIT:
            self.taken += 1

        if kind == STDIN:
            self.input += payload
            if len(self.input) > WINDOW and self.port is not None:
                self.port.lose()
        elif kind == EOF:
            self.input_ended = True
        elif kind == CREDIT and len(payload) == 5:
            self.on_credit(payload[0], int.from_bytes(payload[1:], "big"))
        elif kind == RESIZE and self.terminal and self.outputs:
            ioctl(self.outputs[0].fd, TIOCSWINSZ, window_size(payload))
        elif kind == SIGNAL and len(payload) == 1:
            self.signal_group(payload[0])

    def on_credit(self, kind: int, count: int) -> None:
        if kind in self.journals:
            self.journals[kind].dealt_with(count)

        for output in self.outputs:
            if output.kind == kind:
                output.credit += count

    def advance(self) -> None:
        """Move all that can be moved, in both directions, and end when all is done."""
        if self.port is None:
            return

        self.feed(self.port)
        while sum([self.pump(self.port, output) for output in self.outputs[:]]):
            pass

        if self.status is not None and not self.outputs:
            self.finish(self.port, self.status)

    def feed(self, port: Port) -> None:
        try:
            while self.input:
                count = len(self.input) if self.stdin < 0 else os.write(self.stdin, self.input)
                self.consumed(port, count)
        except BlockingIOError:
            return
        except OSError:
            # Nobody reads it any more; what comes is thrown away, and the host may as well stop.
            self.close_input()
            port.send(STDIN_CLOSED)
            self.feed(port)

        if self.input_ended and self.stdin >= 0:
            self.close_input()

    def consumed(self, port: Port, count: int) -> None:
        del self.input[:count]
        self.owed += count
        if self.owed >= WINDOW // 4:
            port.send(CREDIT, bytes((STDIN,)) + self.owed.to_bytes(4, "big"))
            self.granted += self.owed
            self.owed = 0

    def close_input(self) -> None:
        if self.terminal:
            # The end of a terminal's input is a character: VEOF in termios(3).
            quietly(os.write, self.stdin, b"\x04")

        self.loop.close(self.stdin)
        self.stdin = -1

    def pump(self, port: Port, output: Output) -> bool:
        """Move one frame's worth; False when there is nothing, or no room for it."""
        room = min(output.credit, MAX_PAYLOAD)
        if room == 0 or not port.has_room():
            return False

        try:
            data = os.read(output.fd, room)
        except BlockingIOError:
            return False
        except OSError:
            # EIO: nobody has the terminal open. Closing our end would hang up on a program that
            # is only just ending, or about to open it again.
            if self.status is None:
                return False

            data = b""

        if not data:
            self.loop.close(output.fd)
            self.outputs.remove(output)
        elif output.kind == END:
            output.kept += data[: MAX_JSON - len(output.kept)]
        else:
            output.credit -= len(data)
            if output.kind in self.journals:
                self.journals[output.kind].data += data

            port.send(output.kind, data)

        return True

    def on_exit(self, events: int) -> None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            # The event was for another descriptor that had this number until a moment ago.
            return

        self.status = os.waitstatus_to_exitcode(status)
        self.loop.close(self.pidfd)
        self.advance()
        if self.port is not None:
            self.cancellers.append(self.loop.after(LINGER_SECONDS, self.stop_lingering))
        elif self.then is not None:
            self.then(self.status)

    def stop_lingering(self) -> None:
        """Others still have its output open: do not wait for them, but send what was written."""
        self.advance()
        if self.port is None or self.status is None:
            return

        if self.port.has_room() and all(output.credit for output in self.outputs):
            self.finish(self.port, self.status)
        else:
            self.cancellers.append(self.loop.after(LINGER_SECONDS, self.stop_lingering))

    def finish(self, port: Port, status: int) -> None:
        self.port = None
        self.close_streams()
        self.ended = self.body(status)
        port.finish(self.ended)

    def let_go(self) -> None:
        """Its port is gone, or another's, and it goes on without one."""
        self.port = self.carrier = None

    def carry_on(
        self, port: Port, missing: dict[int, bytes], allowed: dict[int, int], *, announce: bool
    ) -> None:
        """Go on on another port: what did not arrive on the one before comes first."""
        if self.carrier is not None:
            # It has not heard yet that it was reset.
            self.carrier.part_with(self)

        self.carrier = port
        port.program = self
        if announce:
            port.send(RESUMED, self.taken.to_bytes(4, "big") + self.granted.to_bytes(8, "big"))

        for kind, data in missing.items():
            for start in range(0, len(data), MAX_PAYLOAD):
                port.send(kind, data[start : start + MAX_PAYLOAD])

        if self.ended is not None:
            port.finish(self.ended)
            return

        if self.stdin < 0 and not self.input_ended:
            port.send(STDIN_CLOSED)

        for output in self.outputs:
            output.credit = allowed.get(output.kind, 0)

        self.port = port
        port.stream = self
        if self.status is not None:
            self.cancellers.append(self.loop.after(LINGER_SECONDS, self.stop_lingering))

    def body(self, status: int) -> Body:
        if self.worker:
            if not self.answer:
                return AgentError("failed", f"the request's worker ended with {status}").body()

            answer: Body = JsonReader(self.answer.decode()).read()
            return answer

        body = {"code": status} if status >= 0 else {"signal": -status}
        return {**body, "timed_out": True} if self.timed_out else body

    def close_streams(self) -> None:
        for cancel in self.cancellers:
            cancel()

        self.cancellers.clear()
        if self.stdin >= 0:
            self.loop.close(self.stdin)
            self.stdin = -1

        for output in self.outputs:
            self.loop.close(output.fd)

        self.outputs.clear()

    def abandon(self) -> None:
        """Nobody is there for it any more.

        The signal comes first: a worker must not take what was cut short for the end of its input.
        """
        self.port = None
        if self.status is None and self.then is None:
            self.end_session(SIGHUP)

        self.close_streams()

    def expire(self) -> None:
        self.timed_out = True
        self.end_session(SIGTERM)

    def end_session(self, number: int) -> None:
        """Signal its process group, and soon after kill what is left of its session."""
        now = ticks_since_boot()
        self.signal_group(number)
        self.signal_group(SIGCONT)
        self.loop.after(HANGUP_SECONDS, lambda: kill_session(self.pid, now))

    def signal_group(self, number: int) -> None:
        # Until it has been waited for, its number cannot be another's.
        if self.status is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                # It has not come so far as to be a group.
                quietly(os.kill, self.pid, number)
            except OSError:
                # EINVAL: there is no such signal.
                return


def open_pipes(count: int) -> tuple[list[int], list[int]]:
    """Our ends and the child's: its standard input first, then what it writes."""
    (their_input, our_input), *outputs = [os.pipe() for _ in range(count)]
    ours = [our_input, *(reader for reader, _ in outputs)]
    return ours, [their_input, *(writer for _, writer in outputs)]


def open_terminal(size: bytes) -> tuple[list[int], list[int]]:
    master, slave = os.openpty()
    ioctl(master, TIOCSWINSZ, window_size(size))
    return [os.dup(master), master], [slave, slave, slave]


def window_size(size: bytes) -> bytes:
    """struct winsize out of big-endian rows and columns."""
    padded = size[:4].ljust(4, b"\0")
    words = (int.from_bytes(padded[:2], "big"), int.from_bytes(padded[2:], "big"), 0, 0)
    return b"".join(word.to_bytes(2, sys.byteorder) for word in words)


def fork_child(
    run: Callable[[], Body],
    ours: list[int],
    theirs: list[int],
    loop: Loop,
    *,
    terminal: bool,
    worker: bool,
) -> int:
    """Start `run` in a session of its own, on `theirs`; a worker's fourth is for its answer."""
    pid = os.fork()
    if pid:
        return pid

    status = 1
    try:
        os.setsid()
        if terminal:
            ioctl(theirs[0], TIOCSCTTY, 0)

        for number, fd in enumerate(theirs[:3]):
            os.dup2(fd, number)

        # What is ignored stays so across exec, and Python ignores SIGPIPE.
        for signal_number in DEFAULT_SIGNALS:
            _signal.signal(signal_number, _signal.SIG_DFL)

        if worker:
            loop.epoll.close()
            close_all((*loop.handlers, *ours))
            status = run_worker(run, theirs[3])
        else:
            run()
    finally:
        os._exit(status)


def run_worker(run: Callable[[], Body], answer: int) -> int:
    # So that it cleans up after itself.
    _signal.signal(SIGHUP, raise_hangup)
    status = 1
    try:
        body = run()
        status = 0
    except AgentError as error:
        body = error.body()
    except OSError as error:
        body = AgentError("failed", describe(error)).body()

    write_all(answer, to_json(body).encode())
    return status


def raise_hangup(number: int, stack: object) -> NoReturn:
    raise SystemExit


def detach(run: Callable[[], Body], loop: Loop) -> int:
    """Start a program that no stream is joined to; returns its pid."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = fork_child(run, [], [null, null, null], loop, terminal=False, worker=False)
    finally:
        os.close(null)

    pidfd = os.pidfd_open(pid)

    def reap(events: int) -> None:
        if os.waitpid(pid, os.WNOHANG)[0]:
            loop.close(pidfd)

    loop.add(pidfd, reap)
    return pid
