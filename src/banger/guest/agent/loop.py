"""Waiting for many descriptors and timers at once, at no cost."""

from __future__ import annotations

import posix as os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """Handlers by descriptor, edge-triggered: each goes on until the kernel says it would block.

    A port nobody is connected to polls as hung up for ever; only edges make it possible to wait.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def add(self, fd: int, handler: Callable[[int], None]) -> None:
        os.set_blocking(fd, False)
        self.handlers[fd] = handler
        self.epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def close(self, fd: int) -> None:
        del self.handlers[fd]
        self.epoll.unregister(fd)
        os.close(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Have `action` called once; returns a function that takes that back."""
        timer = (time.monotonic() + seconds, action)
        self.timers.append(timer)

        def cancel() -> None:
            if timer in self.timers:
                self.timers.remove(timer)

        return cancel

    def run(self) -> None:
        while True:
            for fd, events in self.epoll.poll(self.patience()):
                handler = self.handlers.get(fd)
                if handler is not None:
                    self.guarded(handler, events)

            for timer in self.timers[:]:
                if timer[0] <= time.monotonic() and timer in self.timers:
                    self.timers.remove(timer)
                    self.guarded(timer[1])

    def patience(self) -> float | None:
        if not self.timers:
            return None

        return max(0.0, min(when for when, _ in self.timers) - time.monotonic())

    @staticmethod
    def guarded(action: Callable[..., None], *arguments: int) -> None:
        try:
            action(*arguments)
        except Exception:
            # The failure of one stream must not end all the others.
            sys.excepthook(*sys.exc_info())
