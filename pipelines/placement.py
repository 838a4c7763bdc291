"""Rules of Kubernetes for node selectors and tolerations."""

from __future__ import annotations

import re
from typing import Any

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/"
_ALLOWED = {"operator": ("Exists", "Equal"), "effect": ("", "NoSchedule", "PreferNoSchedule", "NoExecute")}
_KEYS = {"key", "operator", "value", "effect", "tolerationSeconds"}


def check_node_selector(value: dict[str, Any]) -> None:
    """Refuse what Kubernetes would refuse once the step starts.

    Raises:
        ValueError: in words, with what was expected and what was found.
    """
    for key, text in value.items():
        if not re.fullmatch(f"({_PREFIX})?{_NAME}", key):
            raise ValueError(f"expected the name of a label, such as pool or example.com/pool, found {key!r}")
        if not isinstance(text, str) or not re.fullmatch(f"({_NAME})?", text):
            raise ValueError(f'expected a label\'s value, text such as "gpu", for {key}, found {text!r}')


def check_tolerations(value: list[Any]) -> None:
    """Refuse what Kubernetes would refuse once the step starts, and misspelt keys, which it would ignore.

    Raises:
        ValueError: in words, with what was expected and what was found.
    """
    for one in value:
        if not isinstance(one, dict):
            raise ValueError(f'expected tolerations such as {{"key": "pool", "operator": "Exists"}}, found {one!r}')
        if unknown := sorted(one.keys() - _KEYS):
            raise ValueError(f"expected {', '.join(sorted(_KEYS))} in a toleration, found {unknown[0]!r}")
        for key, found in one.items():
            if key == "tolerationSeconds":
                if isinstance(found, bool) or not isinstance(found, int):
                    raise ValueError(f"expected a whole number of seconds as tolerationSeconds, found {found!r}")
            elif not isinstance(found, str):
                raise ValueError(f"expected text as a toleration's {key}, found {found!r}")
            elif key in _ALLOWED and found not in _ALLOWED[key]:
                listed = ", ".join(name for name in _ALLOWED[key] if name)
                raise ValueError(f"expected one of {listed} as a toleration's {key}, found {found!r}")
        if not one.get("key") and one.get("operator") != "Exists":
            raise ValueError(f"expected a key, or the operator Exists, in each toleration, found {one!r}")
        if one.get("operator") == "Exists" and one.get("value"):
            raise ValueError(f"expected no value with the operator Exists, found {one['value']!r}")
        if "tolerationSeconds" in one and one.get("effect") != "NoExecute":
            raise ValueError(
                f"expected the effect NoExecute with tolerationSeconds, found {one.get('effect', 'none')!r}"
            )
