"""Whether a figure was given the result that it draws."""

from __future__ import annotations

from typing import Any

__all__ = ["check_result"]

_MADE_BY = {
    "EvaluationResult": "perturbia.tl.evaluate",
    "PredictiveCheck": "perturbia.tl.posterior_predictive_check",
    "Calibration": "perturbia.tl.calibration",
}


def check_result(result: Any, kind: str) -> None:
    """Refuse anything but a result of this class of :mod:`perturbia.tl`, with the tool that makes one.

    Parameters
    ----------
    result
        What a user passed.
    kind
        Name of the class.

    Raises
    ------
    TypeError
        If it is something else.
    """
    from perturbia import tl

    if isinstance(result, getattr(tl, kind)):
        return
    own = next((f"perturbia.pl.{name}" for name, other in _DRAWN_BY.items() if type(result).__name__ == other), None)
    fix = f"Draw this one with {own}." if own else f"Make one with {_MADE_BY[kind]}."
    msg = f"result: expected the result of {_MADE_BY[kind]}, got {type(result).__name__}. {fix}"
    raise TypeError(msg)


_DRAWN_BY = {"report": "EvaluationResult", "ppc": "PredictiveCheck", "calibration": "Calibration"}
