"""Evaluations of a population's policies, in the background of the loop that trains them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.envs.evaluator import EvaluationResult, Evaluator
from adm_jax.population.members import Member
from adm_jax.runs.background import Background
from adm_jax.runs.folder import RunFolder
from adm_jax.runs.progress import Progress
from adm_jax.tasks import Task
from adm_jax.types import Array, Params


def policy_sharding() -> jax.sharding.Sharding:
    """Where policies are evaluated: on the host, whatever the rest runs on.

    An accelerator works its programs off one by one, so that each step of an evaluation would wait for the
    update program of a whole epoch.
    """
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone
        device = jax.local_devices()[0]
    return jax.sharding.SingleDeviceSharding(device)


def compile_policies(
    mode_action: Callable[[Params, Array], Array], abstract_policies: Params, shape: tuple[int, int, int]
) -> Callable[[Params, np.ndarray], Array]:
    """``(actor_params [P], obs [P, E, D]) -> action [P, E, A]`` on policy_sharding: all policies in one call.

    Args:
      mode_action: one member's deterministic policy.
      abstract_policies: shapes of all members' parameters.
      shape: P, E and D.
    """
    obs = jax.ShapeDtypeStruct(shape, jnp.float32)
    on_host = partial(jax.ShapeDtypeStruct, sharding=policy_sharding())
    shapes = jax.tree.map(lambda x: on_host(x.shape, x.dtype), (abstract_policies, obs))
    return jax.jit(jax.vmap(mode_action)).lower(*shapes).compile()


@dataclass(frozen=True)
class Evaluations:
    """What evaluating a population's policies takes."""

    members: tuple[Member, ...]
    task: Task
    evaluator: Evaluator
    background: Background
    folder: RunFolder
    progress: Progress
    act: Callable[[Params, np.ndarray], Array]  # on policy_sharding: (params [P], obs [P, E, D]) -> [P, E, A]
    draw: Callable[[], None]  # the run's curves

    def begin(
        self,
        phase: str,
        epoch: int,
        position: Mapping[str, int],
        actor_params: Params,
        unaveraged: Params | None = None,
    ) -> None:
        """Begins the evaluation of every member's deterministic policy, after the one before has ended.

        Args:
          phase: of the line in eval.jsonl.
          epoch: of that line; also the evaluation's index, which gives its initial states.
          position: further entries of the line: how far the run was.
          actor_params: [P]; copied, as the next update reuses their memory.
          unaveraged: the actors [P] that they are averages of, evaluated from the same initial states.
        """
        own = jax.tree.map(jnp.copy, (actor_params, unaveraged))
        policies = jax.block_until_ready(jax.device_put(own, policy_sharding()))
        line = {"phase": phase, "epoch": epoch, **position}
        self.background.start((phase, epoch), partial(self._run, line, *policies))

    def wait_for_earlier(self, phase: str, epoch: int) -> None:
        """Returns when no other evaluation than this one is under way: what a checkpoint may leave out."""
        if self.background.name != (phase, epoch):
            self.background.wait()

    def _run(self, line: Mapping[str, Any], policies: Params, unaveraged: Params | None) -> None:
        """Real episodes of every member's policy, and of the actor that it is an average of."""
        outcome = self._episodes(policies, line["epoch"])
        returns, further = outcome.returns, {}
        if unaveraged is not None:
            further = {"eval/unaveraged_return": self._episodes(unaveraged, line["epoch"]).returns}
        self.folder.log_eval(
            {
                **line,
                "eval/return": returns,
                "eval/length": outcome.lengths,
                "eval/normalized_score": [self.task.normalized_score(x) for x in returns.mean(axis=1)],
                **further,
                **self.evaluator.describe(),
            }
        )
        self.draw()
        means = zip(self.members, returns.mean(axis=1), strict=True)
        text = ", ".join(f"{member.tag} {mean:.1f}" for member, mean in means)
        where = f"step {line['steps']}" if "steps" in line else f"{line['phase']} epoch {line['epoch']}"
        self.progress.note(f"{where}: mean returns {text}")

    def _episodes(self, policies: Params, evaluation: int) -> EvaluationResult:
        """One that gives an action that is not finite takes no other down: it acts zero, and scores NaN."""
        sound = np.ones(len(self.members), bool)

        def act(obs: np.ndarray) -> np.ndarray:
            self.background.raise_if_stopped()
            action = np.array(self.act(policies, obs))
            broken = ~np.isfinite(action).all(axis=-1)
            action[broken] = 0.0
            sound[broken.any(axis=-1)] = False
            return action

        outcome = self.evaluator.evaluate(act, evaluation=evaluation)
        return outcome._replace(returns=np.where(sound[:, None], outcome.returns, np.nan))
