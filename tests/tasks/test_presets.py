"""Presets: settings that the configuration accepts, as they were published."""

import pytest

from adm_jax import config
from adm_jax.config.presets import source_of
from adm_jax.config.presets.offline import STEADY
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.dynamics.interface import make_dynamics
from adm_jax.tasks import get_task, register_task
from adm_jax.types import InputError
from tests.tasks.builtin import ANTMAZE, BUILTIN, D4RL, NEORL, PEN, settings


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("preset", ["code", "paper"])
def test_every_setting_is_a_valid_leaf_of_the_configuration(name, preset):
    if preset == "paper" and name not in (*D4RL, *NEORL):
        with pytest.raises(InputError, match=f"no settings for task {name}; give preset=code"):
            settings(name, preset=preset)
        return
    published = settings(name, preset=preset)
    built = replace_flat(config.OfflineConfig(), {**published, "task": name})
    flat = to_flat(built)
    assert {key: flat[key] for key in published} == published


@pytest.mark.parametrize("name", BUILTIN)
def test_what_mopo_published_is_a_valid_configuration(name):
    published = settings(name, "mopo")
    flat = to_flat(config.config_for_task(name, dynamics="ensemble"))
    assert {key: flat[key] for key in published} == published
    assert published["uncertainty"] == ("std_of_means" if name == "hopper-builtin" else "max_aleatoric")
    assert get_task(name).presets["mopo"].source


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("dynamics", ["adm_v2", "adm", "ensemble"])
def test_what_full_horizon_takes_is_a_valid_configuration(name, dynamics):
    published = settings(name, "adm2po")
    built = config.config_for_task(name, dynamics=dynamics, persistent=True)
    flat = to_flat(built)
    known = {key: value for key, value in published.items() if key in flat}
    assert {key: flat[key] for key in known} == known
    assert set(published) - set(flat) <= ({"num_streams", "max_backtrack"} if dynamics != "adm_v2" else set())
    assert (flat["rollout_length"], flat["updates_per_epoch"]) == (25, 500)
    assert flat["persistent"]
    assert get_task(name).presets["adm2po"].source
    offered = make_dynamics(built.dynamics, 11, 3, built.model).uncertainties
    assert built.rollout.uncertainty in offered


def test_a_task_without_a_row_takes_the_full_horizon_defaults():
    task = get_task("hopper")
    built = config.config_for_task("hopper", dynamics="adm_v2", persistent=True)
    assert built.rollout.rollout_batch_size == 4096
    assert built.rollout.rollout_batch_size * 25 * built.rollout.retain_epochs == pytest.approx(
        10e6, rel=0.02
    )
    assert (built.penalty_coef, built.num_epochs, built.model.streams) == (5.0, 2000, 5)
    assert "no settings for hopper" in source_of("hopper", task.presets, "adm2po")


def test_a_task_of_ones_own_takes_the_librarys_settings():
    task = register_task(name="mine", env_id="Hopper-v4", obs_dim=11, action_dim=3, termination="hopper")
    built = config.config_for_task("mine", dynamics="adm_v2", persistent=True)
    assert (built.start, built.num_epochs) == ("cloned", STEADY["num_epochs"])
    assert "preset steady" in source_of("mine", task.presets, "adm2po")


@pytest.mark.parametrize(
    ("name", "m", "streams", "envs", "ratio", "penalty", "alpha", "epochs"),
    [
        ("hopper-random", 5, 5, 4096, 0.05, 100, 0.5, 6000),
        ("halfcheetah-random", 3, 3, 10_000, 0.2, 0.05, 0.1, 3000),
        ("walker2d-random", 5, 5, 4096, 0.05, 5, 0.05, 3000),
        ("walker2d-medium", 5, 5, 4096, 0.05, 2.5, 0.05, 3000),
        ("halfcheetah-medium-expert", 2, 2, 10_000, 0.25, 2.9, None, 5000),
        ("walker2d-medium-expert", 5, 5, 4096, 0.06, 2.5, 0.05, 3000),
        ("neorl-halfcheetah-high", 2, 2, 5000, 0.05, 5, 0.2, 5000),
        ("neorl-walker2d-medium", 5, 5, 512, 0.1, 3, 0.25, 3000),
        ("neorl-walker2d-high", 5, 5, 2048, 0.1, 3, 0.4, 3000),
        ("hopper-medium", 6, 6, 512, 0.2, 20, 0.1, 2000),
        ("halfcheetah-medium", 2, 2, 10_000, 0.05, 3, None, 3000),
        ("hopper-medium-replay", 5, 5, 4096, 0.05, 25, 0.3, 2000),
        ("walker2d-medium-replay", 5, 5, 4096, 0.05, 0.26, 0.02, 5000),
        ("neorl-hopper-medium", 5, 4, 512, 0.05, 20, 0.5, 2000),
        # nothing is known of these, or little: the defaults
        ("hopper-medium-expert", 2, 2, 4096, 0.05, 20, 0.05, 2000),
        ("neorl-hopper-low", 5, 5, 4096, 0.05, 5, 0.1, 2000),
        ("halfcheetah-medium-replay", 2, 2, 4096, 0.05, 2.5, 0.1, 2000),
    ],
)
def test_full_horizon_settings(name, m, streams, envs, ratio, penalty, alpha, epochs):
    built = config.config_for_task(name, dynamics="adm_v2", persistent=True)
    assert (built.model.max_backtrack, built.model.streams) == (m, streams)
    assert (built.rollout.rollout_batch_size, built.real_ratio, built.penalty_coef) == (envs, ratio, penalty)
    assert built.sac.auto_entropy == (alpha is None)
    assert alpha is None or built.sac.entropy_weight == alpha
    assert built.num_epochs == epochs
    assert built.sac.batch_size == 1024
    assert built.model.model_hidden_dim == (400 if "halfcheetah" in name else 200)
    rows = envs * 25 * built.rollout.retain_epochs  # 1e7, or 3e7, in whole epochs
    large = ("hopper-medium", "neorl-hopper-medium", "neorl-walker2d-medium")
    assert 0 <= rows - (30e6 if name in large else 10e6) < envs * 25
    slower = name == "halfcheetah-medium-replay"
    constant = ("walker2d-medium", "walker2d-medium-replay", "walker2d-medium-expert")
    assert built.actor_lr_schedule == ("none" if slower or name in constant else "cosine")
    assert built.sac.deterministic_backup == (name == "halfcheetah-medium-expert")
    assert (built.sac.actor_lr, built.sac.critic_lr) == (7e-5 if slower else 1e-4, 3e-4)
    assert alpha is not None or built.sac.entropy_lr == 1e-4  # the authors' default offline
    assert built.rollout.uncertainty == "sample_std_of_means"


@pytest.mark.parametrize(
    ("name", "length", "penalty"),
    [
        ("halfcheetah-medium", 5, 0.5),
        ("hopper-medium", 5, 5),
        ("walker2d-medium", 5, 0.5),
        ("halfcheetah-medium-replay", 5, 0.5),
        ("hopper-medium-replay", 5, 2.5),
        ("walker2d-medium-replay", 1, 2.5),
        ("halfcheetah-medium-expert", 5, 2.5),
        ("hopper-medium-expert", 5, 5),
        ("walker2d-medium-expert", 1, 2.5),
        # nobody published these: their environment's medium ones
        ("walker2d-random", 5, 0.5),
        ("hopper", 5, 5),
        ("neorl-halfcheetah-high", 5, 0.5),
    ],
)
def test_mopo_settings(name, length, penalty):
    s = settings(name, "mopo")
    assert (s["rollout_length"], s["penalty_coef"], s["num_epochs"]) == (length, penalty, 3000)
    assert (s["rollout_batch_size"], s["retain_epochs"], s["real_ratio"]) == (50_000, 5, 0.05)
    assert (s["actor_lr"], s["critic_lr"], s["entropy_lr"], s["auto_entropy"]) == (1e-4, 3e-4, 1e-4, True)
    assert config.config_for_task(name, dynamics="ensemble").sac.max_entropy_weight == 1.0


@pytest.mark.parametrize(
    ("name", "width"),
    [*((name, None) for name in ("ant", "hopper-medium", "antmaze-umaze")),
     *((name, 400) for name in ("humanoid", "pen-human", "pen-cloned"))],
)  # fmt: skip
def test_the_width_of_mopos_networks(name, width):
    """MBPO's are twice as wide for Humanoid and adroit."""
    mopo = get_task(name).presets["mopo"]
    assert mopo.settings.get("model_hidden_dim") == width
    assert ("400 hidden units" in mopo.source) == (width is not None)
    assert config.config_for_task(name, dynamics="ensemble").model.model_hidden_dim == width or width is None


@pytest.mark.parametrize("name", ["ant", "pen-human", "antmaze-large-play"])
def test_where_mopo_published_nothing_it_is_said(name):
    mopo = get_task(name).presets["mopo"]
    assert not {"rollout_length", "penalty_coef"} & set(mopo.settings)
    assert "has no rollout_length and penalty_coef" in mopo.source
    for other in ("walker2d-random", "neorl-hopper-low"):
        assert "none is published" in get_task(other).presets["mopo"].source


@pytest.mark.parametrize(
    ("name", "m", "length", "penalty", "alpha", "ratio", "epochs"),
    [
        ("hopper-random", 5, 50, 5, 1.0, 0.05, 3000),
        ("halfcheetah-random", 2, 10, 2.5, 0.1, 0.05, 3000),
        ("walker2d-random", 2, 50, 2.5, 1.0, 0.05, 3000),
        ("hopper-medium", 5, 10, 1, 0.05, 0.05, 5000),
        ("halfcheetah-medium", 2, 5, 2.5, 0.1, 0.05, 5000),
        ("walker2d-medium", 5, 10, 5, 0.01, 0.05, 5000),
        ("hopper-medium-replay", 5, 5, 0.1, 0.05, 0.5, 5000),
        ("halfcheetah-medium-replay", 2, 5, 2.5, 0.1, 0.05, 5000),
        ("walker2d-medium-replay", 5, 5, 0.1, 0.1, 0.5, 5000),
        ("hopper-medium-expert", 2, 20, 20, 0.05, 0.5, 5000),
        ("halfcheetah-medium-expert", 2, 20, 9.16, 0.05, 0.5, 5000),
        ("walker2d-medium-expert", 3, 2, 6, 0.011, 0.5, 5000),
        ("neorl-hopper-low", 5, 20, 5, 0.1, 0.05, 5000),
        ("neorl-halfcheetah-low", 2, 20, 10, 0.1, 0.05, 5000),
        ("neorl-walker2d-low", 5, 10, 2.5, 0.1, 0.05, 5000),
        ("neorl-hopper-medium", 5, 20, 50, 0.5, 0.05, 5000),
        ("neorl-halfcheetah-medium", 2, 5, 20, 0.1, 0.05, 5000),
        ("neorl-walker2d-medium", 5, 10, 5, 0.05, 0.05, 5000),
        ("neorl-hopper-high", 5, 20, 50, 0.5, 0.05, 5000),
        ("neorl-halfcheetah-high", 2, 10, 50, 0.1, 0.05, 5000),
        ("neorl-walker2d-high", 5, 10, 2.5, 0.1, 0.05, 5000),
        ("pen-human", 2, 10, 25, 0.05, 0.8, 1000),
        ("pen-cloned", 2, 10, 25, 0.05, 0.5, 1000),
        ("antmaze-umaze", 2, 10, 25, 0.05, 0.5, 5000),
        ("antmaze-umaze-diverse", 2, 5, 25, 0.05, 0.25, 5000),
        ("antmaze-medium-play", 2, 5, 25, 1.0, 0.75, 5000),
        ("antmaze-medium-diverse", 2, 5, 25, 0.05, 0.95, 5000),
        ("antmaze-large-play", 2, 5, 25, 0.05, 0.95, 5000),
        ("antmaze-large-diverse", 2, 5, 25, 0.05, 0.95, 5000),
    ],
)
def test_published_settings(name, m, length, penalty, alpha, ratio, epochs):
    s = settings(name)
    assert (s["max_backtrack"], s["rollout_length"], s["penalty_coef"]) == (m, length, penalty)
    assert (s["entropy_weight"], s["real_ratio"], s["num_epochs"]) == (alpha, ratio, epochs)
    assert (s["rollout_batch_size"], s["retain_epochs"], s["updates_per_epoch"]) == (50_000, 5, 1000)
    replay_cheetah = name == "halfcheetah-medium-replay"
    play = name == "antmaze-medium-play"
    expected_lr = (7e-5 if replay_cheetah else 1e-4, "none" if replay_cheetah or play else "cosine")
    assert (s["actor_lr"], s["actor_lr_schedule"]) == expected_lr
    assert (s["auto_entropy"], s.get("entropy_lr")) == (play, 1e-4 if play else None)
    assert s.get("deterministic_backup", False) is (name in (*PEN, *ANTMAZE) and not play)
    assert s["model_hidden_dim"] == (400 if name == "halfcheetah-medium-expert" else 200)
    assert s["uncertainty"] == "std_of_means"


def test_the_paper_states_otherwise():
    paper = settings("halfcheetah-medium-expert", preset="paper")
    assert (paper["rollout_length"], paper["penalty_coef"]) == (50, 10)
    assert settings("halfcheetah-medium-replay", preset="paper")["actor_lr"] == 1e-4
    assert all(settings(name, preset="paper")["uncertainty"] == "total_variance" for name in D4RL + NEORL)
