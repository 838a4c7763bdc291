"""What is wrong with the fields of `dataset.yaml`, in the file's words: the line, what YAML read, what to write."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from landseg.contracts.documents import short_repr
from landseg.contracts.yaml_documents import Scalar, YamlText

_OTHER_NAMES = {
    **dict.fromkeys(("names", "class_names", "classnames", "categories", "class", "label_names"), "classes"),
    **dict.fromkeys(("colors", "colours", "colormap", "color_map", "class_colors"), "palette"),
    **dict.fromkeys(("ignore", "ignore_value", "ignore_label", "ignored"), "ignore_index"),
    **dict.fromkeys(("nodata_value", "no_data"), "nodata"),
    **dict.fromkeys(("channels", "band", "bandlist"), "bands"),
    **dict.fromkeys(("img_suffix", "images_suffix"), "image_suffix"),
    **dict.fromkeys(("seg_map_suffix", "mask_suffix", "labels_suffix"), "label_suffix"),
    **dict.fromkeys(("label_map", "class_map", "mapping"), "label_values"),
    **dict.fromkeys(("color_mapping", "colour_map"), "label_colours"),
    **dict.fromkeys(("tile_size", "tiles", "scene"), "scenes"),
    **dict.fromkeys(("title", "dataset"), "name"),
}
"""Fields of other programs, and what they are called here."""
_IN_OTHER_WORDS = {
    "reduce_zero_label": "if it is true, label_offset: 1 with ignore_index: 0",
    **{part: f"scenes: {{{part}: ...}}" for part in ("max_px", "tile_px", "overlap_px")},
}
"""Fields that are no names of others, and what says the same here."""
_NEEDLESS = {"nc", "num_classes", "path", "train", "val", "test"}
_EXAMPLES = {"version": "version: 1", "name": "name: my-data", "classes": "classes: [background, water]"}
_MAPS = {"scale": "scale: {method: range, low: 0, high: 4000}", "scenes": "scenes: {max_px: 512}"}
_LISTS = {
    "palette": "palette: [[255, 0, 0], '#00ff00']",
    "bands": "bands: [3, 2, 1]",
    "band_names": "band_names: [red, nir]",
}
_PARTS = {"scale": ("method", "low", "high"), "scenes": ("max_px", "tile_px", "overlap_px")}
_MOST_UNKNOWN = 8
_MOST_SHOWN = 3
_LONGEST = 200
_NAME_CHARACTERS = re.compile(r"[^A-Za-z0-9 ._-]+")

Error = Mapping[str, Any]


def describe_problems(err: ValidationError, text: YamlText, fields: Sequence[str]) -> str:
    """All fields at fault, each with its line and what to write.

    Args:
        err: what validation found.
        text: the document.
        fields: the fields that there are.
    """
    by_field: dict[str, list[Error]] = {}
    for error in err.errors(include_url=False):
        by_field.setdefault(str(error["loc"][0]) if error["loc"] else "", []).append(error)
    unknown = [name for name, errors in by_field.items() if _is_unknown(errors[0])]
    meant = {name: _similar(name, fields) for name in unknown}
    for name in set(meant.values()):  # what is misspelt is not missing as well
        if name in by_field and by_field[name][0]["type"] == "missing":
            del by_field[name]
    said = [_about(name, errors, text, fields) for name, errors in by_field.items() if name not in unknown]
    said += [_about_unknown(name, meant[name], text, fields) for name in unknown[:_MOST_UNKNOWN]]
    if len(unknown) > _MOST_UNKNOWN:
        said.append(f"{len(unknown) - _MOST_UNKNOWN} more fields that are not known")
    return "; ".join(said)


def _is_unknown(error: Error) -> bool:
    return bool(error["type"] == "extra_forbidden" and len(error["loc"]) == 1)


def _place(line: int) -> str:
    return f"line {line}: " if line else ""


def _similar(name: str, fields: Sequence[str]) -> str:
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    if plain in fields or _OTHER_NAMES.get(plain) in fields:
        return plain if plain in fields else _OTHER_NAMES[plain]
    close = difflib.get_close_matches(plain, fields, 1, 0.7)
    return close[0] if close else ""


def _about_unknown(name: str, meant: str, text: YamlText, fields: Sequence[str]) -> str:
    shown = short_repr(name).strip("'\"")
    if meant:
        advice = f"write {meant}"
    elif name in _NEEDLESS:
        advice = "remove it: the folders and classes say it"
    elif name in _IN_OTHER_WORDS:
        advice = f"{_IN_OTHER_WORDS[name]} says it"
    else:
        advice = f"the fields are {', '.join(fields)}"
    return f"{_place(text.line([name]))}field {shown} is not known: {advice}"


def _about(name: str, errors: Sequence[Error], text: YamlText, fields: Sequence[str]) -> str:
    """One field: its first problem, and how many more it has."""
    # What is wrong within a list is missing from its length.
    errors = [error for error in errors if error["type"] != "too_short" or len(errors) == 1]
    if not errors[0]["loc"]:
        return _what(errors[0], text)
    if name == "classes" and (said := _about_classes(errors, text)):
        return f"{_place(text.line([name]))}field classes: {said}"
    said = "; ".join(dict.fromkeys(_about_part(error, text, fields) for error in errors[:_MOST_SHOWN]))
    return said + (f", and {len(errors) - _MOST_SHOWN} more in {name}" if len(errors) > _MOST_SHOWN else "")


def _about_part(error: Error, text: YamlText, fields: Sequence[str]) -> str:
    """One problem of one field, or of a part of it."""
    path = [part for part in error["loc"] if not _is_branch(part)]
    field = ".".join(str(part) for part in path)
    place = _place(text.line(path))
    if error["type"] == "missing" and len(path) == 1:
        return f"field {field} is missing" + (f": write {_EXAMPLES[field]}" if field in _EXAMPLES else "")
    if error["type"] == "missing" and isinstance(path[-1], int):
        return f"{place}field {'.'.join(map(str, path[:-1]))}: expected more values, found {path[-1]}"
    if error["type"] == "missing":
        return f"{place}field {field} is missing"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(path[-1]), _PARTS.get(str(path[0]), fields), 1, 0.5)
        return f"{place}field {field} is not known" + (f": write {close[0]}" if close else "")
    return f"{place}field {field}: {_what(error, text)}"


def _is_branch(part: object) -> bool:
    """Whether a part of a path is pydantic's: the variant of a union that it tried."""
    return part in ("range", "percentile", "function-after", "tuple", "float", "int", "str") or "[" in str(part)


def _what(error: Error, text: YamlText) -> str:
    """What was expected and what was found."""
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    path = [part for part in error["loc"] if not _is_branch(part)]
    scalar = text.scalar(path)
    found = f"found {_written(scalar, value, wants_text=kind == 'string_type')}"
    field = str(path[0]) if path else ""
    if kind.startswith("union_tag") or (
        kind in ("model_type", "model_attributes_type", "dict_type") and field in _MAPS
    ):
        methods = "method: range or method: percentile" if field == "scale" else "a map"
        write = _MAPS.get(field, "a map")
        if field == "scale" and isinstance(value, dict) and value.keys() == {"low", "high"}:
            write = f"scale: {flow({'method': 'range'} | {key: _listed(item) for key, item in value.items()})}"
        return f"expected {methods}, {found}: write {write}"
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind == "string_pattern_mismatch" and path == ["name"]:
        plain = _plain_name(str(value))
        allowed = "expected letters a-z and A-Z, digits, spaces, '.', '_' and '-', beginning with a letter or digit"
        return f"{allowed}, {found}" + (f": write name: {plain}" if plain else "")
    if kind == "string_type":
        return f"expected a text, {found}" + (": put it in quotes" if scalar and not scalar.is_quoted else "")
    if kind in ("int_type", "float_type", "bool_type") and scalar and scalar.is_quoted:
        return f"expected a number, {found}: remove the quotes"
    if kind == "string_too_short":
        return f"expected a text, {found}"
    if kind == "int_type" and field == "ignore_index" and isinstance(value, list):
        return f"expected a whole number, {found}: write several in label_values, as `0: ignore`"
    for key, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if key in context:
            return f"expected {words} {context[key]}, {found}"
    if kind in ("too_short", "too_long"):
        count = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"expected {count} values, found {context['actual_length']}"
    if kind == "literal_error":
        quotes = ": remove the quotes" if scalar and scalar.is_quoted and str(value) == context["expected"] else ""
        return f"expected {context['expected']}, {found}{quotes}"
    if kind in ("tuple_type", "list_type"):
        advice = f": write {_LISTS[field]}" if field in _LISTS and len(path) == 1 else ""
        return (
            f"expected a list, {found}{advice}" if field != "scale" else f"expected a number or a list of them, {found}"
        )
    if kind.endswith("_type"):
        wanted = {"int_type": "a whole number", "float_type": "a number"}.get(kind, "")
        return f"expected {wanted}, {found}" if wanted else f"{_lower_first(error['msg'])}, {found}"
    return f"{_lower_first(error['msg'])}, {found}"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _lower_first(message: str) -> str:
    """A message within a sentence; patterns and names in it stay as they are."""
    return message[:1].lower() + message[1:]


def _written(scalar: Scalar | None, value: Any, *, wants_text: bool = True) -> str:
    """A value as it stands in the file, and what YAML makes of it where that is something else than expected."""
    if scalar is None or scalar.is_quoted or isinstance(value, str):
        return short_repr(value)
    shown = short_repr(scalar.text).strip("'\"") or "nothing"
    reads = {bool: f"reads as {str(value).lower()}", type(None): "reads as nothing"}.get(type(value), "")
    if not reads and not wants_text:
        return shown
    if not reads:
        reads = "reads as a number" if isinstance(value, int | float) else f"reads as a {type(value).__name__}"
    return f"{shown}, which YAML {reads}" if shown != "nothing" else "nothing"


def _plain_name(name: str) -> str:
    """The nearest accepted name for a dataset: without accents and signs; "" if nothing is left."""
    folded = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()
    return " ".join(_NAME_CHARACTERS.sub(" ", folded).split()).lstrip(" ._-")[:100]


def _about_classes(errors: Sequence[Error], text: YamlText) -> str:
    """Class names that YAML takes for something else, with the line to write; and what is no list of names."""
    value = text.value.get("classes") if isinstance(text.value, dict) else None
    kinds = {error["type"] for error in errors}
    if kinds == {"string_type"} and isinstance(value, list | dict):
        keys = range(len(value)) if isinstance(value, list) else sorted(value)
        scalars = [text.scalar(["classes", key]) for key in keys]
        wrong = [scalars[error["loc"][1]] for error in errors]
        if all(scalars):
            said = [_written(item, error["input"]) for item, error in zip(wrong, errors, strict=True) if item]
            shown = ", ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")
            names = [item.text for item in scalars if item]
            quoted = [name for item in wrong if item for name in [item.text]]
            return f"expected names, found {shown}: write {_line(names) or 'them in quotes: ' + flow(quoted)}"
        return "expected a list of names: write classes: [background, water], and colours into palette"
    if kinds == {"tuple_type"}:
        names = re.split(r"[,\s]+", value.strip(", ")) if isinstance(value, str) else []
        line = _line(names) if len(names) > 1 else ""
        return f"expected a list of names, found {short_repr(value)}: write {line or 'classes: [background, water]'}"
    return ""


def _line(names: Sequence[str]) -> str:
    line = f"classes: {flow(names)}"
    return line if len(line) <= _LONGEST else ""


def flow(value: object) -> str:
    """A list or map in one line of YAML, with quotes where they are needed; the beginning of a long one."""
    plain = list(value) if isinstance(value, tuple) else value
    written = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1 << 20, sort_keys=False).strip()
    return written if len(written) <= _LONGEST else f"{written[: _LONGEST - 4]} ..."
