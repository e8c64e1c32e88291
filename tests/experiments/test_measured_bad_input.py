"""What a user of the scripts that work with fitted models gets wrong: one line, exit code 2."""

import pickle
from pathlib import Path

import numpy as np
import pytest

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
    Path("truth.json").write_text(
        '{"policies": {"good.npz": {"return_mean": 1.0, "discounted_0.995_mean": 1.0}}}'
    )


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
        ((*OPE, "--policies=policies/hostile.pkl"), "hostile.pkl: "),
        ((*OPE, "--policies=policies/*[dr].npz", "--truth=truth.json"), "has no return of better.npz"),
        ((*OPE, "--policies=policies/good.npz", "--truth=absent.json"), "absent.json"),
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
