"""For ``--task=tests.envs.plant_tasks:plant-<name>``: importing it registers the plants' tasks."""

from tests.envs.plant import register_tasks

register_tasks()
