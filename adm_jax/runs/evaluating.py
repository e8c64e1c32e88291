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
from adm_jax.tasks import EnvlessTask, Task
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
    """What evaluating a population's policies takes; without an environment the lines and curves say so."""

    members: tuple[Member, ...]
    task: Task
    evaluator: Evaluator | None  # None: there is no environment
    background: Background
    folder: RunFolder
    progress: Progress
    act: Callable[[Params, np.ndarray], Array] | None  # of compile_policies, with an evaluator
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
        if self.evaluator is None:
            self.background.start((phase, epoch), partial(self._say, self.folder.read_metrics()[-1]))
            return
        own = jax.tree.map(jnp.copy, (actor_params, unaveraged))
        policies = jax.block_until_ready(jax.device_put(own, policy_sharding()))
        line = {"phase": phase, "epoch": epoch, **position}
        self.background.start((phase, epoch), partial(self._run, line, *policies))

    def describe(self) -> dict[str, Any]:
        """What scores depend on, or why there are none."""
        if self.evaluator is not None:
            return self.evaluator.describe()
        assert isinstance(self.task, EnvlessTask)
        return {"env_id": None, "num_episodes": 0, "reason": self.task.reason}

    def wait_for_earlier(self, phase: str, epoch: int) -> None:
        """Returns when no other evaluation than this one is under way: what a checkpoint may leave out."""
        if self.background.name != (phase, epoch):
            self.background.wait()

    def _say(self, row: Mapping[str, Any]) -> None:
        """What the model says of the policies in a line of metrics.jsonl, in place of an environment."""
        texts = [f"{row['phase']} epoch {row['epoch']}: not evaluated for real"]
        if "model/return" in row:
            means = zip(self.members, row["model/return"], strict=True)
            texts.append(f"returns in the model {', '.join(_mean_text(*mean) for mean in means)}")
        self.progress.note("; ".join(texts))
        self.draw()

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
                **self.describe(),
            }
        )
        self.draw()
        means = zip(self.members, returns.mean(axis=1), strict=True)
        text = ", ".join(_mean_text(*mean) for mean in means)
        where = f"step {line['steps']}" if "steps" in line else f"{line['phase']} epoch {line['epoch']}"
        self.progress.note(f"{where}: mean returns {text}")

    def _episodes(self, policies: Params, evaluation: int) -> EvaluationResult:
        """One that gives an action that is not finite takes no other down: it acts zero, and scores NaN."""
        assert self.evaluator is not None
        assert self.act is not None
        evaluate, act_on = self.evaluator.evaluate, self.act
        sound = np.ones(len(self.members), bool)

        def act(obs: np.ndarray) -> np.ndarray:
            self.background.raise_if_stopped()
            action = np.array(act_on(policies, obs))
            broken = ~np.isfinite(action).all(axis=-1)
            action[broken] = 0.0
            sound[broken.any(axis=-1)] = False
            return action

        outcome = evaluate(act, evaluation=evaluation)
        return outcome._replace(returns=np.where(sound[:, None], outcome.returns, np.nan))


def _mean_text(member: Member, mean: float | None) -> str:
    """A member's mean return; None, as JSON has what is not finite."""
    return f"{member.tag} {'nan' if mean is None else format(mean, '.1f')}"
