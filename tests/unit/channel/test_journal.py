"""What has to be sent again: no more than the agent lacks, and all of that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.channel.frames import FrameError
from banger.channel.journal import Journal


def test_nothing_that_an_agent_says_makes_up_frames() -> None:
    journal = Journal()
    journal.add(b"one", 3)
    journal.add(b"two")
    assert journal.after(1) == [b"two"]
    for taken in (-1, 3, 1 << 32):
        with pytest.raises(FrameError):
            journal.after(taken)


def test_what_follows_the_input_that_was_read_is_kept() -> None:
    """A signal may be on its way still when all of the input before it was taken."""
    journal = Journal()
    journal.add(b"input", 5)
    journal.add(b"signal")
    journal.consumed(5)
    assert journal.after(1) == [b"signal"]
    with pytest.raises(FrameError):
        journal.after(0)


@given(st.lists(st.integers(0, 9), max_size=30), st.data())
def test_frames_are_forgotten_only_when_they_were_taken(
    sizes: list[int], data: st.DataObject
) -> None:
    """An agent takes frames in order, and credits input no sooner than it was taken."""
    journal = Journal()
    for number, size in enumerate(sizes):
        journal.add(bytes([number]), size)

    taken = data.draw(st.integers(0, len(sizes)))
    arrived = sum(sizes[:taken])
    read = data.draw(st.integers(0, arrived))
    first = data.draw(st.integers(0, read))
    journal.consumed(first)
    journal.consumed(read - first)

    assert journal.after(taken) == [bytes([number]) for number in range(taken, len(sizes))]
