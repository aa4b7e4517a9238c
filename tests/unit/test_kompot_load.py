"""Bad input of engine kompot: every message, and what is only warned of."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from analyses import STATES, load_conditions
from condrand.engines.kompot_states import place_cells
from condrand.errors import InputError
from condrand.io.states import read_states

N_CELLS = 80


@pytest.fixture
def data():
    """80 cells in two conditions of two samples each, with states of their own."""
    random = np.random.default_rng(2)
    obs = pd.DataFrame(
        {
            "treatment": pd.Categorical(np.array(["ctrl", "stim"])[np.arange(N_CELLS) % 2]),
            "donor": pd.Categorical(np.array(["d1", "d2", "d3", "d4"])[np.arange(N_CELLS) % 4]),
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    return ad.AnnData(
        sp.csr_matrix(random.poisson(2.0, (N_CELLS, 30)).astype(np.float32)),
        obs=obs,
        obsm={"X_pca": random.normal(size=(N_CELLS, 4)), "X_one": random.normal(size=(80, 1))},
    )


@pytest.fixture
def place(data, tmp_path):
    """Load the data and place its cells; give the states."""

    def run(embeddings=("X_pca", "X_one"), load_levels=("ctrl", "stim"), **changes):
        settings = {**STATES, **changes}
        data.write_h5ad(tmp_path / "user.h5ad")
        stored = tmp_path / "screen.h5ad"
        load_conditions(
            tmp_path / "user.h5ad", stored, settings["outcome"], embeddings, load_levels
        )
        place_cells(stored, tmp_path / "states.h5ad", tmp_path / "sizes.tsv", settings, 1)
        return read_states(tmp_path / "states.h5ad")

    return run


@pytest.fixture
def refusal(place, tmp_path):
    """Place cells that cannot be; give the message, after seeing that nothing was written."""

    def run(**changes):
        with pytest.raises(InputError) as error:
            place(**changes)
        assert not (tmp_path / "states.h5ad").exists()
        assert not (tmp_path / "sizes.tsv").exists()
        return str(error.value)

    return run


def says(message, *words):
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in:\n{message}"


def states_from(key, **more):
    return {"embedding": {**STATES["embedding"], "key": key, **more}}


# States


def test_states_of_the_file_are_used_as_they_are(place, data):
    states = place(**states_from("X_pca"))
    np.testing.assert_array_equal(states.x, data.obsm["X_pca"])
    np.testing.assert_array_equal(states.plotted, data.obsm["X_pca"][:, :2])
    assert states.words["state"] == "X_pca of the file"


@pytest.mark.parametrize("method", ["pca", "diffusion"])
def test_states_are_computed(place, method):
    states = place(**states_from(None, method=method))
    assert states.x.shape == (N_CELLS, 3)
    assert ("diffusion" in states.words["state"]) == (method == "diffusion")


def test_one_dimension_is_drawn_on_a_line(place):
    states = place(**states_from("X_one"))
    np.testing.assert_array_equal(states.plotted[:, 0], states.x[:, 0])
    assert not states.plotted[:, 1].any()


def test_states_that_are_not_there_or_do_not_fit_are_refused(place, data):
    data.uns["short"] = np.zeros((7, 3))
    data.obsm["wide"] = sp.csr_matrix((N_CELLS, 1200))
    with pytest.raises(InputError) as error:
        place(embeddings=["X_pcaa", "short", "wide"])
    says(
        str(error.value),
        *("3 problems", "X_pcaa", "did you mean 'X_pca'", "`embedding.key` or `plot_embedding`"),
        *("uns/short", "has 7 rows, but obs has 80", "obsm/wide", "1,200 columns"),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_missing_state_names_the_cells(refusal, data, value):
    data.obsm["X_pca"][[4, 9], 1] = value
    message = refusal(**states_from("X_pca"), plot_embedding="X_one")
    says(message, "2 problems", "2 cells have NaN or infinite values ('cell4', 'cell9')")
    says(message, "X_one: has one column")


def test_a_missing_state_of_another_cell_does_no_harm(place, data):
    data.obs["treatment"] = data.obs["treatment"].cat.add_categories("other")
    data.obs.loc["cell4", "treatment"] = "other"
    data.obsm["X_pca"][4] = np.nan
    assert len(place(**states_from("X_pca")).x) == N_CELLS - 1


def test_a_dimension_that_is_the_same_everywhere_is_told(place, data, caplog):
    data.obsm["X_pca"][:, 2] = 5.0
    with caplog.at_level(logging.WARNING):
        states = place(**states_from("X_pca"))
    says(states.words["notes"], "same in all cells, counted from 0: 2")
    assert "counted from 0: 2" in caplog.text


def test_cells_at_one_point_are_refused_and_some_of_them_told(place, refusal, data):
    data.obsm["X_pca"][:] = 1.5
    says(refusal(**states_from("X_pca")), "all 80 cells lie at one point")
    data.obsm["X_pca"][:] = np.random.default_rng(0).normal(size=(N_CELLS, 4))
    data.obsm["X_pca"][10] = data.obsm["X_pca"][30]
    states = place(**states_from("X_pca"))
    says(states.words["notes"], "1 cells lie where another does")
    assert states.words["length_scale"] > 0


def test_fewer_cells_than_landmarks_are_all_landmarks(place, caplog):
    with caplog.at_level(logging.INFO):
        states = place(n_landmarks=200)
    assert len(states.landmarks) == N_CELLS
    assert "each is a landmark" in caplog.text


def test_states_too_far_from_0_for_their_distances_are_refused(refusal, data):
    data.obsm["X_pca"] += 1e9
    says(refusal(**states_from("X_pca"), n_landmarks=60), "not positive definite")


def test_more_landmarks_than_distances_are_taken_over_are_refused(refusal, monkeypatch):
    monkeypatch.setattr("condrand.engines.kompot_states.MOST_POINTS", 15)
    says(refusal(), "n_landmarks: is 20", "over 15 points at most")


def test_a_graph_in_parts_is_refused(refusal, data):
    counts = data.X.toarray()
    counts[:40, :15], counts[40:, 15:] = 0, 0
    data.X = sp.csr_matrix(counts * 50)
    message = refusal(**states_from(None, method="diffusion", n_neighbors=5))
    says(message, "parts of 40", "embedding.n_neighbors")


def test_features_that_are_all_constant_are_refused(refusal, data):
    data.X = sp.csr_matrix(np.zeros((N_CELLS, 30), np.float32))
    says(refusal(**states_from("X_pca")), "all 30 features are constant in the 80 cells")


def test_fewer_components_than_wanted_are_told(place, data):
    data.X = data.X @ sp.diags((np.arange(30) < 2).astype(np.float32))
    outcome = {**STATES["outcome"], "transform": "none"}
    states = place(**states_from(None, n_components=5), outcome=outcome)
    assert states.x.shape == (N_CELLS, 2)
    says(states.words["notes"], "components vary, not the 5")


# Conditions


def test_conditions_that_are_not_there_are_refused_with_the_nearest(place, refusal):
    with pytest.raises(InputError) as error:
        place(load_levels=("ctrl", "stimm"))
    says(str(error.value), "has no group 'stimm'", "did you mean 'stim'")
    message = refusal(levels=["ctr", "stimm"])
    says(message, "has no condition 'ctr', 'stimm'", "did you mean 'ctrl'", "did you mean 'stim'")


def test_a_condition_of_few_cells_is_refused(refusal, data):
    data.obs["treatment"] = np.array(["ctrl", "stim"])[(np.arange(N_CELLS) < 9).astype(int)]
    says(refusal(), "has 9 cells of 'stim'", "10 cells or more")


def test_a_condition_is_no_sample_and_not_its_own_opposite(refusal):
    message = refusal(sample="treatment", levels=["ctrl", "ctrl"])
    says(message, "2 problems", "both the condition and the sample", "names 'ctrl' twice")


# Samples


def test_one_sample_in_a_condition_is_refused_where_its_variance_is_asked_for(
    place, refusal, data
):
    data.obs["donor"] = np.where(data.obs["treatment"] == "ctrl", "d1", data.obs["donor"])
    message = refusal(sample="donor", sample_variance=True)
    says(message, "'ctrl' has 1 samples of 10 cells or more", "sample_variance: false")
    states = place(sample="donor")
    assert states.words["uses_samples"] is False
    says(states.words["notes"], "ctrl: 1 samples of 10 cells or more")


def test_small_samples_are_left_out_of_the_variance_with_a_warning(place, data):
    donor = data.obs["donor"].astype(str).to_numpy()
    donor[[0, 2, 4]] = "tiny"
    data.obs["donor"] = donor
    states = place(sample="donor")
    assert states.words["uses_samples"] is True
    says(states.words["notes"], "ctrl: samples of fewer than 10 cells", "tiny (3)")


def test_a_sample_in_both_conditions_counts_as_two(place, data):
    data.obs["donor"] = np.array(["d1", "d2"])[np.arange(N_CELLS) // 2 % 2]
    states = place(sample="donor")
    assert states.words["uses_samples"] is True
    says(states.words["notes"], "count as separate samples: d1, d2")


def test_cells_without_a_sample_are_left_out_with_a_warning(place, data):
    data.obs.loc[["cell3", "cell5"], "donor"] = np.nan
    states = place(sample="donor")
    assert len(states.x) == N_CELLS - 2
    assert "cell3" not in states.names
    says(states.words["notes"], "2 cells without 'donor' are left out")


def test_exchanges_need_samples(place, refusal, data):
    null = {"kind": "samples", "count": 20}
    message = refusal(null=null, sample_variance=True)
    says(message, "`sample_variance: true` and `null_distances.kind: samples` need samples")
    states = place(null=null, sample="donor")
    says(states.words["notes"], "2 and 2 samples can be exchanged in 2 ways, fewer than")


def test_too_few_samples_to_exchange_are_refused(refusal, data):
    data.obs["donor"] = np.where(data.obs["treatment"] == "ctrl", "d1", data.obs["donor"])
    null = {"kind": "samples", "count": 20}
    message = refusal(null=null, sample="donor", sample_variance=False)
    says(message, "'ctrl' has 1 samples", "`null_distances.kind: samples` need two")


def test_problems_of_samples_states_and_features_are_listed_together(refusal, data):
    data.obs["donor"] = np.where(data.obs["treatment"] == "ctrl", "d1", data.obs["donor"])
    data.obsm["X_pca"][7, 0] = np.nan
    data.X = sp.csr_matrix(np.zeros((N_CELLS, 30), np.float32))
    message = refusal(**states_from("X_pca"), sample="donor", sample_variance=True)
    says(message, "3 problems", "'ctrl' has 1 samples", "'cell7'", "30 features are constant")
