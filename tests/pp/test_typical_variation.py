from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import perturbia as pb
from perturbia.errors import ControlError, FeatureMismatch, LabelError, UnsupportedQuery
from perturbia.stats.typical_variation import published_tvn

FORMS = ["view", "file", "csc", "csr", "float64", "integers", "unused categories", "text columns", "in obsm"]
KEY = "X_tvn"


def is_control(wells: ad.AnnData) -> np.ndarray:
    return (wells.obs["perturbation"] == "control").to_numpy()


def recall(wells: ad.AnnData, key: str) -> float:
    """Share of pairs within complexes that lie in the tails, counted directly."""
    rows = ~is_control(wells)
    means = pd.DataFrame(wells.obsm[key][rows]).groupby(wells.obs["perturbation"][rows].astype(str).to_numpy()).mean()
    unit = means.to_numpy() / np.linalg.norm(means, axis=1, keepdims=True)
    cosines = pd.DataFrame(unit @ unit.T, index=means.index, columns=means.index)
    low, high = np.quantile(cosines.to_numpy()[np.triu_indices(len(cosines), 1)], [0.05, 0.95])
    pairs = wells.uns["truth"]["relationships"]
    known = np.array([cosines.loc[a, b] for a, b in pairs.to_numpy()])
    return float(np.mean((known <= low) | (known >= high)))


def by_definition(X: np.ndarray, control: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """The published steps with the libraries that they were published with."""
    X = StandardScaler().fit(X[control]).transform(X)
    X = PCA(svd_solver="full").fit(X[control]).transform(X)
    X = StandardScaler().fit(X[control]).transform(X)
    out = np.empty_like(X)
    for batch in np.unique(batches):
        rows = batches == batch
        covariance = np.cov(X[rows & control], rowvar=False, ddof=1) + 0.5 * np.eye(X.shape[1])
        out[rows] = X[rows] @ scipy.linalg.fractional_matrix_power(covariance, -0.5)
    return out


class TestWhiteness:
    def test_without_shrinkage_controls_are_white(self):
        wells = pb.datasets.simulate_plates(n_controls=40, n_features=60, n_plates=6)
        pb.pp.typical_variation_normalization(wells, batch_key="plate", rank=None, shrinkage=0, prior=0)
        np.testing.assert_allclose(np.cov(wells.obsm[KEY][is_control(wells)].T), np.eye(60), atol=2e-6)

    def test_with_fewer_controls_than_features_the_width_stays(self, wells):
        few = wells[~is_control(wells) | (np.arange(wells.n_obs) % 3 == 0)].copy()
        assert is_control(few).sum() < few.n_vars
        pb.pp.typical_variation_normalization(few, batch_key="plate")
        assert few.obsm[KEY].shape == few.shape
        assert np.isfinite(few.obsm[KEY]).all()

    def test_axes_have_the_cosines_of_features(self, wells):
        done = [
            pb.pp.typical_variation_normalization(wells, batch_key="plate", as_axes=as_axes, rank=9, copy=True).obsm[
                KEY
            ]
            for as_axes in (False, True)
        ]
        assert done[1].shape == (wells.n_obs, 9)
        np.testing.assert_allclose(done[0] @ done[0].T, done[1] @ done[1].T, atol=1e-3)

    def test_covariance_by_batch_with_many_controls(self):
        wells = pb.datasets.simulate_plates(
            n_controls=90, n_features=20, n_factors=10, n_nuisances=4, n_plates=3, n_effects=5
        )
        pb.pp.typical_variation_normalization(wells, batch_key="plate", rank=None, shrinkage=0, batch_prior=0)
        for plate in wells.obs["plate"].cat.categories:
            controls = wells.obsm[KEY][is_control(wells) & (wells.obs["plate"] == plate)]
            np.testing.assert_allclose(np.cov(controls.T), np.eye(20), atol=1e-4)

    def test_covariance_by_batch_along_the_axes_kept(self):
        wells = pb.datasets.simulate_plates(n_plates=2, n_controls=40, n_features=20, n_factors=20)
        options = {"batch_key": "plate", "rank": 5, "shrinkage": 0.3, "batch_prior": 0, "copy": True}
        features, axes = (
            pb.pp.typical_variation_normalization(wells, **options, as_axes=as_axes).obsm[KEY]
            for as_axes in (False, True)
        )
        assert np.isfinite(features).all()
        np.testing.assert_allclose(features @ features.T, axes @ axes.T, atol=1e-3)
        controls = axes[is_control(wells) & (wells.obs["plate"] == "plate_01").to_numpy()]
        np.testing.assert_allclose(np.cov(controls.T), np.eye(5), atol=1e-4)

    def test_there_are_no_more_axes_than_controls_give(self, wells):
        few = wells[~is_control(wells) | (np.arange(wells.n_obs) % 3 == 0)].copy()
        pb.pp.typical_variation_normalization(few, batch_key="plate", rank=35, shrinkage=0.2, as_axes=True)
        assert few.obsm[KEY].shape[1] == few.uns[KEY]["rank"] == is_control(few).sum() - 4


class TestPublished:
    def test_it_is_the_published_code(self):
        wells = pb.datasets.simulate_plates(n_controls=40, n_features=50, n_plates=4)
        X = wells.X.astype(np.float64)
        arguments = X, is_control(wells), wells.obs["plate"].cat.codes.to_numpy()
        found, expected = published_tvn(*arguments), by_definition(*arguments)
        # axes may be mirrored, and mirroring commutes with the last step
        signs = np.sign((found * expected).sum(axis=0))
        np.testing.assert_allclose(found * signs, expected, atol=1e-10)

    def test_few_controls_leave_fewer_columns(self):
        wells = pb.datasets.simulate_plates(n_controls=5, n_features=50, n_plates=4)
        arguments = wells.X.astype(np.float64), is_control(wells), wells.obs["plate"].cat.codes.to_numpy()
        assert published_tvn(*arguments).shape == by_definition(*arguments).shape == (wells.n_obs, 20)

    def test_it_is_what_the_option_runs(self, wells):
        pb.pp.typical_variation_normalization(wells, batch_key="plate", published=True)
        codes = wells.obs["plate"].cat.codes.to_numpy()
        expected = published_tvn(wells.X.astype(np.float64), is_control(wells), codes)
        np.testing.assert_allclose(wells.obsm[KEY], expected, atol=1e-5)


class TestBatchOffsets:
    """Offsets of plates are looked for in controls that took no part in the alignment.

    Those that did have mean zero on every plate by construction; a probe finds their plates less often than by chance.
    """

    N_CONTROLS = 100

    def aligned(self, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows and plates of the controls, and which of them were held out."""
        wells = pb.datasets.simulate_plates(n_controls=self.N_CONTROLS, plate_scale=0.0, n_features=60, n_complexes=2)
        plates = wells.obs["plate"].cat.codes.to_numpy()
        held_out = is_control(wells) & (wells.obs["well"].to_numpy() % 2 == 0)
        wells.obs["role"] = np.where(held_out, "held-out", wells.obs["perturbation"].astype(str))
        pb.pp.typical_variation_normalization(
            wells, perturbation_key="role", batch_key="plate", rank=None, shrinkage=0, prior=1000, **options
        )
        rows = is_control(wells)
        return wells.obsm[KEY][rows], plates[rows], held_out[rows]

    def accuracy(self, **options) -> float:
        rows, plates, held_out = self.aligned(**options)
        probe = LogisticRegression(max_iter=500).fit(rows[~held_out], plates[~held_out])
        return probe.score(rows[held_out], plates[held_out])

    def test_plates_can_not_be_told_apart(self):
        # 8 plates, 400 rows: chance 0.125, standard error 0.017
        assert abs(self.accuracy() - 0.125) < 3 * 0.017

    def test_without_centring_they_can(self):
        assert self.accuracy(center_per_batch=False) > 0.95

    def test_what_is_left_is_the_error_of_two_means(self):
        rows, plates, held_out = self.aligned()
        means = np.array([rows[held_out & (plates == plate)].mean(axis=0) for plate in range(8)])
        counts = np.array([[np.sum(part & (plates == plate)) for plate in range(8)] for part in (held_out, ~held_out)])
        expected = np.sqrt(np.mean(1 / counts[0] + 1 / counts[1]))
        assert np.sqrt(np.mean(means**2)) == pytest.approx(expected, rel=0.15)


class TestHeldOutControls:
    def test_controls_that_took_no_part_are_aligned_like_any_row(self, wells):
        wells.obs["fit"] = is_control(wells) & (wells.obs["well"].to_numpy() % 2 == 0)
        others = is_control(wells) & ~wells.obs["fit"].to_numpy()
        renamed = wells.copy()
        renamed.obs["perturbation"] = renamed.obs["perturbation"].astype(str).where(~others, "other")
        pb.pp.typical_variation_normalization(wells, batch_key="plate", fit_on="fit", choose_by="ledoit_wolf")
        pb.pp.typical_variation_normalization(renamed, batch_key="plate", choose_by="ledoit_wolf")
        np.testing.assert_allclose(wells.obsm[KEY], renamed.obsm[KEY], atol=1e-5)
        assert wells.uns[KEY]["fit_on"] == "fit"
        assert wells.uns[KEY]["batches"]["n_controls"].sum() == wells.obs["fit"].sum()

    def test_they_are_no_perturbation_to_choose_by(self, wells):
        wells.obs["fit"] = is_control(wells) & (wells.obs["well"].to_numpy() % 2 == 0)
        without = wells[~is_control(wells) | wells.obs["fit"].to_numpy()].copy()
        for one in (wells, without):
            pb.pp.typical_variation_normalization(one, batch_key="plate", fit_on="fit")
        pd.testing.assert_frame_equal(wells.uns[KEY]["candidates"], without.uns[KEY]["candidates"])

    def test_against_them_genes_without_an_effect_are_not_far(self):
        options = {"n_complexes": 4, "n_single_genes": 24, "n_replicates": 4, "n_controls": 12, "effect_scale": 0.0}
        wells = pb.datasets.simulate_plates(**options, seed=5)
        wells.obs["fit"] = is_control(wells) & (wells.obs["well"].to_numpy() % 2 == 0)
        shares = {}
        for fit_on in (None, "fit"):
            pb.pp.typical_variation_normalization(
                wells, batch_key="plate", rank=None, shrinkage=0.05, fit_on=fit_on, key_added=f"X_{fit_on}"
            )
            rows = wells if fit_on is None else wells[~wells.obs["fit"]].copy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = pb.metrics.perturbation_magnitude(
                    rows, "perturbation", use_rep=f"X_{fit_on}", batch_key="plate", n_permutations=200
                )
            shares[fit_on] = float((found["p_value"] <= 0.05).mean())
        assert shares[None] > 0.9
        assert shares["fit"] < 0.2

    @pytest.mark.parametrize(("column", "error", "message"), [
        ("nowhere", LabelError, "fit_on: expected a boolean column of adata.obs, got 'nowhere'"),
        ("plate", LabelError, "fit_on: expected a boolean column .* got dtype category"),
        ("nobody", ControlError, r"fit_on: expected control rows marked .* got none of 48 controls"),
    ])  # fmt: skip
    def test_bad_columns(self, wells, column, error, message):
        wells.obs["nobody"] = False
        for function in (
            pb.pp.typical_variation_normalization,
            pb.pp.standardize_by_controls,
            pb.pp.spherize,
        ):
            with pytest.raises(error, match=message):
                function(wells, fit_on=column)


class TestChoice:
    def test_it_is_never_worse_than_standardising(self):
        for n_controls in (3, 12, 60):
            differences = []
            for seed in range(3):
                wells = pb.datasets.simulate_plates(n_controls=n_controls, seed=seed)
                pb.pp.standardize_by_controls(wells, batch_key="plate")
                pb.pp.typical_variation_normalization(wells, batch_key="plate")
                differences.append(recall(wells, KEY) - recall(wells, "X_standardized"))
            error = np.std(differences, ddof=1) / np.sqrt(3)
            assert np.mean(differences) >= -error, n_controls
            if n_controls > 3:
                assert np.mean(differences) > 0.05, n_controls

    def test_full_whitening_from_few_controls_is_worse(self):
        wells = pb.datasets.simulate_plates(n_controls=17)
        pb.pp.standardize_by_controls(wells, batch_key="plate")
        pb.pp.typical_variation_normalization(wells, batch_key="plate", rank=None, shrinkage=0)
        assert recall(wells, KEY) < recall(wells, "X_standardized")

    def test_where_effects_lie_on_nuisances_it_holds_back(self):
        chosen = {}
        for overlap in (0.0, 1.0):
            wells = pb.datasets.simulate_plates(n_controls=30, overlap=overlap, n_effects=6, n_nuisances=8, seed=2)
            pb.pp.typical_variation_normalization(wells, batch_key="plate", rank=None)
            chosen[overlap] = wells.uns[KEY]["shrinkage"]
        assert chosen[1.0] > chosen[0.0]

    @pytest.mark.parametrize(("n_controls", "is_plain"), [(3, True), (30, False)])
    def test_the_candidate_that_changes_least_is_taken_of_those_that_are_as_good(self, n_controls, is_plain):
        wells = pb.datasets.simulate_plates(n_controls=n_controls)
        pb.pp.typical_variation_normalization(wells, batch_key="plate")
        found = wells.uns[KEY]
        table = found["candidates"]
        as_good = table[table["below"] <= table["standard_error"]]
        assert table["score"].idxmax() in as_good.index
        assert (found["lead"] <= 2 * found["lead_standard_error"]) == is_plain
        if is_plain:
            assert (found["rank"], found["shrinkage"]) == (wells.n_vars, 1)
        else:
            assert found["rank"] == as_good["rank"].max()
            assert found["shrinkage"] == as_good.loc[as_good["rank"] == found["rank"], "shrinkage"].max()
        assert found["chosen_by"] == "replicates"

    def test_candidates_are_scored_by_retrieval_of_replicates(self, wells):
        pb.pp.typical_variation_normalization(wells, batch_key="plate")
        table = wells.uns[KEY]["candidates"].set_index(["rank", "shrinkage"])
        for rank, shrinkage in ((40, 0.3), (8, 0.01)):
            options = {"rank": rank, "shrinkage": shrinkage, "copy": True}
            done = pb.pp.typical_variation_normalization(wells, batch_key="plate", **options)
            treated = done[~is_control(done)].copy()
            options = {"batch_key": "plate", "use_rep": KEY, "n_null": 10, "negative_batches": "any"}
            score = pb.metrics.mean_average_precision(treated, "perturbation", **options)
            assert table.loc[(rank, shrinkage), "score"] == pytest.approx(
                score["mean_average_precision"].mean(), abs=1e-4
            )

    def test_of_many_cells_means_are_judged(self):
        wells = pb.datasets.simulate_plates(n_plates=2, n_replicates=2, n_guides=24, n_complexes=4, n_single_genes=4)
        pb.pp.typical_variation_normalization(wells, batch_key="plate")
        chosen = wells.uns[KEY]["candidates"]["score"].max()
        wells.obs["gene"] = np.where(is_control(wells), "control", wells.obs["guide"].astype(str))
        pb.pp.typical_variation_normalization(wells, perturbation_key="gene", batch_key="plate")
        assert chosen > 2 * wells.uns[KEY]["candidates"]["score"].max()  # of one well each

    def test_which_genes_belong_together_is_not_read(self, wells):
        renamed = wells.copy()
        genes = renamed.obs["perturbation"].cat.categories
        others = [name for name in genes if name != "control"]
        rotated = dict(zip(others, [*others[5:], *others[:5]], strict=True)) | {"control": "control"}
        renamed.obs["perturbation"] = renamed.obs["perturbation"].map(rotated)
        renamed.obs["complex"] = "none"
        for one in (wells, renamed):
            pb.pp.typical_variation_normalization(one, batch_key="plate")
        np.testing.assert_allclose(renamed.obsm[KEY], wells.obsm[KEY], atol=1e-5)

    def test_without_replicates_controls_choose(self, wells, caplog):
        wells.obs["row"] = np.where(is_control(wells), "control", np.char.add("g", np.arange(wells.n_obs).astype(str)))
        wells = wells[:90].copy()
        pb.pp.typical_variation_normalization(wells, perturbation_key="row", batch_key="plate")
        assert wells.uns[KEY]["chosen_by"] == "ledoit_wolf"
        assert "No perturbation has two rows" in caplog.text

    @pytest.mark.parametrize("choose_by", ["ledoit_wolf", "likelihood"])
    def test_controls_alone_can_choose(self, wells, choose_by):
        changed = wells.copy()
        changed.X[~is_control(changed)] *= 2
        for one in (wells, changed):
            pb.pp.typical_variation_normalization(one, batch_key="plate", choose_by=choose_by)
        assert changed.uns[KEY]["shrinkage"] == wells.uns[KEY]["shrinkage"]
        assert 0 < wells.uns[KEY]["shrinkage"] <= 1
        assert wells.uns[KEY]["rank"] == wells.n_vars

    def test_draws_do_not_depend_on_the_order_of_rows(self, wells):
        order = np.random.default_rng(0).permutation(wells.n_obs)
        shuffled = wells[order].copy()
        for one in (wells, shuffled):
            pb.pp.typical_variation_normalization(one, batch_key="plate", max_rows=60)
        np.testing.assert_allclose(
            shuffled.uns[KEY]["candidates"]["score"], wells.uns[KEY]["candidates"]["score"], rtol=1e-6
        )
        np.testing.assert_allclose(shuffled.obsm[KEY], wells.obsm[KEY][order], atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_says_the_same(wells, in_form, form):
    pb.pp.typical_variation_normalization(wells, batch_key="plate")
    other, options = in_form(wells, form)
    done = pb.pp.typical_variation_normalization(other, batch_key="plate", copy=True, **options)
    np.testing.assert_allclose(done.obsm[KEY], wells.obsm[KEY], atol=2e-2 if form == "integers" else 1e-4)


def test_one_batch(wells):
    pb.pp.typical_variation_normalization(wells)
    wells.obs["one"] = "all"
    again = pb.pp.typical_variation_normalization(wells, batch_key="one", copy=True)
    np.testing.assert_allclose(again.obsm[KEY], wells.obsm[KEY], atol=1e-5)


def test_a_perturbation_a_batch_compares_replicates_within(wells):
    rows = is_control(wells) | (wells.obs["replicate"] == "1").to_numpy()
    wells = wells[rows].copy()
    treated = ~is_control(wells)
    gene = wells.obs["perturbation"].cat.codes.to_numpy()
    wells.obs["plate"] = np.where(treated, np.char.add("p", (gene % 4).astype(str)), wells.obs["plate"].astype(str))
    wells.obs["plate"] = wells.obs["plate"].replace({f"plate_0{i + 1}": f"p{i}" for i in range(4)})
    pb.pp.typical_variation_normalization(wells, batch_key="plate")
    assert wells.uns[KEY]["chosen_by"] == "replicates"


@pytest.mark.parametrize(("change", "options", "error", "message"), [
    ("nan", {}, ValueError, "NaN or infinity in 2 of"),
    (None, {"use_rep": "X_pca"}, FeatureMismatch, "use_rep"),
    (None, {"batch_key": "day"}, LabelError, "batch_key: expected a column of adata.obs"),
    (None, {"control": "NT"}, ControlError, "control"),
    (None, {"rank": 0}, ValueError, "rank: expected a whole number of 1 or more, got 0"),
    (None, {"rank": 2.5}, ValueError, "rank: expected a whole number"),
    (None, {"rank": "all"}, ValueError, "rank: expected a whole number"),
    (None, {"shrinkage": 1.5}, ValueError, "from 0 to 1, got 1.5"),
    (None, {"shrinkage": -0.1}, ValueError, "shrinkage"),
    (None, {"choose_by": "eye"}, ValueError, "'likelihood', got 'eye'"),
    (None, {"seed": -1}, ValueError, "seed"),
    (None, {"key_added": None}, ValueError, "key_added: expected the key to write to as text, got None"),
    (None, {"max_rows": 1}, ValueError, "max_rows: expected a whole number of 2 or more"),
    (None, {"batch_prior": -1}, ValueError, "batch_prior"),
    (None, {"batch_prior": 0, "batch_key": "plate"}, ControlError, "batch_prior: expected a number above 0"),
    ("few", {"shrinkage": 0, "batch_key": "plate"}, ControlError, r"shrinkage: expected a number above 0.*rank=\d+ or less"),
    ("alike", {}, ControlError, "control rows that differ"),
    ("no controls on a plate", {"batch_key": "plate"}, ControlError, r"plate_02 \(0\)"),
    ("no controls on a plate", {"batch_key": "plate", "published": True}, ControlError, r"plate_02 \(0\)"),
])  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_written(wells, change, options, error, message):
    if change == "nan":
        wells.X[[3, 9], 2] = np.nan
    elif change == "few":
        wells = wells[~is_control(wells) | (np.arange(wells.n_obs) % 3 == 0)].copy()
    elif change == "alike":
        wells.X[is_control(wells)] = 1.0
    elif change == "no controls on a plate":
        wells = wells[~(is_control(wells) & (wells.obs["plate"] == "plate_02").to_numpy())].copy()
    before = set(wells.obsm), set(wells.uns)
    with pytest.raises(error, match=message):
        pb.pp.typical_variation_normalization(wells, **options)
    assert (set(wells.obsm), set(wells.uns)) == before


def test_a_view_of_a_file_asks_for_a_copy(wells, in_form):
    backed, _ = in_form(wells, "file")
    with pytest.raises(UnsupportedQuery, match="copy=True"):
        pb.pp.typical_variation_normalization(backed[:50], batch_key="plate")


def test_results_survive_a_file(wells, tmp_path):
    pb.pp.typical_variation_normalization(wells, batch_key="plate")
    wells.uns.pop("truth")
    wells.write_h5ad(tmp_path / "wells.h5ad")
    again = ad.read_h5ad(tmp_path / "wells.h5ad").uns[KEY]
    assert again["rank"] == wells.uns[KEY]["rank"]
    pd.testing.assert_frame_equal(
        again["candidates"], wells.uns[KEY]["candidates"], check_dtype=False, check_index_type=False
    )
