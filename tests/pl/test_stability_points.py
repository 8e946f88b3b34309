"""The figure of stable latents shows every run's correlation, most stable first."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from perturbia import pl, tl


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def aligned(n_runs: int = 3, n_latent: int = 4):
    """Later latents are found with more noise; the last run lacks one."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, n_latent))
    noise = 0.2 + np.arange(n_latent)[::-1]
    runs = {f"seed {i}": z + 0.5 * i * noise * rng.normal(size=z.shape) for i in range(n_runs)}
    runs[f"seed {n_runs - 1}"] = runs[f"seed {n_runs - 1}"][:, 1:]
    return tl.align_latents(runs, reference="seed 0")


def points(ax) -> np.ndarray:
    return np.concatenate([c.get_offsets() for c in ax.collections if hasattr(c, "get_sizes") and len(c.get_offsets())])


def test_latents_are_sorted_and_every_correlation_is_drawn():
    table = aligned()
    ax = pl.latent_stability(table)
    stability = table.groupby("latent")["stability"].first().sort_values(ascending=False)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"z{latent}" for latent in stability.index]
    drawn = points(ax)
    order = {latent: i for i, latent in enumerate(stability.index)}
    for _, row in table.iterrows():
        near = np.abs(drawn[:, 0] - order[row["latent"]]) < 0.5
        assert np.isclose(drawn[near, 1], abs(row["correlation"])).any()
    assert len(drawn) == len(table)
    means = [line for c in ax.collections if hasattr(c, "get_segments") for line in c.get_segments()]
    flat = sorted(line[0, 1] for line in means if line[0, 1] == line[1, 1] and line[0, 0] != line[1, 0])
    np.testing.assert_allclose(flat, sorted(stability), atol=1e-6)
    assert ax.get_title() == f"MCC {table.attrs['mcc']:.2f}: 2 runs against seed 0"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["mean: stability", "seed 1", "seed 2", "no match left"]


def test_a_latent_without_match_is_hollow():
    table = aligned()
    assert (table["matched"] < 0).sum() == 1
    ax = pl.latent_stability(table)
    faces = np.concatenate([c.get_facecolors() for c in ax.collections if len(c.get_offsets()) and len(c.get_paths())])
    assert (faces[:, :3] == 1).all(axis=1).sum() == 1


def test_many_runs_share_a_colour_and_few_latents_can_be_asked_for():
    table = aligned(n_runs=11)
    _, given = plt.subplots()
    ax = pl.latent_stability(table, n_top=2, ax=given, title="mine")
    assert ax is given
    assert ax.get_title() == "mine"
    assert len(ax.get_xticklabels()) == 2
    assert len(points(ax)) == 20
    assert "each of 10 runs" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_table_read_from_a_file_has_no_reference_but_the_same_mean(tmp_path):
    import pandas as pd

    table = aligned()
    table.to_csv(tmp_path / "table.csv", index=False)
    title = pl.latent_stability(pd.read_csv(tmp_path / "table.csv")).get_title()
    assert title == f"MCC {table.attrs['mcc']:.2f}: 2 runs against the reference"


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (
            lambda t: t.to_numpy(),
            {},
            TypeError,
            "table: expected the result of perturbia.tl.align_latents, got ndarray",
        ),
        (lambda t: t.drop(columns="run"), {}, ValueError, "got no run"),
        (lambda t: t.iloc[:0], {}, ValueError, "got no rows"),
        (lambda t: t, {"n_top": 0}, ValueError, "n_top: expected a positive integer"),
    ],
)
def test_bad_input(change, options, error, match):
    with pytest.raises(error, match=match):
        pl.latent_stability(change(aligned()), **options)
    assert not plt.get_fignums()
