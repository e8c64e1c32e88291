"""Tasks: environment, termination, reference scores and published settings, by name.

The built-in ones are data (``environments``; their settings are ``adm_jax.config.presets``);
``register_task`` adds others. A task registered in a module of one's own is named ``module:task``, which
imports the module first.
"""

from adm_jax.tasks.registry import TASKS, get_task, register_task
from adm_jax.tasks.task import EnvlessTask, Task

__all__ = ["TASKS", "EnvlessTask", "Task", "get_task", "register_task"]
