"""Names that go into pods and addresses: what Kubernetes or a registry would refuse, mostly hours later."""

from __future__ import annotations

import argparse
import re

from pipelines.errors import UserError

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LOWER = "lower-case letters, digits and '-'"
_RULES = {
    "namespace": (_LABEL, f"a namespace, {_LOWER} (at most 63)"),
    "service_account": (_SUBDOMAIN, f"an account's name, {_LOWER}"),
    "queue": (_LABEL, f"a LocalQueue's name, {_LOWER} (at most 63)"),
    "pull_secret": (_SUBDOMAIN, f"a secret's name, {_LOWER}"),
    "registry": (
        r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*/*",
        "host/path in lower case, without https://",
    ),
    "tag": (r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", "letters, digits, '.', '_' and '-' (at most 128)"),
}


def check(args: argparse.Namespace) -> None:
    """Refuse names that are none.

    Args:
        args: of a command; it may lack any of them, and an empty one was not given.

    Raises:
        UserError: a name is none.
    """
    for name, (pattern, expected) in _RULES.items():
        value = getattr(args, name, "")
        if value and not re.fullmatch(pattern, value):
            raise UserError(f"--{name.replace('_', '-')}: expected {expected}, found {value!r}")
