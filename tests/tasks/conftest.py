"""Tests may register tasks: the next one does not see them."""

import pytest

from adm_jax.tasks import TASKS, registry


@pytest.fixture(autouse=True)
def _registry_as_before():
    before = dict(TASKS)
    yield
    registry._TASKS.clear()
    registry._TASKS.update(before)
