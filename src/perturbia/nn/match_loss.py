"""Losses of a prediction across a coupling, whose matches are uncertain: from draws, and over all matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["exact_plain_loss", "exact_projected_loss", "plain_match_loss", "projected_match_loss"]


def plain_match_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Squared error of predictions from drawn matches.

    .. math:: \frac{1}{nSg} \sum_i \sum_s \lVert y_i - f(x_{j_{is}}) \rVert^2, \qquad j_{is} \sim M_{i\cdot}

    Its expectation is the projected loss plus the variance of :math:`f` over the matches of a cell. It is least for
    :math:`f(x_j) = E_M[y \mid x_j]`, the mean of what is matched to an input cell: uncertain matches flatten it.

    Parameters
    ----------
    prediction
        :math:`f` at the drawn matches, shape `(n, n_draws, g)`, at least one draw.
    target
        :math:`y`, shape `(n, g)`.

    Returns
    -------
    The mean over cells, draws and features, a number.

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.
    Section 5.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import plain_match_loss
    >>> plain_match_loss(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0]])).item()
    1.0
    """
    _check(prediction, target, 1)
    return (target[:, None] - prediction).square().mean()


def projected_match_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Unbiased estimate, from draws, of the squared error of a prediction that is averaged over matches.

    With residuals :math:`r_{is} = y_i - f(x_{j_{is}})` of independent draws :math:`j_{is} \sim M_{i\cdot}`, the mean
    over cells and features of

    .. math:: \frac{(\sum_s r_{is})^2 - \sum_s r_{is}^2}{S (S - 1)}

    which is the mean of :math:`r_{is} r_{is'}` over pairs of draws. Value and gradient have the expectation of
    :func:`exact_projected_loss`; one draw would add the variance of :math:`f` over matches. The estimate can be negative.

    Parameters
    ----------
    prediction
        :math:`f` at the drawn matches, shape `(n, n_draws, g)`, at least two draws. Draws must not meet within the
        network, as they do in batch normalisation.
    target
        :math:`y`, shape `(n, g)`.

    Returns
    -------
    The estimate, a number.

    References
    ----------
    Hartford, J., Lewis, G., Leyton-Brown, K. and Taddy, M. (2017). Deep IV: a flexible approach for counterfactual
    prediction. ICML. Two draws make the gradient unbiased.

    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.
    Section 5.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import projected_match_loss
    >>> projected_match_loss(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0]])).item()
    -1.0
    """
    _check(prediction, target, 2)
    residual = target[:, None] - prediction
    n_draws = residual.shape[1]
    pairs = residual.sum(1).square() - residual.square().sum(1)
    return pairs.mean() / (n_draws * (n_draws - 1))


def exact_projected_loss(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    r"""Squared error of a prediction that is averaged over all matches of a cell.

    .. math:: L = \frac{1}{ng} \sum_i \Big\lVert y_i - \sum_j M_{ij} f(x_j) \Big\rVert^2

    Parameters
    ----------
    prediction
        :math:`f` at the input cells, shape `(k, g)`.
    target
        :math:`y`, shape `(n, g)`.
    weights
        :math:`M`, shape `(n, k)`, rows of sum one, dense or sparse.

    Returns
    -------
    The mean over cells and features, a number.

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.
    Section 5.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import exact_projected_loss
    >>> exact_projected_loss(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]]), torch.tensor([[0.5, 0.5]])).item()
    0.0
    """
    return (target - weights @ prediction).square().mean()


def exact_plain_loss(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    r"""Expectation of :func:`plain_match_loss`: the projected loss plus the variance over matches.

    .. math:: \frac{1}{ng} \sum_i \sum_j M_{ij} \lVert y_i - f(x_j) \rVert^2

    Parameters
    ----------
    prediction
        :math:`f` at the input cells, shape `(k, g)`.
    target
        :math:`y`, shape `(n, g)`.
    weights
        :math:`M`, shape `(n, k)`, rows of sum one, dense or sparse.

    Returns
    -------
    The mean over cells and features, a number.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import exact_plain_loss
    >>> exact_plain_loss(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]]), torch.tensor([[0.5, 0.5]])).item()
    1.0
    """
    mean = weights @ prediction
    variance = weights @ prediction.square() - mean.square()
    return ((target - mean).square() + variance).mean()


def _check(prediction: torch.Tensor, target: torch.Tensor, min_draws: int) -> None:
    """Shapes that would broadcast to a wrong loss."""
    if prediction.ndim != 3 or target.shape != (prediction.shape[0], prediction.shape[2]):
        msg = (
            "prediction: expected shape (n, n_draws, g) for a target of shape (n, g), got "
            f"{tuple(prediction.shape)} and {tuple(target.shape)}."
        )
        raise ValueError(msg)
    if prediction.shape[1] < min_draws:
        msg = f"prediction: expected at least {min_draws} draws of a cell, got {prediction.shape[1]}."
        raise ValueError(msg)
