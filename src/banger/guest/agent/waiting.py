"""A request that is not answered: its stream tells the host of the guest's end."""

from __future__ import annotations


class Waiting:
    """The stream of such a request."""

    def on_frame(self, kind: int, payload: bytes) -> None:
        """There is nothing to say meanwhile."""

    def advance(self) -> None:
        """Nothing moves."""

    def abandon(self) -> None:
        """Nothing is to be taken back."""
