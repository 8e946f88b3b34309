"""Public screens: files in the published layout come from a server on this machine; what is in them is known."""

from __future__ import annotations

import hashlib

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import perturbia as pb
from perturbia.datasets import _resuming_download
from perturbia.datasets._screen_files import NORMAN, PAPALEXI_PROTEIN, PAPALEXI_RNA, REPLOGLE
from perturbia.errors import ControlError, DownloadError, LabelError, ModalityError, ScaleError
from perturbia.perturbation import as_perturbation

FILES = (NORMAN, REPLOGLE, PAPALEXI_RNA, PAPALEXI_PROTEIN)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(_resuming_download.time, "sleep", lambda _: None)
    monkeypatch.setattr(_resuming_download, "CHUNK", 512)


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def counts(n_cells: int, n_genes: int) -> np.ndarray:
    return np.random.default_rng(0).poisson(1.0, (n_cells, n_genes)).astype(np.float32)


def norman_file() -> ad.AnnData:
    """Columns and spellings of NormanWeissman2019_filtered.h5ad, genes by cells in memory order (CSC)."""
    labels = ["control", "KLF1", "KLF1_CEBPA", "CEBPA_KLF1", "CEBPA", "control"] * 5
    guides = {"control": "NegCtrl0_NegCtrl0", "KLF1": "KLF1_NegCtrl0", "CEBPA": "NegCtrl0_CEBPA"}
    obs = pd.DataFrame({"guide_id": [";".join([guides.get(label, label)] * 2) for label in labels]})
    obs = obs.assign(read_count=9, UMI_count=3, gemgroup=np.arange(len(labels)) % 2 + 1, cell_line="K562")
    obs["perturbation"] = pd.Categorical(labels)
    obs["nperts"] = [0 if label == "control" else label.count("_") + 1 for label in labels]
    obs.index = pd.Index([f"AAAC{i}" for i in range(len(labels))], name="cell_barcode")
    var = pd.DataFrame({"ensemble_id": [f"ENSG{i}" for i in range(8)]}, index=[f"gene{i}" for i in range(8)])
    return ad.AnnData(sp.csc_matrix(counts(len(labels), 8)), obs=obs, var=var.rename_axis("gene_symbol"))


def replogle_file(control: str = "control") -> ad.AnnData:
    """Columns of ReplogleWeissman2022_K562_essential.h5ad, dense."""
    labels = [control, "RPL3", "NOP2_TSS2", "HSPA14", "C7orf26"] * 4
    obs = pd.DataFrame({"batch": np.arange(len(labels)) % 3, "gene": labels, "guide_id": "a|b"})
    obs["perturbation"] = pd.Categorical(labels)
    obs.index = pd.Index([f"T{i}" for i in range(len(labels))], name="cell_barcode")
    var = pd.DataFrame({"chr": "1"}, index=pd.Index(["A", "B", "HSPA14_ENSG1"], name="gene_name"))
    return ad.AnnData(counts(len(labels), 3), obs=obs, var=var)


def papalexi_files() -> tuple[ad.AnnData, ad.AnnData]:
    """Columns of both PapalexiSatija2021_eccite files; the cells of the second in another order."""
    labels = ["control", "IFNGR1g1", "IFNGR1g2", "JAK2g4", "ATF2g1"] * 4
    obs = pd.DataFrame({"hto": "rep1-tx", "guide_id": [one.replace("control", "NTg1") for one in labels]})
    obs["perturbation"] = pd.Categorical(labels)
    obs.index = pd.Index([f"CC{i}" for i in range(len(labels))], name="cell_barcode")
    rna = ad.AnnData(sp.csc_matrix(counts(20, 6)), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(6)]))
    proteins = pd.DataFrame({"adt_barcode": "ACGT"}, index=["CD86", "PDL1", "PDL2", "CD366"])
    return rna, ad.AnnData(sp.csc_matrix(counts(20, 4)), obs=obs.copy(), var=proteins)[::-1].copy()


@pytest.fixture
def written(tmp_path):
    """A function from AnnData to the bytes of its file."""

    def write(adata: ad.AnnData) -> bytes:
        adata.write_h5ad(tmp_path / "written.h5ad", compression="gzip")
        return (tmp_path / "written.h5ad").read_bytes()

    return write


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def norman(publisher, written, cache):
    """Load Norman from the stand-in."""
    publisher.files[NORMAN.name] = written(norman_file())
    options = {"base_url": publisher.url, "cache_dir": cache, "checksum": "record", "progress": False}
    return lambda **changes: pb.datasets.norman_2019(**(options | changes))


def assert_layout(adata: ad.AnnData, expected: np.ndarray) -> None:
    for matrix in (adata.X, adata.layers["counts"]):
        assert isinstance(matrix, sp.csr_matrix)
        assert matrix.dtype == np.float32
        assert matrix.has_canonical_format
        assert (matrix.data > 0).all()
        np.testing.assert_array_equal(matrix.toarray(), expected)
    assert not np.shares_memory(adata.X.data, adata.layers["counts"].data)
    labels = adata.obs["perturbation"]
    assert labels.cat.categories[0] == "control"
    assert all(str(as_perturbation(label)) == label for label in labels.cat.categories)


def test_norman_comes_in_the_layout_of_the_bundled_screens(norman, publisher, cache):
    adata, file = norman(), norman_file()
    assert_layout(adata, file.X.toarray())
    assert adata.obs["perturbation"].tolist() == ["control", "KLF1", "CEBPA+KLF1", "CEBPA+KLF1", "CEBPA", "control"] * 5
    kept = [column for column in file.obs if column != "perturbation"]
    assert (adata.obs[kept].astype(str) == file.obs[kept].astype(str)).all(axis=None)
    assert adata.var["ensemble_id"].tolist() == file.var["ensemble_id"].tolist()
    source = adata.uns["source"]
    assert source["licence"] == "CC-BY-4.0"
    assert source["md5"] == (cache / f"{NORMAN.name}.md5").read_text().strip()
    adata.write_h5ad(cache / "again.h5ad")
    pb.model.Additive.setup_anndata(adata, layer="counts", perturbation_key="perturbation")


def test_cells_without_a_guide_are_not_controls(norman, publisher, written):
    file = norman_file()
    file.obs["guide_id"] = file.obs["guide_id"].astype(object)
    file.obs.iloc[[0, 5], 0] = "no_reads_found;no_reads_found"
    publisher.files[NORMAN.name] = written(file)
    adata = norman()
    assert adata.n_obs == 28
    assert not adata.obs_names.isin(["AAAC0", "AAAC5"]).any()


@pytest.mark.parametrize("control", ["control", "non-targeting"])
def test_replogle_is_sparse_and_its_names_are_never_split(publisher, written, cache, monkeypatch, control):
    publisher.files[REPLOGLE.name] = written(replogle_file(control))
    monkeypatch.setattr("perturbia.datasets._screen_reading.ROWS", 7)
    adata = pb.datasets.replogle_2022_k562_essential(
        base_url=publisher.url, cache_dir=cache, checksum="record", progress=False
    )
    assert_layout(adata, replogle_file().X)
    assert set(adata.obs["perturbation"]) == {"control", "RPL3", "NOP2_TSS2", "HSPA14", "C7orf26"}
    assert adata.obs["batch"].tolist() == replogle_file().obs["batch"].tolist()


def test_papalexi_pairs_the_cells_of_both_files(publisher, written, cache):
    rna, protein = papalexi_files()
    publisher.files = {PAPALEXI_RNA.name: written(rna), PAPALEXI_PROTEIN.name: written(protein[:-2].copy())}
    mdata = pb.datasets.papalexi_2021(base_url=publisher.url, cache_dir=cache, checksum="record", progress=False)
    assert isinstance(mdata, mudata.MuData)
    shared = rna.obs_names[2:]
    assert mdata.obs_names.tolist() == mdata["rna"].obs_names.tolist() == shared.tolist()
    assert mdata["protein"].obs_names.tolist() == shared.tolist()
    assert_layout(mdata["rna"], rna[shared].X.toarray())
    assert_layout(mdata["protein"], protein[shared].X.toarray())
    expected = ["control", "IFNGR1", "IFNGR1", "JAK2", "ATF2"] * 4
    assert mdata.obs["perturbation"].tolist() == mdata["protein"].obs["perturbation"].tolist() == expected[2:]
    assert mdata["rna"].obs["guide_id"].tolist() == rna[shared].obs["guide_id"].tolist()
    with mudata.set_options(pull_on_update=False):
        mdata.write(cache / "again.h5mu")
        assert mudata.read_h5mu(cache / "again.h5mu").obs["perturbation"].tolist() == expected[2:]


def test_files_of_papalexi_that_do_not_fit_are_refused(publisher, written, cache):
    rna, protein = papalexi_files()
    options = {"base_url": publisher.url, "checksum": "record", "progress": False}
    other = protein.copy()
    other.obs_names = [f"X{i}" for i in range(20)]
    publisher.files = {PAPALEXI_RNA.name: written(rna), PAPALEXI_PROTEIN.name: written(other)}
    with pytest.raises(ModalityError, match="none in common"):
        pb.datasets.papalexi_2021(cache_dir=cache / "a", **options)
    other = protein.copy()
    other.obs["perturbation"] = other.obs["perturbation"].to_numpy()[::-1]
    publisher.files[PAPALEXI_PROTEIN.name] = written(other)
    with pytest.raises(LabelError, match="one label for a cell"):
        pb.datasets.papalexi_2021(cache_dir=cache / "b", **options)


# the cache ------------------------------------------------------------------------------------------------------------


def test_what_is_cached_is_not_asked_for_again(norman, publisher):
    first = norman()
    asked = list(publisher.asked)
    assert [what for what, _ in asked] == ["record", NORMAN.name]
    second = norman(base_url="http://127.0.0.1:9")  # nobody listens there
    assert publisher.asked == asked
    pd.testing.assert_frame_equal(first.obs, second.obs)


def test_environment_says_where_from_and_where_to(norman, publisher, cache, monkeypatch):
    monkeypatch.setenv("PERTURBIA_DATA_URL", publisher.url + "/")
    monkeypatch.setenv("PERTURBIA_DATA_DIR", str(cache))
    norman(base_url=None, cache_dir=None)
    assert (cache / NORMAN.name).read_bytes() == publisher.files[NORMAN.name]


def test_a_file_of_the_user_is_read_where_it_is(norman, publisher, tmp_path):
    (tmp_path / "mine.h5ad").write_bytes(publisher.files[NORMAN.name])
    adata = norman(path=tmp_path / "mine.h5ad")
    assert not publisher.asked
    assert adata.uns["source"] == {"file": "mine.h5ad", "doi": "10.1126/science.aax4438"}
    with pytest.raises(DownloadError, match=r"missing\.h5ad"):
        norman(path=tmp_path / "missing.h5ad")


def test_other_content_than_the_published_is_refused_and_not_kept(norman, publisher, cache):
    with pytest.raises(DownloadError, match=f"checksum: expected .* MD5 {NORMAN.md5}, got [0-9a-f]{{32}}.*'record'"):
        norman(checksum="pinned")
    assert not list(cache.iterdir())


def test_corrupted_downloads_are_refused_and_not_kept(norman, publisher, cache):
    good = publisher.files[NORMAN.name]
    publisher.stated[NORMAN.name] = md5_of(good)
    publisher.files[NORMAN.name] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(DownloadError, match="Nothing of it was kept"):
        norman()
    assert not list(cache.iterdir())
    publisher.files[NORMAN.name] = good
    assert norman().n_obs == 30


def test_a_damaged_cache_is_noticed_and_mended(norman, publisher, cache, caplog):
    norman()
    (cache / NORMAN.name).write_bytes(b"damaged")
    with caplog.at_level("WARNING"):
        assert norman().n_obs == 30
    assert "fetched anew" in caplog.text
    assert publisher.downloads() == [None, None]


def test_the_checksum_of_the_first_fetch_is_required_ever_after(norman, publisher, cache, written):
    norman()
    publisher.files[NORMAN.name] = written(norman_file()[:12].copy())  # the publisher changes the file and its record
    assert norman().n_obs == 30
    (cache / NORMAN.name).write_bytes(publisher.files[NORMAN.name])  # and so does someone with the cache
    with pytest.raises(DownloadError, match="checksum"):
        norman()


def test_a_file_put_into_the_cache_is_checked_against_the_record(norman, publisher, cache):
    cache.mkdir()
    (cache / NORMAN.name).write_bytes(publisher.files[NORMAN.name])
    assert norman().n_obs == 30
    assert publisher.asked == [("record", None)]


# the network ----------------------------------------------------------------------------------------------------------


def test_a_broken_download_goes_on_where_it_was(norman, publisher):
    publisher.breaks = [3000, 2000]
    assert norman().n_obs == 30
    first, second, third = publisher.downloads()
    assert first is None
    assert 0 < int(second[6:-1]) <= 3000 < int(third[6:-1]) <= 5000


def test_a_server_without_ranges_starts_anew(norman, publisher):
    publisher.knows_ranges = False
    publisher.breaks = [3000]
    assert norman().n_obs == 30
    assert len(publisher.downloads()) == 2


def test_what_arrived_survives_a_failure(norman, publisher, cache):
    publisher.breaks = [2000] + [0] * 4
    with pytest.raises(DownloadError, match=r"base_url: expected NormanWeissman.* got .*Load again to go on"):
        norman()
    (part,) = cache.glob("*.part")
    arrived = part.stat().st_size
    assert 0 < arrived <= 2000
    assert not (cache / NORMAN.name).exists()
    assert norman().n_obs == 30
    assert publisher.downloads() == [None] + [f"bytes={arrived}-"] * 5
    assert not list(cache.glob("*.part"))


@pytest.mark.parametrize("surplus", [b"", b"more than there is"])
def test_a_part_that_is_whole_or_too_long(norman, publisher, cache, surplus):
    content = publisher.files[NORMAN.name]
    cache.mkdir()
    (cache / f"{NORMAN.name}.{md5_of(content)[:8]}.part").write_bytes(content + surplus)
    assert norman().n_obs == 30
    assert len(publisher.downloads()) == 1 + bool(surplus)


def test_a_busy_server_is_asked_again_and_one_that_refuses_is_not(norman, publisher, cache):
    publisher.statuses = [503, 429]
    assert norman().n_obs == 30
    assert len(publisher.downloads()) == 3
    del publisher.files[NORMAN.name]
    with pytest.raises(DownloadError, match="404"):
        norman(checksum="pinned", cache_dir=cache / "other")
    assert len(publisher.downloads()) == 4


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"base_url": "http://127.0.0.1:9"}, "base_url: expected"),
        ({"base_url": "nonsense"}, "base_url: expected"),
        ({"base_url": "http://127.0.0.1:9", "checksum": "record"}, "checksum: expected record 13350497"),
    ],
)
def test_no_server(norman, changes, match):
    with pytest.raises(DownloadError, match=match):
        norman(**({"checksum": "pinned"} | changes))


def test_a_record_without_checksum(norman, publisher):
    publisher.stated[NORMAN.name] = "none"
    with pytest.raises(DownloadError, match="expected an MD5"):
        norman()


def test_nothing_is_shown_without_progress(norman, publisher, cache, capfd):
    norman()
    assert capfd.readouterr() == ("", "")
    norman(progress=True, cache_dir=cache / "other")
    assert "Norman" in "".join(capfd.readouterr())


# the layout -----------------------------------------------------------------------------------------------------------


def edited(**changes) -> ad.AnnData:
    file = norman_file()
    file.obs = file.obs.assign(**changes.pop("obs", {})).drop(columns=changes.pop("without", []))
    file.X = changes.pop("X", lambda X: X)(file.X)
    return file


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"without": "perturbation"}, LabelError, r"NormanWeissman.*obs\['perturbation'\].*guide_id"),
        ({"without": "guide_id"}, LabelError, "guide_id"),
        ({"obs": {"perturbation": "KLF1"}}, ControlError, "control"),
        ({"obs": {"perturbation": "control"}}, LabelError, "besides the control"),
        ({"obs": {"perturbation": pd.Categorical(["control", "KLF1", None] * 10)}}, LabelError, "without one"),
        ({"X": lambda X: X * 0.5}, ScaleError, "raw counts.* 0.5"),
        ({"X": lambda X: -X}, ScaleError, "raw counts"),
        ({"X": lambda X: X * np.nan}, ScaleError, "nan"),
    ],
)
def test_other_layouts_are_refused(norman, publisher, written, changes, error, match):
    publisher.files[NORMAN.name] = written(edited(**changes))
    with pytest.raises(error, match=match):
        norman()


def test_what_is_no_h5ad_is_refused(norman, publisher):
    publisher.files[NORMAN.name] = b"<html>maintenance</html>"
    with pytest.raises(DownloadError, match="expected an h5ad file"):
        norman()


def test_an_unknown_kind_of_checksum(norman):
    with pytest.raises(ValueError, match="checksum: expected 'pinned' or 'record', got 'sha1'"):
        norman(checksum="sha1")


def test_names_that_come_twice_get_a_suffix(norman, publisher, written):
    file = norman_file()
    file.obs_names = ["AAAC"] * 30
    publisher.files[NORMAN.name] = written(file)
    assert norman().obs_names.is_unique


# what is stated -------------------------------------------------------------------------------------------------------


def test_files_are_stated_once_and_in_full():
    assert len({file.md5 for file in FILES}) == len({file.name for file in FILES}) == len(FILES)
    for file in FILES:
        assert len(file.md5) == 32
        assert file.size > 10**6
        assert file.path == f"/records/13350497/files/{file.name}?download=1"


@pytest.mark.parametrize("name", ["norman_2019", "papalexi_2021", "replogle_2022_k562_essential"])
def test_docstrings_state_source_and_licence(name):
    text = getattr(pb.datasets, name).__doc__
    assert "CC BY 4.0" in text
    assert "doi:10.5281/zenodo.13350497" in text
    assert text.count("doi:") == 2
