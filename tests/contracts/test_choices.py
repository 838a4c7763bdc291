"""The choices of options, written once."""

from __future__ import annotations

from typing import get_args

from landseg.contracts.choices import PRECISION_CHOICES, Precision


def test_the_precisions_of_a_type_are_those_of_the_parameter() -> None:
    assert {"auto", *get_args(Precision)} == set(PRECISION_CHOICES)
