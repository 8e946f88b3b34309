"""The command line: the fast demo from end to end, the user's own file, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import anndata as ad
import numpy as np
import pytest

from perturbia.cli import main
from perturbia.demo import DemoOptions
from perturbia.demo.scoring import COMBINED, MODEL, SEEN, UNSEEN, wide
from perturbia.tl import EvaluationResult

NO_METHOD = ["second experiment", "true effects"]
FIGURES = {"scores", "latent", "mechanisms", "effects", "training"}


class Page(HTMLParser):
    """Tags, links and balance of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in {"src", "href", "srcset", "action"}]
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--fast", "--out", str(out)]) == 0
    return out


def test_demo_writes_everything(demo):
    assert {path.stem for path in (demo / "figures").iterdir()} == FIGURES
    assert all((demo / "figures" / f"{name}.png").stat().st_size > 10_000 for name in FIGURES)
    assert {path.name for path in demo.iterdir()} == {
        "report.html", "figures", "adata.h5ad", "model", "seen", "unseen",
    }  # fmt: skip


def test_tables_are_complete(demo):
    result = EvaluationResult.load(demo / "seen")
    seen = wide(result, SEEN)
    assert seen.index.tolist()[:2] == [MODEL, COMBINED]
    assert seen.index.tolist()[-2:] == NO_METHOD
    assert {"NoChange", "Mean", "Empirical", "JamesStein", "Ridge", "LowRank"} < set(seen.index)
    assert seen.drop(index=NO_METHOD).notna().all(axis=None)
    assert seen.loc["NoChange", "r"] == 0
    assert seen.loc["Mean", "r centroid"] == 0
    assert (seen["r"] <= 1).all()
    assert result.info["axis"] == "random"
    other = EvaluationResult.load(demo / "unseen")
    unseen = wide(other, UNSEEN)
    assert {MODEL, "NoChange", "Mean", "Additive", "MatchingMean", "MaxEffect", "Ridge", "LowRank"} < set(unseen.index)
    assert {"Empirical", "JamesStein"} <= set(other.info["left_out"])
    assert unseen.notna().all(axis=None)
    assert other.info["truth"] == "known"


def test_tables_of_the_report_are_those_of_the_evaluation(demo):
    """Nothing is computed twice: what is printed is what `tl.evaluate` found."""
    text = (demo / "report.html").read_text(encoding="utf-8")
    for folder, columns in (("seen", SEEN), ("unseen", UNSEEN)):
        for name, values in (
            wide(EvaluationResult.load(demo / folder), columns).drop(index=NO_METHOD, errors="ignore").iterrows()
        ):
            row = re.search(rf"<td>{re.escape(str(name))}</td>((?:<td[^>]*>[^<]*</td>){{{len(values)}}})</tr>", text)
            assert row
            printed = re.findall(r"<td[^>]*>([^<]*)</td>", row.group(1))
            assert printed == [f"{value:.3f}" for value in values]


def test_report_needs_nothing_but_itself(demo):
    text = (demo / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    assert page.tags.count("img") == len(FIGURES)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.tags.count("table") == 2
    for name in (MODEL, COMBINED, "NoChange", "Mean", "JamesStein", *NO_METHOD):
        assert f"<td>{name}</td>" in text
    assert "IFNGR1, IFNGR2, JAK2 and STAT1" in text
    assert "Fast run" in text
    assert "bereket2023" in text


def test_written_files_go_on(demo):
    from perturbia.model import SAMSVAE

    adata = ad.read_h5ad(demo / "adata.h5ad")
    assert adata.obsm["X_samsvae"].shape[0] == adata.n_obs
    assert np.isfinite(adata.obsm["X_umap"]).all(axis=1).sum() == DemoOptions(fast=True).max_umap_cells
    assert set(adata.obs["pb_split"]) == {"train", "valid", "test"}
    model = SAMSVAE.load(str(demo / "model"), adata=adata)
    latents = model.get_latent_representation()
    np.testing.assert_allclose(latents, adata.obsm["X_samsvae"], atol=1e-4)
    assert model.predict(adata, "STAT1").n_vars == adata.n_vars


def own_file(tmp_path, *, edit=None) -> str:
    from perturbia.datasets import simulate_screen

    adata = simulate_screen(
        n_perturbations=3, n_combinations=1, n_genes=30, n_latent=2, cells_per_perturbation=60, n_controls=80
    )
    adata.uns.clear()
    adata.obsm.clear()
    adata.obs["guide_target"] = adata.obs.pop("perturbation").astype(str).replace({"control": "NT"})
    adata.X = adata.X * 0.5
    if edit:
        adata = edit(adata)
    path = tmp_path / "screen.h5ad"
    adata.write_h5ad(path)
    return str(path)


ARGUMENTS = ["--perturbation-key", "guide_target", "--control", "NT", "--layer", "counts"]


def test_demo_on_the_users_file(tmp_path):
    def edit(adata):
        names = adata.obs["guide_target"].to_numpy().copy()
        names[-5:] = "RARE"
        adata.obs["guide_target"] = names
        return adata

    out = tmp_path / "out"
    path = own_file(tmp_path, edit=edit)
    assert main(["demo", "--fast", "--data", path, *ARGUMENTS, "--batch-key", "batch", "--out", str(out)]) == 0
    seen = wide(EvaluationResult.load(out / "seen"), SEEN)
    assert seen.drop(index=NO_METHOD).notna().all(axis=None)
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "IFNGR1" not in text
    assert "papalexi" not in text
    assert "1 perturbations with fewer than 20 cells were left out" in text
    assert "screen.h5ad" in text


def test_demo_on_small_groups(tmp_path):
    """Halves of few cells tell little: what they can not tell is left empty, not made up."""

    def edit(adata):
        return adata[adata.obs.groupby("guide_target", observed=True).cumcount().to_numpy() < 24].copy()

    out = tmp_path / "out"
    assert main(["demo", "--fast", "--data", own_file(tmp_path, edit=edit), *ARGUMENTS, "--out", str(out)]) == 0
    seen = wide(EvaluationResult.load(out / "seen"), SEEN)
    assert seen.drop(index=NO_METHOD).notna().all(axis=None)
    assert "nan" not in (out / "report.html").read_text(encoding="utf-8").casefold().split("<h2>")[0]


def without_counts(adata):
    adata.layers["counts"] = adata.layers["counts"] * 0.5
    return adata


def with_gap(adata):
    adata.obs["guide_target"] = adata.obs["guide_target"].where(np.arange(adata.n_obs) != 3)
    return adata


def few_cells(adata):
    return adata[::12].copy()


def two_genes(adata):
    return adata[:, :2].copy()


@pytest.mark.parametrize(
    ("edit", "arguments", "text"),
    [
        (None, ["--perturbation-key", "target"], "--perturbation-key"),
        (None, ["--perturbation-key", "guide_target", "--control", "ctrl"], "ctrl"),
        (None, ["--perturbation-key", "guide_target", "--control", "NT", "--layer", "raw"], "--layer"),
        (None, [*ARGUMENTS, "--batch-key", "plate"], "--batch-key"),
        (None, ARGUMENTS[:4], "raw counts"),
        (without_counts, ARGUMENTS, "raw counts"),
        (with_gap, ARGUMENTS, "NaN"),
        (few_cells, ARGUMENTS, "20 cells"),
        (two_genes, ARGUMENTS, "3 genes"),
        (None, ["--seed", "-1"], "--seed"),
    ],
)
def test_bad_files_end_with_a_message_and_write_nothing(tmp_path, capsys, edit, arguments, text):
    out = tmp_path / "out"
    assert main(["demo", "--data", own_file(tmp_path, edit=edit), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("perturbia demo: error: ")
    assert text in error
    assert "Traceback" not in error
    assert not out.exists()


@pytest.mark.parametrize("content", [None, b"this is no h5ad file"])
def test_missing_and_broken_files(tmp_path, capsys, content):
    path = tmp_path / "x.h5ad"
    if content:
        path.write_bytes(content)
    assert main(["demo", "--data", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "--data: expected an h5ad file" in capsys.readouterr().err


def test_options_that_can_not_work(tmp_path, capsys):
    path = tmp_path / "out"
    path.write_text("a file")
    assert main(["demo", "--fast", "--out", str(path)]) == 2
    assert "--out: expected a folder" in capsys.readouterr().err
    assert main(["demo", "--fast", "--control", "NT", "--out", str(tmp_path / "other")]) == 2
    assert "--control: expected --data beside it" in capsys.readouterr().err
    assert main(["demo", "--data", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_wrong_options_and_no_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--nonsense"])
    assert stop.value.code == 2
    capsys.readouterr()
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_info_and_module_entry():
    done = subprocess.run([sys.executable, "-m", "perturbia", "info"], capture_output=True, text=True, check=True)
    assert re.search(r"^torch +\d", done.stdout, flags=re.MULTILINE)
    assert "devices" in done.stdout
