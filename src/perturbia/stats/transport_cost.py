"""Costs between two sets of cells for optimal transport, in tiles."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cost", "PairCost", "check_cost", "exact_type"]

CostName = Literal["sqeuclidean", "euclidean", "cosine", "hellinger"]
Rows = slice | np.ndarray
Cost = CostName | Callable[[np.ndarray, np.ndarray], np.ndarray]

_CENTRE_CELLS = 25  # cells of a side, about, that the centre is computed from
_ROOTS = ("euclidean", "hellinger")
_TILE = 1_000_000  # entries of a tile of costs: stays in the cache of a core


def check_cost(cost: object) -> None:
    """Refuse an unknown cost.

    Parameters
    ----------
    cost
        Name or function.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if not callable(cost) and cost not in get_args(CostName):
        names = ", ".join(repr(name) for name in get_args(CostName))
        msg = f"cost: expected one of {names}, or a function of two matrices, got {cost!r}."
        raise ValueError(msg)


def exact_type(device: str | torch.device) -> torch.dtype:
    """The most exact floating-point type of a device: float64, or float32 on Apple's.

    Parameters
    ----------
    device
        The device.

    Returns
    -------
    The type.
    """
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


class PairCost:
    r"""Costs between the rows of two matrices, computed in tiles and never kept.

    ``"sqeuclidean"`` :math:`\|x_i - y_j\|^2`; ``"euclidean"`` its root; ``"cosine"`` one minus the cosine;
    ``"hellinger"`` the Hellinger distance of rows of probabilities; or a function that maps matrices (n, d) and (m, d)
    to costs (n, m).

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d).
    cost
        Name or function.
    dtype
        Floating-point type of the costs.
    device
        Where they are computed.

    Raises
    ------
    ValueError
        Unknown cost, negative values where probabilities are due, or a function that returns anything but finite costs.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats.transport_cost import PairCost
    >>> PairCost(np.array([[0.0], [1.0]]), np.array([[3.0]]), "sqeuclidean").tile(slice(2))
    tensor([[9.],
            [4.]])
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        cost: Cost = "sqeuclidean",
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        check_cost(cost)
        self.cost, self.dtype, self.device = cost, dtype, torch.device(device)
        self.shape = (len(x), len(y))
        self._swapped = False
        if callable(cost):
            self._x: Any = x
            self._y: Any = y
            return
        if cost == "cosine":
            x, y = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (x, y))
        elif cost == "hellinger":
            if min(x.min(initial=0), y.min(initial=0)) < 0:
                msg = "cost: expected probabilities for 'hellinger', got negative values. Use 'sqeuclidean'."
                raise ValueError(msg)
            x, y = np.sqrt(x), np.sqrt(y)
        # about their common middle, where the difference of large squares keeps its digits, outliers or not
        some = np.concatenate([rows[:: max(1, len(rows) // _CENTRE_CELLS)] for rows in (x, y)])
        centre = np.partition(some, len(some) // 2, axis=0)[len(some) // 2].astype(np.float64)
        # a root makes 3e-4 of what rounding in float32 leaves of the distance of equal cells
        held = exact_type(device) if cost in _ROOTS else dtype
        self._x, self._y = (torch.as_tensor(rows - centre, dtype=held, device=self.device) for rows in (x, y))
        self._x2, self._y2 = self._x.square().sum(1), self._y.square().sum(1)

    def tile(self, rows: Rows, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Costs of some rows.

        Parameters
        ----------
        rows
            A slice, or positions.
        out
            Memory to write to, shape (n_rows, m); new memory by default.

        Returns
        -------
        Shape (n_rows, m).
        """
        if callable(self.cost):
            values = self._called(rows)
            return values if out is None else out.copy_(values)
        wide = self._x2.dtype != self.dtype
        costs = torch.add(self._x2[rows, None], self._y2, out=None if wide else out)
        if self._x.shape[1]:
            costs.addmm_(self._x[rows], self._y.T, alpha=-2)
        costs.clamp_(min=0)
        if wide:
            costs = costs.to(self.dtype) if out is None else out.copy_(costs)
        if self.is_root:
            costs.sqrt_()
        if self.cost == "cosine":
            costs.mul_(0.5)
        elif self.cost == "hellinger":
            costs.mul_(0.5**0.5)
        return costs

    def _called(self, rows: Rows) -> torch.Tensor:
        x = self._x[rows]
        # the function knows source cells by their place, whichever side the rows are
        values = np.asarray(self.cost(self._y, x)).T if self._swapped else np.asarray(self.cost(x, self._y))  # type: ignore[operator]
        if values.shape != (expected := (len(x), self.shape[1])):
            msg = f"cost: expected a function that returns costs of shape {expected}, got shape {values.shape}."
            raise ValueError(msg)
        if not np.isfinite(values).all():
            msg = "cost: expected a function that returns finite costs, got NaN or infinite ones."
            raise ValueError(msg)
        return torch.as_tensor(values, dtype=self.dtype, device=self.device)

    def transpose(self) -> PairCost:
        """The same costs seen from the other side.

        Returns
        -------
        Costs of shape (m, n).
        """
        other = copy(self)
        other.shape = self.shape[::-1]
        other._x, other._y = self._y, self._x
        other._swapped = not self._swapped
        if not callable(self.cost):
            other._x2, other._y2 = self._y2, self._x2
        return other

    @property
    def is_root(self) -> bool:
        """Whether costs are roots of squared distances."""
        return self.cost in _ROOTS

    @property
    def squared_norms(self) -> np.ndarray:
        """Squared norms of the rows of x about the centre, which the rounding of squared distances is relative to.

        Shape (n,), float64; zeros where a function gives the costs.
        """
        return np.zeros(self.shape[0]) if callable(self.cost) else self._x2.double().cpu().numpy()

    def bounds(self, max_entries: int = _TILE) -> Iterator[slice]:
        """Rows of tiles of at most so many entries, and at least one row.

        Parameters
        ----------
        max_entries
            Entries of a tile.

        Yields
        ------
        Slices.
        """
        n, m = self.shape
        step = max(1, max_entries // max(1, m))
        for start in range(0, n, step):
            yield slice(start, min(start + step, n))

    def total(self) -> float:
        """Sum of all costs.

        Returns
        -------
        The sum, in float64.
        """
        if self.cost in ("sqeuclidean", "cosine"):
            # sum |x|^2 + |y|^2 - 2 x.y needs no pair
            n, m = self.shape
            x, y = self._x.double(), self._y.double()
            value = float(m * x.square().sum() + n * y.square().sum() - 2 * x.sum(0) @ y.sum(0))
            return max(0.0, value / (2 if self.cost == "cosine" else 1))
        return float(sum(self.tile(rows).sum(dtype=torch.float64) for rows in self.bounds()))
