"""The choices of options, written once."""

from __future__ import annotations

from typing import get_args

from landseg.contracts.choices import Precision
from landseg.contracts.parameters import parameters


def test_the_precisions_of_a_type_are_those_of_the_parameters() -> None:
    for name in ("precision", "export_precision"):
        assert {"auto", *get_args(Precision)} == set(parameters()[name].choices)
