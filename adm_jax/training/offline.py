"""ADMPO-OFF (ADM paper, Algorithm 3): fit, then epochs of roll-outs and policy updates, evaluated for real.

``run`` takes a configuration to a result; ``resume`` takes a run's folder on from its newest checkpoint. What
comes before the policies depends on nothing that is swept, and is done once for each of the members' S seeds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.config import OfflineConfig, offline_from_flat
from adm_jax.config.models import get_model
from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics.fitting import FitState, holdout_segments
from adm_jax.dynamics.interface import Carry, ModelParams
from adm_jax.model_episodes import draw_starts, episode_starts
from adm_jax.population.compiling import compiling
from adm_jax.population.keys import Purpose, fold_keys, offline_keys, shared_key
from adm_jax.population.members import Member, all_members, member_hyper, seeds_of, settled
from adm_jax.runs import results
from adm_jax.runs.batches import batch_sizes
from adm_jax.runs.checkpoint import Restored
from adm_jax.tasks import Task
from adm_jax.training import driver
from adm_jax.training.components import Components, make_components
from adm_jax.training.data import describe, load_data, put_on_device
from adm_jax.training.fit import OPEN_LOOP_STEPS, FitEpoch, fit_epochs, require_fitted
from adm_jax.training.loop import Desk, Note, Plan, Stage, Step
from adm_jax.training.offline_programs import Inputs, TrainState, compile_programs, differences, lr_factors
from adm_jax.training.programs import Start
from adm_jax.types import Array, InputError, Key, Params

_OF_SEEDS = (
    Purpose.INIT_FIT,
    Purpose.FIT,
    Purpose.CLONE,
    Purpose.BOOTSTRAP,
    Purpose.ERRORS,
    Purpose.PRETRAIN,
)
_ESTIMATE_SEED = 0  # draws the initial states that policies are estimated at, the same for all


def run(config: OfflineConfig) -> dict[str, Any]:
    """Trains and evaluates every member; see adm_jax.training.driver.run."""
    return driver.run(config, plan)


def resume(
    path: str, num_epochs: int | None = None, data: EpisodeData | None = None, *, anyway: bool = False
) -> dict[str, Any]:
    """Continues the run in a folder, to ``num_epochs`` where given; see adm_jax.training.driver.resume."""
    make_plan = partial(plan, data=data)
    return driver.resume(path, offline_from_flat, make_plan, anyway=anyway, num_epochs=num_epochs)


def plan(config: OfflineConfig, data: EpisodeData | None = None, without_env: str | None = None) -> Plan:
    """What is wanted of a run, checked; ``data`` and ``without_env`` are load_data's."""
    config = settled(config)
    task, data = load_data(config, data, without_env)
    components = make_components(config, task)
    return Plan(
        config=config,
        task=task,
        algorithm=get_model(config.dynamics).algorithm + ("_fh" if config.rollout.persistent else ""),
        last_epoch=config.num_epochs,
        open=partial(OfflineLoop, config, task, data, components),
        sizes=batch_sizes(len(all_members(config)), config.members_per_batch, config.num_devices),
        data=data,
        notes=describe(task, data, components.model.max_backtrack),
        differences=partial(differences, config, components, len(data.reward)),
    )


class OfflineLoop:
    """P members side by side: fitted, measured, cloned, then trained epoch by epoch."""

    def __init__(
        self,
        config: OfflineConfig,
        task: Task,
        data: EpisodeData,
        components: Components,
        members: tuple[Member, ...],
        desk: Desk,
    ):
        """Puts the data on the device, compiles, and sees that all fits into memory and on the disk."""
        self._config, self._task, self._episodes, self.components = config, task, data, components
        self._members, self._seeds = members, seeds_of(members)
        self._clock, self._note, self._anywhere = desk.clock, desk.note, desk.anywhere
        self._data = put_on_device(config, data, components.model.max_backtrack)
        self._long_holdout = holdout_segments(self._data.dataset, OPEN_LOOP_STEPS, config.fit)
        self._hyper, self._starts = member_hyper(config, members), self._initial_rows()
        inputs = Inputs(
            self._keys(Purpose.FIT),
            self._keys(Purpose.UPDATE),
            self._hyper,
            self._data,
            self._long_holdout,
            self._starts,
        )
        with desk.clock.phase("compile"), compiling(config):
            self._programs, self._abstract_fit, self._abstract_train = compile_programs(
                config, components, inputs, desk
            )
        self._data = self._programs.fit.share(self._data)
        self.abstract_policies = self._abstract_train.agent.actor_params
        self._phase, self._epoch = "fit", 0  # what comes next, and how many epochs of it are done
        self._fit: FitState | None = None
        self._fits: Iterator[FitEpoch] = iter(())
        # of the seeds, between the fit and the policies
        self._model: ModelParams | None = None
        self._row_weight: Array | None = None
        self._pretrained: Params | None = None
        self._cloned: Params | None = None
        self._train: TrainState | None = None
        self._histories: Carry | None = None

    # --- what the driver asks for ---

    def abstract_states(self) -> Mapping[str, Callable[[int], Any]]:
        """See Loop."""
        return {"fit": lambda _: self._abstract_fit, "train": lambda _: self._abstract_train}

    def stage(self) -> Stage | None:
        """See Loop."""
        config, epoch = self._config, self._epoch
        if self._phase != "train":
            return Stage("fit", config.fit.fit_max_epochs, epoch, saves=self._phase == "fit")
        return Stage("train", config.num_epochs, epoch) if epoch < config.num_epochs else None

    def advance(self) -> Step:
        """An epoch of the fit, what follows on it, or an epoch of policy optimisation."""
        if self._phase == "fit":
            return self._fit_epoch()
        if self._phase == "model":
            return self._measure()
        if self._phase == "pretrain":
            return self._pretrain()
        return self._clone() if self._phase == "bc" else self._train_epoch()

    def to_save(self) -> FitState | TrainState | None:
        """See Loop."""
        return self._train or self._fit

    def to_note(self) -> Note:
        """Nothing: all is in the state."""
        return {}

    def restore(self, restored: Restored) -> Step:
        """See Loop."""
        if restored.phase == "fit":
            self._epoch = restored.epoch
            self._begin_fit(restored.state)
            self._phase = "fit" if self._anywhere(bool(restored.state.active.any())) else "model"
            return self._step("fit", restored.epoch)
        self._train, self._phase, self._epoch = restored.state, "train", restored.epoch
        return self._train_step()

    def summarize(
        self, members: tuple[Member, ...], metrics: Sequence[Any], evals: Sequence[Any]
    ) -> dict[str, Any]:
        """See Loop."""
        config, task, m = self._config, self._task, self.components.model.max_backtrack
        found = results.summarize(config, members, task, self._episodes, m, metrics, evals)
        return {"dataset_id": config.dataset or task.dataset or self._episodes.source, **found}

    def close(self) -> None:
        """Nothing is open."""

    # --- one iteration ---

    def _train_epoch(self) -> Step:
        """Roll-outs into the model buffers, then updates on them and the data."""
        run, epoch = self._programs, self._epoch
        data = self._data = run.rollout.share(self._data)
        state = self._train or self._begin_training()
        agent, buffer, model, envs, row_weight, max_uncertainty = state
        if run.histories is not None and self._histories is None:
            with self._clock.phase("rollout"):
                self._histories = jax.block_until_ready(run.histories(model, data))
        with self._clock.phase("rollout"):
            keys = self._keys(Purpose.ROLLOUT, epoch)
            (buffer, envs), rolled = run.rollout(
                (buffer, envs),
                agent.actor_params,
                model,
                self._hyper,
                keys,
                self._histories,
                data,
                None,
                max_uncertainty,
            )
            rolled = jax.device_get(rolled)
        with self._clock.phase("update"):
            factors = tuple(jnp.asarray(x, jnp.float32) for x in lr_factors(self._config, epoch))
            keys = self._keys(Purpose.UPDATE, epoch)
            agent, updated = run.update(
                agent, self._hyper, keys, buffer, data, None, factors, None, row_weight
            )
            updated = jax.device_get(updated)
        self._train = state._replace(agent=agent, buffer=buffer, envs=envs)
        self._epoch = epoch + 1
        size = np.asarray(buffer.size)
        if epoch == 0 and not size.all():
            empty = [member.tag for member, rows in zip(self._members, size, strict=True) if not rows]
            self._note(
                f"warning: the model buffers of {', '.join(empty)} are empty: no prediction was finite"
            )
        return self._train_step({**rolled, **updated, **self._estimates(), "rollout/buffer_size": size})

    def _is_evaluated(self) -> bool:
        return self._epoch % self._config.eval_every == 0 or self._epoch == self._config.num_epochs

    def _estimates(self) -> dict[str, Any]:
        """What critics and model say of the policies, with each evaluation: the one check without an env."""
        if self._programs.estimate is None or not self._is_evaluated():
            return {}
        assert self._train is not None
        assert self._starts is not None
        agent, model = self._train.agent, self._train.model
        with self._clock.phase("evaluate"):
            keys = self._keys(Purpose.ESTIMATE)  # of no epoch: evaluations are compared
            estimate = self._programs.estimate
            arguments = (agent.policy_params, agent.critic_params, model, keys, self._data, self._starts)
            return jax.device_get(estimate(*arguments))

    def _train_step(self, metrics: dict[str, Any] | None = None) -> Step:
        config, epoch = self._config, self._epoch
        is_end = epoch == config.num_epochs
        assert self._train is not None
        agent, evaluated = self._train.agent, self._is_evaluated()
        policies = agent.policy_params if evaluated else None
        unaveraged = agent.unaveraged_params if evaluated else None
        shown: dict[str, Any] = {}
        if metrics is not None:
            kept = float(metrics["rollout/valid_fraction"].sum()) * config.rollout.rollout_batch_size
            shown["rates"] = {
                "updates": len(self._members) * config.updates_per_epoch,
                "imagined_transitions": kept * config.rollout.rollout_length,
            }
            names = ("critic/q", "rollout/uncertainty")
            shown["info"] = {name.split("/")[1]: float(metrics[name].mean()) for name in names}
        return self._step(
            "train",
            epoch,
            metrics=metrics,
            tags=[member.tag for member in self._members],
            policies=policies,
            unaveraged=unaveraged,
            save=epoch % config.checkpoint_every == 0 or is_end,
            **shown,
        )

    def _begin_training(self) -> TrainState:
        """Agents that have not learned, but for a cloned start, and every member's model."""
        run, data = self._programs, self._data
        cloned = self._cloned if self._config.start == "cloned" else None
        start = self._of_members(Start(cloned, self._pretrained))
        agent, buffer = run.init(self._keys(Purpose.INIT_AGENT), self._hyper, start, data)
        model, row_weight = self._of_members(self._model), self._of_members(self._row_weight)
        envs = None if run.init_envs is None else run.init_envs(model, data)
        max_uncertainty = None
        if run.max_uncertainty is not None:
            max_uncertainty = run.max_uncertainty(model, self._keys(Purpose.UNCERTAINTY), data)
        self._fit, self._fits, self._model = None, iter(()), None
        self._row_weight = self._pretrained = self._cloned = None
        return TrainState(agent, buffer, model, envs, row_weight, max_uncertainty)

    # --- what comes before the policies ---

    def _begin_fit(self, state: FitState) -> None:
        keys, bootstrap = self._keys(Purpose.FIT), self._keys(Purpose.BOOTSTRAP)
        shared = shared_key(self._config.fit.split_seed)
        self._fit = state
        done, anywhere = self._epoch, self._anywhere
        self._fits = fit_epochs(
            self._programs.fit, state, keys, bootstrap, self._data, shared, done, anywhere
        )

    def _fit_epoch(self) -> Step:
        config = self._config
        if self._fit is None:
            self._begin_fit(self._programs.init_fit(self._keys(Purpose.INIT_FIT), self._data))
        with self._clock.phase("fit"):
            epoch, self._fit, metrics, fitted = next(self._fits)
        active, self._epoch = np.asarray(self._fit.active), epoch
        goes_on = self._anywhere(bool(active.any()))
        if not goes_on:
            self._phase = "model"
        errors = metrics["model/best_error"]  # all NaN where only other processes still fit
        error = float("nan") if np.isnan(errors).all() else float(np.nanmean(errors))
        return self._step(
            "fit",
            epoch,
            metrics={**metrics, "model/active": active},
            running=fitted,
            info={f"held-out {config.fit.selection_metric.upper()}": error},
            rates={"fit_steps": int(active.sum()) * config.fit.fit_steps_per_epoch},
            save=epoch % config.checkpoint_every == 0 or not goes_on,
        )

    def _measure(self) -> Step:
        """What the fitted models' errors grow to when they are fed their own predictions."""
        config, run, data = self._config, self._programs, self._data
        assert self._fit is not None
        require_fitted(self.components.model, config.dynamics, config.fit, self._seeds, self._fit)
        self._model = run.best(self._fit, data)
        with self._clock.phase("fit"):
            errors = run.errors(self._model, self._keys(Purpose.ERRORS), data, self._long_holdout)
            errors = jax.device_get(errors)
        self._phase, self._epoch = "pretrain" if run.pretrain is not None else self._after_pretraining(), 0
        return self._step("model", 0, metrics=errors)

    def _after_pretraining(self) -> str:
        return "bc" if self._programs.clone is not None else "train"

    def _pretrain(self) -> Step:
        """Values of recorded actions, and the weights that follow where rows are cloned by them."""
        assert self._programs.pretrain is not None
        self._note(f"values of recorded actions: {self._config.pretrain.pretrain_steps:,} updates a seed ...")
        with self._clock.phase("update"):
            found = self._programs.pretrain(self._keys(Purpose.PRETRAIN), self._data)
            row_weight, critics, metrics = found
            metrics = jax.device_get(metrics)
        if self._config.sac.cloning_rows == "advantage":
            self._row_weight = row_weight
        if self._config.critic_start == "pretrained":
            self._pretrained = critics
        self._phase = self._after_pretraining()
        return self._step("pretrain", 0, metrics=metrics)

    def _clone(self) -> Step:
        """Behaviour cloning on the same data and seeds, evaluated once."""
        assert self._programs.clone is not None
        self._note(f"behaviour cloning: {self._config.bc_steps:,} updates a seed ...")
        with self._clock.phase("update"):
            self._cloned, metrics = self._programs.clone(
                self._keys(Purpose.CLONE), self._row_weight, self._data
            )
            metrics = jax.device_get(metrics)
        self._phase = "train"
        return self._step("bc", 0, metrics=metrics, policies=self._of_members(self._cloned))

    # --- helpers ---

    def _step(self, phase: str, epoch: int, **rest: Any) -> Step:
        """A step with the number of optimiser steps up to it; its metrics are the seeds' by default."""
        config = self._config
        updates = {
            "fit": epoch * config.fit.fit_steps_per_epoch,
            "model": 0,
            "pretrain": config.pretrain.pretrain_steps,
            "bc": config.bc_steps,
            "train": epoch * config.updates_per_epoch,
        }
        rest.setdefault("tags", [f"seed{seed}" for seed in self._seeds])
        return Step(phase, epoch, {"updates": updates[phase]}, **rest)

    def _keys(self, purpose: Purpose, epoch: int | None = None) -> Key:
        """Every member's key [P] of a purpose and an epoch; every seed's [S] before the policies."""
        seeds = self._seeds if purpose in _OF_SEEDS else [member.seed for member in self._members]
        keys = offline_keys(seeds, purpose)
        return keys if epoch is None else fold_keys(keys, epoch)

    def _of_members(self, tree: Any) -> Any:
        """For every member [P, ...] what belongs to its seed [S, ...]."""
        if len(self._seeds) == len(self._members):
            return tree
        index = np.array([self._seeds.index(member.seed) for member in self._members])
        return jax.tree.map(lambda x: np.asarray(x)[index], tree)

    def _initial_rows(self) -> Array | None:
        """Rows [E] of the data's initial states that policies are estimated at; None without estimates."""
        if not self._config.estimate_rows:
            return None
        try:
            starts = episode_starts(self._episodes)
        except InputError as error:  # it is what estimates need, not what training does
            self._note(f"warning: policies are not estimated in the model: {error}")
            return None
        return jnp.asarray(draw_starts(starts, self._config.estimate_rows, _ESTIMATE_SEED))
