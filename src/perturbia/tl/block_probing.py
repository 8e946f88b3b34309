"""Which block of a frozen model tells labels apart best, on groups that took no part in fitting or choosing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.model.base._features import check_anndata
from perturbia.perturbation._copies import require_writable
from perturbia.stats._settings import check_choice, check_positive_integer, check_seed
from perturbia.stats.linear_probe import LogisticProbe, NeighbourProbe, RidgeProbe
from perturbia.stats.probe_validation import BlockChoice, BlockValidation, choose_block, validate_block
from perturbia.tl._probe_tasks import ProbeTask, check_control, read_blocks, read_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData

    from perturbia.stats.linear_probe import Probe

__all__ = ["block_search"]

_PENALTIES = {"ridge": tuple(10.0**k for k in range(2, -7, -1)), "logistic": (1.0, 0.1, 0.01, 0.001)}
_NEIGHBOURS = (30, 15, 5, 1)


def block_search(
    adata: AnnData,
    blocks: Sequence[str] | Mapping[str, Any],
    *,
    label_key: str | Sequence[str],
    group_key: str,
    probe: Literal["ridge", "logistic", "knn"] = "ridge",
    metric: Literal["balanced_accuracy", "accuracy"] = "balanced_accuracy",
    n_splits: int = 5,
    penalties: Sequence[float] | None = None,
    n_neighbors: Sequence[int] | None = None,
    n_components: int | None = 256,
    rule: Literal["one_se", "best"] = "one_se",
    control: str | Sequence[str] | None = None,
    sep: str | None = None,
    nan: Literal["raise", "omit"] = "raise",
    seed: int = 0,
    key_added: str | None = _keys.UNS_BLOCK_SEARCH,
    n_jobs: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Choose the block (layer) of a frozen model whose features tell labels apart best, in groups that were held out.

    The last layer of a model is often not its best one. Each block is probed by a simple classifier, fitted to some groups
    (plates, experiments, replicates) and scored on others. The ridge probe minimises

    .. math:: \sum_i w_i \lVert y_i - b - B^\top x_i \rVert^2 + \lambda u \lVert B \rVert^2

    over indicators :math:`y` of labels, with weights :math:`w` that let all labels count alike. The unit :math:`u` of the
    penalty is the mean eigenvalue of the scatter of the features (each weighing as much as it is large), so that the scale
    of a block does not matter.

    Cross-validation is nested. While a fold is held out, the other folds choose the penalty, and, for `nested_score`, the
    block; what is reported of a choice comes from groups that took no part in it. No group is ever on both sides of a split.

    **Range** 0 to 1. **Chance** of balanced accuracy is one over the number of labels, stated as `chance`. **Not seen**:
    whether labels differ for a reason that plates share, such as the position of a well; what a non-linear probe could read;
    and labels that the model itself was given (a conditional encoder, batch-corrected features): these score what they
    were told.

    Parameters
    ----------
    adata
        Rows are cells, wells or profiles. A view of a backed file can be searched with ``key_added=None``.
    blocks
        Keys of `obsm`, or ``"X"``, in order of depth, such as :func:`block_representations` returns; or a mapping of names to
        matrices (n_obs, n_features).
    label_key
        Column of `obs` with the labels: genes, perturbations, functional groups. Several columns are several tasks, whose
        ranks of blocks are averaged.
    group_key
        Column of `obs` with what is held out: plates, experiments, replicates. Three groups are needed at least.
    probe
        ``"ridge"``; ``"logistic"``, the customary and slower one; ``"knn"``, nearest neighbours, which sees what is not linear.
    metric
        ``"balanced_accuracy"``, the mean over labels of the share of rows that are recognised, with labels of equal weight in
        the fit; or ``"accuracy"``, with rows of equal weight in both.
    n_splits
        Folds, at least 3. Fewer groups make fewer folds.
    penalties
        Penalties of ridge and logistic probes, relative to the scale of a block; from 1e-6 to 100 and from 0.001 to 1 by
        default.
    n_neighbors
        Numbers of neighbours of ``"knn"``; 1, 5, 15 and 30 by default.
    n_components
        Principal axes that are kept where a block has more, found in the (weighted) rows of each fit alone; None keeps all.
    rule
        ``"one_se"``: the earliest block whose mean lies within one standard error of the best, since earlier blocks are
        cheaper; ``"best"``: the best.
    control
        Label or labels of rows to leave out.
    sep
        Text between the members of a combination, where labels are perturbations: ``"B+A"`` is ``"A+B"`` then, and
        ``"A@1"`` is ``"A"``. None reads labels as they are.
    nan
        ``"raise"`` refuses missing labels, ``"omit"`` leaves these rows out of their task.
    seed
        Seed of the folds: which groups share one.
    key_added
        Key of `uns`, text; None writes nothing.
    n_jobs
        Processes, -1 for one a core. Worth it for logistic probes and large blocks.
    progress
        Show a progress bar.

    Returns
    -------
    DataFrame, one row a task and block, blocks in order of depth:

    - `task`, the column of labels, and `block`;
    - `mean` and `se`: score over outer folds with the penalty that the inner folds chose, and its standard error (fits
      share rows, so that it is somewhat small);
    - `naive_mean`: the same when every test fold chooses its own best penalty, too good by construction;
    - `n_features`; `penalty` or `n_neighbors`, the median of those chosen; `seconds` of CPU time;
    - `rank` of the mean within the task, and `mean_rank` over tasks;
    - `selected`: what `rule` chooses in the task. Its `mean` is still the best of several: report `nested_score`.

    `attrs` holds ``selected``, one block for all tasks (for several, that of the least mean rank, the earliest of equals);
    ``nested_score``, ``nested_se``, ``naive_score`` and ``chance``, numbers, or dictionaries by task where `label_key` is a
    list: the score of the whole procedure, that of choosing block and penalty on the test folds, and of guessing;
    ``nested_blocks``, the block that was chosen while each fold was held out, likewise: `nested_score` is theirs, and that
    of ``selected`` only where they are this block; ``rule``, ``metric``, ``probe``. The same goes to `uns[key_added]`, with
    ``table``, ``folds`` (fold of every group), ``counts`` of rows and labels by task, and ``params``.

    Raises
    ------
    FeatureMismatch
        If a block does not exist or has other rows.
    LabelError
        If a column does not exist, labels are missing or can not be read with `sep`, or fewer than two labels occur in several groups.
    ControlError
        If `control` is no label.
    SplitError
        If there are fewer than three groups, or folds share no labels.
    TypeError
        If `adata` is no AnnData.
    UnsupportedQuery
        If nothing can be written to a view of a backed file.
    ValueError
        If features are missing, or an option is none of the above.

    Warns
    -----
    RuntimeWarning
        Labels that occur in one group only can not be held out, and are left out.

    Notes
    -----
    For F folds, F (F + 1) / 2 fits a block: a probe fitted without two folds serves both. The ridge probe takes one
    eigendecomposition a fit for all labels and penalties: n d² + d³ for n rows and d features. Rows whose label has no row
    outside their fold are not scored; ``counts`` has their number.

    References
    ----------
    Kenyon-Dean, K. et al. (2024). ViTally consistent: scaling biological representation learning for cell microscopy.
    arXiv:2411.02572.
    Cawley, G. C. and Talbot, N. L. C. (2010). On over-fitting in model selection and subsequent selection bias in
    performance evaluation. Journal of Machine Learning Research 11.
    Breiman, L., Friedman, J., Olshen, R. and Stone, C. (1984). Classification and regression trees: the one-standard-error
    rule.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import perturbia as pb
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"gene": np.tile(list("ABCDE"), 40), "plate": np.repeat(list("wxyz"), 50)}).set_index(
    ...     np.arange(200).astype(str)
    ... )
    >>> adata = ad.AnnData(np.zeros((200, 1), np.float32), obs=obs)
    >>> signal = np.eye(5)[obs["gene"].map("ABCDE".index)]
    >>> for depth, strength in enumerate([0.2, 2.0, 0.5]):
    ...     adata.obsm[f"X_{depth}"] = strength * signal + rng.normal(size=(200, 5))
    >>> table = pb.tl.block_search(adata, ["X_0", "X_1", "X_2"], label_key="gene", group_key="plate", n_splits=4)
    >>> table.attrs["selected"], table.attrs["chance"]
    ('X_1', 0.2)
    """
    check_anndata(adata)
    keys = [label_key] if isinstance(label_key, str) else list(label_key)
    controls = [control] if isinstance(control, str) else list(control or [])
    setting, fitted = _probe(probe, penalties, n_neighbors)
    _check(adata, keys, metric, rule, nan, n_splits, n_components, n_jobs, seed, key_added, sep)
    balanced = metric == "balanced_accuracy"
    check_control(adata, keys, controls)
    read: dict[str, Any] = {"control": controls, "sep": sep, "nan": nan, "n_splits": n_splits, "seed": seed}
    tasks = [read_task(adata, key, group_key, balanced=balanced, **read) for key in keys]
    matrices = read_blocks(adata, blocks)
    options = {"probe": fitted, "n_components": n_components, "balanced": balanced}
    results = _validated(tasks, matrices, options, n_jobs=n_jobs, progress=progress)
    choices = [
        choose_block(np.stack([one.outer for one in own]), np.stack([one.inner for one in own]), rule=rule)
        for own in results
    ]
    table = _table(tasks, matrices, results, choices, fitted, setting)
    summary = _summary(table, tasks, choices, single=isinstance(label_key, str))
    summary |= {"rule": rule, "metric": metric, "probe": probe}
    table.attrs.update(summary)
    if key_added is not None:
        params: dict[str, Any] = {
            "label_key": np.array(keys),
            "group_key": group_key,
            "n_splits": n_splits,
            "seed": seed,
        }
        params |= {setting: np.array(fitted.settings), "control": np.array(controls, dtype=str)}
        given = {"n_components": n_components, "sep": sep}
        params |= {name: value for name, value in given.items() if value is not None}
        adata.uns[key_added] = {**_as_arrays(summary), **_stored(table, tasks), "params": params}
    return table


def _probe(
    probe: str, penalties: Sequence[float] | None, n_neighbors: Sequence[int] | None
) -> tuple[Literal["penalty", "n_neighbors"], Probe]:
    """The classifier with its settings, the smoothest first, and what they are."""
    check_choice("probe", probe, ("ridge", "logistic", "knn"))
    name, other = ("n_neighbors", penalties) if probe == "knn" else ("penalties", n_neighbors)
    if other is not None:
        unread = "penalties" if probe == "knn" else "n_neighbors"
        msg = f"{unread}: expected None for probe={probe!r}, got {other!r}. Set {name}."
        raise ValueError(msg)
    given = n_neighbors if probe == "knn" else penalties
    try:
        values = np.atleast_1d(np.array([] if given is None else given, dtype=float))
    except (TypeError, ValueError):
        values = np.array([np.nan])
    whole = probe != "knn" or (values == np.round(values)).all()
    if given is not None and not (
        values.ndim == 1 and len(values) and np.isfinite(values).all() and whole and (values > 0).all()
    ):
        what = "whole numbers above 0" if probe == "knn" else "numbers above 0"
        msg = f"{name}: expected {what}, got {given!r}."
        raise ValueError(msg)
    settings = tuple(sorted(set(values.tolist()), reverse=True))
    if probe == "knn":
        return "n_neighbors", NeighbourProbe(settings or _NEIGHBOURS)
    kind = RidgeProbe if probe == "ridge" else LogisticProbe
    return "penalty", kind(settings or _PENALTIES[probe])


def _check(
    adata: AnnData,
    keys: list[str],
    metric: str,
    rule: str,
    nan: str,
    n_splits: int,
    n_components: int | None,
    n_jobs: int,
    seed: int,
    key_added: str | None,
    sep: str | None,
) -> None:
    check_choice("metric", metric, ("balanced_accuracy", "accuracy"))
    check_choice("rule", rule, ("one_se", "best"))
    check_choice("nan", nan, ("raise", "omit"))
    check_positive_integer("n_splits", n_splits)
    check_seed(seed)
    if n_splits < 3:
        msg = f"n_splits: expected 3 or more, one fold to score on, one to choose on and one to fit to, got {n_splits}."
        raise ValueError(msg)
    if n_components is not None:
        check_positive_integer("n_components", n_components)
    if n_jobs != -1:
        check_positive_integer("n_jobs", n_jobs)
    if not keys or len(set(keys)) < len(keys):
        msg = f"label_key: expected distinct columns of adata.obs, got {keys}."
        raise ValueError(msg)
    for name, value in (("key_added", key_added), ("sep", sep)):
        if value is not None and not isinstance(value, str):
            msg = f"{name}: expected text or None, got {value!r}."
            raise ValueError(msg)
    if key_added is not None:
        require_writable(adata, fix="Pass key_added=None, or .to_memory().")


def _validated(
    tasks: list[ProbeTask], matrices: dict[str, np.ndarray], options: dict[str, Any], *, n_jobs: int, progress: bool
) -> list[list[BlockValidation]]:
    """Scores of every block in every task, outer list over tasks."""
    from rich.progress import track
    from sklearn.utils.parallel import Parallel, delayed

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for matrix in matrices.values():
            for task in tasks:
                everything = len(task.rows) == len(matrix)
                yield matrix if everything else matrix[task.rows], task.codes, task.folds

    runs = Parallel(n_jobs=n_jobs, return_as="generator")(delayed(validate_block)(*part, **options) for part in parts())
    total = len(matrices) * len(tasks)
    done = list(track(runs, "Probing blocks", total=total, disable=not progress, transient=True))
    return [done[i :: len(tasks)] for i in range(len(tasks))]


def _table(
    tasks: list[ProbeTask],
    matrices: dict[str, np.ndarray],
    results: list[list[BlockValidation]],
    choices: list[BlockChoice],
    probe: Probe,
    setting: str,
) -> pd.DataFrame:
    parts = []
    for task, own, choice in zip(tasks, results, choices, strict=True):
        middle = np.sort(choice.setting, axis=1)[:, (task.n_folds - 1) // 2]
        mean = choice.score.mean(axis=1)
        part = pd.DataFrame(
            {
                "task": task.name,
                "block": list(matrices),
                "mean": mean,
                "se": choice.score.std(axis=1, ddof=1) / np.sqrt(task.n_folds),
                "naive_mean": choice.naive.mean(axis=1),
                "n_features": [matrix.shape[1] for matrix in matrices.values()],
                setting: np.array(probe.settings)[middle],
                "seconds": [one.seconds for one in own],
                "rank": pd.Series(-np.round(mean, 12)).rank().to_numpy(),
                "selected": np.arange(len(own)) == choice.selected,
            }
        )
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    average = table.groupby("block", sort=False)["rank"].transform("mean")
    table.insert(table.columns.get_loc("selected"), "mean_rank", average)
    return table


def _summary(
    table: pd.DataFrame, tasks: list[ProbeTask], choices: list[BlockChoice], *, single: bool
) -> dict[str, Any]:
    """The block for all tasks, and the scores of the procedure, as plain numbers or by task."""
    blocks = table["block"].unique()
    per_task: dict[str, list[Any]] = {
        "nested_score": [float(choice.nested.mean()) for choice in choices],
        "nested_se": [float(choice.nested.std(ddof=1) / np.sqrt(len(choice.nested))) for choice in choices],
        "naive_score": [float(choice.naive_best.mean()) for choice in choices],
        "chance": [task.support.chance for task in tasks],
        "nested_blocks": [[blocks[i] for i in choice.nested_block] for choice in choices],
    }
    if len(tasks) == 1:
        selected = table["block"][table["selected"]].iloc[0]
    else:
        selected = table["block"].iloc[int(np.round(table["mean_rank"].to_numpy(), 9).argmin())]
    names = [task.name for task in tasks]
    scores = {key: values[0] if single else dict(zip(names, values, strict=True)) for key, values in per_task.items()}
    return {"selected": str(selected), **scores}


def _as_arrays(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with arrays in place of lists, as they come back from a file."""
    blocks = summary["nested_blocks"]
    several = isinstance(blocks, dict)
    return {**summary, "nested_blocks": {k: np.array(v) for k, v in blocks.items()} if several else np.array(blocks)}


def _stored(table: pd.DataFrame, tasks: list[ProbeTask]) -> dict[str, pd.DataFrame]:
    """Tables of plain types that a file can hold."""
    own = table.copy()
    own.attrs = {}
    own.index = own.index.astype(str)
    folds = pd.concat(
        [
            pd.DataFrame({"task": task.name, "group": task.groups.astype(str), "fold": task.group_fold})
            for task in tasks
        ],
        ignore_index=True,
    )
    counts = pd.DataFrame(
        {
            "n_rows": [len(task.rows) for task in tasks],
            "n_labels": [len(task.labels) for task in tasks],
            "n_groups": [len(task.groups) for task in tasks],
            "n_splits": [task.n_folds for task in tasks],
            "n_unscored": [task.support.n_unscored for task in tasks],
            "n_unlabelled": [task.n_unlabelled for task in tasks],
            "n_control": [task.n_control for task in tasks],
            "n_dropped": [task.n_dropped for task in tasks],
        },
        index=[task.name for task in tasks],
    )
    folds.index = folds.index.astype(str)
    return {"table": own, "folds": folds, "counts": counts}
