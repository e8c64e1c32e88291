"""Learning in the real environment (ADM paper, Algorithm 2): ADMPO-ON, MBPO, and SAC without a model.

``OnlineLoop`` is the loop itself, for a whole population and without files; ``run`` and ``resume`` put a
run's folder around it (adm_jax.training.driver), and ``adm_jax.training.collect`` records datasets with it.

One iteration takes ``steps_per_iteration`` steps in every member's environments, which are stepped together
on the host, puts them into the members' data on the device and does the updates that belong to them. Every
``model_every`` steps since warm-up the models are fitted to all data so far, and rolled out.

A run counts environment steps, warm-up included: the ``epoch`` of a line is its ``steps``. A checkpoint holds
everything that was recorded; a resume replays the episodes under way (adm_jax.envs.experience).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.config import MODEL_FREE, OnlineConfig, online_from_flat
from adm_jax.config.models import get_model
from adm_jax.data.lanes import LaneIndex, Lanes
from adm_jax.envs.experience import Experience
from adm_jax.population.compiling import compiling
from adm_jax.population.keys import Purpose, fold_keys, online_keys, shared_key
from adm_jax.population.members import Member, all_members, member_hyper, settled
from adm_jax.runs import results
from adm_jax.runs.checkpoint import Restored
from adm_jax.runs.clock import WallClock
from adm_jax.tasks import Task, get_task
from adm_jax.training import driver
from adm_jax.training.components import OwnData, make_components
from adm_jax.training.fit import fit_epochs, require_fitted
from adm_jax.training.loop import Desk, Note, Plan, Stage, Step
from adm_jax.training.online_programs import (
    ModelPrograms,
    Saved,
    State,
    blank_steps,
    compile_programs,
    index_lanes,
    refit_config,
)
from adm_jax.training.programs import Start, may_lack
from adm_jax.types import Array, InputError, Key, Params

_RECENT_EPISODES = 10  # finished episodes whose mean return is reported
_REPORT_EVERY = 50  # environment steps between two reports of progress


def run(config: OnlineConfig) -> dict[str, Any]:
    """Learns and evaluates; see adm_jax.training.driver.run."""
    return driver.run(config, plan)


def resume(path: str, num_steps: int | None = None, *, anyway: bool = False) -> dict[str, Any]:
    """Continues the run in a folder, to ``num_steps`` where given; see adm_jax.training.driver.resume."""
    return driver.resume(path, online_from_flat, plan, anyway=anyway, num_steps=num_steps)


def algorithm(config: OnlineConfig) -> str:
    """What the loop is called with its dynamics model."""
    return "sac" if config.dynamics == MODEL_FREE else get_model(config.dynamics).online_algorithm


def plan(config: OnlineConfig) -> Plan:
    """What is wanted of a run, checked."""
    config = settled(config)
    task = get_task(config.task)
    return Plan(
        config=config,
        task=task,
        algorithm=algorithm(config),
        last_epoch=config.num_steps,
        open=partial(OnlineLoop, config, task),
        sizes=[len(all_members(config))],
        warmup_steps=config.warmup_steps,
        command="adm-jax online",
    )


class OnlineLoop:
    """P members that learn side by side, each in environments of its own."""

    def __init__(self, config: OnlineConfig, task: Task, members: Sequence[Member], desk: Desk | None = None):
        """Makes the environments, compiles the programs and sees that all of it fits into memory.

        Raises:
          InputError: the task's environment cannot be used, the warm-up is too short to fit a model, or the
            memory does not suffice.
        """
        desk = desk or Desk(WallClock(), lambda line: None, lambda state: None)
        self.config, self.task, self.members, self.clock = config, task, tuple(members), desk.clock
        self.components = make_components(config, task)
        if config.has_model:
            self._require_warmup()
        self._seeds = [member.seed for member in self.members]
        self._init_keys, self._act_keys, self._update_keys = (
            online_keys(self._seeds, purpose) for purpose in (Purpose.INIT_AGENT, Purpose.ACT, Purpose.UPDATE)
        )
        self._hyper = member_hyper(config, self.members)
        with self.clock.phase("compile"), compiling(config):
            self._programs, self._abstract = compile_programs(
                config, self.components, self._hyper, self._init_keys, desk
            )
        self.abstract_policies = self._abstract.agent.actor_params
        self.state = State(*self._programs.init(self._init_keys, self._hyper, Start(), None), None, None)
        self.experience = Experience(task.env, self._seeds, config.num_steps, config.num_envs)
        self._lanes = self._recorded_lanes()
        self._warmup_rngs = [np.random.default_rng(seed) for seed in self._seeds]
        self._metrics: list[dict[str, Array]] = []  # of the updates since they were last asked for
        self._model_metrics: list[dict[str, Any]] = []  # of the fits and roll-outs since then

    # --- what the driver asks for ---

    def stage(self) -> Stage | None:
        """See Loop."""
        total = self.config.num_steps
        return Stage("learn", total, self.num_steps) if self.num_steps < total else None

    def advance(self) -> Step:
        """See Loop."""
        config = self.config
        self.iterate()
        steps, is_end = self.num_steps, self.num_steps == config.num_steps
        step = self._step()
        if steps % config.log_every == 0 or is_end:
            metrics = self.metrics()
            # NaN means nothing where no episode has ended yet, or the actor waited
            free = [name for name in metrics if name.startswith("collect/") or may_lack(config, name)]
            tags = [member.tag for member in self.members]
            step = step._replace(metrics=metrics, unchecked=free, tags=tags)
        if steps % _REPORT_EVERY == 0 or is_end:
            latest = float(np.mean([returns[-1:] or [np.nan] for returns in self.experience.returns]))
            rates = {"environment_steps": len(self.members)}
            step = step._replace(info={"return": latest}, rates=rates)
        return step._replace(save=steps % config.checkpoint_every == 0 or is_end)

    def to_save(self) -> Saved:
        """See Loop."""
        return Saved(self.state, self.experience.first(self.num_steps))

    def to_note(self) -> Note:
        """Metrics since the last line of them, from which the next one is made."""
        pending = {"updates": self._metrics, "model": self._model_metrics}
        return {name: [_to_json(row) for row in jax.device_get(rows)] for name, rows in pending.items()}

    def abstract_states(self) -> Mapping[str, Callable[[int], Any]]:
        """See Loop."""
        return {"train": self.abstract_saved}

    def abstract_saved(self, num_steps: int) -> Saved:
        """Shapes of what ``to_save`` gives after so many steps."""
        state = self._abstract
        if num_steps < self.config.warmup_steps:
            state = state._replace(model=None, fit=None)
        return Saved(state, self.experience.first(num_steps))

    def restore(self, restored: Restored) -> Step:
        """Goes on where another loop of this configuration was after ``restored.epoch`` steps.

        Raises:
          InputError: the environments do not lead where they led.
        """
        saved, num_steps = restored.state, restored.epoch
        self.state = saved.state
        self.experience.restore(saved.recorded, num_steps)
        self._lanes = self._recorded_lanes()
        pending = restored.extra["loop"]
        self._metrics = [_from_json(row) for row in pending["updates"]]
        self._model_metrics = [_from_json(row) for row in pending["model"]]
        for _ in range(min(num_steps, self.config.warmup_steps) // self.config.num_envs):
            self.experience.random_action(self._warmup_rngs)
        return self._step()

    def summarize(
        self, members: tuple[Member, ...], metrics: Sequence[Any], evals: Sequence[Any]
    ) -> dict[str, Any]:
        """See Loop."""
        config = self.config
        found = results.member_results(members, self.task, evals)
        frozen = results.frozen_members(members, metrics)
        return {
            "steps": config.num_steps,
            "warmup_steps": config.warmup_steps,
            "updates": self.num_updates,
            "members": found,
            "frozen": frozen,
            "settings": results.setting_results(members, found, frozen),
        }

    def close(self) -> None:
        """Frees the environments."""
        self.experience.close()

    def _step(self) -> Step:
        """Where the loop is, and whose turn it is to be evaluated."""
        config, steps = self.config, self.num_steps
        due = steps % config.eval_every == 0 or steps == config.num_steps
        counts = {"steps": steps, "updates": self.num_updates}
        if not due or steps < config.warmup_steps:
            return Step("train", steps, counts)
        agent = self.state.agent
        return Step("train", steps, counts, policies=agent.policy_params, unaveraged=agent.unaveraged_params)

    # --- one iteration ---

    @property
    def num_steps(self) -> int:
        """Environment steps of a member so far, warm-up included."""
        return self.experience.num_steps

    @property
    def learned_steps(self) -> int:
        """Environment steps of a member behind the warm-up."""
        return max(self.num_steps - self.config.warmup_steps, 0)

    @property
    def num_updates(self) -> int:
        """Critics' updates of a member so far; the block that completes the warm-up is followed by some."""
        config = self.config
        if self.num_steps < config.warmup_steps:
            return 0
        return (self.learned_steps + config.steps_per_iteration) * config.updates_per_step

    @property
    def actor_params(self) -> Params:
        """The actors [P] that act; their memory is reused by the next iteration."""
        return self.state.agent.actor_params

    @property
    def policy_params(self) -> Params:
        """The policies [P] that are evaluated and kept; their memory is reused by the next iteration."""
        return self.state.agent.policy_params

    def iterate(self) -> None:
        """Steps the environments, fits and rolls out the models where it is time, updates the policies."""
        config = self.config
        with self.clock.phase("environment"):
            for _ in range(config.steps_per_iteration // config.num_envs):
                self.experience.step(self._act())
            start = (self.num_steps - config.steps_per_iteration) // config.num_envs
            block = self.experience.latest(config.steps_per_iteration)
            self._lanes = self._programs.insert(self._lanes, block, np.int32(start))
        if self.num_steps < config.warmup_steps:
            return
        if config.has_model and self.learned_steps % config.model_every == 0:
            self._roll_out(self._fit_model())
        with self.clock.phase("update"):
            keys = fold_keys(self._update_keys, self.num_steps)
            first = self.num_updates - config.steps_per_iteration * config.updates_per_step
            rows, state = np.int32(self.num_steps // config.num_envs), self.state
            arguments = (keys, state.buffer, self._lanes, rows, None, np.int32(first), None)
            agent, metrics = self._programs.update(state.agent, self._hyper, *arguments)
            self.state = self.state._replace(agent=jax.block_until_ready(agent))
            self._metrics.append(metrics)

    def metrics(self) -> dict[str, Any]:
        """Means [P] over the iterations, and over the fits and roll-outs, since the last call."""
        updates: dict[str, Any] = {}
        if self._metrics:
            rows = jax.device_get(self._metrics)
            for name in rows[0]:
                values = np.stack([row[name] for row in rows])
                lacks = may_lack(self.config, name)
                known = ~np.isnan(values) if lacks else np.ones_like(values, bool)
                count = known.sum(axis=0)
                total = np.where(known, values, 0.0).sum(axis=0) if not known.all() else values.sum(axis=0)
                updates[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        recent = [returns[-_RECENT_EPISODES:] or [np.nan] for returns in self.experience.returns]
        model = jax.device_get(self._model_metrics)
        if model:
            updates |= {name: np.mean([row[name] for row in model], axis=0) for name in model[0]}
        self._metrics, self._model_metrics = [], []
        return {**updates, "collect/return": np.array([np.mean(returns) for returns in recent])}

    def _act(self) -> np.ndarray:
        """Actions [P, E, A]: uniform in the warm-up, then the policies' own, sampled."""
        if self.num_steps < self.config.warmup_steps:
            return self.experience.random_action(self._warmup_rngs)
        step = np.int32(self.num_steps)
        action = np.array(self._programs.act(self.actor_params, self.experience.obs, self._act_keys, step))
        # a member whose policy has broken must not take the others down: it rests
        action[~np.isfinite(action).all(axis=-1)] = self.experience.resting_action
        return action

    def _keys(self, purpose: Purpose) -> Key:
        """Every member's key [P] of a purpose, at this step."""
        return fold_keys(online_keys(self._seeds, purpose), self.num_steps)

    @property
    def _model_programs(self) -> ModelPrograms:
        assert self._programs.model is not None
        return self._programs.model

    def _fit_model(self) -> OwnData:
        """Fits the models to all data so far; these data."""
        config, run, warm = self.config, self._model_programs, self.state.fit
        with self.clock.phase("fit"):
            data = OwnData(self._lanes, self._make_index(), self._keys(Purpose.HOLDOUT))
            if warm is None or run.refit is None or run.continue_fit is None:
                state, epoch = run.init_fit(self._keys(Purpose.INIT_FIT), data), run.fit
            else:
                state, epoch = run.continue_fit(warm), run.refit
            shared = shared_key(config.fit.split_seed, self.num_steps)
            keys, bootstrap = self._keys(Purpose.FIT), self._keys(Purpose.BOOTSTRAP)
            metrics: dict[str, np.ndarray] = {}
            for done in fit_epochs(epoch, state, keys, bootstrap, data, shared):
                state, fitted = done.state, done.fitted
                # a member that has stopped keeps what its last epoch gave
                metrics = {
                    name: np.where(fitted.reshape(-1, *(1,) * (x.ndim - 1)), x, metrics.get(name, x))
                    for name, x in done.metrics.items()
                }
            settings = refit_config(config, first=warm is None)
            require_fitted(self.components.model, config.dynamics, settings, self._seeds, state)
            model, epochs = run.best(state, data), np.asarray(state.epoch)
            kept = state if config.refit == "warm" else None
            self.state = jax.block_until_ready(self.state._replace(fit=kept, model=model))
        self._model_metrics.append({**metrics, "model/epochs": epochs})
        return data

    def _roll_out(self, data: OwnData) -> None:
        length, state = self.config.rollout.length_at(self.learned_steps), self.state
        with self.clock.phase("rollout"):
            keys, number = self._keys(Purpose.ROLLOUT), np.int32(length)
            arguments = (self.actor_params, state.model, self._hyper, keys, None, data, number, None)
            (buffer, _), metrics = self._model_programs.rollout((state.buffer, None), *arguments)
            self.state = jax.block_until_ready(self.state._replace(buffer=buffer))
        # a copy: the next roll-out, which may come before metrics are asked for, reuses the buffer's memory
        size = np.array(buffer.size)
        lengths = np.full(len(self.members), length)
        self._model_metrics[-1] |= {**metrics, "rollout/length": lengths, "rollout/buffer_size": size}

    # --- the data ---

    def _recorded_lanes(self) -> Lanes:
        """All that was recorded, on the device."""
        return Lanes(jax.tree.map(jnp.array, self.experience.recorded.as_transition()))

    def _make_index(self) -> LaneIndex:
        """Every member's index [P] of its data so far."""
        m, steps = self.components.model.max_backtrack, self.experience.first(self.num_steps).as_transition()
        indices = [
            index_lanes(self.config, m, jax.tree.map(lambda x, i=i: x[i], steps), ended)
            for i, ended in enumerate(self.experience.ended())
        ]
        for member, index in zip(self.members, indices, strict=True):
            self._require_segments(member, index, self.num_steps)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *indices)

    def _require_warmup(self) -> None:
        """Sees that the warm-up can be split if no episode ends; which blocks are held out is known."""
        config, m = self.config, self.components.model.max_backtrack
        steps = blank_steps(config, self.components, config.warmup_steps // config.num_envs)
        index = index_lanes(config, m, steps, steps.terminated)
        self._require_segments(self.members[0], index, config.warmup_steps)

    def _require_segments(self, member: Member, index: LaneIndex, num_steps: int) -> None:
        m = self.components.model.max_backtrack
        needed = (("train on", "train", m), ("hold out", "holdout", 1), ("roll out from", "windows", m))
        for purpose, name, depth in needed:
            if not getattr(index.index, name).count[depth - 1]:
                raise InputError(
                    f"warmup_steps: after {num_steps} steps {member.tag} has no segment of {depth} to "
                    f"{purpose}; take more, or change max_backtrack {m}, holdout_fraction or split_seed"
                )


def _to_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics in full precision, with its types."""
    arrays = {name: np.asarray(values) for name, values in row.items()}
    return {name: [str(values.dtype), values.tolist()] for name, values in arrays.items()}


def _from_json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(values, dtype) for name, (dtype, values) in row.items()}
