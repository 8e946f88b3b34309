"""What scores of an alignment return: a table with one row a group, and its two means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perturbia.metrics._cell_groups import CellGroups

_COUNTS = ("n_source", "n_target", "n_scored")


@dataclass(frozen=True)
class MatchingScores:
    """Scores of an alignment by group, and over groups.

    Attributes
    ----------
    table
        One row a group: `n_source` and `n_target` cells, `n_scored` cells that the scores are means of, and the scores,
        NaN where a group has none.
    left_out
        Cells without a score, by reason: `unpaired` (no true partner), `partner_in_other_group`, `unmatched` (no mass,
        or no group), `alone` (no second candidate to compete with). A cell counts once, at the first reason.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.metrics import coupling_trace
    >>> labels = ["a", "a", "b"]
    >>> scores = coupling_trace(np.diag([1.0, 0.0, 1.0]), np.arange(3), source_groups=labels, target_groups=labels)
    >>> scores.table["fold"].tolist(), scores.macro.tolist(), scores.left_out.to_dict()
    ([2.0, 1.0], [1.0, 1.5], {'unpaired': 0, 'partner_in_other_group': 0, 'unmatched': 1})
    """

    table: pd.DataFrame
    left_out: pd.Series

    @property
    def names(self) -> list[str]:
        """Names of the scores."""
        return [name for name in self.table.columns if name not in _COUNTS]

    @property
    def macro(self) -> pd.Series:
        """Mean over the groups that have a score, each group alike."""
        return self.table[self.names].mean()

    @property
    def micro(self) -> pd.Series:
        """Mean over the groups that have a score, weighted by `n_scored`: each cell alike."""
        weight = self.table["n_scored"]
        return pd.Series(
            {
                name: np.average(self.table.loc[has, name], weights=weight[has])
                if (has := self.table[name].notna()).any()
                else np.nan
                for name in self.names
            },
            dtype=np.float64,
        )

    def flat(self) -> pd.Series:
        """Means over groups in one series: `<score>_macro` and `<score>_micro`."""
        parts = [values.add_suffix(f"_{kind}") for kind, values in (("macro", self.macro), ("micro", self.micro))]
        order = [f"{name}_{kind}" for name in self.names for kind in ("macro", "micro")]
        return pd.concat(parts)[order]

    def __repr__(self) -> str:
        macro, micro = self.macro, self.micro
        shown = "; ".join(f"{name} {macro[name]:.4g} (micro {micro[name]:.4g})" for name in self.names)
        n_out = int(self.left_out.sum())
        cells = f"{int(self.table['n_scored'].sum())} cells in {len(self.table)} groups"
        return f"MatchingScores: {shown}; {cells}" + (f", {n_out} left out" if n_out else "")


def count_table(groups: CellGroups, n_scored: np.ndarray) -> pd.DataFrame:
    """Sizes of groups, to which scores are added as columns."""
    sizes = {"n_source": groups.n_source, "n_target": groups.n_target, "n_scored": n_scored}
    return pd.DataFrame(sizes, index=pd.Index(groups.names, name="group"))


def mean_by_group(
    groups: CellGroups, values: Mapping[str, np.ndarray], left_out: Mapping[str, int], *, reason: str = "unmatched"
) -> MatchingScores:
    """Average scores of source cells in every group.

    Parameters
    ----------
    groups
        Groups of cells.
    values
        Scores of source cells by name, each (n_source,), NaN where a cell has none: the same cells in every score.
    left_out
        Cells that are known to have none, by reason.
    reason
        What cells without a score that `left_out` does not count are counted as.
    """
    scored = ~np.isnan(next(iter(values.values())))
    counts = {**left_out, reason: len(scored) - int(scored.sum()) - sum(left_out.values())}
    if not scored.any():
        shown = ", ".join(f"{count} {name}" for name, count in counts.items())
        msg = f"coupling, pairs: expected cells to score, got none of {len(scored)} ({shown})."
        raise ValueError(msg)
    codes, n_groups = groups.source[scored], len(groups.names)
    table = count_table(groups, np.bincount(codes, minlength=n_groups))
    for name, value in values.items():
        total = np.bincount(codes, weights=value[scored], minlength=n_groups)
        table[name] = np.divide(total, table["n_scored"], out=np.full(n_groups, np.nan), where=table["n_scored"] > 0)
    return MatchingScores(table, pd.Series(counts, dtype=np.int64))
