"""Reading of the groups that comparative models compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perturbia.errors import ControlError, LabelError, shorten
from perturbia.perturbation.field import PerturbationField

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

__all__ = ["group_field"]


def group_field(adata: AnnData, arguments: Mapping[str, Any], *, transfer: bool) -> PerturbationField:
    """Field of the groups, or of the perturbations whose controls are the background.

    A group is registered as a treatment of its own, the background as the control: what every model knows of
    treatments holds for groups. Other data that are shown to a model need no background.

    Raises
    ------
    LabelError
        If not exactly one source of groups is named, or the column is missing or incomplete.
    ControlError
        If no cell is in the background.
    """
    key, background = arguments["group_key"], arguments["background"]
    sources = [name for name in ("perturbation_key", "perturbation_obsm_key") if arguments[name] is not None]
    if key is None:
        if background is not None:
            msg = f"background: expected None without group_key, got {background!r}. Name the column, or pass control=."
            raise LabelError(msg)
        if not sources:
            msg = (
                "group_key, perturbation_key, perturbation_obsm_key: expected exactly one of them, got none. Name the "
                "column of groups with its background, or that of perturbations."
            )
            raise LabelError(msg)
        names = ("perturbation_key", "perturbation_obsm_key", "dose_key", "control", "sep")
        return PerturbationField(**{name: arguments[name] for name in names})
    if sources:
        msg = f"{sources[0]}: expected None with group_key, got {arguments[sources[0]]!r}. Pass one of them."
        raise LabelError(msg)
    if key not in adata.obs:
        msg = f"group_key: expected a column of obs, got {key!r}; columns are {shorten(adata.obs.columns)}."
        raise LabelError(msg)
    if background is None:
        msg = f"background: expected the label of the background in obs[{key!r}], got None. Name it."
        raise LabelError(msg)
    n_missing = int(adata.obs[key].isna().sum())
    if n_missing:
        msg = (
            f"group_key: expected a group in every cell of obs[{key!r}], got {n_missing} without one (NaN). Drop them."
        )
        raise LabelError(msg)
    labels = adata.obs[key].astype(str).unique()
    if not transfer and str(background) not in labels:
        msg = (
            f"background: expected a label of obs[{key!r}], got {background!r}. Labels seen: {shorten(sorted(labels))}."
        )
        raise ControlError(msg)
    # without a separator: a group is one name, whatever stands in it
    return PerturbationField(key, control=str(background), sep="")
