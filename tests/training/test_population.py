"""A member alone and among others, over fit, roll-outs and updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.data import minari_io
from adm_jax.data.dataset import make_dataset
from adm_jax.dynamics import fitting
from adm_jax.envs.termination import get_termination
from adm_jax.settings import replace_flat
from adm_jax.training import programs
from adm_jax.training.population import fold_epoch, member_keys, over_members, resolve_members


def run_all_programs(config: OfflineConfig, members: str):
    """One fit epoch, then two epochs of roll-outs and 25 updates: state with leading axis P."""
    data = minari_io.load(config.dataset)
    parts = programs.make_parts(config, 11, 3, 1.0, get_termination("hopper"), members)
    dataset = make_dataset(data, parts.dynamics.max_backtrack)
    holdout = fitting.holdout_segments(dataset, parts.dynamics.max_backtrack, config.fit)
    shared_key = jax.random.key(3)
    fit = programs.init_fit(parts, dataset, member_keys(config.seeds, 0))
    fit_epoch = jax.jit(programs.fit_program(parts, config))
    fit, _ = fit_epoch(fit, *(member_keys(config.seeds, i) for i in (1, 6)), dataset, holdout, shared_key)
    state = programs.init_train(parts, config, fit, dataset, holdout, member_keys(config.seeds, 2))
    roll_out = jax.jit(programs.rollout_program(parts, config))
    update = jax.jit(programs.update_program(parts, config))
    agent, buffer, hyper = state.agent, state.buffer, programs.population_hyper(config)
    for epoch in range(2):
        keys = fold_epoch(member_keys(config.seeds, 3), epoch)
        buffer, _ = roll_out(buffer, agent.actor_params, state.model, hyper, keys, dataset)
        agent, _ = update(agent, buffer, hyper, keys, dataset, jnp.ones(()))
    return fit.learned, agent, buffer


@pytest.fixture(scope="module")
def config(tiny_dataset: str) -> OfflineConfig:
    from tests.training.conftest import TINY

    return replace_flat(OfflineConfig(), {**TINY, "seeds": (5, 7, 2), "updates_per_epoch": 25})


@pytest.mark.parametrize(("members", "tolerance"), [("map", 0.0), ("vmap", 1e-5)])
def test_member_alone_equals_member_among_others(
    config: OfflineConfig, members: str, tolerance: float
) -> None:
    together = run_all_programs(config, members)
    alone = run_all_programs(dataclasses.replace(config, seeds=(7,)), members)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours[1], theirs[0], rtol=0, atol=tolerance)
    first, second = (
        jax.tree.leaves(jax.tree.map(lambda x, i=i: x[i], together[1].actor_params)) for i in (0, 1)
    )
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(first, second, strict=True))


def test_same_seeds_twice_are_bitwise_equal(config: OfflineConfig) -> None:
    once, again = run_all_programs(config, "map"), run_all_programs(config, "map")
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("members", ["map", "vmap"])
def test_over_members_maps_members_and_shares_the_rest(members: str) -> None:
    out = over_members(lambda member, shared: member * shared.sum(), members)(
        jnp.arange(3.0), jnp.arange(4.0)
    )
    np.testing.assert_array_equal(out, np.arange(3.0) * 6.0)


def test_member_keys_depend_on_the_seed_alone() -> None:
    keys = jax.random.key_data(member_keys((4, 9), 1))
    np.testing.assert_array_equal(keys[1], jax.random.key_data(member_keys((9,), 1))[0])
    assert np.any(keys[1] != jax.random.key_data(member_keys((9,), 2))[0])


def test_members_default_is_map_on_cpu() -> None:
    assert resolve_members("auto") == ("map" if jax.default_backend() == "cpu" else "vmap")
    assert resolve_members("vmap") == "vmap"


def test_the_buffer_takes_a_last_chunk_that_is_filled_up(tiny_config: OfflineConfig) -> None:
    """Roll-outs come in whole chunks; the rows of one epoch must fit even where only one is kept."""
    config = replace_flat(tiny_config, {"rollout_batch_size": 26, "rollout_chunk": 25, "retain_epochs": 1})
    assert programs.buffer_capacity(config) == 50 * config.rollout.rollout_length
    _, agent, buffer = run_all_programs(config, "map")
    assert (np.asarray(buffer.size) <= 26 * config.rollout.rollout_length * 2).all()
    assert np.isfinite(np.asarray(agent.log_alpha)).all()
