"""JSON (RFC 8259), read and written."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAX_DEPTH = 32
ESCAPES = dict(zip('"\\/bfnrt', '"\\/\b\f\n\r\t'))
WORDS = {"true": True, "false": False, "null": None}
NUMBER = frozenset("+-.0123456789eE")
HEX = frozenset("0123456789abcdefABCDEF")


class JsonReader:
    """Reads one text; raises ValueError when it cannot. Lenient where that does no harm."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def read(self) -> Any:  # noqa: ANN401 - as with any JSON
        value = self.value(0)
        if self.peek():
            raise ValueError("there is more after the value")

        return value

    def peek(self) -> str:
        while self.text[self.at : self.at + 1] in (" ", "\t", "\n", "\r"):
            self.at += 1

        return self.text[self.at : self.at + 1]

    def expect(self, characters: str) -> str:
        found = self.peek()
        if not found or found not in characters:
            raise ValueError(f"one of {characters} is missing at {self.at}")

        self.at += 1
        return found

    def value(self, depth: int) -> object:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deep")

        start = self.peek()
        if start == "{":
            return dict(self.pairs(depth + 1))

        if start == "[":
            return list(self.items(depth + 1))

        return self.string() if start == '"' else self.scalar()

    def pairs(self, depth: int) -> Iterator[tuple[str, object]]:
        for _ in self.separated("{", "}"):
            key = self.string()
            self.expect(":")
            yield key, self.value(depth)

    def items(self, depth: int) -> Iterator[object]:
        for _ in self.separated("[", "]"):
            yield self.value(depth)

    def separated(self, opening: str, closing: str) -> Iterator[None]:
        self.expect(opening)
        if self.peek() == closing:
            self.at += 1
            return

        yield
        while self.expect("," + closing) == ",":
            yield

    def string(self) -> str:
        self.expect('"')
        parts = []
        while True:
            end = self.text.find('"', self.at)
            if end < 0:
                raise ValueError("a string has no end")

            escape = self.text.find("\\", self.at, end)
            parts.append(self.text[self.at : end if escape < 0 else escape])
            if escape < 0:
                self.at = end + 1
                return join_surrogates("".join(parts))

            self.at = escape + 1
            parts.append(self.escaped())

    def escaped(self) -> str:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        if letter != "u":
            if letter not in ESCAPES:
                raise ValueError(f"there is no escape like the one at {self.at}")

            return ESCAPES[letter]

        digits = self.text[self.at : self.at + 4]
        if len(digits) < 4 or not HEX.issuperset(digits):
            raise ValueError(f"the escape at {self.at} is broken")

        self.at += 4
        return chr(int(digits, 16))

    def scalar(self) -> object:
        for word, value in WORDS.items():
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value

        start = self.at
        while self.text[self.at : self.at + 1] in NUMBER:
            self.at += 1

        number = self.text[start : self.at]
        return int(number) if number.lstrip("-").isdigit() else float(number)


def join_surrogates(text: str) -> str:
    r"""Two \u escapes may be the halves of one character; lone ones stay, as in PEP 383."""
    if text.isascii():
        return text

    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def to_json(value: object) -> str:
    """`value`, made of dicts, lists, strings, numbers, booleans and None, as ASCII."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]

    if isinstance(value, str):
        if value.isascii() and value.isprintable() and not ('"' in value or "\\" in value):
            return f'"{value}"'

        return '"' + "".join(map(json_character, value)) + '"'

    if isinstance(value, dict):
        pairs = [f"{to_json(key)}:{to_json(item)}" for key, item in value.items()]
        return "{" + ",".join(pairs) + "}"

    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(to_json, value)) + "]"

    return repr(value)


def json_character(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character

    if 32 <= code < 127:
        return character

    if 0xD800 <= code < 0xE000:
        # A byte that is not UTF-8; no strict reader would take it.
        return "\\ufffd"

    if code < 0x10000:
        return f"\\u{code:04x}"

    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
