"""The exceptions of Perturbia: one tree, so that `except perturbia.errors.PerturbiaError` catches them all.

Each class also derives from the built-in exception a Python user expects (`ValueError`, `KeyError`, `OSError`, `RuntimeError`).
A message reads "<argument>: expected <what>, got <value>. <how to fix>."
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ControlError",
    "ConvergenceWarning",
    "DoseError",
    "DownloadError",
    "ExtrapolationWarning",
    "FeatureMismatch",
    "LabelError",
    "LeakageError",
    "ModalityError",
    "NotTrainedError",
    "PerturbiaError",
    "RepresentationMismatch",
    "ScaleError",
    "SplitError",
    "UnknownPerturbation",
    "UnsupportedQuery",
    "nearest_names",
    "shorten",
]


class PerturbiaError(Exception):
    """Base class of every error that Perturbia raises on purpose."""


class _PlainKeyError(PerturbiaError, KeyError):
    """A `KeyError` whose text is shown as written (`KeyError` shows the quoted `repr` of its argument)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnknownPerturbation(_PlainKeyError):
    """A perturbation that was not registered. The message holds the nearest registered names.

    Examples
    --------
    >>> from perturbia.errors import UnknownPerturbation
    >>> print(UnknownPerturbation.among(["STAT11"], ["JAK2", "STAT1", "STAT2", "IRF1"]))
    perturbation: expected registered names, got 'STAT11' (nearest: STAT1, STAT2, IRF1). 4 names are registered.
    """

    @classmethod
    def among(
        cls, unknown: Iterable[str], known: Sequence[str], *, argument: str = "perturbation", fix: str = ""
    ) -> UnknownPerturbation:
        """Build the error for `unknown` names, with the three nearest `known` names of each.

        Parameters
        ----------
        unknown
            The names that were not found; the first five are described.
        known
            All registered names.
        argument
            The argument the user gave the names to.
        fix
            A sentence on what to do, appended to the message.

        Returns
        -------
        The exception, to be raised by the caller.
        """
        unknown = list(unknown)
        parts = [f"{name!r} (nearest: {', '.join(nearest_names(name, known)) or 'none'})" for name in unknown[:5]]
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        message = f"{argument}: expected registered names, got {', '.join(parts)}{more}. "
        return cls(f"{message}{len(known)} names are registered. {fix}".strip())


class UnsupportedQuery(PerturbiaError, ValueError):
    """A query needs a capability (dose, combination, unseen context, ...) that is not there."""


class RepresentationMismatch(PerturbiaError, ValueError):
    """A latent representation comes from another model than the one asked to use it."""


class FeatureMismatch(PerturbiaError, ValueError):
    """Features (genes) are missing, or differ from the registered ones."""


class ScaleError(PerturbiaError, ValueError):
    """Data are not on the declared scale, for instance log values where counts were registered."""


class ControlError(PerturbiaError, ValueError):
    """No control cells, or a control label that the data do not have. The message holds the labels seen."""


class LabelError(PerturbiaError, ValueError):
    """Perturbation labels that are missing, empty, cannot be parsed, or are different in nearly every cell."""


class DoseError(PerturbiaError, ValueError):
    """A dose that is missing, zero, negative, not finite, or does not line up with its label."""


class DownloadError(PerturbiaError, OSError):
    """A file that could not be fetched, or arrived as something else than what was published."""


class ModalityError(_PlainKeyError):
    """An unknown modality, or two modalities without an alignment."""


class NotTrainedError(PerturbiaError, RuntimeError):
    """A model was asked for results before `.train()`."""


class LeakageError(PerturbiaError, ValueError):
    """A query that should be held out was seen in training."""


class SplitError(PerturbiaError, ValueError):
    """A split of cells that is missing, empty, or impossible for these data."""


class ConvergenceWarning(UserWarning):
    """A solver stopped before it reached its tolerance. The message names what it concerns."""


class ExtrapolationWarning(UserWarning):
    """A dose, combination or context outside the range of the training data."""


def nearest_names(name: str, known: Sequence[str], *, n: int = 3) -> list[str]:
    """Return the `n` names of `known` that are spelled most like `name`, nearest first; case does not count.

    Parameters
    ----------
    name
        The name to look for.
    known
        Names to choose from.
    n
        How many to return at most.

    Returns
    -------
    At most `n` elements of `known`.

    Examples
    --------
    >>> from perturbia.errors import nearest_names
    >>> nearest_names("stat", ["JAK2", "STAT1", "STAT2"], n=2)
    ['STAT1', 'STAT2']
    """
    target = name.casefold()

    def rank(other: str) -> tuple[float, str]:
        return -difflib.SequenceMatcher(None, other.casefold(), target).ratio(), other

    return sorted(known, key=rank)[:n]


def shorten(values: Iterable[object], *, limit: int = 10) -> str:
    """Join the `repr` of the first `limit` values for a message, and say how many more there are.

    Parameters
    ----------
    values
        Anything; shown with `repr`.
    limit
        How many values to show.

    Returns
    -------
    The text.

    Examples
    --------
    >>> from perturbia.errors import shorten
    >>> shorten("abcd", limit=2)
    "'a', 'b' and 2 more"
    """
    values = list(values)
    text = ", ".join(repr(value) for value in values[:limit])
    return f"{text} and {len(values) - limit} more" if len(values) > limit else text
