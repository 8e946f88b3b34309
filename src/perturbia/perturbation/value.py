"""The perturbation as a value: what was done to a cell, independent of how a data set spells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import total_ordering
from typing import TypeAlias

from perturbia.errors import LabelError
from perturbia.perturbation.labels import CONTROL, check_dose, check_name, join_label, split_label

Query: TypeAlias = "Perturbation | str | Mapping[str, float] | Iterable[str] | None"


@total_ordering
@dataclass(frozen=True, slots=True, init=False, repr=False)
class Perturbation:
    """A set of targets with a dose each; no target is the control. Immutable, hashable, sortable.

    The order in which targets are given does not count, and a dose of 1 is not written: `"B+A"`, `"A+B@1"` and
    `{"A": 1, "B": 1}` are equal. Doses have the precision of float32, as dosage matrices do.

    Parameters
    ----------
    targets
        A mapping of target to dose; or text such as `"A+B"` or `"A@0.5"`; or names, each read as text.
        A name that holds `+` or `@` needs the mapping. Empty (the default) is the control.
    context
        What holds around the perturbation, such as `{"cell_type": "K562"}`. Part of equality, not of the label.

    Attributes
    ----------
    names
        Targets, sorted.
    doses
        Dose of each target.

    Raises
    ------
    LabelError
        If a name is empty, unassigned (`"nan"`, ...), `"control"`, or given twice.
    DoseError
        If a dose is zero, negative or not finite.

    Examples
    --------
    >>> from perturbia import Perturbation
    >>> Perturbation("KLF1+CEBPA") == Perturbation({"CEBPA": 1.0, "KLF1": 1.0})
    True
    >>> print(Perturbation({"dabrafenib": 0.1}) | Perturbation("BRAF"))
    BRAF+dabrafenib@0.1
    >>> Perturbation().is_control
    True
    """

    names: tuple[str, ...]
    doses: tuple[float, ...]
    _context: tuple[tuple[str, str], ...]

    def __init__(
        self,
        targets: Mapping[str, float] | Iterable[str] | str = (),
        *,
        context: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(targets, Perturbation) and context is None:
            context = targets.context
        pairs = sorted(_read_targets(targets))
        names = tuple(name for name, _ in pairs)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            msg = f"targets: expected every target once, got {twice!r} twice. Give its total dose, as in {twice}@2."
            raise LabelError(msg)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "doses", tuple(dose for _, dose in pairs))
        object.__setattr__(
            self, "_context", tuple(sorted((str(key), str(value)) for key, value in (context or {}).items()))
        )

    @classmethod
    def parse(cls, label: str, *, control: Sequence[str] | str = (CONTROL,), sep: str = "+") -> Perturbation:
        """Read a label of a data set.

        Parameters
        ----------
        label
            Such as `"A"`, `"A+B"`, `"A+ctrl"`, `"A@0.5"`. The word `control` always means the control.
        control
            Labels that stand for no target, alone or inside a combination.
        sep
            Text between targets.

        Returns
        -------
        The perturbation.

        Raises
        ------
        LabelError
            If a token is empty or a target comes twice.
        DoseError
            If a written dose is not a positive number.

        Examples
        --------
        >>> from perturbia import Perturbation
        >>> Perturbation.parse("ctrl+KLF1", control="ctrl")
        Perturbation('KLF1')
        """
        if not isinstance(label, str):
            msg = (
                f"label: expected text, got {label!r}. Convert it with str(), or use as_perturbation for other queries."
            )
            raise LabelError(msg)
        controls = (control,) if isinstance(control, str) else tuple(control)
        tokens = split_label(label, control=(*controls, CONTROL), sep=sep)
        return cls({name: 1.0 if dose is None else dose for name, dose in tokens if name is not None})

    @property
    def targets(self) -> dict[str, float]:
        """Dose of each target, in the order of the names; a new dictionary each time."""
        return dict(zip(self.names, self.doses, strict=True))

    @property
    def context(self) -> dict[str, str]:
        """What holds around the perturbation; a new dictionary each time."""
        return dict(self._context)

    @property
    def is_control(self) -> bool:
        """Whether there is no target."""
        return not self.names

    def label(self, *, sep: str = "+", control: str = CONTROL) -> str:
        """Write the canonical label with another separator or control word than `str()` uses.

        Parameters
        ----------
        sep
            Text between targets.
        control
            The label of the control.

        Returns
        -------
        The label.
        """
        return join_label(self.names, self.doses, sep=sep, control=control)

    def __or__(self, other: Perturbation) -> Perturbation:
        if not isinstance(other, Perturbation):
            return NotImplemented
        clash = [key for key, value in self._context if other.context.get(key, value) != value]
        if clash:
            msg = f"context: expected the same {clash[0]!r} on both sides, got {self!r} and {other!r}. Drop one."
            raise LabelError(msg)
        shared = sorted(set(self.names) & set(other.names))
        if shared:
            msg = f"targets: expected every target once, got {shared[0]!r} on both sides. Give its total dose instead."
            raise LabelError(msg)
        return Perturbation(self.targets | other.targets, context=self.context | other.context)

    __add__ = __or__

    def __lt__(self, other: Perturbation) -> bool:
        if not isinstance(other, Perturbation):
            return NotImplemented
        return (str(self), self._context) < (str(other), other._context)

    def __len__(self) -> int:
        return len(self.names)

    def __bool__(self) -> bool:
        return True  # a control is a perturbation too; ask is_control

    def __str__(self) -> str:
        return self.label()

    def __repr__(self) -> str:
        context = f", context={self.context!r}" if self._context else ""
        return f"Perturbation({str(self)!r}{context})"


def as_perturbation(query: Query, *, control: Sequence[str] | str = (CONTROL,), sep: str = "+") -> Perturbation:
    """Read any spelling of a perturbation.

    Parameters
    ----------
    query
        A `Perturbation` (returned as it is), a label, a mapping of target to dose, names, or `None` for the control.
    control
        Labels that stand for no target.
    sep
        Text between targets in a label.

    Returns
    -------
    The perturbation.

    Raises
    ------
    LabelError
        If the query cannot be read.
    DoseError
        If a dose is zero, negative or not finite.

    Examples
    --------
    >>> from perturbia.perturbation import as_perturbation
    >>> as_perturbation(["KLF1", "CEBPA"]) == as_perturbation("CEBPA+KLF1")
    True
    >>> as_perturbation("NT", control="NT").is_control
    True
    """
    if isinstance(query, Perturbation):
        return query
    if query is None:
        return Perturbation()
    if isinstance(query, str):
        return Perturbation.parse(query, control=control, sep=sep)
    if isinstance(query, Mapping):
        return Perturbation(query)
    if isinstance(query, Iterable):
        out = Perturbation()
        for part in query:
            if not isinstance(part, str):
                msg = f"query: expected names, got {part!r}. Give labels one by one, or a mapping of target to dose."
                raise LabelError(msg)
            out = out | Perturbation.parse(part, control=control, sep=sep)
        return out
    msg = f"query: expected a Perturbation, label, mapping or names, got {query!r}. See perturbia.Perturbation."
    raise LabelError(msg)


def _read_targets(targets: Mapping[str, float] | Iterable[str] | str) -> list[tuple[str, float]]:
    if isinstance(targets, Mapping):
        return [((checked := check_name(name)), check_dose(dose, name=checked)) for name, dose in targets.items()]
    if isinstance(targets, Perturbation):
        return list(targets.targets.items())
    parts = [targets] if isinstance(targets, str) else targets
    if not isinstance(parts, Iterable):
        msg = f"targets: expected a mapping, text or names, got {targets!r}. Write for instance {{'A': 0.5}} or 'A+B'."
        raise LabelError(msg)
    out = []
    for part in parts:
        if not isinstance(part, str):
            msg = f"targets: expected names, got {part!r}. Give doses with a mapping, as in {{'A': 0.5}}."
            raise LabelError(msg)
        tokens = split_label(part, control=(CONTROL,), sep="+")
        out += [(name, 1.0 if dose is None else dose) for name, dose in tokens if name is not None]
    return out
