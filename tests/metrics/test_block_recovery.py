"""Recovery of blocks of latents, and leaks between them."""

from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics import block_r2, linear_r2

Z, S = np.random.default_rng(0).normal(size=(2, 400, 3))


def test_blocks_are_recovered_up_to_a_linear_map() -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    table = block_r2({"shared": Z, "salient": S}, {"z": 2 * Z @ turn + 1, "s": S @ turn})
    assert table.index.tolist() == ["shared", "salient"]
    assert table.columns.tolist() == ["z", "s"]
    np.testing.assert_allclose(np.diag(table), 1, atol=1e-10)
    assert np.abs([table.loc["shared", "s"], table.loc["salient", "z"]]).max() < 0.05


def test_a_leak_shows_as_much_as_it_explains() -> None:
    """Half of the variance of the salient block is that of the shared one."""
    table = block_r2({"shared": Z, "salient": S}, {"z": Z, "s": (S + Z) / 2**0.5})
    np.testing.assert_allclose(table["s"], 0.5, atol=0.06)
    assert table.loc["salient", "s"] == linear_r2(S, (S + Z) / 2**0.5)


@pytest.mark.parametrize("which", ["truth", "estimate"])
@pytest.mark.parametrize(
    ("given", "error", "got"), [({}, ValueError, "none"), (Z, TypeError, "ndarray"), ([Z, S], TypeError, "list")]
)
def test_what_holds_no_blocks_is_refused(which: str, given: object, error: type[Exception], got: str) -> None:
    blocks = {"truth": {"shared": Z}, "estimate": {"z": Z}, which: given}
    with pytest.raises(error, match=f"{which}: expected blocks of latents by name, got {got}. Pass such as"):
        block_r2(blocks["truth"], blocks["estimate"])


def test_other_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="cells"):
        block_r2({"shared": Z}, {"z": Z[:-1]})
