"""The way out of a raw terminal whose other end does not answer: `~.`, as with ssh(1)."""

from __future__ import annotations

_TILDE, _DOT = b"~", b"."
_LINE_ENDS = b"\r\n"


class Escape:
    """Looks at what is typed. A tilde counts at the beginning of a line only; two mean one."""

    def __init__(self) -> None:
        self.left = False
        self._line_begins = True
        self._tilde = False

    def pass_on(self, typed: bytes) -> bytes:
        """What of `typed` is for the program; `left` is set when the rest was for us."""
        passed = bytearray()
        for byte in typed:
            key = bytes((byte,))
            if self._tilde and key == _DOT:
                self.left = True
                break

            if self._tilde:
                self._tilde = False
                passed += _TILDE if key != _TILDE else b""
            elif self._line_begins and key == _TILDE:
                self._tilde = True
                continue

            passed += key
            self._line_begins = key in _LINE_ENDS

        return bytes(passed)
