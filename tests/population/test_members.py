"""A member alone and among others, over fit, roll-outs and updates."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import SWEPT, OfflineConfig
from adm_jax.config.settings import replace_flat, to_flat, values_of
from adm_jax.data.formats import minari_io
from adm_jax.population.compiling import MemberProgram
from adm_jax.population.devices import choose_devices, idle_devices
from adm_jax.population.keys import Purpose, fold_keys, offline_keys, online_keys
from adm_jax.population.members import Member, all_members, member_hyper, resolve_mapping, settled
from adm_jax.population.memory import tree_bytes
from adm_jax.tasks import get_task
from adm_jax.training import fit, programs
from adm_jax.training.components import make_components
from adm_jax.training.data import put_on_device
from adm_jax.types import InputError
from tests.tiny import bitwise_options


@functools.cache
def compiled_programs(config: OfflineConfig, mapping: str):
    """The jitted programs, shared by all configurations that differ in seeds and swept settings only."""
    components = make_components(dataclasses.replace(config, members=mapping), get_task("hopper"))
    data = put_on_device(config, minari_io.load(config.dataset), components.model.max_backtrack)
    jitted = {
        "init_fit": fit.init_fit_program(components, config.fit),
        "fit": fit.fit_program(components, config.fit),
        "best": fit.best_program(components, config.fit),
        "init": programs.init_program(components, config),
        "histories": programs.histories_program(components, config),
        "rollout": programs.rollout_program(components, config),
        "update": programs.update_program(components, config),
    }
    # mapped one after the other, a member is the same to the last bit however many there are
    options = bitwise_options() if mapping == "map" else None
    compiled = {name: jax.jit(program, compiler_options=options) for name, program in jitted.items()}
    return compiled, components, data


def run_all_programs(config: OfflineConfig, mapping: str):
    """One fit epoch, then two epochs of roll-outs and 25 updates: state with leading axis P."""
    defaults = {name: value for name, value in to_flat(OfflineConfig()).items() if name in SWEPT}
    # whether there is a cloning term is settled when the programs are made
    defaults["cloning_weight"] = float(max(values_of(config.sac.cloning_weight)) > 0)
    run, _, data = compiled_programs(replace_flat(config, {**defaults, "seeds": (0,)}), mapping)
    population = all_members(config)
    keys = [offline_keys(config.seeds, purpose) for purpose in range(3)]
    fitted = run["init_fit"](keys[0], data)
    fitted, _ = run["fit"](fitted, keys[1], keys[2], data, jax.random.key(3))
    of_seed = np.array([config.seeds.index(member.seed) for member in population])
    model = jax.tree.map(lambda x: x[of_seed], run["best"](fitted, data))
    seeds, hyper = [member.seed for member in population], member_hyper(config, population)
    agent, buffer = run["init"](offline_keys(seeds, 3), hyper, programs.Start(), data)
    histories = run["histories"](model, data)
    for epoch in range(2):
        keys = fold_keys(offline_keys(seeds, 4), epoch)
        (buffer, _), _ = run["rollout"](
            (buffer, None), agent.actor_params, model, hyper, keys, histories, data, None, None
        )
        full_rates = jnp.ones(()), jnp.ones(())
        agent, _ = run["update"](agent, hyper, keys, buffer, data, None, full_rates, None, None)
    return fitted.learned, agent, buffer


@pytest.fixture(scope="module")
def config(tiny_dataset: str) -> OfflineConfig:
    from tests.tiny import TINY

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


SWEEP = {"penalty_coef": (0.5, 2.0), "entropy_weight": (0.05, 0.5)}


@pytest.mark.parametrize(("members", "tolerance"), [("map", 0.0), ("vmap", 1e-5)])
def test_a_swept_member_equals_its_own_separate_run(
    config: OfflineConfig, members: str, tolerance: float
) -> None:
    """All of fit, roll-out and 50 updates, of members that differ in seed or in a setting."""
    swept = replace_flat(config, {**SWEEP, "seeds": (7, 2)})
    _, agents, buffers = run_all_programs(swept, members)
    for index in (1, 6):
        seed, values = all_members(swept)[index]
        _, agent, buffer = run_all_programs(replace_flat(swept, {**values, "seeds": (seed,)}), members)
        for ours, theirs in zip(
            jax.tree.leaves((agents, buffers)), jax.tree.leaves((agent, buffer)), strict=True
        ):
            np.testing.assert_allclose(ours[index], theirs[0], rtol=0, atol=tolerance)
    first_bias = np.asarray(agents.critic_params["params"]["Dense_0"]["bias"]).reshape(8, -1)
    assert len(np.unique(first_bias, axis=0)) == 8


def test_every_swept_setting_reaches_the_programs(config: OfflineConfig) -> None:
    """Each changes what is computed, and only for its own member."""
    values = {"penalty_coef": 3.0, "entropy_weight": 0.7, "actor_lr": 1e-2, "critic_lr": 1e-2}
    values |= {"entropy_lr": 1e-2, "tau": 0.5, "cloning_weight": 0.3}
    assert set(values) == set(SWEPT)
    base = replace_flat(config, {"seeds": (7,), "auto_entropy": True, "cloning_weight": 0.1})
    of_base = jax.tree.leaves(run_all_programs(base, "map")[1:])
    for name, value in values.items():
        swept = replace_flat(base, {name: (to_flat(base)[name], value)})
        leaves = jax.tree.leaves(run_all_programs(swept, "map")[1:])
        assert all(np.array_equal(ours[0], theirs[0]) for ours, theirs in zip(leaves, of_base, strict=True))
        assert any(np.any(ours[0] != ours[1]) for ours in leaves), name
        alone = jax.tree.leaves(run_all_programs(replace_flat(base, {name: value}), "map")[1:])
        assert all(np.array_equal(ours[1], own[0]) for ours, own in zip(leaves, alone, strict=True)), name


def test_whether_histories_are_kept_does_not_depend_on_the_number_of_members(config: OfflineConfig) -> None:
    """Kept ones differ in the last bits from those of a roll-out, and a member is the same among others."""
    config = replace_flat(config, {"rollout_batch_size": 10_000})
    run, components, data = compiled_programs(config, "map")

    def kept(num_members: int, gib: float):
        fitted = jax.eval_shape(run["init_fit"], offline_keys(range(num_members), 0), data)
        model = jax.eval_shape(run["best"], fitted, data)
        settings = replace_flat(config, {"history_cache_gib": gib})
        return programs.kept_histories(components, settings, model, data)

    of_one = tree_bytes(kept(1, 4.0)) / 2**30
    assert [kept(number, of_one) is None for number in (1, 64)] == [False, False]
    assert [kept(number, 0.99 * of_one) is None for number in (1, 64)] == [True, True]


def test_members_are_all_combinations_and_name_themselves(config: OfflineConfig) -> None:
    swept = replace_flat(config, {"seeds": (3, 1), "tau": (0.1, 0.2), "penalty_coef": (0.5, 2.0)})
    members = all_members(swept)
    assert [member.tag for member in members[:3]] == [
        "seed3,penalty_coef=0.5,tau=0.1",
        "seed3,penalty_coef=0.5,tau=0.2",
        "seed3,penalty_coef=2,tau=0.1",
    ]
    assert len(members) == len(set(map(str, members))) == 8
    assert [Member.from_dict(member.to_dict()) for member in members] == list(members)
    hyper = member_hyper(swept, members)
    np.testing.assert_allclose(hyper.tau, [0.1, 0.2] * 4)
    np.testing.assert_allclose(hyper.penalty_coef, [0.5, 0.5, 2.0, 2.0] * 2)
    np.testing.assert_allclose(hyper.critic_lr, [config.sac.critic_lr] * 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tau": (0.1, 0.1)}, "tau: 0.1,0.1 must be one number, or several that differ in six digits"),
        (
            {"tau": (0.12345671, 0.12345674)},
            "tau: .* several that differ in six digits",
        ),
        ({"tau": (0.1, 1.5)}, "tau: 1.5 is out of range; above 0.0 and at most 1.0"),
        ({"tau": (0.1, "a")}, "tau: 'a' is not of type float"),
        ({"gamma": (0.9, 0.99)}, r"gamma: \(0.9, 0.99\) is not of type float"),
    ],
)
def test_sweeps_that_say_nothing_are_refused(config: OfflineConfig, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace_flat(config, values)


def test_devices_that_do_not_serve_are_refused() -> None:
    with pytest.raises(InputError, match="num_devices: 4, but this machine has 1"):
        choose_devices(8, 4)
    assert choose_devices(7).size == 1


def test_idle_devices_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = choose_devices(7)
    assert idle_devices(mesh) is None
    monkeypatch.setattr(jax, "local_devices", lambda: [None] * 8)
    assert idle_devices(mesh) == (
        "1 of 8 devices are used: the number of members is no multiple of more of them"
    )


def test_same_seeds_twice_are_bitwise_equal(config: OfflineConfig) -> None:
    once, again = run_all_programs(config, "map"), run_all_programs(config, "map")
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mapping", ["map", "vmap"])
def test_a_program_maps_members_shares_what_it_says_and_indexes_the_rest_itself(mapping: str) -> None:
    def fn(own, shared, rows, nothing):
        assert nothing is None
        return own * shared.sum() + rows.at(jnp.array([0, 2])).sum()

    program = MemberProgram(fn, mapping, shared=("shared",), whole=("rows", "nothing"), donated=("rows",))
    rows = jnp.arange(9.0).reshape(3, 3)
    expected = np.arange(3.0) * 6.0 + np.array([2.0, 8.0, 14.0])
    np.testing.assert_array_equal(program(jnp.arange(3.0), jnp.arange(4.0), rows, None), expected)
    assert program.donated_positions == (2,)
    assert program.shapes(jnp.arange(3.0), jnp.arange(4.0), rows, None).shape == (3,)


def test_keys_depend_on_the_seed_alone() -> None:
    keys = jax.random.key_data(offline_keys((4, 9), 1))
    np.testing.assert_array_equal(keys[1], jax.random.key_data(offline_keys((9,), 1))[0])
    assert np.any(keys[1] != jax.random.key_data(offline_keys((9,), 2))[0])


def test_purposes_and_seeds_have_keys_of_their_own() -> None:
    for keys_of, purposes in ((offline_keys, Purpose), (online_keys, Purpose)):
        offline_only = (Purpose.CLONE, Purpose.ERRORS, *range(Purpose.PRETRAIN, Purpose.ESTIMATE + 1))
        known = [p for p in purposes if keys_of is offline_keys or p not in offline_only]
        data = np.concatenate([jax.random.key_data(keys_of((4, 9), purpose)) for purpose in known])
        assert len(np.unique(data, axis=0)) == 2 * len(known)


def test_members_default_is_map_on_cpu() -> None:
    assert [resolve_mapping("auto", platform) for platform in ("cpu", "gpu", "tpu")] == [
        "map",
        "vmap",
        "vmap",
    ]
    assert resolve_mapping("auto") == resolve_mapping("auto", jax.default_backend())
    assert resolve_mapping("vmap", "cpu") == "vmap"


def test_rows_rolled_out_at_a_time_are_kept_with_the_run(tiny_config):
    config = replace_flat(tiny_config, {"rollout_chunk": None, "rollout_batch_size": 30})
    assert settled(config).rollout.rollout_chunk == 30  # never more than there are
    large = replace_flat(config, {"rollout_batch_size": 50_000})
    for platform, rows in (("cpu", 250), ("gpu", 10_000), ("tpu", 10_000)):
        alone = replace_flat(large, {"seeds": (0,), "members": "auto"})
        assert settled(alone, platform).rollout.rollout_chunk == rows
    assert settled(replace_flat(large, {"rollout_chunk": 7})).rollout.rollout_chunk == 7
    assert programs.buffer_capacity(settled(large, "cpu"), 5) == 50_000 * 5 * large.rollout.retain_epochs


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 625),  # 80 chunks
        ({"penalty_coef": (0.5, 1.0)}, 311),  # 161 of at most 312
        ({"members_per_batch": 4}, 2_500),
        ({"members": "map"}, 10_000),
        ({"rollout_batch_size": 4_096}, 586),  # 7 equal ones
        ({"seeds": tuple(range(1_000))}, 125),
        ({"rollout_chunk": 10_000}, 10_000),  # what one asks for is each member's
    ],
)
def test_members_side_by_side_on_an_accelerator_share_the_rows(tiny_config, changes, rows):
    """Temporaries do not grow with the number of seeds; on CPU nothing depends on it."""
    large = {
        "rollout_chunk": None,
        "rollout_batch_size": 50_000,
        "seeds": tuple(range(16)),
        "members": "auto",
    }
    config = replace_flat(tiny_config, {**large, **changes})
    assert settled(config, "gpu").rollout.rollout_chunk == rows
    assert settled(config, "cpu").rollout.rollout_chunk == changes.get("rollout_chunk", 250)
    vmapped = replace_flat(config, {"members": "vmap"})
    assert settled(vmapped, "cpu") == replace_flat(settled(config, "cpu"), {"members": "vmap"})


@pytest.mark.parametrize(
    ("changes", "platform", "gib"),
    [
        ({}, "cpu", 1.0),
        ({}, "gpu", 2.5),  # half of 80 GiB for 16 seeds
        ({"seeds": (0, 1, 2, 3, 4)}, "gpu", 8.0),  # the largest of D4RL's sets of locomotion take 3.7
        ({"members_per_batch": 8}, "tpu", 5.0),
        ({"memory_limit_gib": 32.0}, "gpu", 1.0),
        ({"history_cache_gib": 0.0}, "gpu", 0.0),
        ({"history_cache_gib": 0.0}, "cpu", 0.0),
    ],
)
def test_memory_for_histories_is_that_of_the_device(tiny_config, changes, platform, gib):
    config = replace_flat(tiny_config, {"seeds": tuple(range(16)), "members": "auto", **changes})
    config = settled(config, platform, 80.0)
    assert config.rollout.history_cache_gib == gib
    assert settled(config, "gpu", 8.0) == config  # a run keeps it


def test_the_buffer_takes_a_last_chunk_that_is_filled_up(tiny_config: OfflineConfig) -> None:
    """Roll-outs come in whole chunks; the rows of one epoch must fit even where only one is kept."""
    config = replace_flat(tiny_config, {"rollout_batch_size": 26, "rollout_chunk": 25, "retain_epochs": 1})
    length = config.rollout.rollout_length
    assert programs.buffer_capacity(config, length) == 50 * length
    _, agent, buffer = run_all_programs(config, "map")
    assert (np.asarray(buffer.size) <= 26 * config.rollout.rollout_length * 2).all()
    assert np.isfinite(np.asarray(agent.log_alpha)).all()
