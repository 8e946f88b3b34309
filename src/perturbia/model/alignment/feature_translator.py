"""Prediction of the features of one modality from those of another, learnt through a coupling of unpaired cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
import torch

from perturbia.errors import FeatureMismatch
from perturbia.model.alignment._feature_rows import column_moments, dense_rows
from perturbia.model.alignment._labelled_cells import stratified_split
from perturbia.model.alignment._translation_batches import RowMatches
from perturbia.model.alignment._translation_network import TranslationNetwork
from perturbia.model.alignment._translation_training import TranslationLoss, train_translation
from perturbia.model.base._arguments import check_choice, check_positive_integer, check_train_size
from perturbia.stats import Coupling
from perturbia.stats._arrays import any_matrix

if TYPE_CHECKING:
    from os import PathLike

    from scipy import sparse

__all__ = ["FeatureTranslator", "fit_translator"]


class FeatureTranslator:
    """A trained map from the features of one modality to those of another. :func:`fit_translator` makes it.

    Parameters
    ----------
    network
        The trained network.
    loss
        What it was trained by.
    history
        Curves of the training.

    Attributes
    ----------
    network
        The network; it predicts on the device where it is.
    loss
        What it was trained by.
    history
        ``"train_loss"`` and, with held-out cells, ``"validation_loss"``: DataFrames with a row for each epoch. Features
        are standardised: a constant, their mean, has a loss of about 1. The train loss of ``"projected"`` is an estimate
        from draws and can be negative.
    """

    def __init__(
        self, network: TranslationNetwork, *, loss: TranslationLoss, history: dict[str, pd.DataFrame] | None = None
    ) -> None:
        self.network, self.loss, self.history = network, loss, history or {}

    @property
    def n_input(self) -> int:
        """Number of features that it reads."""
        return int(self.network.options["n_input"])

    @property
    def n_output(self) -> int:
        """Number of features that it predicts."""
        return int(self.network.options["n_output"])

    def predict(self, X: np.ndarray | sparse.spmatrix, *, batch_size: int = 1024) -> np.ndarray:
        """Features of the other modality.

        Parameters
        ----------
        X
            Features, shape (n_cells, n_input), dense or sparse; sparse ones are made dense batch by batch.
        batch_size
            Cells of a batch.

        Returns
        -------
        Shape (n_cells, n_output), float32, in the units of the features that it was trained on.

        Raises
        ------
        FeatureMismatch
            If `X` has another number of features.
        ValueError
            If `X` is no matrix of finite numbers.
        """
        check_positive_integer("batch_size", batch_size)
        X = any_matrix(X, "X")
        if X.shape[1] != self.n_input:
            msg = f"X: expected the {self.n_input} features of the training, got {X.shape[1]}. Pass the same features."
            raise FeatureMismatch(msg)
        device = self.network.output_mean.device
        predicted = np.empty((X.shape[0], self.n_output), dtype=np.float32)
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, len(predicted), batch_size):
                rows = np.arange(start, min(start + batch_size, len(predicted)))
                x = torch.from_numpy(dense_rows(X, rows)).to(device)
                predicted[rows] = self.network.translate(x).cpu().numpy()
        return predicted

    def state(self) -> dict[str, Any]:
        """All that it consists of, as tensors and plain types.

        Returns
        -------
        What :meth:`from_state` takes.
        """
        history = {
            name: {"epoch": curve.index.tolist(), "value": curve[name].tolist()} for name, curve in self.history.items()
        }
        weights = {name: value.cpu() for name, value in self.network.state_dict().items()}
        return {"options": dict(self.network.options), "weights": weights, "loss": self.loss, "history": history}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FeatureTranslator:
        """Make a translator again.

        Parameters
        ----------
        state
            From :meth:`state`.

        Returns
        -------
        The translator, on the CPU.
        """
        network = TranslationNetwork(**state["options"])
        network.load_state_dict(state["weights"])
        history = {
            name: pd.DataFrame({name: curve["value"]}, index=pd.Index(curve["epoch"], name="epoch"))
            for name, curve in state["history"].items()
        }
        return cls(network.eval(), loss=state["loss"], history=history)

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write it to a file.

        Parameters
        ----------
        path
            The file.
        overwrite
            Whether a file that exists is replaced.

        Raises
        ------
        FileExistsError
            If the file exists.
        """
        if Path(path).exists() and not overwrite:
            msg = f"path: expected a new file, got {str(path)!r}, which exists. Pass overwrite=True to replace it."
            raise FileExistsError(msg)
        torch.save(self.state(), path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FeatureTranslator:
        """Read one from a file.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        The translator, on the CPU.
        """
        return cls.from_state(torch.load(path, map_location="cpu", weights_only=True))

    def __repr__(self) -> str:
        epochs = f", {len(self.history['train_loss'])} epochs" if "train_loss" in self.history else ""
        return f"FeatureTranslator: {self.n_input:,} → {self.n_output:,} features, loss={self.loss!r}{epochs}"


def fit_translator(
    X_input: np.ndarray | sparse.spmatrix,
    Y_output: np.ndarray | sparse.spmatrix,
    coupling: Coupling,
    *,
    loss: TranslationLoss = "plain",
    n_draws: int = 2,
    n_hidden: int = 256,
    n_layers: int = 2,
    dropout_rate: float = 0.1,
    lr: float = 1e-3,
    weight_decay: float = 1e-3,
    batch_size: int = 256,
    max_epochs: int | None = None,
    train_size: float = 0.9,
    early_stopping: bool = True,
    patience: int = 20,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    seed: int = 0,
    enable_progress_bar: bool = True,
    **trainer_kwargs: Any,
) -> FeatureTranslator:
    r"""Learn to predict features of one modality from those of another, through a coupling of unpaired cells.

    Of an output cell :math:`i` the features :math:`y_i` are known, and a coupling says by :math:`M_{i\cdot}` which input
    cells :math:`x_j` may be its match. The losses have different targets:

    - ``"plain"`` asks that :math:`f(x_j)` is close to :math:`y_i` for :math:`j \sim M_{i\cdot}`. It fits
      :math:`E_M[y \mid x_j]`, the mean of what is matched to :math:`x_j`. Matches that are uncertain pull it to the mean.
    - ``"projected"`` asks that :math:`f` averaged over the match, :math:`\sum_j M_{ij} f(x_j)`, equals :math:`y_i`. It
      finds the map behind uncertain matches, provided that :math:`M_{i\cdot}` are the right probabilities: of matches
      that are wider than the uncertainty is, as under a large `epsilon`, it makes differences that are not there. This is
      an inverse problem, like regression with instruments: what averaging removes, it has to bring back, and noise with
      it. Early stopping on held-out cells and weight decay matter. With hundreds to thousands of cells ``"plain"``
      predicted new cells better in every setting that was measured.
    - ``"projected_exact"`` is the same over all kept matches of a batch instead of draws: less noise in each step, for up
      to 100 forward passes a cell.

    On matches that are certain all three are ordinary regression. Dropout drops the same units for all draws of a cell:
    with its own for each draw it would cancel in the projected losses and regularise nothing.

    Parameters
    ----------
    X_input
        Features of the input cells, shape (n_input_cells, p), dense or sparse.
    Y_output
        Features of the output cells, shape (n_output_cells, g), dense or sparse. Better real features, such as
        log-normalised expression, than an embedding.
    coupling
        Output cells in its rows, input cells in its columns; `coupling.transpose()` turns it. Of each row the entries
        that hold 99 % of its mass are used, at most 100; plans that are sparse already, whole. Rows without match are
        left out.
    loss
        The loss.
    n_draws
        Draws of input cells for an output cell and step; two or more for ``"projected"``.
    n_hidden, n_layers, dropout_rate
        Of the network: width, hidden layers (none: a linear map) and dropout.
    lr, weight_decay
        Of AdamW.
    batch_size
        Output cells a step.
    max_epochs
        Passes at most; by default enough for 3,000 steps, between 100 and 1,000.
    train_size
        Share of the output cells that train, of each group alike; the rest is held out. Input cells are not held out:
        they train through the matches of others. With 1, all train and the last epoch is kept.
    early_stopping
        Whether to stop when the loss of held-out cells has not fallen for `patience` epochs. It is the expectation of
        the same loss over all kept matches. Weights of the best epoch are kept either way.
    patience
        Validations without a lower loss before stopping.
    accelerator, devices
        Where to train, as in scvi-tools.
    seed
        Seed of the split, the initial weights and all draws.
    enable_progress_bar
        Whether to show progress.
    **trainer_kwargs
        Further arguments of :class:`scvi.train.Trainer`, such as ``gradient_clip_val`` or ``callbacks``.

    Returns
    -------
    The trained :class:`FeatureTranslator`.

    Raises
    ------
    ValueError
        Shapes that do not belong together, values that are not finite, options out of range.
    TypeError
        If `coupling` is no :class:`~perturbia.stats.Coupling`.
    RuntimeError
        If the training diverges.

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.
    Section 5. There the network has batch normalisation, and the gradient one side of the pair of draws.

    Hartford, J., Lewis, G., Leyton-Brown, K. and Taddy, M. (2017). Deep IV: a flexible approach for counterfactual
    prediction. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.model.alignment import fit_translator
    >>> from perturbia.stats import Coupling
    >>> x = np.random.default_rng(0).normal(size=(40, 3))
    >>> certain = Coupling.from_matrix(np.eye(40))
    >>> translator = fit_translator(x, x[:, :2], certain, max_epochs=2, enable_progress_bar=False)
    >>> translator.predict(x).shape
    (40, 2)
    """
    X, Y = any_matrix(X_input, "X_input"), any_matrix(Y_output, "Y_output")
    _check_coupling(coupling, X.shape[0], Y.shape[0])
    _check_options(loss, n_draws, train_size, {"dropout_rate": dropout_rate, "lr": lr, "weight_decay": weight_decay})
    counts = {"n_draws": n_draws, "n_hidden": n_hidden, "batch_size": batch_size, "patience": patience}
    for name, count in (counts if max_epochs is None else {**counts, "max_epochs": max_epochs}).items():
        check_positive_integer(name, count)
    if n_layers != 0:
        check_positive_integer("n_layers", n_layers)
    matches = RowMatches(coupling)
    train, valid = _split(coupling, matches, train_size, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TranslationNetwork(
            X.shape[1], Y.shape[1], n_hidden=n_hidden, n_layers=n_layers, dropout_rate=dropout_rate
        )
    network.standardise_by(column_moments(X, matches.inputs(train)), column_moments(Y, train))
    history = train_translation(
        network,
        X,
        Y,
        matches,
        (train, valid),
        loss=loss,
        n_draws=n_draws,
        lr=lr,
        weight_decay=weight_decay,
        batch_size=batch_size,
        max_epochs=max_epochs,
        early_stopping=early_stopping,
        patience=patience,
        accelerator=accelerator,
        devices=devices,
        seed=seed,
        enable_progress_bar=enable_progress_bar,
        **trainer_kwargs,
    )
    return FeatureTranslator(network, loss=loss, history=history)


def _split(coupling: Coupling, matches: RowMatches, train_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Matched output cells that train and that validate."""
    codes = np.full(coupling.shape[0], -1)
    for code, block in enumerate(coupling.blocks):
        codes[block.rows] = code
    codes[np.setdiff1d(np.arange(len(codes)), matches.matched)] = -1
    train, valid = stratified_split(codes, train_size, np.random.default_rng(seed))
    # cells of one group share their matches, so that batches of them have fewer distinct input cells
    return train, valid[np.argsort(codes[valid], kind="stable")]


def _check_coupling(coupling: Any, n_input: int, n_output: int) -> None:
    if not isinstance(coupling, Coupling):
        msg = f"coupling: expected a Coupling, got {type(coupling).__name__}. Wrap it with Coupling.from_matrix."
        raise TypeError(msg)
    if coupling.shape != (n_output, n_input):
        fix = " Pass coupling.transpose()." if coupling.shape == (n_input, n_output) else ""
        msg = (
            f"coupling: expected the {n_output} output cells in rows and the {n_input} input cells in columns, got shape "
            f"{coupling.shape}.{fix}"
        )
        raise ValueError(msg)


def _check_options(loss: str, n_draws: int, train_size: float, numbers: dict[str, float]) -> None:
    check_choice("loss", loss, get_args(TranslationLoss))
    if loss == "projected" and n_draws == 1:
        msg = "n_draws: expected at least 2 for loss='projected', got 1. One draw is loss='plain'."
        raise ValueError(msg)
    check_train_size(train_size)
    allowed = {"dropout_rate": "a share in [0, 1)", "lr": "a positive number", "weight_decay": "zero or more"}
    rate, lr, decay = numbers["dropout_rate"], numbers["lr"], numbers["weight_decay"]
    fine = {"dropout_rate": 0 <= rate < 1, "lr": 0 < lr < np.inf, "weight_decay": 0 <= decay < np.inf}
    for name, value in numbers.items():
        if not fine[name]:
            msg = f"{name}: expected {allowed[name]}, got {value!r}."
            raise ValueError(msg)
