"""What a user of the scripts that work with fitted models gets wrong: one line, exit code 2."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_io

OPE = ("ope", "--task=hopper-builtin", "--workdir=runs")


def policy(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {"w0": np.zeros((11, 3)), "b0": np.zeros(3), "log_std": np.zeros(3), **changes}


@pytest.fixture(autouse=True)
def policies() -> None:
    folder = Path("policies")
    folder.mkdir()
    for name, content in (("good", policy()), ("better", policy()), ("wide", policy(w0=np.zeros((17, 3))))):
        np.savez(folder / f"{name}.npz", **content)
    (folder / "hostile.pkl").write_bytes(pickle.dumps({"fc0/weight": Path}))
    (folder / "cut.pkl").write_bytes(pickle.dumps({"fc0/weight": np.zeros((5, 5))})[:100])
    Path("truth.json").write_text(
        '{"policies": {"good.npz": {"return_mean": 1.0, "discounted_0.995_mean": 1.0}}}'
    )


@pytest.fixture(scope="module", autouse=True)
def endless() -> None:
    """A dataset whose second and last episode goes on where the first was cut."""
    rng = np.random.default_rng(0)
    states = rng.normal(scale=0.01, size=(41, 11)).astype(np.float32)
    states[:, 0] += 1.25  # a standing Hopper's height
    ends = np.isin(np.arange(40), [19, 39])
    data = EpisodeData(
        obs=states[:-1],
        action=rng.uniform(-1, 1, (40, 3)).astype(np.float32),
        reward=np.ones(40, np.float32),
        next_obs=states[1:],
        terminated=np.zeros(40, bool),
        truncated=ends,
    )
    minari_io.save(data, "tests/endless-v0", env_id="Hopper-v4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*OPE,), "policies: give --policies="),
        (
            (*OPE, "--policies=absent/*.npz"),
            "policies: absent/*.npz: no file; give a folder of .npz or .pkl files",
        ),
        (
            (*OPE, "--policies=policies/wide.npz"),
            "wide.npz is from 17 observations to 3 actions; the dataset has 11 and 3",
        ),
        ((*OPE, "--policies=policies/hostile.pkl"), "hostile.pkl: refused: names pathlib"),
        ((*OPE, "--policies=policies/*[dr].npz", "--truth=truth.json"), "has no return of better.npz"),
        ((*OPE, "--policies=policies/good.npz", "--truth=absent.json"), "absent.json: No such file"),
        ((*OPE, "--policies=policies/cut.pkl"), "cut.pkl: is no pickle of arrays, or damaged"),
        (
            (*OPE, "--truth=truth.json", "--real_episodes=3"),
            "or from real_episodes, not from both",
        ),
        ((*OPE, "--policies=policies/good.npz", "--dataset=tests/endless-v0"), "has no initial states"),
        ((*OPE, "--policies=policies/good.npz", "--dataset=tests/absent-v0"), "tests/absent-v0 is not in"),
        ((*OPE, "--gammas=2"), "gammas=2: 2.0 is out of range"),
        ((*OPE, "--dynamics=ensemble", "--max_backtrack=3"), "max_backtrack: no setting of ensemble"),
        ((*OPE, "--rollout_length=3"), "Unknown command line flag 'rollout_length'"),
        (("compounding_error", "--dynamics=nothing"), "dynamics: 'nothing' is unknown"),
        (("compounding_error", "--horizon=0"), "horizon=0: 0 is out of range; at least 1"),
        (("adm2po", "--nopersistent", "--horizon=100"), "horizon: has no effect without persistent"),
        (("adm2po", "--resume=absent"), "absent holds no run"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, refused):
    before = sorted(Path().rglob("*"))
    assert message in refused(*arguments).stderr
    assert sorted(Path().rglob("*")) == before
