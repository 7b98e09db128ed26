"""TOML that is read key by key, strictly, with the line of everything that is wrong in it.

`read_toml` gives a `Table`. `only` complains about keys that mean nothing, so that a typing mistake is not
silently a default; the other methods take one key each and complain about the wrong type, range or word.
Every complaint is a ConfigError of one line, `FILE:LINE: what is wrong and what is allowed`.

tomllib knows on which line a key stands, and does not tell. So `line_numbers` walks a text that tomllib has
accepted: it checks nothing and only has to know where keys, strings and brackets begin and end. A path is
what leads to a value in tomllib's result: keys are str, positions in arrays are int, `("steps", 2, "when")`.
Every path of the result is found, that of a table at its header or, if it has none, where a dotted key first
mentions it.

Left out: columns, and where a value ends.
"""

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from cluster.errors import ConfigError

CHARS_MAX: Final = 64 << 10  # the longest scenario of ours has 4 kB
SHOWN_CHARS_MAX: Final = 40
MESSAGE_CHARS_MAX: Final = 500
Path = tuple[str | int, ...]
_Value = TypeVar("_Value")
_Word = TypeVar("_Word", bound=str)

_BLANK = " \t"
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


# -- reading -----------------------------------------------------------------------------------------------


def read_toml(text: str, file: str) -> "Table":
    """The text's root table. ConfigError if it is not TOML; its line is tomllib's."""
    file = one_line(file)
    if len(text) > CHARS_MAX:
        raise ConfigError(f"{file}:1: longer than {CHARS_MAX >> 10} kB; this is no scenario")
    try:
        values = tomllib.loads(text)  # first: line_numbers walks valid TOML only
        return Table(_Source(file, line_numbers(text), values), ())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}:{_not_toml(str(error), text)}") from None
    except ValueError as error:  # a whole number of more digits than Python converts
        raise ConfigError(f"{file}:1: not TOML: {one_line(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{file}:1: nested too deeply; this is no scenario") from None


def _not_toml(message: str, text: str) -> str:
    """tomllib's message with its line in front."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    what, line = (match[1], match[2]) if match else (message, None)
    return f"{line or text.count(chr(10), 0, len(text) - 1) + 1}: not TOML: {one_line(what)}"


def one_line(text: str) -> str:
    """Without line ends and other characters that would move the cursor."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))


def shown(value: object) -> str:
    """A value as a message may quote it: short, and on one line."""
    if isinstance(value, int) and abs(value) > 1 << 64:
        return "a number that large"
    if isinstance(value, bool):
        return str(value).lower()
    return _clipped(one_line(repr(value) if isinstance(value, str) else str(value)))


def _clipped(text: str, most: int = SHOWN_CHARS_MAX) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def listed(words: Iterable[str]) -> str:
    return ", ".join(words)


_NAMES: Final[dict[type, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a fraction",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


@dataclass(frozen=True, slots=True)
class _Source:
    file: str
    lines: Mapping[Path, int]
    values: dict[str, Any]


class Table:
    """One TOML table. `None` as a default: the key must be there."""

    def __init__(self, source: _Source, path: Path) -> None:
        self._source = source
        self._path = path
        values: Any = source.values
        for key in path:
            values = values[key]
        self._values: dict[str, Any] = values

    @property
    def line(self) -> int:
        return self._source.lines[self._path]

    def line_of(self, key: str) -> int:
        """The key's line; that of the table if it is not there."""
        return self._source.lines.get((*self._path, key), self.line)

    def fail(self, text: str, key: str | None = None, index: int | None = None) -> NoReturn:
        """ConfigError at the line of the key (of the element, of the table)."""
        line = self.line if key is None else self.line_of(key)
        if key is not None and index is not None:
            line = self._source.lines.get((*self._path, key, index), line)
        where = f"{_clipped(key)}: " if key is not None else ""
        message = _clipped(one_line(where + text), MESSAGE_CHARS_MAX)
        raise ConfigError(f"{self._source.file}:{line}: {message}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def only(self, *keys: str) -> None:
        """There are no other keys than these."""
        for key in self._values:
            if key not in keys:
                self.fail(f"is unknown here; there are {listed(keys)}", key)

    def take(self, key: str, kind: type[_Value], default: _Value | None = None) -> _Value:
        if key not in self._values:
            if default is None:
                self.fail(f"{key} is missing; it must be {_NAMES[kind]}")
            return default
        return self._typed(key, self._values[key], kind)

    def number(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self.take(key, int, default)
        if key in self._values and not least <= value <= most:
            self.fail(f"must be from {least} to {most}, not {shown(value)}", key)
        return value

    def word(self, key: str, words: Sequence[_Word], default: _Word | None = None) -> _Word:
        value = self.take(key, str, None if default is None else str(default))
        return self._known(key, value, words)

    def numbers(self, key: str, least: int, most: int, default: list[int]) -> list[int]:
        values = self.take(key, list, default)
        numbers = [self._typed(key, value, int, index) for index, value in enumerate(values)]
        for index, number in enumerate(numbers):
            if not least <= number <= most:
                self.fail(f"must be from {least} to {most}, not {shown(number)}", key, index)
        return numbers

    def texts(self, key: str, default: list[str]) -> list[str]:
        values = self.take(key, list, default)
        return [self._typed(key, value, str, index) for index, value in enumerate(values)]

    def words(self, key: str, words: Sequence[_Word], default: list[str]) -> list[_Word]:
        """A list of different words."""
        found: list[_Word] = []
        for index, value in enumerate(self.texts(key, default)):
            word = self._known(key, value, words, index)
            if word in found:
                self.fail(f"{word} is named twice", key, index)
            found.append(word)
        return found

    def table(self, key: str) -> "Table":
        """A table within this one; one that is not there is empty, and stands where this one does."""
        self.take(key, dict, {})
        if key not in self._values:
            empty = Table(self._source, self._path)
            empty._values = {}
            return empty
        return Table(self._source, (*self._path, key))

    def tables(self, key: str) -> list["Table"]:
        values = self.take(key, list, [])
        for index, value in enumerate(values):
            self._typed(key, value, dict, index)
        return [Table(self._source, (*self._path, key, index)) for index in range(len(values))]

    def _typed(self, key: str, value: Any, kind: type[_Value], index: int | None = None) -> _Value:
        if type(value) is not kind:  # bool is an int, but not here
            quoted = type(value) in (str, int, float, bool)
            said = shown(value) if quoted else _NAMES.get(type(value), "a time")
            self.fail(f"must be {_NAMES[kind]}, not {said}", key, index)
        return value

    def _known(self, key: str, value: str, words: Sequence[_Word], index: int | None = None) -> _Word:
        known = next((word for word in words if word == value), None)
        if known is None:
            self.fail(f"{shown(value)} is unknown; there are {listed(words)}", key, index)
        return known


# -- lines -------------------------------------------------------------------------------------------------


def line_numbers(text: str) -> dict[Path, int]:
    """Line, from 1, of every key, table and array element. `text` must be valid TOML. RecursionError if it is
    nested as deeply as only nonsense is.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
        self._lines: dict[Path, int] = {(): 1}
        self._sizes: dict[Path, int] = {}  # of arrays of tables, so far

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_space():
            if self._text.startswith("[[", self._at):
                table = self._array_header()
            elif self._text[self._at] == "[":
                table = self._table_header()
            else:
                self._pair(table)
        return self._lines

    # -- statements ----------------------------------------------------------------------------------------

    def _array_header(self) -> Path:
        at = self._at
        self._at += 2
        *parents, last = self._key()
        self._at += 2
        array = (*self._within((), parents, at), last)
        index = self._sizes.get(array, 0)
        self._sizes[array] = index + 1
        self._note(array, at)
        self._note((*array, index), at)
        return (*array, index)

    def _table_header(self) -> Path:
        at = self._at
        self._at += 1
        keys = self._key()
        self._at += 1
        return self._within((), keys, at)

    def _within(self, table: Path, keys: list[str], at: int) -> Path:
        """The path of `keys` in a table; a key that names an array of tables means its last one so far."""
        for key in keys:
            table = (*table, key)
            self._note(table, at)
            if table in self._sizes:
                table = (*table, self._sizes[table] - 1)
        return table

    def _pair(self, table: Path) -> None:
        at = self._at
        path = self._within(table, self._key(), at)
        self._at += 1  # the equals sign
        self._value(path)

    def _note(self, path: Path, at: int) -> None:
        self._lines.setdefault(path, bisect_right(self._line_starts, at))

    # -- keys ----------------------------------------------------------------------------------------------

    def _key(self) -> list[str]:
        """The parts of a dotted key; ends on what follows it and its blanks."""
        parts = [self._key_part()]
        while self._text[self._at] == ".":
            self._at += 1
            parts.append(self._key_part())
        return parts

    def _key_part(self) -> str:
        self._skip_blank()
        quote = self._text[self._at]
        if quote in "\"'":
            part = self._string()
        else:
            begin = self._at
            while self._text[self._at] not in " \t.=]":
                self._at += 1
            part = self._text[begin : self._at]
        self._skip_blank()
        return part

    # -- values --------------------------------------------------------------------------------------------

    def _value(self, path: Path) -> None:
        self._skip_blank()
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:  # a number, a date or a word: none of them holds a character that may follow it
            while self._at < len(self._text) and self._text[self._at] not in ",]}#\n":
                self._at += 1

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip_space() and self._text[self._at] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip_space() and self._text[self._at] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._pair(path)
        self._at += 1

    def _string(self) -> str:
        """Step over a string of any of the four kinds. The text is right for the kinds that a key can be."""
        quote = self._text[self._at]
        if self._text.startswith(quote * 3, self._at):
            return self._long_string(quote)
        self._at += 1
        parts = []
        while (char := self._text[self._at]) != quote:
            parts.append(self._escape() if char == "\\" and quote == '"' else char)
            self._at += 1
        self._at += 1
        return "".join(parts)

    def _long_string(self, quote: str) -> str:
        self._at += 3
        while not self._text.startswith(quote * 3, self._at):
            self._at += 2 if self._text[self._at] == "\\" and quote == '"' else 1
        self._at += 3
        for _ in range(2):  # up to two quotes more belong to the string
            if self._text.startswith(quote, self._at):
                self._at += 1
        return ""

    def _escape(self) -> str:
        """The character that a backslash begins; ends on the last one of the escape."""
        self._at += 1
        char = self._text[self._at]
        if char in _ESCAPES:
            return _ESCAPES[char]
        digits = 4 if char == "u" else 8
        code = self._text[self._at + 1 : self._at + 1 + digits]
        self._at += digits
        return chr(int(code, 16))

    # -- between -------------------------------------------------------------------------------------------

    def _skip_blank(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _BLANK:
            self._at += 1

    def _skip_space(self) -> bool:
        """Step over blanks, line ends and comments. False at the end of the text."""
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif char in " \t\n":
                self._at += 1
            else:
                return True
        return False
