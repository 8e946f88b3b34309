"""Minibatches of a registered screen: features dense once where they fit, treatments as slots."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager, AnnTorchDataset

from perturbia import _keys
from perturbia.model.base._minified import lacks_features
from perturbia.model.base._minified_fields import MINIFIED_FIELDS, minified_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

__all__ = ["ScreenDataset", "ScreenManager", "treatment_slots"]

#: Features of the chosen cells are made dense once if they take no more than this many bytes of main memory.
DENSE_BYTES = 2**28
#: The same as a share of the free memory of a GPU, whose cells are then never sent there again.
DENSE_SHARE = 0.5
_CHUNK_CELLS = 16_384


class ScreenManager(AnnDataManager):
    """scvi-tools' manager, whose loaders read a :class:`ScreenDataset`."""

    #: Dense features of all cells, while something holds them.
    held: torch.Tensor | None = None

    @contextmanager
    def holding(self, device: torch.device) -> Iterator[None]:
        """Datasets made meanwhile share one dense tensor of features on `device`, and yield tensors there, if it fits."""
        self.held = self._dense_on(device)
        try:
            yield
        finally:
            self.held = None

    def _dense_on(self, device: torch.device) -> torch.Tensor | None:
        """Features of all cells on a device; None without features, from a file, or where they are too many."""
        entry = self.data_registry.get(REGISTRY_KEYS.X_KEY)
        if entry is None or self.adata.isbacked or lacks_features(self.adata):
            return None
        values = self.get_from_registry(REGISTRY_KEYS.X_KEY)
        n_bytes, room = values.shape[0] * values.shape[1] * 4, DENSE_BYTES
        if device.type == "cuda":
            room = int(DENSE_SHARE * torch.cuda.mem_get_info(device)[0])
        if n_bytes > room:
            return None
        dense = torch.empty(values.shape, dtype=torch.float32, device=device)
        for first in range(0, len(dense), _CHUNK_CELLS):
            chunk = slice(first, first + _CHUNK_CELLS)
            dense[chunk] = _as_dense(values[chunk]).to(device)
        return dense

    def create_torch_dataset(
        self,
        indices: Sequence[int] | None = None,
        data_and_attributes: list[str] | dict[str, Any] | None = None,
        load_sparse_tensor: bool = False,  # noqa: FBT001, FBT002  signature of scvi-tools
    ) -> AnnTorchDataset:
        """Dataset of the cells `indices`, all by default."""
        if data_and_attributes is not None or load_sparse_tensor:
            return super().create_torch_dataset(indices, data_and_attributes, load_sparse_tensor)
        return ScreenDataset(self, indices)

    def transfer_fields(self, adata_target: AnnData, **kwargs: Any) -> ScreenManager:
        """Register other data in the same way; whether they are minified may differ from the first."""
        fields = [field for field in self.fields if field.registry_key not in MINIFIED_FIELDS]
        manager = type(self)(
            fields=[*fields, *minified_fields(adata_target)],
            setup_method_args=self._get_setup_method_args(),
            validation_checks=self.validation_checks,
        )
        manager.register_fields(adata_target, self._registry, **kwargs)
        return manager


class ScreenDataset(AnnTorchDataset):
    """Some cells of registered data, one minibatch a call.

    Minified data yield what was stored of them, and no features.

    Rows of a sparse matrix are costly to cut out one batch at a time: the features of the chosen cells become a dense
    tensor once where :data:`DENSE_BYTES` allow it, and are read batch by batch where not, or from a file. Everything
    but the features is small, and held. While a training holds them (:meth:`ScreenManager.holding`), features of all cells
    are one tensor, on the device of the training, and nothing is made dense or sent again.

    Parameters
    ----------
    manager
        Manager of registered data.
    indices
        Positions of the chosen cells.
    """

    def __init__(self, manager: AnnDataManager, indices: Sequence[int] | None = None) -> None:
        super().__init__(manager)
        n_obs = manager.adata.shape[0]
        self.indices = np.arange(n_obs) if indices is None else np.asarray(indices)
        if self.indices.dtype == bool:
            self.indices = np.flatnonzero(self.indices)
        # minified data have none, and their empty matrix must not pass for counts
        self._has_features = REGISTRY_KEYS.X_KEY in self.keys_and_dtypes and not lacks_features(manager.adata)
        shared = manager.held if self._has_features and isinstance(manager, ScreenManager) else None
        self._device = torch.device("cpu") if shared is None else shared.device
        # of the chosen cells, or of all cells, among which the chosen ones are at `_rows`; None where they are read each time
        self._features = self._dense_features() if shared is None else shared
        self._rows = None if shared is None else torch.from_numpy(self.indices).to(self._device)
        self._held = {key: values.to(self._device) for key, values in self._hold().items()}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indexes: int | list[int] | slice) -> dict[str, torch.Tensor]:
        """Tensors of the cells at positions `indexes` among the chosen ones, in the order asked for."""
        chosen = np.arange(len(self))[indexes] if isinstance(indexes, slice) else np.atleast_1d(indexes)
        first, last = int(chosen[0]), int(chosen[-1])
        if last - first + 1 == len(chosen) and (np.diff(chosen) == 1).all():

            def take(values: torch.Tensor) -> torch.Tensor:
                return values[first : last + 1]
        else:
            order = torch.from_numpy(chosen).to(self._device)

            def take(values: torch.Tensor) -> torch.Tensor:
                return values.index_select(0, order)

        tensors = {key: take(value) for key, value in self._held.items()}
        if self._features is not None:
            rows = self._rows
            tensors[REGISTRY_KEYS.X_KEY] = (
                take(self._features) if rows is None else self._features.index_select(0, take(rows))
            )
        elif self._has_features:
            tensors[REGISTRY_KEYS.X_KEY] = self._read_features(self.indices[chosen])
        return tensors

    def _hold(self) -> dict[str, torch.Tensor]:
        """All but the features of the chosen cells."""
        held: dict[str, torch.Tensor] = {}
        for key, dtype in self.keys_and_dtypes.items():
            values = self.data[key]
            if key == REGISTRY_KEYS.X_KEY or isinstance(values, str):
                continue
            if key == _keys.PERTURBATION:
                index, dose = treatment_slots(values[self.indices])
                held |= {_keys.TREATMENT_INDEX: torch.from_numpy(index), _keys.TREATMENT_DOSE: torch.from_numpy(dose)}
                continue
            rows = values.iloc[self.indices].to_numpy() if hasattr(values, "iloc") else values[self.indices]
            rows = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
            held[key] = torch.from_numpy(np.ascontiguousarray(rows.astype(dtype, copy=False)))
        return held

    def _dense_features(self) -> torch.Tensor | None:
        values = self.data.get(REGISTRY_KEYS.X_KEY)
        if not self._has_features or values is None or self.adata_manager.adata.isbacked:
            return None
        if len(self.indices) * values.shape[1] * 4 > DENSE_BYTES:
            return None
        return self._read_features(self.indices)

    def _read_features(self, positions: np.ndarray) -> torch.Tensor:
        """Features of cells in any order; files are read in rising positions."""
        values = self.data[REGISTRY_KEYS.X_KEY]
        if self.adata_manager.adata.isbacked:
            rising, place = np.unique(positions, return_inverse=True)
            return _as_dense(values[rising])[torch.from_numpy(place)]
        return _as_dense(values[positions])


def _as_dense(values: Any) -> torch.Tensor:
    rows = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return torch.from_numpy(np.ascontiguousarray(rows.astype(np.float32, copy=False)))


def treatment_slots(dosage: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Columns and doses of each row of a dosage matrix, as slots.

    Returns
    -------
    int64 and float32 arrays `(n_rows, most entries of a row, at least 1)`; unused slots hold column 0 and dose 0.
    """
    dosage = sparse.csr_matrix(dosage)
    counts = np.diff(dosage.indptr)
    n_slots = max(1, int(counts.max(initial=0)))
    index, dose = np.zeros((len(counts), n_slots), np.int64), np.zeros((len(counts), n_slots), np.float32)
    row = np.repeat(np.arange(len(counts)), counts)
    slot = np.arange(len(dosage.data)) - np.repeat(dosage.indptr[:-1], counts)
    index[row, slot], dose[row, slot] = dosage.indices, dosage.data
    return index, dose
