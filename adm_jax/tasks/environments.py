"""The built-in tasks' environments, as data.

They are the ``*-v4`` ones: their dynamics and rewards are those of the D4RL v2 data (Walker2d-v5 has other
foot friction, Hopper-v5 another reward).
"""

from typing import Any

# fmt: off
# environment -> the fields of Task that its tasks share; references: D4RL's infos.py, all versions
_MUJOCO: dict[str, dict[str, Any]] = {
    "hopper": {
        "env_id": "Hopper-v4", "obs_dim": 11, "action_dim": 3, "termination": "hopper",
        "reference_min": -20.272305, "reference_max": 3234.3,
    },
    "walker2d": {
        "env_id": "Walker2d-v4", "obs_dim": 17, "action_dim": 6, "termination": "walker2d",
        "reference_min": 1.629008, "reference_max": 4592.3,
    },
    "halfcheetah": {
        "env_id": "HalfCheetah-v4", "obs_dim": 17, "action_dim": 6, "termination": "halfcheetah",
        "reference_min": -280.178953, "reference_max": 12135.0,
    },
    # the ADM paper's online tasks (Table 4): positions without x and y, and velocities; no contact forces
    "ant": {
        "env_id": "Ant-v4", "obs_dim": 27, "action_dim": 8, "termination": "ant", "reference_min": -325.6,
        "reference_max": 3879.7, "obs_limit": 27,
    },
    "humanoid": {
        "env_id": "Humanoid-v4", "obs_dim": 45, "action_dim": 17, "termination": "humanoid", "obs_limit": 45,
    },
    # an episode ends when the pole leans by more than 0.2; 1000 is the whole episode
    "inverted_pendulum": {
        "env_id": "InvertedPendulum-v4", "obs_dim": 4, "action_dim": 1, "termination": "inverted_pendulum",
    },
}

# NeoRL keeps the x position, so every index is one further on; references: those that MOREC and NEUBAY use,
# with which NeoRL's raw results (arXiv 2102.00714) become the BC and CQL rows of the ADM paper's Table 2.
# NeoRL's own environments are the v3 ones, whose dynamics the v4 ones have.
_NEORL: dict[str, dict[str, Any]] = {
    "hopper": {"termination": "neorl_hopper", "reference_min": 5.0, "reference_max": 3294.0},
    "walker2d": {"termination": "neorl_walker2d", "reference_min": 1.0, "reference_max": 5143.0},
    "halfcheetah": {"termination": "halfcheetah", "reference_min": -298.0, "reference_max": 12284.0},
}

# Gymnasium-Robotics registers it. Its own limit is 200 steps; D4RL's scores, and Minari's data, have 100. It
# and the data go on behind a drop, where D4RL's episodes end: the data are cut, the evaluation is not.
_PEN: dict[str, Any] = {
    "env_id": "AdroitHandPen-v1", "obs_dim": 45, "action_dim": 24, "termination": "pen",
    "reference_min": 96.262799, "reference_max": 3076.8331017826877, "env_kwargs": {"max_episode_steps": 100},
    "relabel_terminations": True,
}

_MAZES = {  # walls are 1, an episode begins at r, g is its goal
    "umaze": "11111 1g001 11101 1r001 11111",
    "medium": "11111111 1r011001 10010001 11000111 10010001 10100101 100010g1 11111111",
    "large": "111111111111 1r0001000001 101101010101 100000010001 101111011101 100101000001 110101010111 "
    "100100010g01 111111111111",
}
_MAZE_ENV_IDS = {
    "umaze": "AntMaze_UMaze-v4", "umaze-diverse": "AntMaze_UMaze-v4", "medium-play": "AntMaze_Medium-v4",
    "medium-diverse": "AntMaze_Medium_Diverse_GR-v4", "large-play": "AntMaze_Large-v4",
    "large-diverse": "AntMaze_Large_Diverse_GR-v4",
}
# fmt: on


def _antmaze(data: str) -> dict[str, Any]:
    """An AntMaze task, e.g. of ``medium-play``.

    The observation is Gymnasium-Robotics' dictionary, flattened: achieved goal (x, y), desired goal (x, y),
    27 of the ant. Start and goal are one each, and an episode ends at the goal, so that its return is D4RL's
    0 or 1; the data, which go on there, are cut. The walls are those that Minari's data were collected
    between; the evaluation environment in the umaze data's own specification has them the other way round.
    """
    rows = _MAZES[data.partition("-")[0]].split()
    return {
        "env_id": _MAZE_ENV_IDS[data],
        "obs_dim": 31,
        "action_dim": 8,
        "termination": "antmaze",
        "reference_min": 0.0,
        "reference_max": 1.0,
        "dataset": f"D4RL/antmaze/{data}-v1",
        "env_kwargs": {
            "maze_map": [[int(cell) if cell in "01" else cell for cell in row] for row in rows],
            "continuing_task": False,
            "reset_target": False,
        },
        "relabel_terminations": True,
    }


def fields_of(task: str) -> dict[str, Any]:
    """The fields of a built-in task, all but its name and its presets."""
    env, _, data = task.partition("-")
    if env == "neorl":
        env = data.partition("-")[0]
        fields = {**_MUJOCO[env], **_NEORL[env], "dataset": f"neorl/{data}-v0"}
        fields["env_kwargs"] = {"exclude_current_positions_from_observation": False}
        return {**fields, "obs_dim": fields["obs_dim"] + 1}  # x
    if env == "antmaze":
        return _antmaze(data)
    if env == "pen":
        return {**_PEN, "dataset": f"D4RL/pen/{data}-v2"}
    if data == "builtin":
        return {**_MUJOCO[env], "dataset": "adm_jax/hopper-replay-v0"}
    return {**_MUJOCO[env], **({"dataset": f"d4rl/{task}-v2"} if data else {})}
