"""The fields of scvi-tools that register what minified data hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi import REGISTRY_KEYS
from scvi.data.fields import NumericalObsField, ObsmField, StringUnsField

from perturbia import _keys
from perturbia.model.base._minified import is_minified

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.data.fields import BaseAnnDataField

__all__ = ["MINIFIED_FIELDS", "minified_fields"]

#: Registry keys of these fields.
MINIFIED_FIELDS = (
    REGISTRY_KEYS.LATENT_QZM_KEY,
    REGISTRY_KEYS.LATENT_QZV_KEY,
    REGISTRY_KEYS.OBSERVED_LIB_SIZE,
    REGISTRY_KEYS.MINIFY_TYPE_KEY,
)


class _LatentField(ObsmField):
    """An array whose columns are latents; scvi-tools would announce names that it makes up."""

    def _setup_column_names(self, adata: AnnData) -> list[str]:
        return [f"z{i}" for i in range(adata.obsm[self.attr_key].shape[1])]


def minified_fields(adata: AnnData) -> list[BaseAnnDataField]:
    """Fields of minified data; none for others."""
    if not is_minified(adata):
        return []
    return [
        _LatentField(REGISTRY_KEYS.LATENT_QZM_KEY, _keys.OBSM_LATENT_MEAN),
        _LatentField(REGISTRY_KEYS.LATENT_QZV_KEY, _keys.OBSM_LATENT_VARIANCE),
        NumericalObsField(REGISTRY_KEYS.OBSERVED_LIB_SIZE, _keys.OBS_OBSERVED_LIBRARY),
        StringUnsField(REGISTRY_KEYS.MINIFY_TYPE_KEY, _keys.UNS_MINIFY_TYPE),
    ]
