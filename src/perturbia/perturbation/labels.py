"""The grammar of perturbation labels: `A`, `A+B`, `A@0.5+B`, and control labels that stand for no target.

A name that itself holds the separator or the dose mark is written in double quotes (`"A+B"@0.5`), so that every
canonical label reads back as the perturbation it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from perturbia.errors import ControlError, DoseError, LabelError

CONTROL = "control"
DOSE_MARK = "@"
QUOTE = '"'
_QUOTED_TOKEN = re.compile(r'\s*"([^"]*)"\s*(?:@([^"]*))?')

# words that mean "we do not know what this cell received"; never a treatment, never silently a control
UNASSIGNED = frozenset(
    {"nan", "na", "n/a", "<na>", "none", "null", "unassigned", "unknown", "undetermined", "multiplet", "doublet"}
    | {"ambiguous", "no_guide", "no guide", "not_assigned", "not assigned"}
)
# of these, a user may declare a control by name: "none" is a common word for untreated
_ALLOWED_AS_CONTROL = frozenset({"none"})

Token = tuple[str | None, float | None]


def check_dose(dose: object, *, name: str) -> float:
    """Return `dose` as a float of float32 precision, the precision of dosage matrices.

    Parameters
    ----------
    dose
        A number, or text that reads as one.
    name
        The target, for the message.

    Returns
    -------
    The shortest decimal that is the same float32, so that 0.1 and `numpy.float32(0.1)` are one dose.

    Raises
    ------
    DoseError
        If the dose is not a number, not finite, zero or negative.
    """
    try:
        value = float(dose)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        msg = f"dose of {name!r}: expected a number above 0, got {dose!r}. Write it as name@number, such as 'A@0.5'."
        raise DoseError(msg) from None
    if value == 0:
        msg = f"dose of {name!r}: expected a number above 0, got 0. Leave the target out: no dose is the control."
        raise DoseError(msg)
    with np.errstate(over="ignore", under="ignore"):
        single = np.float32(value)
    if not np.isfinite(single) or single <= 0:
        msg = f"dose of {name!r}: expected a finite number above 0 (float32), got {dose!r}. Correct the dose."
        raise DoseError(msg)
    return float(str(single))


def format_dose(dose: float) -> str:
    """Write a dose with the fewest digits that read back as the same float32; never with a plus sign.

    Parameters
    ----------
    dose
        A positive number.

    Returns
    -------
    Text such as `0.5`, `10` or `1e20`.
    """
    single = np.float32(dose)
    text = str(int(single)) if single == np.rint(single) and single < 1e7 else str(single)
    return text.replace("e+", "e")


def check_name(name: object) -> str:
    """Return the name of a target, stripped; refuse what cannot be one.

    Parameters
    ----------
    name
        Anything.

    Returns
    -------
    The name.

    Raises
    ------
    LabelError
        If it is not text, is empty, holds a double quote, is the word `control`, or means "unassigned".
    """
    if not isinstance(name, str):
        msg = f"target: expected a name (str), got {name!r}. Convert it with str()."
        raise LabelError(msg)
    stripped = name.strip()
    if not stripped:
        msg = f"target: expected a name, got {name!r}. Name every target; the control has none."
        raise LabelError(msg)
    if QUOTE in stripped:
        msg = f"target: expected a name without double quotes, got {name!r}. Rename it."
        raise LabelError(msg)
    if stripped == CONTROL:
        msg = f"target: expected a treatment, got {CONTROL!r}. List this label in `control`, or rename it."
        raise LabelError(msg)
    if stripped.casefold() in UNASSIGNED:
        msg = f"target: expected a treatment, got {name!r}, which reads as unassigned. Drop those cells or rename it."
        raise LabelError(msg)
    return stripped


def check_control(control: str | Iterable[str]) -> tuple[str, ...]:
    """Return the control labels as a tuple of distinct text.

    Parameters
    ----------
    control
        One label or several.

    Returns
    -------
    The labels, stripped, in the given order.

    Raises
    ------
    ControlError
        If there is none, one is empty, or one means "unassigned": cells without a call are not controls.
    """
    given = [control] if isinstance(control, str) or not isinstance(control, Iterable) else list(control)
    labels = tuple(dict.fromkeys(str(label).strip() for label in given))
    if not labels or "" in labels or None in given:
        msg = f"control: expected one or more control labels, got {control!r}. Name the label of the control cells."
        raise ControlError(msg)
    bad = [one for one in labels if one.casefold() in UNASSIGNED - _ALLOWED_AS_CONTROL]
    if bad:
        msg = (
            f"control: expected a label of true controls, got {bad[0]!r}, which reads as unassigned. "
            "Drop the cells without a call and name the real control."
        )
        raise ControlError(msg)
    return labels


def split_label(label: str, *, control: Sequence[str], sep: str) -> list[Token]:
    """Split one label into tokens, in written order.

    Parameters
    ----------
    label
        Such as `A+B`, `A@0.5`, `ctrl+A`.
    control
        Tokens that stand for no target.
    sep
        Text between targets; `""` reads the whole label as one name.

    Returns
    -------
    `(name, dose)` for every written token; the name is `None` for a control token, the dose `None` where not written.

    Raises
    ------
    LabelError
        If a token is empty or not a name, or a name comes twice.
    DoseError
        If a written dose is not a positive number.
    """
    whole = label.strip()
    if whole in control:
        return [(None, None)]
    if not whole:
        msg = "label: expected text, got an empty label. Name the control cells and drop cells without a call."
        raise LabelError(msg)
    tokens = [_read_token(name, dose, control, label) for name, dose in _raw_tokens(whole, sep)]
    names = [name for name, _ in tokens if name is not None]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"label: expected every target once, got {twice!r} twice in {label!r}. Write its total dose as {twice}@2."
        raise LabelError(msg)
    return tokens


def join_label(names: Sequence[str], doses: Sequence[float], *, sep: str = "+", control: str = CONTROL) -> str:
    """Write the canonical label: names in the given order, dose 1 left out.

    Parameters
    ----------
    names
        Targets, sorted by the caller.
    doses
        One dose per target.
    sep
        Text between targets.
    control
        The label of no target at all.

    Returns
    -------
    The label, such as `A@0.5+B`.
    """
    if not len(names):
        return control
    parts = []
    for name, dose in zip(names, doses, strict=True):
        quoted = f"{QUOTE}{name}{QUOTE}" if (sep and sep in name) or DOSE_MARK in name or name == control else name
        parts.append(quoted if dose == 1 else f"{quoted}{DOSE_MARK}{format_dose(dose)}")
    return (sep or "+").join(parts)


def _raw_tokens(label: str, sep: str) -> list[tuple[str, str | None]]:
    """Cut a label at the separators outside double quotes; a quoted name keeps its quotes for `_read_token`."""
    if QUOTE not in label:
        tokens = label.split(sep) if sep else [label]
        return [_cut_dose(token) for token in tokens]
    out: list[tuple[str, str | None]] = []
    rest = label
    while True:
        match = _QUOTED_TOKEN.match(rest)
        if match is None:
            token, found, rest = rest.partition(sep) if sep else (rest, "", "")
            out.append(_cut_dose(token))
        else:
            tail, found, after = rest[match.end(1) + 1 :].partition(sep) if sep else (rest[match.end(1) + 1 :], "", "")
            tail = tail.strip()
            if tail and not tail.startswith(DOSE_MARK):
                msg = f"label: expected {sep!r} or {DOSE_MARK!r} after a quoted name, got {label!r}. Correct the label."
                raise LabelError(msg)
            out.append((f"{QUOTE}{match.group(1)}{QUOTE}", tail[1:] if tail else None))
            rest = after
        if not found:
            return out


def _cut_dose(token: str) -> tuple[str, str | None]:
    name, found, dose = token.rpartition(DOSE_MARK)
    return (name, dose) if found else (token, None)


def _read_token(name: str, dose: str | None, control: Sequence[str], label: str) -> Token:
    name = name.strip()
    if name in control:
        return None, None
    if len(name) > 1 and name[0] == name[-1] == QUOTE:
        name = name[1:-1].strip()
    if not name:
        msg = f"label: expected a name on both sides of the separator, got {label!r}. Correct the label."
        raise LabelError(msg)
    checked = check_name(name)
    return checked, None if dose is None else check_dose(dose.strip(), name=checked)
