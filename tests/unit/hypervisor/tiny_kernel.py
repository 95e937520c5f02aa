"""A kernel of some bytes that QEMU boots in no time: enough to power off, reboot or fill a console.

An ELF file with a PVH entry (xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY), so it starts
in 32-bit protected mode. The registers are those of QEMU's ACPI generic event device on microvm.
"""

from __future__ import annotations

import struct

_LOAD_ADDRESS = 0x100000

# include/hw/i386/microvm.h: GED_MMIO_BASE_REGS; include/hw/acpi/generic_event_device.h.
_SLEEP_CONTROL = 0xFEA00200
_RESET = _SLEEP_CONTROL + 2
_SERIAL = 0x3F8

# In memory that nothing else uses.
_COUNTER = 0x200000
_FREE = 0x400000

_WAIT = bytes.fromhex("f4 ebfd")  # hlt; jmp back


def power_off() -> bytes:
    """A kernel that enters ACPI state S5, not before QEMU's main loop had time to start."""
    return _elf(_delay(100_000_000) + _store(_SLEEP_CONTROL, 5 << 2 | 0x20) + _WAIT)


def reboot() -> bytes:
    """A kernel that writes one letter to its console and resets the machine."""
    return _elf(_put("b") + _store(_RESET, 0x42) + _WAIT)


def reboot_later() -> bytes:
    """A kernel that says nothing, and resets the machine after some time."""
    return _elf(_delay(400_000_000) + _store(_RESET, 0x42) + _WAIT)


def alphabet() -> bytes:
    """A kernel that goes on writing the alphabet; where it is, it keeps in memory."""
    # mov al, [counter]; inc al; cmp al, 26; jb past; xor al, al; past: mov [counter], al
    count = struct.pack("<BI", 0xA0, _COUNTER) + bytes.fromhex("fec0 3c1a 7202 30c0")
    keep = struct.pack("<BI", 0xA2, _COUNTER)
    # add al, 'a'; mov dx, port; out dx, al
    put = struct.pack("<BBBBHB", 0x04, ord("a"), 0x66, 0xBA, _SERIAL, 0xEE)
    turn = _delay(1_000_000) + count + keep + put
    return _elf(turn + struct.pack("<Bb", 0xEB, -len(turn) - 2))


def full(size: int) -> bytes:
    """A kernel that fills `size` bytes of memory with something, and then is as `idle`."""
    # mov edi, address; mov ecx, count; mov eax, something; rep stosd
    fill = struct.pack("<BIBIBI", 0xBF, _FREE, 0xB9, size // 4, 0xB8, 0x5A5A5A5A)
    return _elf(fill + bytes.fromhex("f3ab") + _put("u") + _put("p") + _put("\n") + _WAIT)


def idle() -> bytes:
    """A kernel that writes `up` to its console and does nothing more."""
    return _elf(_put("u") + _put("p") + _put("\n") + _WAIT)


def _delay(turns: int) -> bytes:
    # mov ecx, turns; loop back
    return struct.pack("<BI", 0xB9, turns) + bytes.fromhex("e2fe")


def _put(letter: str) -> bytes:
    # mov dx, port; mov al, letter; out dx, al
    return struct.pack("<BBHBBB", 0x66, 0xBA, _SERIAL, 0xB0, ord(letter), 0xEE)


def _store(address: int, value: int) -> bytes:
    # mov byte ptr [address], value
    return struct.pack("<BBIB", 0xC6, 0x05, address, value)


def _elf(code: bytes) -> bytes:
    headers = 64 + 2 * 56
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", _LOAD_ADDRESS)
    body = code + bytes(-len(code) % 16)
    load = struct.pack(
        "<IIQQQQQQ", 1, 7, headers, _LOAD_ADDRESS, _LOAD_ADDRESS, len(body), len(body), 16
    )
    at = headers + len(body)
    notes = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(note), len(note), 4)
    identification = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    rest = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _LOAD_ADDRESS, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    return identification + rest + load + notes + body + note
