"""The small SAC agent that test files share."""

import jax
import pytest

from adm_jax.agents.sac import make_hyper, make_sac
from adm_jax.types import ActionBounds
from tests.agents.small_sac import ACTION_DIM, CONFIG, OBS_DIM


@pytest.fixture(scope="session")
def agent():
    return make_sac(OBS_DIM, ActionBounds.symmetric(1.0, ACTION_DIM), CONFIG)


@pytest.fixture(scope="session")
def init(agent):
    return jax.jit(lambda key: agent.init(key, make_hyper(CONFIG)))


@pytest.fixture(scope="session")
def state(init):
    return init(jax.random.key(0))
