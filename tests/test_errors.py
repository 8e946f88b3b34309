from __future__ import annotations

import inspect

import pytest

from perturbia import errors
from perturbia.errors import ModalityError, PerturbiaError, UnknownPerturbation, nearest_names, shorten

BUILT_IN = {
    "UnknownPerturbation": KeyError,
    "UnsupportedQuery": ValueError,
    "RepresentationMismatch": ValueError,
    "FeatureMismatch": ValueError,
    "ScaleError": ValueError,
    "ControlError": ValueError,
    "LabelError": ValueError,
    "DoseError": ValueError,
    "DownloadError": OSError,
    "ModalityError": KeyError,
    "NotTrainedError": RuntimeError,
    "LeakageError": ValueError,
    "SplitError": ValueError,
}


@pytest.mark.parametrize(("name", "built_in"), BUILT_IN.items())
def test_every_error_is_ours_and_the_expected_built_in(name, built_in):
    error = getattr(errors, name)
    assert issubclass(error, PerturbiaError)
    assert issubclass(error, built_in)


def test_the_table_above_is_complete():
    tree = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, PerturbiaError) and not name.startswith("_")
    }
    assert tree - {"PerturbiaError"} == set(BUILT_IN)
    assert issubclass(errors.ExtrapolationWarning, UserWarning)
    assert issubclass(errors.ConvergenceWarning, UserWarning)


@pytest.mark.parametrize("error", [UnknownPerturbation, ModalityError])
def test_key_errors_show_their_text_unquoted(error):
    assert str(error("one 'two' three")) == "one 'two' three"
    assert str(error()) == ""


def test_nearest_names_ignores_case_and_orders_by_likeness():
    assert nearest_names("stat1", ["JAK2", "STAT2", "STAT1", "IRF1"]) == ["STAT1", "STAT2", "IRF1"]
    assert nearest_names("A", []) == []


def test_unknown_perturbation_names_three_neighbours_of_the_first_five():
    known = [f"GENE{i}" for i in range(20)]
    text = str(UnknownPerturbation.among([f"gene{i}x" for i in range(7)], known, argument="query", fix="Do this."))
    assert text.startswith("query: expected registered names, got 'gene0x' (nearest: GENE0, ")
    assert text.count("nearest:") == 5
    assert "and 2 more" in text
    assert text.endswith("20 names are registered. Do this.")


def test_shorten_counts_the_rest():
    assert shorten(range(3), limit=5) == "0, 1, 2"
    assert shorten(range(8), limit=5) == "0, 1, 2, 3, 4 and 3 more"
