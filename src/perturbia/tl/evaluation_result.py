"""The result of an evaluation: every score of every perturbation, and what follows from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia.errors import nearest_names
from perturbia.tl._evaluation.summary import GROUPINGS, best_of, compare, groups_of, summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["EvaluationResult"]

_TEXT = ("model", "axis", "split", "role", "metric", "reference", "perturbation", "context", "stratum")


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """Scores of methods on held-out cells, as :func:`perturbia.tl.evaluate` returns them.

    Attributes
    ----------
    table
        Long table, one row for each method, measure and judged pair of perturbation and context: `model`, `axis`, `split` (its
        key), `role`
        (``model``, ``baseline``, ``reference``; ``repeat``: what a second experiment would score as a prediction, from
        halves of the held-out cells, corrected to full size where measures allow it; ``ceiling``: what the true effects,
        or for distances the true cells, would score), `metric`, `reference` (what effects are relative to), `perturbation` (empty for scores over all),
        `context`, `value`, `low` and `high` (intervals of scores over all), `n` and `n_undefined` (conditions that the
        value is made of, and those without a score; 0 or 1 but for scores over all), `n_cells` (held-out cells of
        these; where differential expression is called, the number that every side has), `n_targets`,
        `seen_members` (targets that training cells carry), `strength` (energy distance of held-out cells to controls),
        `stratum`.
    metrics
        What the measures are: `title`, `description`, `level` (``perturbation`` or ``all``), `reads`,
        `higher_is_better`, `best`, `chance`, `unit`, `reference`, and whether it `tests` for differential expression.
    effects
        Predicted effects of each method, AnnData `(n_conditions, n_genes)`.
    observed
        Effects of the held-out cells, with `layers["se"]`.
    info
        Protocol, axis and digest of the split, sizes, seed, versions; which baselines were left out and why
        (`left_out`), which perturbations had too few held-out cells (`too_few_cells`), how many perturbations have
        held-out cells in batches without controls, and how many cells (`n_unmatched_perturbations`,
        `n_unmatched_cells`, and `n_unmatched_training_cells` of the training), and whether the truth had to use controls that models have seen (`controls_shared`).
    """

    table: pd.DataFrame
    metrics: pd.DataFrame
    effects: dict[str, AnnData]
    observed: AnnData
    info: dict[str, Any]

    def names(self, *roles: str) -> list[str]:
        """Methods of these roles, in the order of the table; of all roles if none is named.

        Parameters
        ----------
        *roles
            ``"model"``, ``"baseline"``, ``"reference"``, ``"repeat"``, ``"ceiling"``.

        Returns
        -------
        Names.
        """
        first = self.table.drop_duplicates("model")
        return first.loc[first["role"].isin(roles) if roles else slice(None), "model"].tolist()

    def summary(
        self,
        *,
        metrics: Sequence[str] | None = None,
        by: Literal["stratum", "seen_members", "n_targets", "context"] | None = None,
    ) -> pd.DataFrame:
        """Mean over perturbations with a bootstrap interval, rank, and rescaled score of each method and measure.

        Parameters
        ----------
        metrics
            Measures, all by default.
        by
            Summarise groups of perturbations apart; scores over all have no groups and are left out.

        Returns
        -------
        Methods × (statistic, measure): ``value``; ``low`` and ``high`` of the interval; ``median``, ``q25`` and ``q75`` over
        perturbations; ``n`` conditions that count
        and ``n_undefined`` that do not, because they have no score (NaN in the table) or, in scores over all, could not
        enter it; ``rank`` among models and baselines, 1 best;
        ``rescaled``: 0 at the mean baseline (no change, without it), 1 at what the true effects would score, over the
        perturbations for which that is known; ``normalized``: 0 at the same baseline, 1 at a perfect score and not above, as
        cell-eval normalises but not clipped at 0, because the clip makes errors free. Both are NaN where the baseline is as
        good as the other end up to noise. Scores over all count their interval from resampled perturbations, too.
        Under `by` the index holds (group, method).

        Notes
        -----
        Perturbations are resampled with all their contexts. Intervals hold for the held-out control cells at hand, whose
        noise all effects share: with few controls they are too narrow. Percentile intervals are too narrow for fewer than
        about 25 perturbations, too, and those of scores over all for fewer than about 50 of very different strength.

        Raises
        ------
        ValueError
            If a measure or grouping is unknown.
        """
        described = self.metrics.loc[self._known(metrics)]
        table = self.table[self.table["metric"].isin(described.index)]
        options = {key: self.info[key] for key in ("n_resamples", "confidence", "seed")}
        if by is None:
            return summarize(table, described, **options)
        if by not in GROUPINGS:
            msg = f"by: expected one of {', '.join(map(repr, GROUPINGS))}, got {by!r}."
            raise ValueError(msg)
        described = described[described["level"] == "perturbation"]
        table = table[table["metric"].isin(described.index)]
        groups = groups_of(table, by)
        if not groups:
            msg = f"by: expected a grouping that the result has, got {by!r}, which no perturbation has a value of."
            raise ValueError(msg)
        parts = {group: summarize(table[table[by] == group], described, **options) for group in groups}
        return pd.concat(parts, names=[by])

    def compare(
        self, model: str | None = None, other: str | None = None, *, metrics: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Compare a method with another over the same perturbations.

        Parameters
        ----------
        model
            A method, by default the first model.
        other
            Another; by default, measure by measure, the baseline of the best mean, which is the hardest to beat and was
            chosen by the very scores it is compared on.
        metrics
            Measures, by default all that both have.

        Returns
        -------
        One row a measure: `value`, `other`, `other_value`, `difference` with its paired bootstrap interval `low` to `high`,
        `p_value` of Wilcoxon's signed-rank test, `share_better` (share of perturbations on which the first is better, ties count
        half: .5 where neither is), `n`. Scores over all
        have a difference alone. Intervals and p-values hold for the control cells at hand: where these are few, methods
        differ by the noise that all effects share.

        Raises
        ------
        ValueError
            If a method or measure is unknown, or there is no baseline to compare with.
        """
        described = self.metrics.loc[self._known(metrics)]
        names = self.names()
        for argument, name in (("model", model), ("other", other)):
            if name is not None and name not in names:
                msg = f"{argument}: expected one of {', '.join(map(repr, names))}, got {name!r}."
                raise ValueError(msg)
        first = model or self.names("model")[0]
        if other is not None and other == first:
            msg = f"other: expected another method than {first!r}, got the same. Name one of {', '.join(map(repr, names))}."
            raise ValueError(msg)
        rivals = [name for name in (self.names("baseline") if other is None else [other]) if name != first]
        if not rivals:
            msg = "other: expected a method to compare with, got none, and no baseline was evaluated. Name one."
            raise ValueError(msg)
        summary = self.summary(metrics=list(described.index))
        others = best_of(summary, described, rivals)
        others = {name: rival for name, rival in others.items() if np.isfinite(summary.loc[first, ("value", name)])}
        options = {key: self.info[key] for key in ("n_resamples", "confidence", "seed")}
        return compare(self.table, self.metrics, model=first, others=others, **options)

    def values(self, metric: str) -> pd.DataFrame:
        """Scores of one measure, conditions × methods.

        Parameters
        ----------
        metric
            Name of the measure.

        Returns
        -------
        Index (perturbation, context), one column a method.

        Raises
        ------
        ValueError
            If the measure is unknown.
        """
        (name,) = self._known([metric])
        part = self.table[self.table["metric"] == name]
        wide = part.pivot(index=["perturbation", "context"], columns="model", values="value")
        return wide[[method for method in self.names() if method in wide]].rename_axis(columns=None)

    def cautions(self) -> list[str]:
        """What to know before quoting the numbers.

        Returns
        -------
        Sentences: what the split tests, what the protocol leaves to luck, which perturbations and measures have no score,
        and which baselines could not answer.
        """
        from perturbia.tl._evaluation.display import cautions

        return cautions(self)

    def _known(self, metrics: Sequence[str] | None) -> list[str]:
        if metrics is None:
            return list(self.metrics.index)
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        for name in names:
            if name not in self.metrics.index:
                near = ", ".join(nearest_names(str(name), list(self.metrics.index)))
                msg = f"metrics: expected measures of this evaluation, got {name!r} (nearest: {near})."
                raise ValueError(msg)
        return names

    # on disk ---------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the result.

        Parameters
        ----------
        folder
            Folder to write to, made if missing: `scores.csv` (the long table), `summary.csv`, `metrics.csv`,
            `info.json`, and `effects.h5ad` with observed effects in `X` and those of every method in a layer.
        """
        from anndata import AnnData

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_csv(folder / "scores.csv", index=False)
        self.metrics.to_csv(folder / "metrics.csv", index_label="metric")
        summary = self.summary()
        summary.columns = [f"{metric} {statistic}" for statistic, metric in summary.columns]
        summary.to_csv(folder / "summary.csv")
        (folder / "info.json").write_text(json.dumps(self.info, indent=1) + "\n", encoding="utf-8")
        out = AnnData(self.observed.X, obs=self.observed.obs.copy(), var=self.observed.var.copy())
        out.uns = {**self.observed.uns, "methods": list(self.effects)}
        out.layers["se"] = self.observed.layers["se"]
        for i, effects in enumerate(self.effects.values()):
            out.layers[f"method_{i}"] = effects.X
        out.write_h5ad(folder / "effects.h5ad")

    @classmethod
    def load(cls, folder: str | Path) -> EvaluationResult:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder
            The folder.

        Returns
        -------
        The result.

        Raises
        ------
        FileNotFoundError
            If the folder does not hold one.
        """
        import anndata

        from perturbia.model.base._result import stamp

        folder = Path(folder)
        if not (folder / "scores.csv").is_file():
            msg = f"folder: expected the result of EvaluationResult.save, got {str(folder)!r} without scores.csv."
            raise FileNotFoundError(msg)
        table = pd.read_csv(  # type: ignore[call-overload]
            folder / "scores.csv",
            dtype=dict.fromkeys(_TEXT, str),
            keep_default_na=False,
            na_values=[""],
            float_precision="round_trip",
        )
        table[list(_TEXT)] = table[list(_TEXT)].fillna("")
        for column in ("n_cells", "n_targets", "seen_members"):
            table[column] = table[column].astype("Int64")
        metrics = pd.read_csv(folder / "metrics.csv", index_col="metric", keep_default_na=False, na_values=["nan"])
        metrics = metrics.rename_axis(None)
        for column in ("best", "chance"):
            metrics[column] = pd.to_numeric(metrics[column].replace("", np.nan))
        stored = anndata.read_h5ad(folder / "effects.h5ad")
        for column in stored.obs.select_dtypes("category"):
            stored.obs[column] = stored.obs[column].astype(object)
        scale = stored.uns["perturbia"]["scale"]
        effects = {}
        for i, name in enumerate(stored.uns["methods"]):
            part = anndata.AnnData(stored.layers[f"method_{i}"], obs=stored.obs.copy(), var=stored.var.copy())
            effects[str(name)] = stamp(part, kind="effect", ur_id=str(name), model=str(name), scale=scale)
        observed = anndata.AnnData(
            stored.X, obs=stored.obs.copy(), var=stored.var.copy(), layers={"se": stored.layers["se"]}
        )
        observed.uns["perturbia"] = dict(stored.uns["perturbia"])
        return cls(table, metrics, effects, observed, json.loads((folder / "info.json").read_text("utf-8")))

    # what it says of itself ------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        from perturbia.tl._evaluation.display import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from perturbia.tl._evaluation.display import as_html

        return as_html(self)
