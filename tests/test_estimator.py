"""The scikit-learn face: the contract of estimators, units, missing values, decoders, saving."""

import json
import os
import shutil
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.impute import KNNImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import truvae
from truvae import TVAE, CorrelatedGaussian, DiagonalGaussian, InputError, LowRankGaussian
from truvae.noise import Gaussian, on_device
from truvae.scaling import Scaling

SMALL = {"n_latents": 8, "hidden": (8,), "n_states": 8, "max_epochs": 3, "random_state": 0}
# The states of all rows of a call are found together: near rows share theirs.
EXPECTED = {
    "check_methods_sample_order_invariance": "rows of a call share states",
    "check_methods_subset_invariance": "rows of a call share states",
}


def table(n=300, missing=0.0, seed=0):
    """Return noisy rows of four kinds, NaN where missing, and the rows without noise."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(4, 12)) * 3 + 10
    clean = kinds[rng.integers(4, size=n)]
    noisy = clean + rng.normal(0, 0.5, clean.shape)
    return np.where(rng.random(clean.shape) < missing, np.nan, noisy), clean


@pytest.mark.parametrize("noise", ["gaussian", "gaussian-per-feature"])
def test_it_is_an_estimator_of_scikit_learn(noise):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        checks = check_estimator(
            TVAE(**SMALL, noise=noise), expected_failed_checks=EXPECTED, on_fail=None
        )
    assert len(checks) > 40
    assert [c["check_name"] for c in checks if c["status"] == "failed"] == []


def test_it_fills_in_what_is_missing():
    x, clean = table(600, missing=0.3)
    est = TVAE(n_latents=8, n_states=16, max_epochs=20, random_state=0).fit(x)
    for looks, most in ((0, 0.9), (2, 0.6)):
        found = est.reconstruct(x, looks=looks)
        assert np.sqrt(np.mean((found - clean)[np.isnan(x)] ** 2)) < most
    assert est.sigma_ == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, bool])
def test_what_a_masked_array_masks_is_missing(dtype):
    full, gaps = table(200)[0] > 10, np.isnan(table(200, missing=0.2)[0])
    masked = np.ma.masked_array(full.astype(dtype), gaps)
    kind = dtype if dtype == np.float32 else np.float64
    table_of_nan = np.where(gaps, np.nan, full).astype(kind)
    one, other = (
        TVAE(**SMALL, noise="bernoulli").fit(data).reconstruct(data)
        for data in (table_of_nan, masked)
    )
    np.testing.assert_array_equal(one, other)
    assert one.dtype == other.dtype


def test_digits_are_filled_in_better_than_by_near_rows():
    x = load_digits().data[:900]
    gaps = np.random.default_rng(0).random(x.shape) < 0.3
    damaged = np.where(gaps, np.nan, x)

    def error(found):
        return np.sqrt(np.mean((found - x)[gaps] ** 2))

    est = TVAE(n_states=16, max_epochs=10, random_state=0).fit(damaged)
    assert error(est.reconstruct(damaged)) < error(KNNImputer().fit_transform(damaged))


def test_bounds_are_in_units_of_the_data():
    """Scaled data have the density of the others over the scale, entry by entry."""
    x, _ = table(missing=0.2)
    est, scaled = TVAE(**SMALL).fit(x), TVAE(**SMALL).fit(1000 * x)
    np.testing.assert_allclose(scaled.sigma_, 1000 * est.sigma_, rtol=1e-3)
    shift = np.isfinite(x).sum(1) * np.log(1000)
    gain = est.score_samples(x) - scaled.score_samples(1000 * x)
    np.testing.assert_allclose(gain, shift, rtol=0.01)
    assert est.elbo_ - scaled.elbo_ == pytest.approx(shift.mean(), rel=0.01)
    assert est.history_[-1].sigma == pytest.approx(est.sigma_)


def test_bounds_stay_below_the_likelihood_by_enumeration():
    x, _ = table()
    est = TVAE(**SMALL | {"n_states": 64}).fit(x)
    data = est.scaling_.standardise(x, torch.device("cpu"))
    exact = est.model_.log_likelihood(data).numpy() - est.scaling_.log_spread.sum()
    found = est.score_samples(x)
    assert (found <= exact + 1e-3).all()
    assert (exact - found).mean() < 0.5


def test_sigma_for_each_feature():
    rng = np.random.default_rng(0)
    truth = np.array([0.1, 1.0, 10.0])
    x = rng.choice([0.0, 100.0], (800, 1)) + truth * rng.normal(size=(800, 3))
    est = TVAE(n_latents=4, hidden=(4,), n_states=8, max_epochs=40, noise="gaussian-per-feature",
               random_state=0).fit(x)  # fmt: skip
    np.testing.assert_allclose(est.sigma_, truth, rtol=0.25)


@pytest.mark.parametrize(("noise", "data"), [
    ("bernoulli", lambda rng, p: (rng.random((300, 6)) < p).astype(float)),
    ("poisson", lambda rng, p: rng.poisson(10 * p, (300, 6)).astype(float)),
])  # fmt: skip
def test_other_noise_models(noise, data):
    rng = np.random.default_rng(0)
    p = np.where(rng.random((300, 1)) < 0.5, 0.9, 0.1) * np.ones(6)
    x = data(rng, p)
    x[rng.random(x.shape) < 0.1] = np.nan
    options = {"n_latents": 4, "hidden": (), "n_states": 8, "max_epochs": 30, "random_state": 0}
    est = TVAE(**options, noise=noise).fit(x)
    assert np.isnan(est.sigma_)
    means = (p if noise == "bernoulli" else 10 * p)[np.isnan(x)]
    error = np.abs(est.reconstruct(x)[np.isnan(x)] - means).mean()
    assert error < 0.5 * np.abs(means - means.mean()).mean()
    assert np.isin(est.sample(20, 0), np.arange(60)).all()


def test_codes_and_back():
    x, clean = table()
    est = TVAE(n_latents=8, n_states=16, max_epochs=20, random_state=0).fit(x)
    codes = est.encode(x)
    assert codes.dtype == np.uint8 and set(np.unique(codes)) <= {0, 1}
    assert np.sqrt(np.mean((est.inverse_transform(codes) - clean) ** 2)) < 0.8
    assert np.abs(est.transform(x) - codes).mean() < 0.2
    np.testing.assert_allclose(est.components_, est.inverse_transform(np.eye(8)))
    drawn = est.sample(4000, 1)
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=1.0)
    np.testing.assert_array_equal(drawn, est.sample(4000, 1))
    with pytest.raises(InputError, match="codes have 8 latents, not 3"):
        est.inverse_transform(np.eye(3))


def test_in_a_pipeline_and_a_grid_and_with_names():
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(table()[0], columns=[f"gene{i}" for i in range(12)])
    pipe = make_pipeline(PCA(5), TVAE(**SMALL)).set_output(transform="pandas")
    found = pipe.fit_transform(x)
    assert list(found.columns) == [f"tvae{i}" for i in range(8)]
    grid = GridSearchCV(TVAE(**SMALL), {"n_latents": [4, 8]}, cv=2).fit(x)
    assert grid.best_params_["n_latents"] in (4, 8)


class Convolution(torch.nn.Module):
    """A decoder of one's own: from codes to 4 x 3 pixels."""

    def __init__(self):
        super().__init__()
        self.start = torch.nn.Linear(8, 12)
        self.smooth = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, z):
        return self.smooth(self.start(z).view(-1, 1, 4, 3)).squeeze(1)


def test_a_decoder_of_ones_own_is_trained_and_left_as_it_was():
    x, clean = table()
    decoder = Convolution()
    before = decoder.start.weight.detach().clone()
    est = TVAE(n_latents=8, n_states=16, max_epochs=30, decoder=decoder, random_state=0).fit(x)
    assert torch.equal(decoder.start.weight, before)
    assert np.sqrt(np.mean((est.reconstruct(x, looks=0) - clean) ** 2)) < 1.0
    with pytest.raises(InputError, match="makes 12 values of a state, the data have 5 features"):
        TVAE(n_latents=8, n_states=16, decoder=decoder).fit(x[:, :5])


@pytest.mark.parametrize(("options", "message"), [
    ({"n_latents": 0}, "n_latents must be a whole number of 1 or more, not 0"),
    ({"n_latents": 3}, "3 latents have only 8 states, not 64"),
    ({"n_latents": "8"}, "n_latents must be a whole number of 1 or more, not 8"),
    ({"hidden": (0,)}, "hidden must be a whole number"),
    ({"hidden": 64}, "hidden must be a list of whole numbers, not 64"),
    ({"max_epochs": 5.0}, "max_epochs must be a whole number of 1 or more, not 5.0"),
    ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, not 0"),
    ({"active": 0}, "active must be a number above 0, not 0"),
    ({"learning_rate": np.nan}, "learning_rate must be a number above 0, not nan"),
    ({"time_budget": -1}, "time_budget must be above 0"),
    ({"search": truvae.Evolution(2, 2)}, "search must be a list of proposals"),
    ({"search": iter([truvae.Evolution(2, 2)])}, "search must be a list of proposals"),
    ({"search": [truvae.Evolution]}, "search must be a list of proposals"),
    ({"search": ["evolution"]}, "search must be a list of proposals"),
    ({"callbacks": None}, "callbacks must be a list of functions of an epoch, not None"),
    ({"callbacks": print}, "callbacks must be a list of functions of an epoch"),
    ({"callbacks": [3]}, "callbacks must be a list of functions of an epoch"),
    ({"should_stop": True}, "should_stop must be a function, not True"),
    ({"ranks": 2}, "ranks must be made by truvae.ranks.Ranks.join, not 2"),
    ({"decoder": torch.nn.Linear}, r"decoder must be a torch.nn.Module, not <class"),
    ({"decoder": lambda z: z}, r"decoder must be a torch.nn.Module, not <function"),
    ({"decoder": torch.nn.Sequential(torch.nn.Linear(64, 12), torch.nn.Flatten(0))},
     r"must return a tensor \(n, any\), a row for each code, not \(24,\) for 2 codes"),
    ({"decoder": torch.nn.Linear(64, 11), "noise": LowRankGaussian(torch.tensor(1.0), rank=1)},
     "makes 11 values of a state, the data have 12 features: the noise LowRankGaussian wants 24"),
    ({"decoder": torch.nn.Linear(64, 22), "noise": LowRankGaussian(torch.tensor(1.0), rank=1)},
     "makes 22 values of a state, the data have 12 features: the noise LowRankGaussian wants 24"),
    ({"noise": Gaussian(torch.ones(4))}, "the noise Gaussian is not for data of 12 features"),
    ({"noise": Gaussian(torch.ones(4)), "decoder": torch.nn.Linear(64, 12)},
     "the noise Gaussian is not for data of 12 features"),
    ({"noise": DiagonalGaussian(torch.tensor(1.0), torch.eye(4), torch.ones(4))},
     "the noise DiagonalGaussian is not for data of 12 features"),
    ({"noise": "bernoulli"}, "needs data between 0 and 1"),
    ({"noise": ["gaussian"]}, "no noise"),
    ({"decoder": torch.nn.Linear(10, 12)}, r"does not take codes \(n, 64\)"),
    ({"noise": "laplace"}, "no noise 'laplace': choose one of gaussian"),
    ({"device": "tpu"}, "no device 'tpu'"),
])  # fmt: skip
def test_bad_options_are_told(options, message):
    with pytest.raises(InputError, match=message):
        TVAE(**options).fit(table()[0])


def test_bad_data_are_told():
    x, _ = table()
    x[:, 3] = np.nan
    with pytest.raises(InputError, match="feature 3 has no value"):
        TVAE(**SMALL).fit(x)
    with pytest.raises(InputError, match="scale them to between 1e-30 and 1e"):
        TVAE(**SMALL).fit(table()[0] * 1e160)
    est = TVAE(**SMALL).fit(table()[0])
    x = table()[0]
    x[7, 5] = 1e20
    with pytest.raises(InputError, match=r"the value 1e\+20 in row 7, column 5 \(from 0\) lies"):
        est.score_samples(x)
    x[7, 5] = 1e12
    for method in ("transform", "encode", "reconstruct", "score_samples"):
        assert np.isfinite(getattr(est, method)(x)).all()
    with pytest.raises(InputError, match="1e12|1e\\+12"):
        TVAE(**SMALL, noise=Gaussian(torch.tensor(1.0))).fit(1e13 * x)
    with pytest.raises(NotFittedError):
        TVAE(**SMALL).sample()
    with pytest.raises(InputError, match="n_samples must be a whole number of 1 or more"):
        TVAE(**SMALL).fit(table()[0]).sample(-1)


def test_saved_and_loaded_it_says_the_same(tmp_path):
    x, _ = table(missing=0.1)
    est = TVAE(**SMALL, noise="gaussian-per-feature").fit(x)
    est.save(tmp_path / "model")
    again = TVAE.load(tmp_path / "model", device="cpu")
    for method in ("transform", "encode", "reconstruct", "score_samples"):
        np.testing.assert_array_equal(getattr(est, method)(x), getattr(again, method)(x))
    np.testing.assert_array_equal(est.sample(5, 0), again.sample(5, 0))
    assert again.history_ == est.history_
    assert {k: v for k, v in again.get_params().items() if k not in ("hidden", "device")} == {
        k: v for k, v in est.get_params().items() if k not in ("hidden", "device")
    }
    assert again.fit(x).elbo_ == est.elbo_


def test_a_saved_decoder_of_ones_own_needs_its_like(tmp_path):
    x, _ = table()
    decoder = Convolution()
    est = TVAE(**SMALL, decoder=decoder).fit(x)
    est.save(tmp_path / "model")
    with pytest.raises(InputError, match="a decoder of its own, Convolution"):
        TVAE.load(tmp_path / "model")
    again = TVAE.load(tmp_path / "model", decoder=Convolution())
    np.testing.assert_array_equal(est.transform(x), again.transform(x))


def test_a_decoder_to_load_into_is_left_as_it_was(tmp_path):
    x, decoder = table()[0], torch.nn.Linear(8, 12)
    before = deepcopy(decoder.state_dict())
    est = TVAE(**SMALL, decoder=decoder).fit(x)
    est.save(tmp_path / "model")
    again = TVAE.load(tmp_path / "model", decoder=decoder)
    assert again.decoder is decoder and again.model_.decoder is not decoder
    assert all(torch.equal(before[name], value) for name, value in decoder.state_dict().items())
    assert est.fit(x).elbo_ == again.elbo_


class Scaled(truvae.MLP):
    """Says something else than its layers do."""

    def forward(self, z):
        return 3 * super().forward(z)


def test_a_decoder_made_of_an_mlp_is_asked_itself(tmp_path):
    x = table()[0]
    options = SMALL | {"n_states": 256, "search": [truvae.Exhaustive()]}
    est = TVAE(**options, decoder=Scaled(8, (8,), 12)).fit(x)
    data = est.scaling_.standardise(x[:20], torch.device("cpu"))
    z = truvae.bits.unpack(truvae.bits.all_states(8), 8, torch.float32)
    with torch.no_grad():
        means = est.model_.decoder(z)
        normal = torch.distributions.Normal(means, est.model_.noise.sigma2.sqrt())
        exact = normal.log_prob(data[:, None]).sum(2) + est.model_.prior.log_prob(z)
    found = est.model_.log_likelihood(data)
    torch.testing.assert_close(found, exact.logsumexp(1), rtol=1e-4, atol=1e-4)
    est.save(tmp_path / "model")
    again = TVAE.load(tmp_path / "model", decoder=Scaled(8, (8,), 12))
    np.testing.assert_array_equal(est.components_, again.components_)


@pytest.mark.parametrize("noise", [
    Gaussian(torch.ones(12, dtype=torch.float64)),
    Gaussian(torch.tensor(4.0)),
    CorrelatedGaussian(torch.full((12,), 4.0), torch.eye(12)),
])  # fmt: skip
def test_noise_of_ones_own_comes_back_as_it_was_given(tmp_path, noise):
    x = table(60)[0]
    est = TVAE(**SMALL, noise=noise).fit(x)
    est.save(tmp_path / "model")
    again = TVAE.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(est.reconstruct(x), again.reconstruct(x))
    for name, value in vars(noise).items():
        np.testing.assert_array_equal(vars(again.noise)[name], value)
    assert again.fit(x).elbo_ == est.elbo_


def test_any_model_is_saved_and_loaded(tmp_path):
    model = truvae.datasets.bars()
    truvae.save_model(tmp_path / "bars", model, {"note": 1}, {"extra": torch.ones(2)})
    saved = truvae.load_model(tmp_path / "bars")
    assert saved.config == {"note": 1} and torch.equal(saved.tensors["extra"], torch.ones(2))
    g = torch.Generator().manual_seed(0)
    x = model.sample(20, g)[1]
    torch.testing.assert_close(saved.model.log_likelihood(x), model.log_likelihood(x))
    truvae.save_model(tmp_path / "bars", model)  # replaced
    assert truvae.load_model(tmp_path / "bars").config == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bars"]


def test_a_model_that_is_replaced_is_never_a_mixture(tmp_path, monkeypatch):
    truvae.save_model(tmp_path / "bars", truvae.datasets.bars())

    def replace(path, target, replace=Path.replace):
        if path.name == "config.json":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            truvae.save_model(tmp_path / "bars", truvae.datasets.bars())
    with pytest.raises(InputError, match=r"it has no config\.json"):
        truvae.load_model(tmp_path / "bars")
    truvae.save_model(tmp_path / "bars", truvae.datasets.bars())
    assert truvae.load_model(tmp_path / "bars").model.n_latents == 8


def test_a_model_in_float64_comes_back_as_such(tmp_path):
    model = truvae.datasets.bars()
    model.prior.pi, model.noise.sigma2 = model.prior.pi.double(), model.noise.sigma2.double()
    model.decoder.double()
    with torch.no_grad():
        model.decoder.first.weight += 1e-12
    truvae.save_model(tmp_path / "bars", model)
    again = truvae.load_model(tmp_path / "bars").model
    assert torch.equal(again.decoder.first.weight, model.decoder.first.weight)


@pytest.mark.parametrize("n_latents", [64, 70])
def test_codes_of_one_word_and_more_come_back(tmp_path, n_latents):
    x, _ = table()
    est = TVAE(**SMALL | {"n_latents": n_latents}).fit(x)
    est.save(tmp_path / "model")
    again = TVAE.load(tmp_path / "model", device="cpu")
    assert torch.equal(again.population_.words, est.population_.words)


def test_bad_folders_are_told(tmp_path):
    model = truvae.datasets.bars()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other things"):
        truvae.save_model(tmp_path / "full", model)
    with pytest.raises(InputError, match=r"it has no config\.json"):
        truvae.load_model(tmp_path / "full")
    truvae.save_model(tmp_path / "new", model)
    config = tmp_path / "new" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 99}))
    with pytest.raises(InputError, match="newer format: update truvae"):
        truvae.load_model(tmp_path / "new")
    config.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        truvae.load_model(tmp_path / "new")
    truvae.save_model(tmp_path / "new", model)
    (tmp_path / "new" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read"):
        truvae.load_model(tmp_path / "new")


def test_a_folder_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other things"):
        truvae.save_model(tmp_path, truvae.datasets.bars())
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_data_in_any_memory_order_and_numbers_of_numpy_are_saved(tmp_path):
    x, _ = table()
    est = TVAE(**SMALL | {"n_latents": np.int64(8)}).fit(np.asfortranarray(x))
    est.save(tmp_path / "model")
    np.testing.assert_allclose(TVAE.load(tmp_path / "model").pi_, est.pi_)


def test_a_constant_feature_is_harmless():
    x, _ = table()
    x[:, 4] = 0.1
    est = TVAE(**SMALL, noise="gaussian-per-feature").fit(x)
    assert np.isfinite(est.score_samples(x + 1e-9)).all()
    np.testing.assert_allclose(est.reconstruct(x)[:, 4], 0.1, atol=0.01)


def test_a_decoder_with_dropout_says_the_same_twice():
    x, _ = table()
    decoder = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 12))
    est = TVAE(**SMALL, decoder=decoder).fit(x)
    np.testing.assert_array_equal(est.score_samples(x), est.score_samples(x))


def test_no_time_at_all_is_no_crash(monkeypatch):
    """Nor is time taken for the closing pass and look."""
    x, _ = table(missing=0.1)
    passed = []

    def counted(*arguments):
        for group in truvae.training.posterior(*arguments):
            passed.append(group)
            yield group

    monkeypatch.setattr(truvae.table_job, "posterior", counted)
    monkeypatch.setattr(truvae.table_job, "look_again", None)
    est = TVAE(**SMALL, time_budget=1e-9).fit(np.tile(x, (4, 1)))
    assert est.n_epochs_ == 0 and np.isnan(est.elbo_) and len(passed) == 1
    monkeypatch.undo()
    assert np.isfinite(est.reconstruct(x)).all()


def test_it_stops_in_the_midst_of_an_epoch():
    asked = []

    def third_time():
        asked.append(None)
        return len(asked) >= 3

    x = np.tile(table()[0], (20, 1))
    est = TVAE(**SMALL, should_stop=third_time).fit(x)
    (epoch,) = est.history_
    assert epoch.progress == 1.0 and epoch.index == 0
    assert np.isfinite(est.reconstruct(x[:50])).all()


def test_noise_of_one_s_own_goes_to_the_device_of_the_data():
    """The device meta stands for any that is not the processor's."""

    class Own(truvae.Gaussian):
        def __init__(self):
            super().__init__(torch.tensor(1.0))
            self.weight = torch.nn.Parameter(torch.ones(2), requires_grad=False)
            self.layer = torch.nn.Linear(2, 2)

    own = Own()
    moved = on_device(own, torch.device("meta"))
    assert isinstance(moved, Own) and moved.fixed is own.fixed
    found = [moved.sigma2, moved.mean_error, moved.weight, moved.layer.weight]
    assert {tensor.device.type for tensor in found} == {"meta"}
    assert isinstance(moved.weight, torch.nn.Parameter) and not moved.weight.requires_grad
    assert own.sigma2.device.type == own.layer.weight.device.type == "cpu"


def test_a_compiled_decoder_learns_what_the_plain_one_does():
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    x, _ = table()

    def decoder():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.nn.Sequential(
                torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 12)
            )

    plain = TVAE(**SMALL, decoder=decoder()).fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler
        compiled = TVAE(**SMALL, decoder=torch.compile(decoder(), dynamic=True)).fit(x)
        assert compiled.score(x) == pytest.approx(plain.score(x), rel=1e-2)
    assert compiled.elbo_ == pytest.approx(plain.elbo_, rel=1e-2)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("n_latents", [8, 63, 64])
def test_numbers_of_numpy_are_numbers(tmp_path, kind, n_latents):
    x, _ = table(60)
    options = SMALL | {"n_latents": kind(n_latents), "n_states": kind(8), "random_state": kind(3)}
    est = TVAE(**options).fit(x)
    assert est.encode(x).shape == (60, n_latents)
    est.save(tmp_path / "model")
    assert TVAE.load(tmp_path / "model").random_state == 3


def test_noise_in_float64_and_frozen_decoders_are_as_good_as_others():
    x, _ = table(60)
    est = TVAE(noise=Gaussian(torch.tensor(x.var())), **SMALL).fit(x)
    assert np.isfinite(est.score(x))
    decoder = torch.nn.Linear(8, x.shape[1]).requires_grad_(False)
    est = TVAE(decoder=decoder, **SMALL).fit(x)
    assert torch.equal(est.model_.decoder.weight, decoder.weight) and est.n_epochs_ == 3


def test_bounds_of_data_without_noise_are_those_in_float64():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 100))[rng.integers(4, size=200)]
    est = TVAE(**SMALL | {"max_epochs": 60, "learning_rate": 0.01, "n_states": 16,
                          "noise": "gaussian-per-feature"}).fit(x)  # fmt: skip
    model, population = est.model_, est._inferred(x)[1].population
    told = population.bound(slice(None)).double()
    exact = deepcopy(model)
    exact.decoder.double()
    exact.prior.pi, exact.noise.sigma2 = exact.prior.pi.double(), exact.noise.sigma2.double()
    data = est.scaling_.standardise(x, torch.device("cpu")).double()
    bounds = [exact.log_joint(row[None], words).logsumexp(1)
              for row, words in zip(data, population.words, strict=True)]  # fmt: skip
    assert (told - torch.cat(bounds)).abs().max() < 1  # 22 with a floor of 1e-6


def test_options_changed_after_the_training_change_nothing_that_was_learned(tmp_path):
    x, _ = table(60)
    est = TVAE(**SMALL).fit(x).set_params(n_latents=4)
    assert est.transform(x).shape == est.encode(x).shape == (60, 8)
    assert est.components_.shape == (8, x.shape[1])
    assert len(est.get_feature_names_out()) == 8
    est.set_params(n_states=512, hidden=0)
    assert est.transform(x).shape == (60, 8)
    est.save(tmp_path / "model")
    assert TVAE.load(tmp_path / "model").n_states == 8


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_breaks_the_training_off_leaves_it_unfitted(error):
    def fail(epoch):
        raise error

    x, _ = table(60)
    for est in (TVAE(**SMALL), TVAE(**SMALL).fit(x)):
        with pytest.raises(error):
            est.set_params(callbacks=[fail]).fit(x[:30])
        with pytest.raises(NotFittedError):
            est.reconstruct(x)
        assert np.isfinite(est.set_params(callbacks=[]).fit(x).reconstruct(x)).all()


def test_it_learns_in_float32_whatever_the_default_is():
    x, _ = table(60)
    torch.set_default_dtype(torch.float64)
    try:
        est = TVAE(**SMALL).fit(x)
        noisy = np.random.default_rng(0).normal(100, 20, (24, 24))
        restored = truvae.denoise(noisy, quality="fast", epochs=2, random_state=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert est.model_.prior.pi.dtype == torch.float32
    assert np.isfinite(est.reconstruct(x)).all() and np.isfinite(restored).all()


def test_data_that_the_noise_refuses_leave_it_unfitted():
    x, _ = table(60)
    est = TVAE(**SMALL).fit(x).set_params(noise="bernoulli")
    with pytest.raises(InputError):
        est.fit(x)
    with pytest.raises(NotFittedError):
        est.transform(x)


def test_a_feature_of_small_spread_is_filled_in_no_worse_than_by_its_mean():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) * [1000, 1, 0.01] + [0, 5, 0.3]
    gaps = rng.random(x.shape) < 0.2
    with pytest.warns(UserWarning, match="feature 0 is .*, that of feature 2 0.0"):
        est = TVAE(**SMALL | {"max_epochs": 30}).fit(np.where(gaps, np.nan, x))
    found = est.reconstruct(np.where(gaps, np.nan, x))
    for column, hidden in enumerate(gaps.T):
        own = x[:, column]
        by_mean = np.sqrt(np.mean((own[hidden] - own[~hidden].mean()) ** 2))
        error = np.sqrt(np.mean((found[hidden, column] - own[hidden]) ** 2))
        assert column == 0 or error < 1.2 * by_mean


def test_a_large_constant_column_is_scaled_alike_in_float32_and_float64():
    x = np.float32(table()[0])
    x[:, 3] = 1.7e9
    for noise in ("gaussian", "gaussian-per-feature"):
        single, double = (Scaling.of(x.astype(kind), noise) for kind in (np.float32, np.float64))
        np.testing.assert_allclose(single.spread, double.spread, rtol=1e-5)
        np.testing.assert_allclose(single.offset, double.offset, rtol=1e-5)
        assert single.spread[3] < 10


def test_a_noise_of_one_s_own_far_from_its_data_is_told_once():
    x = table()[0] + 1e4
    with pytest.warns(UserWarning, match="the mean of feature 0 is 1e") as caught:
        TVAE(**SMALL, noise=Gaussian(torch.tensor(1.0))).fit(x)
    assert len(caught) == 1
