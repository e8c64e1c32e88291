"""The online loop: members alone and among others, growing data, models, roll-outs, what it refuses."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from adm_jax.config import GrowingRolloutConfig, OnlineConfig, online_config_for_task
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.data import lanes
from adm_jax.data.value_range import value_range_of
from adm_jax.population.keys import offline_keys, shared_key
from adm_jax.population.members import all_members, settled
from adm_jax.runs.checkpoint import Restored
from adm_jax.tasks import get_task
from adm_jax.training.components import OwnData
from adm_jax.training.fit import fit_program
from adm_jax.training.online import OnlineLoop
from adm_jax.training.online_programs import Saved, refit_config
from adm_jax.types import InputError, Transition
from tests.training.tiny_online import MODELS, tiny


class Finished(NamedTuple):
    """What a loop leaves behind, without its programs: the machine holds only so many of those."""

    saved: dict[int, Saved]  # by the steps taken
    returns: list[list[float]]
    models: list[dict[str, Any]]  # metrics after each fit and roll-out
    capacities: list[int]  # of the first member's buffer, then
    num_updates: int

    @property
    def state(self):
        return self.saved[max(self.saved)].state


def run_to_its_end(config: OnlineConfig) -> Finished:
    loop = OnlineLoop(config, get_task(config.task), all_members(config))
    saved, models, capacities = {}, [], []
    while loop.num_steps < config.num_steps:
        loop.iterate()
        if loop.num_steps % 20 == 0:
            saved[loop.num_steps] = jax.tree.map(np.array, loop.to_save())
        if config.has_model and loop.num_steps >= config.warmup_steps and loop.num_steps % 20 == 0:
            models.append(loop.metrics())
            capacities.append(int(loop.state.buffer.capacity[0]))
    loop.close()
    return Finished(saved, loop.experience.returns, models, capacities, loop.num_updates)


finished = functools.cache(run_to_its_end)


def restore(loop: OnlineLoop, saved: Saved, num_steps: int) -> None:
    nothing_pending = {"loop": {"updates": [], "model": []}}
    loop.restore(Restored("train", num_steps, saved, nothing_pending))


def assert_equal(ours: Any, theirs: Any, index: tuple = (...,), other: tuple = (...,)) -> None:
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one[index], two[other])


# with several environments a member where that is not tested with the others' loops
@pytest.mark.bitwise
@pytest.mark.parametrize(("dynamics", "num_envs"), [("adm", 1), ("ensemble", 2), ("none", 2)])
def test_a_member_s_run_is_its_own_run_alone(dynamics, num_envs):
    config = tiny(dynamics, num_envs=num_envs, steps_per_iteration=num_envs)
    together = run_to_its_end(config).saved[140]
    assert_equal(together, run_to_its_end(dataclasses.replace(config, seeds=(1,))).saved[140], (1,), (0,))


@pytest.mark.parametrize("dynamics", ["adm", "ensemble"])
def test_members_under_vmap_are_those_under_map(dynamics):
    """Sums in another order: near each other until an episode takes another turn."""
    num_envs = 2 if dynamics == "ensemble" else 1
    config = tiny(dynamics, num_envs=num_envs, steps_per_iteration=num_envs)
    mapped = finished(config).saved[80].state.agent.actor_params
    config = dataclasses.replace(config, members="vmap", num_steps=80, eval_every=80, checkpoint_every=80)
    vmapped = finished(config).state.agent.actor_params
    for ours, theirs in zip(jax.tree.leaves(mapped), jax.tree.leaves(vmapped), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_swept_settings_are_members():
    config = tiny("none", seeds=(0, 1), actor_lr=(1e-4, 3e-3))
    tags = [member.tag for member in all_members(config)]
    assert tags[:2] == ["seed0,actor_lr=0.0001", "seed0,actor_lr=0.003"]
    alone = finished(tiny("none", seeds=(1,), actor_lr=3e-3))
    assert_equal(finished(config).state, alone.state, (3,), (0,))


def test_the_data_on_the_device_are_the_recorded_ones_and_updates_are_counted():
    config = tiny("none", num_envs=2, steps_per_iteration=4)
    loop = OnlineLoop(config, get_task(config.task), all_members(config))
    while loop.num_steps < config.num_steps:
        loop.iterate()
        updates = loop.num_updates
        assert np.asarray(loop.state.agent.critic_opt.count).tolist() == [updates] * 2
    # the block that completes the warm-up is the first to be followed by updates
    assert updates == (140 - 60 + 4) * 2
    for ours, recorded in zip(loop._lanes.transitions, loop.experience.recorded.as_transition(), strict=True):
        np.testing.assert_array_equal(ours, recorded)


def test_the_actor_moves_at_its_own_pace():
    run = finished(tiny("none", actor_every=8))
    assert run.state.agent.critic_opt.count[0] == run.num_updates
    assert run.state.agent.actor_opt.count[0] == -(-run.num_updates // 8)


def test_roll_outs_grow_and_fill_the_buffer():
    run = finished(tiny())
    lengths = [int(metrics["rollout/length"][0]) for metrics in run.models]
    assert lengths == [1, 2, 3, 4, 4]
    assert all(np.isfinite(metrics["model/holdout_nll"]).all() for metrics in run.models)
    # two times rolling out of 40 starts (30, in whole chunks)
    assert run.capacities == [80 * length for length in lengths]
    assert (run.state.buffer.size <= run.capacities[-1]).all()
    assert (run.state.buffer.size > 80).all()


def test_metrics_are_means_over_all_fits_since_they_were_last_asked_for():
    """Each roll-out reuses the buffer of the one before, whose size is still to be told."""
    config = tiny()
    loop = OnlineLoop(config, get_task(config.task), all_members(config))
    while loop.num_steps < 100:
        loop.iterate()
    metrics, apart = loop.metrics(), finished(config).models
    for name in ("rollout/length", "rollout/buffer_size", "model/holdout_nll"):
        expected = np.mean([one[name] for one in apart[:3]], axis=0)
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-6)


def test_a_member_that_breaks_rests_and_the_others_go_on():
    """Its actor's numbers are finite, and too large for its actions to be."""
    settings = {"seeds": (0,), "updates_per_step": 1}
    alone = finished(tiny("none", **settings))
    run = finished(tiny("none", actor_lr=(tiny("none").sac.actor_lr, 1e30), **settings))
    recorded, agent = run.saved[140].recorded, run.saved[140].state.agent
    assert_equal(recorded, alone.saved[140].recorded, (0,), (0,))
    assert (recorded.action[1, :, -1] == 0.0).all()  # the middle of the pendulum's forces
    assert agent.frozen.tolist() == [False, True]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(agent))


def test_data_that_cannot_be_split_are_refused_in_one_line():
    config = tiny(holdout_fraction=0.01)
    message = r"^warmup_steps: after 60 steps seed0 has no segment of 1 to hold out; take more, or"
    with pytest.raises(InputError, match=message):  # before anything is compiled
        OnlineLoop(config, get_task(config.task), all_members(config))
    # only the last three steps are trained on, and an episode ends in them: known once they are gone through
    message = r"^warmup_steps: after 53 steps seed4 has no segment of 3 to train on; take more, or"
    with pytest.raises(InputError, match=message):
        finished(tiny(seeds=(4,), warmup_steps=53, split_seed=8))


def test_real_transitions_stand_in_for_a_model_that_predicts_nothing():
    config = tiny()
    before = finished(config).saved[80]
    loop = OnlineLoop(config, get_task(config.task), all_members(config))
    state = jax.tree.map(np.array, before.state)
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan) if x.dtype == np.float32 else x, state.buffer)
    empty = state._replace(buffer=broken._replace(size=np.zeros_like(broken.size)))
    restore(loop, before._replace(state=empty), 80)
    loop.iterate()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loop.actor_params))
    assert not np.isnan(loop.metrics()["critic/q"]).any()
    loop.close()


def test_a_warm_fit_goes_on_and_one_from_scratch_does_not():
    warm, scratch = finished(tiny()), finished(tiny(refit="scratch", refit_epochs=1))
    assert warm.state.fit is not None
    assert scratch.state.fit is None
    # 5 steps in each of 3 epochs at first, then in 2 epochs four times
    assert warm.state.fit.opt_state.count.tolist() == [15 + 4 * 10] * 2


def test_a_warm_fit_goes_on_behind_one_that_diverged():
    config = tiny()
    before = finished(config).saved[80]
    fit = before.state.fit
    spoilt = jax.tree.map(lambda x: np.full_like(x, np.nan) if x.dtype == np.float32 else x, fit)
    spoilt = spoilt._replace(best=fit.best)  # all that a fit keeps which has become NaN
    loop = OnlineLoop(config, get_task(config.task), all_members(config))
    restore(loop, before._replace(state=before.state._replace(fit=spoilt)), 80)
    while loop.num_steps < 100:
        loop.iterate()
    assert np.isfinite(loop.metrics()["model/best_error"]).all()
    loop.close()


def test_a_member_whose_fit_has_stopped_is_not_fitted():
    config = tiny(members="map")
    before = finished(config).saved[80]
    loop = OnlineLoop(config, get_task(config.task), all_members(config))
    restore(loop, before, 80)
    assert before.state.fit is not None
    fit = before.state.fit._replace(active=np.array([True, False]))
    keys = offline_keys(config.seeds, 0)
    program = jax.jit(fit_program(loop.components, config.fit))
    data = OwnData(loop._lanes, loop._make_index(), keys)
    after, metrics = program(fit, keys, keys, data, shared_key(0, 0))
    loop.close()
    # one that is fitted, and whose result is thrown away, has a loss
    assert np.isnan(metrics["model/train_nll"]).tolist() == [False, True]
    assert (after.opt_state.count - fit.opt_state.count).tolist() == [5, 0]


def test_warm_fits_do_not_undo_what_the_first_has_learned():
    sizes = {"policy_hidden_dim": 8, "batch_size": 32, "updates_per_step": 1, "rollout_batch_size": 250}
    config = settled(online_config_for_task("inverted_pendulum", seeds=(0, 1), num_steps=1_000, **sizes))
    loop = OnlineLoop(config, get_task(config.task), all_members(config))
    errors = []  # held-out NLL [P] of the first fit on 500 random steps, then of warm ones on 750 and 1,000
    while loop.num_steps < config.num_steps:
        loop.iterate()
        metrics = loop.metrics()
        errors += [metrics["model/best_error"]] if "model/best_error" in metrics else []
    loop.close()
    first, *warm = np.array(errors)
    assert len(warm) == 2
    # the last member's error rises by 0.7 where it is held against other data; at the first fit's rate by 4.4
    assert (warm - first < 1.5).all()


def test_warm_fits_have_a_rate_of_their_own():
    config = tiny(refit_learning_rate=1e-4)
    assert refit_config(config, first=True) == config.fit
    again = refit_config(config, first=False)
    assert (again.fit_learning_rate, again.fit_max_epochs) == (1e-4, config.refit_epochs)
    for decay, share in (("cosine", 0.3), ("none", 1.0)):
        config = tiny(fit_lr_decay=decay, fit_learning_rate=2e-3)
        again = refit_config(config, first=False)
        assert again.fit_learning_rate == pytest.approx(share * 2e-3)
    for dynamics in ("adm", "ensemble"):  # no preset's setting is in the way
        assert online_config_for_task("hopper", dynamics=dynamics, refit="scratch").refit == "scratch"
    scratch = tiny(refit="scratch", refit_epochs=1)
    assert refit_config(scratch, first=False) == scratch.fit


@pytest.mark.parametrize(
    ("dynamics", "num_envs", "stop", "others"),
    [
        ("adm", 1, 40, {}),
        ("adm", 1, 100, {}),
        # more than one action, a part of the observation, MuJoCo stepped in a batch, an actor that waits
        ("adm", 1, 100, {"task": "humanoid", "actor_every": 5}),
        ("ensemble", 2, 100, {}),
        ("none", 2, 100, {}),
    ],
    ids=lambda value: value.get("task", "") if isinstance(value, dict) else None,
)
def test_restored_a_loop_goes_on_as_if_never_stopped(dynamics, num_envs, stop, others):
    config = tiny(dynamics, num_envs=num_envs, steps_per_iteration=num_envs, **others)
    whole = finished(config)
    loop = OnlineLoop(config, get_task(config.task), all_members(config))
    assert jax.tree.structure(whole.saved[stop]) == jax.tree.structure(loop.abstract_saved(stop))
    restore(loop, jax.tree.map(np.array, whole.saved[stop]), stop)
    while loop.num_steps < config.num_steps:
        loop.iterate()
    assert_equal(loop.to_save(), whole.saved[140])
    assert loop.experience.returns == whole.returns


def test_the_length_of_roll_outs_is_linear_and_whole():
    rollout = GrowingRolloutConfig(growth_start=20_000, growth_end=150_000)
    steps = [0, 20_000, 29_285, 29_286, 85_000, 149_999, 150_000, 10**6]
    assert [rollout.length_at(n) for n in steps] == [1, 1, 1, 2, 8, 14, 15, 15]
    at_once = GrowingRolloutConfig(rollout_length=3, final_rollout_length=3, growth_end=0)
    assert {at_once.length_at(n) for n in steps} == {3}


def test_an_index_keeps_to_lanes_and_to_blocks():
    rng = np.random.default_rng(0)
    num_envs, steps, capacity, m = 3, 170, 200, 4
    obs, next_obs, action = (rng.normal(size=(num_envs, steps, dim)) for dim in (2, 2, 1))
    ended = rng.random((num_envs, steps)) < 0.05
    recorded = Transition(obs, action, obs[..., 0], next_obs, ended)
    options = {"capacity": capacity, "max_backtrack": m, "holdout_fraction": 0.3, "split_seed": 0}
    made = lanes.make_index(recorded, ended, **options)
    index = made.index
    for ours, wanted in zip(made.value_range, value_range_of(obs, next_obs, obs[..., 0]), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    held_out = set(index.holdout.index[: index.holdout.count[0]].tolist())
    trained = set(index.train.index[: index.train.count[0]].tolist())
    rows = {lane * capacity + step for lane in range(num_envs) for step in range(steps)}
    assert held_out | trained == rows
    assert not held_out & trained
    for starts in (index.train, index.holdout):
        for depth in range(m):
            for row in starts.index[: starts.count[depth]]:
                lane, step = divmod(int(row), capacity)
                assert not ended[lane, step : step + depth].any()  # no end before the last step
                inside = {lane * capacity + step + i for i in range(depth + 1)}
                assert inside <= (held_out if row in held_out else trained)
    # what is held out stays so, and so does what is not, as more is recorded
    recorded = jax.tree.map(lambda x: x[:, :100], recorded)
    before = lanes.make_index(recorded, ended[:, :100], **options).index
    assert set(before.holdout.index[: before.holdout.count[0]].tolist()) <= held_out
    assert set(before.train.index[: before.train.count[0]].tolist()) <= trained


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_every": 30, "steps_per_iteration": 20}, "model_every: 30 is no multiple of steps_per_iter"),
        ({"eval_every": 30}, "eval_every: 30 is no multiple of log_every 20"),
        ({"num_envs": 2}, "num_envs: 2 does not divide steps_per_iteration 1"),
        ({"warmup_steps": 200}, "warmup_steps: 200 is more than num_steps 140"),
        ({"final_rollout_length": 1, "rollout_length": 2}, "final_rollout_length: 1 is less than"),
        ({"growth_end": 10, "growth_start": 20}, "growth_end: 10 is before growth_start 20"),
        ({"real_ratio": 0.01}, "real_ratio: 0.01 of batch_size 16 is less than one transition"),
        ({"actor_lr_schedule": "cosine"}, "actor_lr_schedule: cosine has no effect here"),
        ({"holdout": "tail"}, "holdout: has no effect online"),
        ({"refit": "scratch", "refit_epochs": 3}, "refit_epochs: has no effect with refit=scratch"),
        (
            {"refit": "scratch", "refit_epochs": 1, "refit_learning_rate": 1e-4},
            "refit_learning_rate: has no effect with refit=scratch; fit_learning_rate has",
        ),
        ({"seeds": (1, 1)}, "seeds: 1,1 names a seed twice"),
        ({"rollout_batch_size": 10**9}, "rollout_batch_size: times the longest roll-out"),
        ({"num_elites": 2}, "num_elites: no setting of the dynamics model adm, but of ensemble"),
    ],
)
def test_settings_that_do_not_serve_are_named(values, message):
    with pytest.raises(InputError, match=f"^{message}"):
        tiny(**values)


@pytest.mark.parametrize(
    "task", ["hopper", "walker2d", "halfcheetah", "ant", "humanoid", "inverted_pendulum"]
)
@pytest.mark.parametrize("dynamics", MODELS)
def test_every_published_preset_is_a_configuration(task, dynamics):
    config = online_config_for_task(task, dynamics)
    assert config.task == task
    assert replace_flat(config, {}) == config


@pytest.mark.parametrize("dynamics", MODELS)
def test_steady_changes_critics_and_updates_alike_for_all_models(dynamics):
    changed = {"critic_layer_norm": True, "critic_lr": 1e-3, "tau": 0.02, "updates_per_step": 5}
    rollouts = {} if dynamics == "none" else {"rollout_batch_size": 5_000}
    published, steady = (
        to_flat(online_config_for_task("hopper", dynamics, preset)) for preset in ("code", "steady")
    )
    assert steady == {**published, **changed, **rollouts, "preset": "steady"}


# learned steps in thousands, target entropy, m, width, length from .. to between thousands of steps,
# roll-outs every and kept, actor every, updates a step: the paper's Table 4 and the code's additions; MBPO's
PUBLISHED = {
    ("hopper", "adm"): (50, -1, 5, 200, (1, 15, 0, 50), 250, 4, 1, 20),
    ("walker2d", "adm"): (200, -3, 2, 200, (1, 10, 0, 100), 250, 4, 20, 20),
    ("ant", "adm"): (300, -4, 2, 400, (1, 5, 10, 100), 500, 5, 20, 20),
    ("humanoid", "adm"): (300, -8, 2, 400, (1, 10, 10, 100), 1000, 5, 20, 20),
    ("hopper", "ensemble"): (50, -1, None, 200, (1, 15, 20, 150), 250, 4, 1, 20),
    ("walker2d", "ensemble"): (200, -3, None, 200, (1, 1, 0, 0), 250, 4, 1, 20),
    ("ant", "ensemble"): (300, -4, None, 200, (1, 25, 20, 100), 250, 4, 1, 20),
    ("humanoid", "ensemble"): (300, -2, None, 400, (1, 25, 20, 300), 1000, 5, 1, 20),
    ("halfcheetah", "ensemble"): (400, -3, None, 200, (1, 1, 0, 0), 250, 4, 1, 40),
}


@pytest.mark.parametrize(("task", "dynamics"), PUBLISHED)
def test_published_online_settings(task, dynamics):
    flat = to_flat(online_config_for_task(task, dynamics))
    names = ("rollout_length", "final_rollout_length", "growth_start", "growth_end")
    first, last, start, end = (flat[name] for name in names)
    assert PUBLISHED[task, dynamics] == (
        (flat["num_steps"] - flat["warmup_steps"]) // 1000,
        flat["target_entropy"],
        flat.get("max_backtrack"),
        flat["model_hidden_dim"],
        (first, last, start // 1000, end // 1000),
        flat["model_every"],
        flat["retain_rollouts"],
        flat["actor_every"],
        flat["updates_per_step"],
    )
    assert (flat["warmup_steps"], flat["real_ratio"], flat["rollout_batch_size"]) == (5_000, 0.05, 100_000)
    assert (flat["actor_lr"], flat["critic_lr"]) == (3e-4, 3e-4)


def test_a_roll_out_s_length_grows_between_its_steps():
    rollout = online_config_for_task("hopper").rollout
    assert [rollout.length_at(n) for n in (0, 25_000, 50_000)] == [1, 8, 15]
