"""Off-policy evaluation and compounding errors as a user runs them, on a tiny real dataset."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import adm_jax
from adm_jax.config import config_for_task
from adm_jax.config.evaluation import CompoundingErrorConfig, OPEConfig
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_io
from adm_jax.dynamics.interface import Dynamics
from adm_jax.evaluation import compounding_error, fitted_models, kept_results, ope
from adm_jax.evaluation.kept_results import KeptResults
from adm_jax.evaluation.policies import read_policies
from adm_jax.rollout import open_loop
from adm_jax.runs import config_file, surroundings
from adm_jax.tasks import get_task
from adm_jax.training import offline
from adm_jax.types import ActionBounds, InputError, Prediction, Segment
from benchmarks.runs import summarize_measured, summarize_run
from tests.evaluation.policy_files import write
from tests.tiny import TINY

FIT = ("fit_steps_per_epoch", "holdout_batch_size", "model_hidden_dim", "seeds", "task")
MODELS = {
    "adm_v2": {"max_backtrack": 3, "num_gru_layers": 1, "num_residual_blocks": 1, "num_encoder_blocks": 0},
    "ensemble": {"num_hidden_layers": 1, "weight_decays": (0.0, 1e-4), "num_networks": 3, "num_elites": 2},
}


@pytest.fixture
def fits(tiny_dataset, tmp_path):
    shared = {name: TINY[name] for name in FIT} | {"dataset": tiny_dataset, "fit_max_epochs": 2}
    shared["workdir"] = str(tmp_path / "runs")
    return [config_for_task(dynamics=name, **shared, **own) for name, own in MODELS.items()]


@pytest.fixture
def policies(tmp_path):
    rng = np.random.default_rng(0)
    for name, scale in (("good", 0.0), ("other", 0.5), ("wild", 3.0)):
        content = {"w0": scale * rng.normal(size=(11, 3)), "b0": np.zeros(3), "log_std": np.full(3, -1.0)}
        write(tmp_path / f"{name}.npz", content)
    return tmp_path


def result_of(fits, algorithm) -> tuple[Path, dict]:
    (folder,) = (Path(fits[0].workdir) / algorithm / "hopper").iterdir()
    return folder, json.loads((folder / "result.json").read_text())


def test_policies_are_evaluated_and_compared(fits, policies, capsys):
    config = OPEConfig(
        dynamics=tuple(MODELS),
        policies=str(policies),
        real_episodes=2,
        num_episodes=6,
        episode_chunk=4,
        horizon=20,
        fqe_steps=5,
    )
    ope.run(config, fits)
    folder, result = result_of(fits, "ope")
    assert result["policies"] == ["good.npz", "other.npz", "wild.npz"]
    assert set(result["estimates"]["0.995"]) == {"adm_v2", "ensemble", "fqe"}
    assert set(result["estimates"]["1"]) == {"adm_v2", "ensemble"}  # no value without a discount
    assert np.shape(result["truth"]) == (2, 3)
    for name in MODELS:
        rows = result["estimates"]["0.995"][name]
        assert all(row["low"] < row["mean"] < row["high"] for row in rows)
        assert 0 <= result["models"][name]["in_range_share"] <= 1
        assert result["models"][name]["finite_share_per_policy"] == [1.0] * 3
    for course in (result["real"], *result["models"].values()):
        assert len(course["mean_length_per_policy"]) == 3
        shares = np.array(course["share_of_so_many_steps_per_policy"])
        assert course["steps"] == [10, 20]  # none behind the horizon
        assert np.shape(course["return_after_steps_per_policy"]) == shares.shape == (3, 2)
        assert (np.diff(shares, axis=1) <= 0).all()
        assert max(course["mean_length_per_policy"]) <= 20
    metrics = result["metrics"]["0.995"]
    assert "adm_v2 - fqe" in metrics
    assert -1 <= metrics["adm_v2"]["rank_correlation"]["value"] <= 1
    assert (folder / "scatter.png").stat().st_size > 10_000
    assert "against the true returns" in capsys.readouterr().out
    measured = json.loads((folder / "truth.json").read_text())
    assert (measured["max_steps"], measured["deterministic"]) == (20, False)
    assert measured["policies"]["wild.npz"]["return_mean"] == pytest.approx(result["truth"][1][2])
    summary = json.loads(json.dumps(summarize_measured.summarize([folder, folder])))
    assert summary["runs"][0]["result"] == result
    average = summary["average"]["0.995"]["ensemble"]["rank_correlation"]
    assert average["value"] == pytest.approx(metrics["ensemble"]["rank_correlation"]["value"])
    fits_of = json.loads((folder / "config.json").read_text())["fits"]
    assert fits_of["ensemble"]["num_networks"] == 3


def test_the_mean_over_datasets_is_none_where_one_of_them_has_no_value():
    """The rank correlation of equal estimates is none, their absolute error is a number."""

    def result(estimates):
        return {"estimates": {"1": {"adm": [{"mean": x} for x in estimates]}}, "truth": [[0.0, 1.0, 2.0]]}

    have, lack = result([0.0, 1.0, 2.0]), result([1.0, 1.0, 1.0])
    averaged = summarize_measured.average([have, lack])["1"]["adm"]
    assert averaged["rank_correlation"]["value"] is None
    assert averaged["normalized_absolute_error"]["value"] == pytest.approx((0 + 1 / 3) / 2)
    assert summarize_measured.average([have, have])["1"]["adm"]["rank_correlation"]["value"] == 1


def test_fitted_models_are_kept_and_taken_again(fits, policies, tmp_path, capsys):
    """The same estimates without fitting; by another measurement too; but not with other settings."""
    store = str(tmp_path / "models")
    config = OPEConfig(
        dynamics=("adm_v2",), policies=str(policies / "good.npz"), models=store, num_episodes=4, fqe_steps=0
    )
    config = dataclasses.replace(config, horizon=10)
    first = ope.run(config, fits[:1])
    assert "taken from" not in capsys.readouterr().out
    again = ope.run(config, fits[:1])
    assert "adm_v2: fitted models taken from" in capsys.readouterr().out
    assert again["estimates"] == first["estimates"]
    assert again["models"] == first["models"]
    compounding_error.run(CompoundingErrorConfig(dynamics=("adm_v2",), models=store), fits[:1])
    assert "taken from" in capsys.readouterr().out
    other = dataclasses.replace(fits[0], fit=dataclasses.replace(fits[0].fit, fit_learning_rate=0.5))
    with pytest.raises(
        InputError, match=r"models: .*adm_v2 has models of fit_learning_rate=0\.001, not 0\.5; name another"
    ):
        ope.run(config, [other])


def test_a_policy_is_estimated_alike_alone_and_among_others(fits, policies, tmp_path, capsys):
    """One alone has no metrics: there is nothing to rank."""
    config = OPEConfig(
        dynamics=("adm_v2",),
        policies=str(policies),
        num_episodes=4,
        horizon=10,
        fqe_steps=3,
        models=str(tmp_path / "models"),
    )
    together = ope.run(config, fits[:1])["estimates"]["0.995"]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"policies": {"wild.npz": {"return_mean": 1, "discounted_0.995_mean": 1}}}))
    alone = dataclasses.replace(config, policies=str(policies / "wild.npz"), truth=str(truth))
    result = ope.run(alone, fits[:1])
    assert "metrics" not in result
    assert "warning: true returns may be of 1000 steps, the estimates are of 10" in capsys.readouterr().out
    for name in ("adm_v2", "fqe"):
        assert result["estimates"]["0.995"][name][0] == pytest.approx(together[name][2], rel=1e-5)


def test_a_summary_names_files_without_their_folders():
    policies = "/home/me/a.npz,/home/me/b.npz"
    arguments = [
        "ope",
        f"--policies={policies}",
        "--truth=/home/me/t.json",
        "--workdir=/home/me/runs",
        "--seeds=0",
    ]
    config = {"policies": policies, "truth": "/home/me/t.json", "workdir": "/home/me/runs", "seeds": [0]}
    summary = summarize_run.surroundings({"config": config, "command_line": ["python", *arguments]})
    assert summary["command"] == "python ope --policies=a.npz,b.npz --truth=t.json --seeds=0"
    assert summary["config"] == {"policies": "a.npz,b.npz", "truth": "t.json", "seeds": [0]}


class _Stop(Exception):
    pass


def test_an_evaluation_that_was_stopped_goes_on(fits, policies, tmp_path, monkeypatch):
    """With --models: every policy that was done counts, whichever estimator it was done with."""
    config = OPEConfig(
        dynamics=("adm_v2",), policies=str(policies), num_episodes=3, horizon=5, fqe_steps=3, gammas=(0.995,)
    )
    assert config.predictions == "means"
    whole = ope.run(dataclasses.replace(config, models=str(tmp_path / "whole")), fits[:1])
    put, done = KeptResults.put, []

    def put_and_stop(kept, policy, result):
        put(kept, policy, result)
        done.append((policy.name, type(result).__name__))
        if len(done) == 8:  # two seeds, three policies: the second of FQE
            raise _Stop

    config = dataclasses.replace(config, models=str(tmp_path / "stopped"))
    monkeypatch.setattr(KeptResults, "put", put_and_stop)
    with pytest.raises(_Stop):
        ope.run(config, fits[:1])
    assert ope.run(config, fits[:1]) == whole
    names = ["good.npz", "other.npz", "wild.npz"]
    assert done == [(name, "Episodes") for name in 2 * names] + [(name, "FQEResult") for name in 2 * names]
    # other predictions, or another policy of the same name, are another result
    other = dataclasses.replace(config, predictions="samples", fqe_steps=0)
    ope.run(other, fits[:1])
    assert len(done) == 18
    write(policies / "wild.npz", {"w0": np.ones((11, 3)), "b0": np.zeros(3), "log_std": np.zeros(3)})
    ope.run(other, fits[:1])
    assert done[18:] == [("wild.npz", "Episodes")] * 2
    for file in (tmp_path / "stopped" / "estimates").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    ope.run(other, fits[:1])  # what is damaged is done again
    assert len(done) == 26


def test_what_is_kept_depends_on_the_source_of_functions_of_ones_own(
    fits, policies, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "ends_of_ones_own.py"
    config = OPEConfig(
        dynamics=("adm_v2",),
        policies=str(policies / "good.npz"),
        models=str(tmp_path / "models"),
        num_episodes=2,
        horizon=3,
        fqe_steps=0,
    )
    fit = replace_flat(fits[0], {"termination": "ends_of_ones_own:never"})
    for comment, were_done in (("", False), ("", True), ("# edited", False)):
        file.write_text(f"def never(next_obs):\n    return next_obs[..., 0] < -1e9  {comment}\n")
        ope.run(config, [fit])
        assert ("1 of 1 policies were done before" in capsys.readouterr().out) == were_done
    # the task's own counts too
    task = dataclasses.replace(get_task("hopper"), name="tests_own_end", termination=fit.rollout.termination)
    monkeypatch.setattr(ope, "load_data", lambda fit: (task, minari_files.read(fit.dataset)))
    for comment, were_done in (("# once more", False), ("# once more", True), ("# again", False)):
        file.write_text(f"def never(next_obs):\n    return next_obs[..., 0] < -1e9  {comment}\n")
        own = dataclasses.replace(config, models=str(tmp_path / "own"))
        ope.run(own, fits[:1])
        assert ("1 of 1 policies were done before" in capsys.readouterr().out) == were_done


def test_models_of_ones_own_are_not_taken_when_their_source_is_another(fits, policies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "dynamics_of_ones_own.py"
    source = (
        "from adm_jax.config.models import register_dynamics\n"
        "register_dynamics('mine', 'adm_jax.dynamics.adm:make_adm')\n"
    )
    file.write_text(source)
    name = "dynamics_of_ones_own:mine"
    config = OPEConfig(
        dynamics=(name,),
        policies=str(policies / "good.npz"),
        models=str(tmp_path / "models"),
        num_episodes=2,
        horizon=3,
        fqe_steps=0,
    )
    shared = {
        field: value for field, value in to_flat(fits[0]).items() if field in (*FIT, "dataset", "workdir")
    }
    fit = config_for_task(dynamics=name, **shared, max_backtrack=3, fit_max_epochs=1)
    ope.run(config, [fit])
    file.write_text(source + "# edited\n")
    with pytest.raises(InputError, match=r"models: .*has models of source="):
        ope.run(config, [fit])


def test_what_other_code_has_kept_is_named_and_not_used(fits, policies, tmp_path, monkeypatch, capsys):
    config = OPEConfig(
        dynamics=("adm_v2",), policies=str(policies / "good.npz"), models=str(tmp_path / "models"),
        num_episodes=2, horizon=3, fqe_steps=0,
    )  # fmt: skip
    first = ope.run(config, fits[:1])
    capsys.readouterr()
    for module in (kept_results, fitted_models):
        monkeypatch.setattr(module, "code_digest", lambda: "another")
    assert ope.run(config, fits[:1])["estimates"] == first["estimates"]
    told = " ".join(capsys.readouterr().out.split())
    assert "warning: adm_v2: the models in" in told
    assert told.count("are of another version of adm_jax's code and are not used") == 3  # and each seed's
    assert ope.run(config, fits[:1])["estimates"] == first["estimates"]
    told = " ".join(capsys.readouterr().out.split())
    assert "fitted models taken from" in told
    assert told.count("1 of 1 policies were done before") == 2
    assert "another version" not in told


def test_the_digest_of_the_code_changes_with_it(monkeypatch, tmp_path):
    (tmp_path / "nn").mkdir()
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(adm_jax, "__file__", str(tmp_path / "__init__.py"))
    seen = set()
    for content in ("a = 1\n", "a = 2\n"):
        (tmp_path / "nn" / "layers.py").write_text(content)
        seen.add(surroundings.code_digest.__wrapped__())
    assert len(seen) == 2


def test_a_fit_that_diverges_is_told_and_not_kept(fits, policies, tmp_path):
    config = OPEConfig(
        dynamics=("adm_v2",), policies=str(policies), models=str(tmp_path / "models"), num_episodes=2
    )
    broken = replace_flat(fits[0], {"fit_learning_rate": 1e30})
    with pytest.raises(InputError, match=r"fit_learning_rate: 1e\+30 is too high for adm_v2: seed 0 has no"):
        ope.run(config, [broken])
    assert not (tmp_path / "models").exists()


def test_policies_of_a_run_are_evaluated(fits, tmp_path, tiny_dataset, capsys):
    tiny = {name: value for name, value in TINY.items() if name not in ("dataset", "dropout_rate")}
    tiny |= {"dataset": tiny_dataset, "workdir": str(tmp_path / "trained")}
    offline.run(config_for_task(**{**tiny, "bc_steps": 0, "num_epochs": 1, "eval_every": 1}))
    (folder,) = (tmp_path / "trained" / "admpo_off" / "hopper").iterdir()
    config = OPEConfig(dynamics=("adm_v2",), policies=str(folder), num_episodes=3, horizon=5, fqe_steps=0)
    result = ope.run(config, fits[:1])
    assert result["policies"] == [f"{folder.name}/seed0", f"{folder.name}/seed1"]
    rows = result["estimates"]["1"]["adm_v2"]
    assert rows[0] != rows[1]
    assert "warning" not in capsys.readouterr().out
    config_file.write(folder, {**config_file.read(folder), "env_id": "Walker2d-v4"})
    ope.run(config, fits[:1])
    assert "seed1 is of Walker2d-v4, the dataset of Hopper-v4" in capsys.readouterr().out
    (checkpoint,) = (folder / "checkpoints").glob("train-*")
    read = read_policies(str(folder), 11, ActionBounds.symmetric(1.0, 3))
    saved = ocp.load(checkpoint / "arrays")["agent/actor_params/params/Dense_0/kernel"]
    np.testing.assert_array_equal(read[1].params["params"]["Dense_0"]["kernel"], np.asarray(saved)[1])


def test_errors_grow_over_held_out_episodes(fits, capsys):
    config = CompoundingErrorConfig(dynamics=tuple(MODELS), horizon=15, episode_chunk=2)
    compounding_error.run(config, fits)
    folder, result = result_of(fits, "compounding_error")
    assert set(result["models"]) == set(MODELS)
    for curve in result["models"].values():
        counts = np.array(curve["num_episodes"])
        assert counts[0] > 1
        assert (np.diff(counts) <= 0).all()
        quantiles = np.array(curve["per_quantile"])
        assert np.isfinite(quantiles).all()
        assert (np.diff(quantiles, axis=1) >= 0).all()
        np.testing.assert_allclose(quantiles[:, 2], curve["median"], rtol=1e-6)
    assert (folder / "compounding_error.png").stat().st_size > 10_000
    assert "after k predictions" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_diverges_is_held_at_a_bound():
    def step(params, carry, obs, action, key, batch_key):
        next_obs = jnp.where(obs >= 1e6, jnp.nan, 1e10 * obs)
        nothing = jnp.zeros((1, len(obs), 2))
        return carry, Prediction(next_obs, obs[:, 0], nothing, nothing, jnp.ones((1, len(obs)), bool))

    unused = [None] * 4
    dynamics = Dynamics(*unused, lambda params, window: jnp.zeros(len(window.obs)), step, 1)
    segment = Segment(jnp.ones((2, 9, 1)), jnp.zeros((2, 8, 1)), jnp.zeros((2, 8)), jnp.ones((2, 8), bool))
    free = np.asarray(open_loop(dynamics, {}, segment, jax.random.key(0)))
    assert not np.isfinite(free).all()
    held = compounding_error.bounded(dynamics, jnp.full(1, -1e6), jnp.full(1, 1e6))
    states = np.asarray(open_loop(held, {}, segment, jax.random.key(0)))
    np.testing.assert_array_equal(states[:, 0], 1e6)
    np.testing.assert_array_equal(states[:, 1], -1e6)  # from the bound no number came
    assert np.isfinite(states).all()


def test_no_policies_and_no_truth_for_them_are_told_before_anything_is_fitted(fits, policies, tmp_path):
    with pytest.raises(InputError, match="give --policies="):
        ope.run(OPEConfig(), fits[:1])
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"policies": {"good.npz": {"return_mean": 1, "discounted_0.995_mean": 1}}}))
    with pytest.raises(InputError, match=r"has no return of other\.npz and 1 others"):
        ope.run(OPEConfig(policies=str(policies), truth=str(truth)), fits[:1])
    with pytest.raises(InputError, match="not from both"):
        OPEConfig(truth="x", real_episodes=3)
    with pytest.raises(InputError, match="adm is named twice"):
        OPEConfig(dynamics=("adm", "adm"))
    with pytest.raises(InputError, match="horizon: 2000 is more than Hopper-v4's time limit of 1000 steps"):
        ope.run(OPEConfig(policies=str(policies), horizon=2000), fits[:1])
    data = minari_files.read(fits[0].dataset)
    rows = slice(data.episode_ends[9] + 1, data.episode_ends[17] + 1)  # none is longer than 23 steps
    fields = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    short = EpisodeData(*(getattr(data, field)[rows] for field in fields))
    minari_io.save(short, "tests/short-hopper-v0", env_id="Hopper-v4")
    second = replace_flat(fits[0], {"max_backtrack": 32, "dataset": "tests/short-hopper-v0"})
    first = dataclasses.replace(fits[1], dataset=second.dataset)
    with pytest.raises(InputError, match=r"no (roll-out window|training segment) of max_backtrack=32"):
        ope.run(OPEConfig(policies=str(policies)), [first, second])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="models: cannot write"):
        ope.run(OPEConfig(policies=str(policies), models=str(tmp_path / "file")), fits[:1])
    with pytest.raises(InputError, match=r"gammas: 0\.995,0\.995 must be"):
        OPEConfig(gammas=(0.9950001, 0.9950002))
    assert not Path(fits[0].workdir).exists()
