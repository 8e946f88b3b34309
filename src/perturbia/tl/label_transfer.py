"""Labels of cells carried to the other modality through a stored coupling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import LabelError, shorten
from perturbia.model.alignment._modalities import check_mudata, obs_column
from perturbia.model.alignment.coupling_storage import read_coupling
from perturbia.stats._membership import one_hot

if TYPE_CHECKING:
    from mudata import MuData

__all__ = ["transfer_labels"]


def transfer_labels(
    mdata: MuData,
    *,
    key: str,
    coupling: str = "coupling",
    source: str | None = None,
    target: str | None = None,
    key_added: str | None = None,
) -> None:
    """Carry labels of source cells to target cells: the label with most of the mass that a cell receives.

    Parameters
    ----------
    mdata
        Data with a stored coupling.
    key
        Column of `obs` of the source modality, such as a cell type.
    coupling
        Key of the coupling.
    source
        Modality that has the labels; either side of the coupling. As stored by default.
    target
        Modality that gets them.
    key_added
        Column of `obs` of the target modality, `key` by default.

    Returns
    -------
    Nothing; writes to `obs` of the target modality

    - `obs[key_added]`: categorical with the labels of the source; missing for cells without match;
    - `obs[f"{key_added}_probability"]`: float64, share of the mass with that label.

    Raises
    ------
    LabelError
        If the column does not exist or is empty, or one would be overwritten in the target.
    KeyError, ModalityError
        If there is no such coupling, or it does not join these modalities.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> _ = pb.tl.align(mdata, use_rep="truth_log_ratio")
    >>> mdata["source"].obs["high"] = (mdata["source"].obsm["truth_latent"][:, 0] > 0).astype(str)
    >>> pb.tl.transfer_labels(mdata, key="high")
    >>> mdata["target"].obs["high"].cat.categories.tolist()
    ['False', 'True']
    """
    check_mudata(mdata)
    stored = read_coupling(mdata, coupling, source=source, target=target)
    given = obs_column(stored.source, key, modality=stored.source_name, argument="key")
    key_added = key_added or key
    columns = (key_added, key_added + _keys.SUFFIX_PROBABILITY)
    taken = [name for name in columns if name in stored.target.obs]
    if taken and stored.target.uns.get(f"{key_added}_transferred") is None:
        msg = (
            f"key_added: expected a column that obs of {stored.target_name!r} does not have, got {shorten(taken)}. Pass "
            "another name."
        )
        raise LabelError(msg)
    labels = pd.Categorical(given).remove_unused_categories()
    if len(labels.categories) == 0:
        msg = f"key: expected labels in obs[{key!r}] of {stored.source_name!r}, got none but missing ones."
        raise LabelError(msg)
    codes = np.asarray(labels.codes)
    mass = (stored.matrix.T @ one_hot(codes, len(labels.categories))).toarray()
    total = mass.sum(1)
    best = np.where(total > 0, mass.argmax(1), -1)
    share = np.divide(mass.max(1, initial=0), total, out=np.full(len(total), np.nan), where=total > 0)
    stored.target.obs[columns[0]] = pd.Categorical.from_codes(best, dtype=labels.dtype)
    stored.target.obs[columns[1]] = share
    stored.target.uns[f"{key_added}_transferred"] = {"coupling": coupling, "from": stored.source_name}
