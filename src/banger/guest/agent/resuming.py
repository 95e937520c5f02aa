"""Programs whose stream was reset, and the request `resume`, which carries them on on another.

A VMM that saves its guest ends all connections of a vsock(7), also where the guest goes on. What
the protocol does about that is in docs/agent-protocol.md, "Resets".
"""

from __future__ import annotations

from banger.guest.agent.fields import field, required
from banger.guest.agent.wire import RESET, STDERR, STDOUT, WINDOW, AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from banger.guest.agent.loop import Loop
    from banger.guest.agent.port import Port
    from banger.guest.agent.process import Process
    from banger.guest.agent.wire import Body

KEEP_SECONDS = 60.0
OUTPUTS = ((STDOUT, "stdout"), (STDERR, "stderr"))


class Journal:
    """What was sent of one output and may not have arrived: `data` comes after `start` bytes."""

    def __init__(self) -> None:
        self.start = 0
        self.data = bytearray()

    def dealt_with(self, count: int) -> None:
        count = max(0, min(count, len(self.data)))
        self.start += count
        del self.data[:count]

    def after(self, received: int) -> bytes:
        if not self.start <= received <= self.start + len(self.data):
            raise AgentError("bad_request", f"{received} bytes are not what was sent")

        return bytes(self.data[received - self.start :])


class Kept:
    """Programs by the token their host gave them, until it cannot ask for them any more."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.programs: dict[str, Process] = {}
        self.timers: dict[str, Callable[[], None]] = {}

    def reset(self, program: Process) -> bool:
        """Its stream is gone. Whether it is kept, for a while."""
        if self.programs.get(program.token) is not program:
            return False

        self.timers[program.token] = self.loop.after(KEEP_SECONDS, lambda: self.expire(program))
        return True

    def expire(self, program: Process) -> None:
        self.forget(program)
        program.abandon()

    def found(self, token: str) -> None:
        """Somebody has asked for it."""
        cancel = self.timers.pop(token, None)
        if cancel is not None:
            cancel()

    def forget(self, program: Process) -> None:
        if self.programs.get(program.token) is program:
            self.found(program.token)
            del self.programs[program.token]

    def give_up(self) -> None:
        """This guest is another from now on: who could ask is with the one that it was."""
        waiting = [self.programs[token] for token in self.timers]
        for program in waiting:
            self.expire(program)

        self.programs.clear()


def serve_resume(port: Port, request: Body) -> Body | None:
    token = required(request, "token", str)
    program = port.agent.kept.programs.get(token)
    if program is None:
        port.send(RESET)
        return None

    missing, allowed = {}, {}
    for kind, name in OUTPUTS:
        journal = program.journals[kind]
        received, credit = field(request, name, 0), field(request, f"{name}_credit", WINDOW)
        missing[kind] = journal.after(received)
        allowed[kind] = credit - len(missing[kind])
        # Credit that was lost on its way.
        journal.dealt_with(received + credit - WINDOW - journal.start)

    port.agent.kept.found(token)
    program.carry_on(port, missing, allowed, announce=request["request"] == "resume")
    return None
