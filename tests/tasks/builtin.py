"""The built-in tasks' names, and what is published for them."""

from adm_jax.config.presets import settings_of
from adm_jax.tasks import get_task

D4RL = [f"{env}-{data}" for env in ("hopper", "walker2d", "halfcheetah")
        for data in ("random", "medium", "medium-replay", "medium-expert")]  # fmt: skip
NEORL = [f"neorl-{env}-{data}" for env in ("hopper", "walker2d", "halfcheetah")
         for data in ("low", "medium", "high")]  # fmt: skip
PEN = ["pen-human", "pen-cloned"]
ANTMAZE = [f"antmaze-{data}" for data in ("umaze", "umaze-diverse", "medium-play", "medium-diverse",
           "large-play", "large-diverse")]  # fmt: skip
BARE = ["hopper", "walker2d", "halfcheetah", "ant", "humanoid", "inverted_pendulum"]
BUILTIN = [*BARE, "hopper-builtin", *D4RL, *NEORL, *PEN, *ANTMAZE]


def settings(name, family="admpo_off", preset="code"):
    return settings_of(name, get_task(name).presets, family, preset)
