"""The point that is nearest, in sum, to a set of points."""

from __future__ import annotations

import numpy as np

__all__ = ["geometric_median"]


def geometric_median(points: np.ndarray, *, n_iterations: int = 200, tolerance: float = 1e-9) -> np.ndarray:
    r"""Point that minimises the sum of Euclidean distances to `points`, by Weiszfeld's iteration.

    Parameters
    ----------
    points
        Array `(n_points, n_dimensions)`.
    n_iterations
        Largest number of iterations.
    tolerance
        Stop when the point moves by less than this share of the spread of the points.

    Returns
    -------
    float64 array `(n_dimensions,)`.

    Raises
    ------
    ValueError
        If there is no point, or a coordinate is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import geometric_median
    >>> geometric_median(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [90.0, 3.0]])).round(3).tolist()
    [0.0, 0.0]

    References
    ----------
    Weiszfeld, E. (1937). Sur le point pour lequel la somme des distances de n points donnés est minimum. Tohoku
    Mathematical Journal 43; in the form of Vardi, Y. and Zhang, C.-H. (2000), PNAS 97, which may start at a data point.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or len(points) == 0 or not np.isfinite(points).all():
        msg = (
            f"points: expected a finite array (n_points, n_dimensions) with a point at least, got shape {points.shape}."
        )
        raise ValueError(msg)
    center = points.mean(0)
    spread = np.linalg.norm(points - center, axis=1).mean()
    for _ in range(n_iterations):
        distance = np.linalg.norm(points - center, axis=1)
        apart = distance > 1e-12 * max(spread, 1.0)
        if not apart.any():
            break
        weight = 1 / distance[apart]
        target = weight @ points[apart] / weight.sum()
        # a data point under the present one holds it back by its weight
        pull = np.linalg.norm(weight @ (points[apart] - center))
        held = min(1.0, (~apart).sum() / pull) if pull > 0 else 1.0
        step = (1 - held) * (target - center)
        center = center + step
        if np.linalg.norm(step) <= tolerance * spread:
            break
    return center
