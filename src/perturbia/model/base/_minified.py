"""Data of which the latents of a model were kept and the features dropped, in the form of scvi-tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbia import _keys
from perturbia.errors import RepresentationMismatch, UnsupportedQuery

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["MINIFY_TYPES", "check_minified", "is_minified", "lacks_features", "require_features"]

#: What `uns` says of minified data: without the features, and with them.
MINIFY_TYPES = ("latent_posterior_parameters", "latent_posterior_parameters_with_counts")


def is_minified(adata: AnnData) -> bool:
    """Whether latents were stored in place of features, or beside them."""
    return adata.uns.get(_keys.UNS_MINIFY_TYPE) is not None


def lacks_features(adata: AnnData) -> bool:
    """Whether features were dropped; the matrices are empty then."""
    return adata.uns.get(_keys.UNS_MINIFY_TYPE) == MINIFY_TYPES[0]


def require_features(adata: AnnData, what: str) -> None:
    """Refuse data whose features were dropped, so that nobody reads zeros for counts.

    Parameters
    ----------
    adata
        Annotated data.
    what
        What wants to read features, the beginning of the message.

    Raises
    ------
    UnsupportedQuery
        If the features were dropped.
    """
    if lacks_features(adata):
        msg = (
            f"{what}: expected data with features, got minified data, of which only latents were kept. Pass the original "
            f"data, or minify with {MINIFY_TYPES[1]!r}."
        )
        raise UnsupportedQuery(msg)


def check_minified(adata: AnnData, cls: type) -> None:
    """Check that minified data are whole, and for a model that reads them; data with features always pass.

    Raises
    ------
    UnsupportedQuery
        If models of the class `cls` read no latents.
    RepresentationMismatch
        If what was stored is incomplete.
    """
    if not is_minified(adata):
        return
    kind = adata.uns[_keys.UNS_MINIFY_TYPE]
    if not hasattr(cls, "minify_adata"):
        msg = f"adata: expected data with features, got minified data; {cls.__name__} reads no latents. Pass the original data."
        raise UnsupportedQuery(msg)
    missing = [
        f"obsm[{key!r}]" for key in (_keys.OBSM_LATENT_MEAN, _keys.OBSM_LATENT_VARIANCE) if key not in adata.obsm
    ]
    missing += [] if _keys.OBS_OBSERVED_LIBRARY in adata.obs else [f"obs[{_keys.OBS_OBSERVED_LIBRARY!r}]"]
    missing += [] if _keys.UNS_MINIFIED in adata.uns else [f"uns[{_keys.UNS_MINIFIED!r}]"]
    if missing or kind not in MINIFY_TYPES:
        found = f"no {', '.join(missing)}" if missing else f"uns[{_keys.UNS_MINIFY_TYPE!r}] = {kind!r}"
        msg = (
            f"adata: expected minified data as {cls.__name__}.minify_adata leaves them, got {found}. Minify them again."
        )
        raise RepresentationMismatch(msg)
