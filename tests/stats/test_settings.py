"""Checks of numbers and choices."""

from __future__ import annotations

import re

import numpy as np
import pytest

from perturbia.stats._settings import (
    check_choice,
    check_count,
    check_number,
    check_positive_integer,
    check_seed,
    is_number,
    is_whole,
)


@pytest.mark.parametrize("value", [0, 3, np.int64(3), np.uint8(3)])
def test_whole_numbers(value):
    assert is_whole(value) is True
    assert is_number(value) is True
    assert is_whole(value, least=4) is is_number(value, least=4) is False


@pytest.mark.parametrize("value", [0.0, 2.5, np.float32(2.5)])
def test_other_numbers_are_not_whole(value):
    assert is_number(value) is True
    assert is_whole(value) is False


@pytest.mark.parametrize("value", [True, np.True_, "3", None, [3], np.array([3]), 1j])
def test_no_numbers(value):
    assert is_whole(value) is is_number(value) is False


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_missing_and_infinite_are_no_numbers(value):
    assert is_number(value) is False


def test_good_settings_pass():
    check_choice("a", "x", ("x", "y"))
    check_choice("a", None, ["x", None])
    check_count("a", np.int32(1))
    check_count("a", 0, least=0)
    check_positive_integer("a", 1)
    check_seed(0)
    check_number("a", 0)
    check_number("a", 1.5, least=1.5)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_choice("how", "z", ("x", None)), "how: expected one of 'x', None, got 'z'."),
        (lambda: check_count("n", 0), "n: expected a whole number of 1 or more, got 0."),
        (lambda: check_count("n", 2.0, least=2), "n: expected a whole number of 2 or more, got 2.0."),
        (lambda: check_positive_integer("n", True), "n: expected a positive integer, got True."),
        (lambda: check_seed(-1), "seed: expected a whole number of 0 or more, got -1."),
        (lambda: check_seed(None), "seed: expected a whole number of 0 or more, got None."),
        (lambda: check_number("r", -0.1), "r: expected a finite number of 0 or more, got -0.1."),
        (lambda: check_number("r", np.nan), "r: expected a finite number of 0 or more, got nan."),
    ],
)
def test_bad_settings(check, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check()
