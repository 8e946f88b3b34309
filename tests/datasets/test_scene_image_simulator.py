from __future__ import annotations

import subprocess
import sys
import warnings

import mudata
import numpy as np
import pandas as pd
import pytest

from perturbia.datasets import _scene_drawing, simulate_modalities, simulate_scene_images
from perturbia.datasets._scene_drawing import VIEWS, coverage, draw_images


@pytest.fixture(scope="module")
def mdata() -> mudata.MuData:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return simulate_scene_images(n_cells=10)


def images(adata) -> np.ndarray:
    return adata.X.reshape(-1, *adata.uns["image_shape"])


def centre_of_colour(pictures: np.ndarray, colour: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Mean x and y of pixels that look like a colour `(n, 2)`, and how many there are."""
    near = np.abs(pictures - np.reshape(colour, (1, 3, 1, 1))).max(1) < 0.02
    middle = (np.arange(pictures.shape[-1]) + 0.5) / pictures.shape[-1]
    count = near.sum((1, 2))
    with np.errstate(invalid="ignore"):
        return np.column_stack([near.sum(1) @ middle, near.sum(2) @ middle]) / count[:, None], count


@pytest.mark.parametrize("shape", ["circle", "square"])
@pytest.mark.parametrize("radius", [0.05, 0.17])
def test_coverage_is_what_finer_pixels_say(shape: str, radius: float) -> None:
    """Against counting points of a grid 32 times as fine; the soft edge of a circle may differ by a tenth of a pixel."""
    size, fine = 24, 32
    centre = np.array([[0.41, 0.63], [0.02, 0.5]])
    found = coverage(centre, np.full(2, radius), size, shape)
    points = (np.arange(size * fine) + 0.5) / (size * fine)
    dx, dy = (np.abs(points - centre[:, axis, None]) for axis in (0, 1))
    inside = (
        dx[:, None] ** 2 + dy[..., None] ** 2 < radius**2
        if shape == "circle"
        else np.maximum(dx[:, None], dy[..., None]) < radius
    )
    expected = inside.reshape(2, size, fine, size, fine).mean((2, 4))
    np.testing.assert_allclose(found, expected, atol=0.12 if shape == "circle" else 0.05)
    # a ramp over one pixel adds pi / 12 pixels to a circle
    area = expected.sum((1, 2)) if shape == "square" else expected.sum((1, 2)) * (1 + 1 / (12 * (radius * size) ** 2))
    np.testing.assert_allclose(found.sum((1, 2)), area, rtol=0.02)


def test_contents(mdata: mudata.MuData) -> None:
    truth = mdata.uns["truth"]
    assert list(mdata.mod) == ["source", "target"]
    assert mdata.obs_names.is_unique
    assert mdata.var_names.is_unique
    for adata in mdata.mod.values():
        assert adata.shape == (120, 3 * 64 * 64)
        assert adata.X.dtype == np.float32
        assert adata.X.min() >= 0
        assert adata.X.max() <= 1
        levels = adata.X.astype(float) * 255
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        assert list(adata.uns["image_shape"]) == [3, 64, 64]
        assert list(adata.obs["perturbation"].cat.categories) == list(truth["names"])
        assert set(adata.obs["perturbation"].value_counts()) == {10}
    assert list(truth["names"]) == list(simulate_modalities(scene="interventions", n_cells=1).uns["truth"]["names"])


def test_twins_share_the_scene_in_another_order(mdata: mudata.MuData) -> None:
    source, target = mdata["source"], mdata["target"]
    rows = source.obs["pair"].reset_index(drop=True).reset_index().set_index("pair")["index"]
    rows = rows.loc[target.obs["pair"]].to_numpy()
    assert sorted(rows) == list(range(120))
    assert (rows == np.arange(120)).mean() < 0.1
    np.testing.assert_array_equal(target.obsm["truth_latent"], source.obsm["truth_latent"][rows])
    assert (target.obs["perturbation"].to_numpy() == source.obs["perturbation"].to_numpy()[rows]).all()


def test_positions_are_the_scene_and_its_warp(mdata: mudata.MuData) -> None:
    source, target = mdata["source"], mdata["target"]
    np.testing.assert_array_equal(source.obsm["truth_position"], source.obsm["truth_latent"])
    angle = 0.3 * np.pi
    z = target.obsm["truth_latent"].astype(float) - 0.5
    for which in (0, 1):
        x, y = z[:, 2 * which], z[:, 2 * which + 1]
        turned = [x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)]
        for axis in (0, 1):
            expected = 1 / (1 + np.exp(-2 * (turned[axis] + 0.2)))
            np.testing.assert_allclose(target.obsm["truth_position"][:, 2 * which + axis], expected, atol=1e-6)
    turn = mdata.uns["truth"]["rotation"]
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-6)
    assert target.obsm["truth_position"].min() > 0.05
    assert target.obsm["truth_position"].max() < 0.95


@pytest.mark.parametrize("name", ["source", "target"])
def test_objects_are_where_the_truth_says(mdata: mudata.MuData, name: str) -> None:
    adata = mdata[name]
    position = adata.obsm["truth_position"].astype(float)
    apart = np.abs(position[:, :2] - position[:, 2:]).max(1) > 0.12
    assert apart.sum() > 80
    for which, colour in enumerate(VIEWS[name].objects):
        centre, count = centre_of_colour(images(adata)[apart], colour)
        assert count.min() >= 8
        error = 64 * np.abs(centre - position[apart, 2 * which : 2 * which + 2])
        assert error.max() < 0.75


def test_backgrounds_differ_between_twins_and_cells(mdata: mudata.MuData) -> None:
    source = images(mdata["source"])
    same = simulate_scene_images(n_cells=10, seed=1)
    assert np.abs(source - images(same["source"])).mean() > 0.05
    pixels = source.reshape(len(source), -1)
    off = np.abs(pixels[1:] - pixels[:-1]).mean(1)
    assert off.min() > 0.02
    # a background is drawn between the colours of its palette
    for name in ("source", "target"):
        colours = np.array(VIEWS[name].background)
        corner = images(mdata[name])[:, :, 0, 0]
        assert (corner >= colours.min(0) - 0.005).all()
        assert (corner <= colours.max(0) + 0.005).all()
        assert np.ptp(corner, axis=0).max() > 0.4


def test_chunks_do_not_show(monkeypatch) -> None:
    position = np.random.default_rng(0).random((10, 4))
    drawn = draw_images(np.random.default_rng(1), position, VIEWS["source"], 16)
    monkeypatch.setattr(_scene_drawing, "_CHUNK", 3)
    np.testing.assert_array_equal(draw_images(np.random.default_rng(1), position, VIEWS["source"], 16), drawn)


def test_seeds(mdata: mudata.MuData) -> None:
    same, other = simulate_scene_images(n_cells=10), simulate_scene_images(n_cells=10, seed=1)
    for name in ("source", "target"):
        np.testing.assert_array_equal(mdata[name].X, same[name].X)
        pd.testing.assert_frame_equal(mdata[name].obs, same[name].obs)
        assert not np.array_equal(mdata[name].X, other[name].X)


def test_matplotlib_is_not_loaded() -> None:
    code = (
        "import sys, perturbia as pb; pb.datasets.simulate_scene_images(n_cells=1, image_size=16); "
        "print('matplotlib' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_files(tmp_path) -> None:
    mdata = simulate_scene_images(n_cells=1, image_size=16)
    with mudata.set_options(pull_on_update=False):
        mdata.write_h5mu(tmp_path / "images.h5mu")
        back = mudata.read_h5mu(tmp_path / "images.h5mu")
    np.testing.assert_array_equal(images(back["target"]), images(mdata["target"]))
    np.testing.assert_array_equal(back.uns["truth"]["values"], mdata.uns["truth"]["values"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_cells": 0}, "n_cells: expected a whole number of at least 1, got 0. Pass"),
        ({"image_size": 8}, "image_size: expected a whole number of at least 16, got 8"),
        ({"image_size": 64.0}, "image_size: expected a whole number of at least 16, got 64.0"),
        ({"seed": 0.5}, "seed: expected a whole number of at least 0, got 0.5"),
    ],
)
def test_bad_input(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        simulate_scene_images(**changes)
