"""YAML that people write: plain values of bounded size, and where in the text each of them stands.

What is wrong is told by its place alone, never by the text: a file that is no YAML may be anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import yaml

from landseg.contracts.errors import ContractError

MAX_YAML_BYTES = 1 << 20
"""No dataset.yaml comes near this."""
_MAX_EVENTS = 20_000
_MAX_DEPTH = 32
_MAX_DIGITS = 100
_NUMBER = re.compile(r"[-+]?[0-9][0-9a-fA-FxXob_:.]*")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SPACES = "indent with spaces"
_QUOTE = "put the value in quotes"
_KEY_VALUE = "write each line as `key: value`, with a space, and lines of one level indented alike"
_CLOSE = "close it, and put values with # or brackets in them in quotes"
_FAULTS = {
    r"found character '\\t'": ("a tab where only spaces may be", _SPACES),
    r"found character '.'": ("a character that values cannot begin with", _QUOTE),
    "mapping values are not allowed": ("a colon out of place", f"{_KEY_VALUE}; a value that holds a colon in quotes"),
    "could not find expected ':'": ("a line without a colon and a space behind it", _KEY_VALUE),
    "expected ',' or '[]}]'": (
        "a list or map in brackets that does not end",
        "close it; # begins a comment unless quoted",
    ),
    "found unexpected end of stream": ("a value in quotes that does not end", "close the quotes"),
    "found unexpected document separator": ("a value in quotes that does not end", "close the quotes"),
    "expected <block end>, but found '<scalar>'": ("text behind a value in quotes", "double a ' inside of '...'"),
    "expected <block end>": ("a line indented unlike those above", "indent lines of one level alike"),
    "found unknown escape character": ("a backslash in double quotes", "use single quotes"),
    "expected the node content": ("a key, a comma or a bracket without a value", "add the value, or remove it"),
    "but found another document": ("a second document", "remove the line of ---"),
}
"""What PyYAML says, as a pattern: what it means, and what to do."""


class Scalar(NamedTuple):
    """A value as it is written: its text, whether in quotes, and its line from 1."""

    text: str
    is_quoted: bool
    line: int


class YamlText:
    """A document that was parsed: its value, and the text of each part of it.

    Attributes:
        value: plain values; lists that are keys are tuples.
    """

    def __init__(self, value: Any, root: yaml.Node | None) -> None:
        self.value, self._root = value, root

    def line(self, path: Iterable[object]) -> int:
        """The line, from 1, of the deepest part of a path that is there; 0 if none is."""
        node, key = self._find(path)
        mark = (key or node).start_mark if node is not None else None
        return 0 if mark is None or node is self._root else mark.line + 1

    def scalar(self, path: Iterable[object]) -> Scalar | None:
        """The text of a plain value; None where there is none."""
        parts = list(path)
        node, _ = self._find(parts, whole=True)
        if not isinstance(node, yaml.ScalarNode):
            return None
        return Scalar(node.value, node.style is not None, node.start_mark.line + 1)

    def _find(self, path: Iterable[object], *, whole: bool = False) -> tuple[yaml.Node | None, yaml.Node | None]:
        """The node of a path and that of its key; with `whole` only if all of the path is there."""
        node, key = self._root, None
        for part in path:
            found: tuple[yaml.Node | None, yaml.Node | None] = (None, None)
            if isinstance(node, yaml.MappingNode):
                found = next(((v, k) for k, v in node.value if k.value == str(part)), found)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = node.value[part], None
            if found[0] is None:
                return (None, None) if whole else (node, key)
            node, key = found
        return node, key


def parse_yaml(data: bytes, where: object) -> Any:
    """The value of a document: see :func:`read_yaml`."""
    return read_yaml(data, where).value


def read_yaml(data: bytes, where: object) -> YamlText:
    """Parse YAML of bounded size and structure: plain values, without tags that build objects, aliases or merge keys.

    Args:
        data: UTF-8, or UTF-16 with its mark; any line ends.
        where: the file, for the error line.

    Raises:
        ContractError: larger than 1 MiB, not YAML, or more than plain values.
    """
    if len(data) > MAX_YAML_BYTES:
        raise ContractError(where, f"expected at most {MAX_YAML_BYTES >> 20} MiB of YAML, found {len(data)} bytes")
    text = _decoded(data, where)
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                action = f"write the value out, or {_QUOTE} if it begins with & or *"
                problem = f"expected no anchors and aliases, found one {_place(event.start_mark)}"
                raise ContractError(where, problem, action)
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.style is None:
                problem = f"expected no merge keys, found one {_place(event.start_mark)}"
                raise ContractError(where, problem, "write the values out")
            if isinstance(event, yaml.ScalarEvent) and _is_long_number(event):
                problem = f"expected numbers of at most {_MAX_DIGITS} digits, found one of {len(event.value)}"
                raise ContractError(where, f"{problem} {_place(event.start_mark)}", _QUOTE)
            if number > _MAX_EVENTS:
                raise ContractError(where, f"expected at most {_MAX_EVENTS} values, found more")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:  # PyYAML looks at all open levels for each token
                raise ContractError(where, f"expected lists and mappings up to {_MAX_DEPTH} deep, found deeper")
        return YamlText(yaml.load(text, Loader=_PlainLoader), yaml.compose(text, Loader=yaml.SafeLoader))
    except ContractError:
        raise
    except Exception as err:  # PyYAML raises KeyError, IndexError and others on odd scalars
        raise ContractError(where, *_fault(err)) from err


def _is_long_number(event: yaml.ScalarEvent) -> bool:
    """Whether a value is a number that Python may refuse to write: YAML has digits to base 16 and 60, too."""
    may_be_number = event.style is None or event.tag is not None
    return len(event.value) > _MAX_DIGITS and may_be_number and _NUMBER.fullmatch(event.value) is not None


def _decoded(data: bytes, where: object) -> str:
    """The text; PyYAML would say of bytes only that they cannot be decoded."""
    try:
        text = data.decode("utf-16" if data[:2] in _UTF16 else "utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        found = "a damaged one in UTF-16" if data[:2] in _UTF16 else f"a byte in line {line} that is not"
        raise ContractError(where, f"expected a text in UTF-8, found {found}", "save the file as UTF-8") from err
    if "\0" in text:
        raise ContractError(where, "expected a text in UTF-8, found zero bytes in it", "save the file as UTF-8")
    return text


def _fault(err: Exception) -> tuple[str, str]:
    """What is wrong with the text, and what to do."""
    mark = getattr(err, "problem_mark", None)
    said = str(getattr(err, "problem", ""))
    if isinstance(err, _OddKeyError):
        return f"expected YAML, found {said} {_place(mark)}", "remove one of the two" if "twice" in said else ""
    for pattern, (found, action) in _FAULTS.items():
        if mark and re.match(pattern, said):
            begun = getattr(err, "context_mark", None) if "does not end" in found else None
            return f"expected YAML, found {found}, {_place(begun or mark)}", action
    return f"expected YAML, found {f'something else {_place(mark)}' if mark else 'a value that cannot be read'}", ""


class _OddKeyError(yaml.constructor.ConstructorError):
    """A key that no plain map has; its `problem` says which."""


class _PlainLoader(yaml.SafeLoader):
    """Lists may be keys (`[20, 30]: shrub`), as tuples; a key given twice is refused: PyYAML would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            is_list = isinstance(key_node, yaml.SequenceNode)
            key = (
                _as_tuple(self.construct_sequence(key_node, deep=True)) if is_list else self.construct_object(key_node)
            )
            if isinstance(key, dict):
                raise _OddKeyError(None, None, "a map as a key", key_node.start_mark)
            if key in result:
                said = f"a key given twice, in line {lines[key]} and"
                raise _OddKeyError(None, None, said, key_node.start_mark)
            result[key] = self.construct_object(value_node, deep=deep)
            lines[key] = key_node.start_mark.line + 1
        return result


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _place(mark: Any) -> str:
    return f"in line {mark.line + 1}, column {mark.column + 1}"
