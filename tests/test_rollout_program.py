"""Roll-outs as compiled programs: of learned models, with their histories encoded once or in each."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.agents.sac import make_hyper, make_sac
from adm_jax.config import SACConfig
from adm_jax.config.models import RecurrentConfig
from adm_jax.data.dataset import make_dataset
from adm_jax.dynamics.adm import make_adm
from adm_jax.dynamics.histories import encode_histories
from adm_jax.dynamics.interface import make_dynamics
from adm_jax.dynamics.uncertainty import std_of_means
from adm_jax.rollout import Simulation, rollout
from adm_jax.types import ActionBounds
from tests.known_dynamics import CHUNK, DATA, LENGTH, STARTS, M, policy, rows_of, terminates


@pytest.mark.parametrize("row_multiple", [1, 128])
@pytest.mark.parametrize("dynamics", ["adm", "bootstrapped_rnn"])
def test_histories_encoded_once_are_those_encoded_in_each_roll_out(dynamics, row_multiple):
    small = {"model_hidden_dim": 8, "num_gru_layers": 2, "num_residual_blocks": 1}
    model = make_dynamics(dynamics, 3, 1, RecurrentConfig(max_backtrack=M, **small))
    dataset = make_dataset(DATA, M)
    params = model.init(jax.random.key(0), dataset.normalizer)
    encode = functools.partial(encode_histories, model, chunk=7, row_multiple=row_multiple)
    histories = jax.jit(encode)(params, dataset)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(histories)} == {42}  # 40 rows in chunks of 7
    assert {(leaf.ndim, leaf.shape[1] % row_multiple) for leaf in jax.tree.leaves(histories)} == {(2, 0)}

    @jax.jit
    def roll(histories):
        simulation = Simulation(
            model, params, policy, terminates, std_of_means, jnp.float32(1.0), histories_fn=rows_of(histories)
        )
        # shorter histories too: what is not valid must be kept as such
        return rollout(
            simulation, dataset, jax.random.key(1), num_starts=50, length=3, chunk=10, min_history=0
        )

    each, once = roll(None), roll(histories)
    np.testing.assert_array_equal(each.valid, once.valid)
    for ours, theirs in zip(
        jax.tree.leaves(each.transitions), jax.tree.leaves(once.transitions), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert each.valid.any()
    # they do reach the predictions
    zero = jax.tree.map(jnp.zeros_like, histories)
    assert not np.allclose(roll(zero).transitions.reward, each.transitions.reward, atol=1e-4)


@pytest.mark.parametrize("dynamics", ["adm", "bootstrapped_rnn"])
def test_with_one_backtracking_length_there_is_no_history_to_encode(dynamics):
    model = make_dynamics(dynamics, 3, 1, RecurrentConfig(max_backtrack=1, model_hidden_dim=8))
    dataset = make_dataset(DATA, 1)
    params = model.init(jax.random.key(0), dataset.normalizer)
    histories = jax.jit(functools.partial(encode_histories, model, chunk=7))(params, dataset)
    assert {leaf.size for leaf in jax.tree.leaves(histories)} == {0}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(histories)} == {42}


def ways_back_to_python(lowered):
    return set(
        re.findall(r"\w*callback\w*|infeed|outfeed|stablehlo\.send|stablehlo\.recv", lowered.as_text())
    )


@pytest.fixture(scope="module")
def real_program():
    """The any-step model and SAC's policy, as the offline loop runs them."""
    dynamics = make_adm(
        3, 1, RecurrentConfig(max_backtrack=M, model_hidden_dim=8, num_gru_layers=1, num_residual_blocks=1)
    )
    dataset = make_dataset(DATA, M)
    config = SACConfig(policy_hidden_dim=8)
    agent = make_sac(3, ActionBounds.symmetric(1.0, 1), config)
    params = jax.jit(dynamics.init)(jax.random.key(0), dataset.normalizer)
    actor_params = jax.jit(agent.init)(jax.random.key(1), make_hyper(config)).actor_params

    def run(params, actor_params, dataset, penalty_coef, key):
        policy_fn = functools.partial(agent.sample_action, actor_params)
        return rollout(
            Simulation(dynamics, params, policy_fn, terminates, std_of_means, penalty_coef),
            dataset,
            key,
            num_starts=STARTS,
            length=LENGTH,
            chunk=CHUNK,
        )

    return jax.jit(run), (params, actor_params, dataset)


def test_one_program_without_a_way_back_to_python(real_program):
    run, args = real_program
    assert not ways_back_to_python(run.lower(*args, jnp.float32(1.0), jax.random.key(0)))
    # the search would find one
    assert ways_back_to_python(jax.jit(lambda x: jax.debug.print("{}", x)).lower(1.0))


def test_real_trajectories_are_continuous(real_program):
    """Without episodes' ends each step starts where the one before led."""
    run, args = real_program
    result = jax.device_get(run(*args, jnp.float32(1.0), jax.random.key(0)))
    run(*args, jnp.float32(2.0), jax.random.key(1))
    assert run._cache_size() == 1
    assert result.valid.any()
    rows = jax.tree.map(lambda x: x[result.valid], result.transitions)
    led_to = {row.tobytes() for row in rows.next_obs[~rows.terminated]}
    dataset_states = {row.tobytes() for row in DATA.obs}
    begun = [row.tobytes() in dataset_states for row in rows.obs]
    assert sum(begun) == STARTS
    assert all(first or row.tobytes() in led_to for first, row in zip(begun, rows.obs, strict=True))
    jax.tree.map(
        np.testing.assert_array_equal, result, jax.device_get(run(*args, jnp.float32(1.0), jax.random.key(0)))
    )
