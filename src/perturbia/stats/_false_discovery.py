"""Adjusted p-values of tests, of which some may have none."""

from __future__ import annotations

import numpy as np

__all__ = ["q_values"]


def q_values(p_value: np.ndarray) -> np.ndarray:
    """Adjust p-values by the rule of Benjamini and Hochberg (1995); NaN stays NaN and does not count as a test.

    Parameters
    ----------
    p_value
        Shape (n_tests,).

    Returns
    -------
    Same shape.
    """
    from scipy.stats import false_discovery_control

    adjusted = np.full(len(p_value), np.nan)
    tested = ~np.isnan(p_value)
    if tested.any():
        adjusted[tested] = false_discovery_control(p_value[tested], method="bh")
    return adjusted
