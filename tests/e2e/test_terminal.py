"""On a terminal: the guest has one too, of the same size, and Ctrl-C reaches it."""

from __future__ import annotations

import signal

from tests.e2e.harness import Banger, eventually
from tests.e2e.terminal import Terminal


def test_a_shell_gets_a_terminal_of_the_right_size_that_follows_the_window(
    shared: Banger,
) -> None:
    with Terminal(shared, "vm", "ssh", "box", rows=31, columns=97) as terminal:
        terminal.expect("root@box")
        terminal.type("tty && stty size\n")
        terminal.expect("/dev/pts/")
        terminal.expect("31 97")
        terminal.resize(40, 100)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.type("sleep 0.5; stty size\n")
        terminal.expect("40 100")
        terminal.type("exit 7\n")
        assert terminal.wait() == 7


def test_control_c_ends_the_guests_command_and_not_the_shell(shared: Banger) -> None:
    with Terminal(shared, "vm", "ssh", "box") as terminal:
        terminal.expect("root@box")
        terminal.type("sleep 1000; echo status-$?\n")
        eventually(lambda: _sleeping(shared, "1000"), "the guest sleeps")
        terminal.type("\x03")
        terminal.expect("root@box")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3

    eventually(lambda: not _sleeping(shared, "1000"), "the sleep is gone")


def test_control_c_without_a_shell_ends_the_command_in_the_guest(shared: Banger) -> None:
    with Terminal(shared, "vm", "ssh", "box", "--", "sleep", "2000") as terminal:
        eventually(lambda: _sleeping(shared, "2000"), "the guest sleeps")
        terminal.type("\x03")
        assert terminal.wait() != 0

    eventually(lambda: not _sleeping(shared, "2000"), "the sleep is gone")


def test_an_interrupt_sent_without_a_terminal_ends_the_command_in_the_guest(
    shared: Banger,
) -> None:
    run = shared.start("vm", "ssh", "box", "--", "sleep", "3000")
    eventually(lambda: _sleeping(shared, "3000"), "the guest sleeps")
    run.send_signal(signal.SIGINT)

    assert run.wait(60) != 0
    eventually(lambda: not _sleeping(shared, "3000"), "the sleep is gone")


def test_run_without_a_command_is_a_shell_and_rm_deletes_the_vm_after_it(
    banger: Banger,
) -> None:
    with Terminal(banger, "vm", "run", "--rm", "--name", "shell") as terminal:
        terminal.expect("root@shell")
        terminal.type("exit 5\n")
        assert terminal.wait() == 5

    assert banger.leftovers() == []


def _sleeping(banger: Banger, seconds: str) -> bool:
    return banger.run("vm", "ssh", "box", "--", "pgrep", "-fx", f"sleep {seconds}").status == 0
