"""What a run of offline policy optimisation has at hand: data on the device, compiled programs, a folder."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from adm_jax.config import DERIVED_TASK, OfflineConfig, settings_source
from adm_jax.data.dataset import Dataset, count_short_episodes, make_dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_io
from adm_jax.data.validation import check_actions, check_dims
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import Carry
from adm_jax.envs import environment
from adm_jax.envs.evaluator import Evaluator
from adm_jax.envs.recovered import check_terminations, relabel_terminations, task_from_dataset
from adm_jax.envs.termination import get_termination
from adm_jax.envs.user_functions import get_reward
from adm_jax.nn.precision import matmul_precision
from adm_jax.population import memory
from adm_jax.population.compiling import compile_program
from adm_jax.population.devices import choose_devices, idle_devices, place
from adm_jax.population.members import (
    Member,
    fold_keys,
    member_hyper,
    member_keys,
    resolve_members,
    seeds_of,
    shared_key,
)
from adm_jax.runs.background import Background
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.clock import WallClock
from adm_jax.runs.evaluating import policy_sharding
from adm_jax.runs.folder import RunFolder
from adm_jax.runs.progress import Progress
from adm_jax.tasks import Task, get_task
from adm_jax.training import programs
from adm_jax.types import InputError, Key, Segment


class Stream(enum.IntEnum):
    """What a member's random numbers are for; each has a key of its own."""

    INIT_FIT = 0
    FIT = 1
    INIT_AGENT = 2
    ROLLOUT = 3
    UPDATE = 4
    CLONE = 5
    BOOTSTRAP = 6
    ERRORS = 7
    PRETRAIN = 8
    UNCERTAINTY = 9


# What comes before the policies depends on nothing that is swept: it is done once for each seed.
_OF_SEEDS = (Stream.INIT_FIT, Stream.FIT, Stream.CLONE, Stream.BOOTSTRAP, Stream.ERRORS, Stream.PRETRAIN)


@dataclass
class Session:
    """What a run needs at hand; nothing here is random or learned."""

    config: OfflineConfig
    members: tuple[Member, ...]  # P of them
    task: Task
    data: EpisodeData
    dataset: Dataset
    holdout: Segment
    long_holdout: Segment  # of OPEN_LOOP_STEPS steps
    parts: programs.OfflineParts
    folder: RunFolder
    checkpointer: Checkpointer
    clock: WallClock
    progress: Progress
    evaluator: Evaluator
    background: Background  # what evaluations run on
    compiled: dict[str, Callable[..., Any]] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The members' different seeds, S of them."""
        return seeds_of(self.members)

    def keys(self, stream: Stream, epoch: int | None = None) -> Key:
        """Every member's key [P] of a stream and an epoch in it; every seed's [S] before the policies."""
        seeds = self.seeds if stream in _OF_SEEDS else [member.seed for member in self.members]
        keys = member_keys(seeds, stream)
        return keys if epoch is None else fold_keys(keys, epoch)

    def of_members(self, tree: Any) -> Any:
        """For every member [P, ...] what belongs to its seed [S, ...]."""
        if len(self.seeds) == len(self.members):
            return tree
        index = np.array([self.seeds.index(member.seed) for member in self.members])
        return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def load_data(config: OfflineConfig) -> tuple[Task, EpisodeData]:
    """The run's task and its dataset, each checked against the other.

    Raises:
      InputError: there is no such task or dataset, or they do not belong together.
    """
    task = None if config.task == DERIVED_TASK else get_task(config.task)
    dataset_id = config.dataset or (task and task.dataset)
    if dataset_id is None:
        if task is None:
            raise InputError(
                "dataset: task auto is made from a dataset; give its Minari id, as "
                "--dataset=mujoco/hopper/medium-v0"
            )
        raise InputError(
            f"dataset: task {config.task} has none of its own; give --dataset=<minari id>, e.g. one made by "
            f"python -m experiments.import_dataset --source=d4rl --path=FILE --dataset={config.task}-v0"
        )
    data = minari_io.load(dataset_id)
    if task is None:
        task = task_from_dataset(data, config.rollout.termination)
    wanted_by = f"task {task.name}"
    check_dims(data, task.obs_dim, task.action_dim, wanted_by, env_id=task.env_id)
    check_actions(data, environment.action_scale(task.env), wanted_by)
    terminated_fn = get_termination(config.rollout.termination or task.termination, task.obs_dim)
    if task.relabel_terminations:
        data = relabel_terminations(data, terminated_fn, wanted_by)
    check_terminations(data, terminated_fn, wanted_by)
    return task, data


def open_session(
    config: OfflineConfig,
    members: tuple[Member, ...],
    task: Task,
    data: EpisodeData,
    folder: RunFolder,
) -> Session:
    """Puts the data on the device, compiles the programs and makes sure that they fit into memory."""
    parts, dataset = prepare(config, task, data)
    clock = WallClock()
    session = Session(
        config=config,
        members=members,
        task=task,
        data=data,
        dataset=dataset,
        holdout=fitting.holdout_segments(dataset, parts.dynamics.max_backtrack, config.fit),
        long_holdout=fitting.holdout_segments(dataset, programs.OPEN_LOOP_STEPS, config.fit),
        parts=parts,
        folder=folder,
        checkpointer=Checkpointer(folder.checkpoints),
        clock=clock,
        progress=Progress(),
        evaluator=Evaluator(task.env, [member.seed for member in members], config.eval_episodes),
        background=Background(clock),
    )
    _describe_data(session)
    session.progress.note(f"settings: {settings_source(config, task)}")
    session.progress.note(f"run folder: {folder.path}\ncompiling ...")
    with session.clock.phase("compile"), matmul_precision(config.matmul_precision):
        _compile(session)
    return session


def prepare(
    config: OfflineConfig, task: Task, data: EpisodeData, split_length: int | None = None
) -> tuple[programs.OfflineParts, Dataset]:
    """What a configuration's programs are made of, and its data on the device.

    ``split_length`` is make_dataset's.
    """
    environment.require_dims(task.env, task.obs_dim, task.action_dim, f"task {task.name}")
    reward = config.rollout.reward
    parts = programs.make_parts(
        config,
        task.obs_dim,
        task.action_dim,
        environment.action_scale(task.env),
        get_termination(config.rollout.termination or task.termination, task.obs_dim),
        resolve_members(config.members),
        None if reward is None else get_reward(reward, task.obs_dim, task.action_dim),
    )
    dataset = make_dataset(
        data,
        parts.dynamics.max_backtrack,
        holdout=config.fit.holdout,
        holdout_fraction=config.fit.holdout_fraction,
        holdout_max_size=config.fit.holdout_max_size,
        split_seed=config.fit.split_seed,
        split_length=split_length,
    )
    return parts, dataset


def _describe_data(session: Session) -> None:
    data, m = session.data, session.parts.dynamics.max_backtrack
    statistics = data.return_statistics()
    session.progress.note(
        f"{data.source}: {len(data.reward)} transitions, {len(data.episode_ends)} episodes, returns: "
        f"episode mean {statistics['episode_return_mean']:.1f}, transition-weighted "
        f"{statistics['transition_weighted_return_mean']:.1f}, best {statistics['episode_return_max']:.1f}"
    )
    short = count_short_episodes(data, m)
    if short:
        session.progress.note(
            f"{short} episodes are shorter than a window of max_backtrack={m} and start no roll-out"
        )


def abstract_fit(session: Session) -> fitting.FitState:
    """Shapes of the fits' state [S, ...], as a checkpoint is restored into."""
    init = programs.init_fit_program(session.parts)
    state = jax.eval_shape(init, session.keys(Stream.INIT_FIT), session.dataset)
    return place(state, _mesh(session, len(session.seeds)))


def abstract_train(session: Session) -> programs.TrainState:
    """Shapes of the state of policy optimisation [P, ...]."""
    best = programs.best_program(session.parts)
    model = jax.eval_shape(best, abstract_fit(session), session.dataset, session.holdout)
    num_members = len(session.members)
    model = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_members, *x.shape[1:]), x.dtype), model)
    init = programs.init_train_program(session.parts, session.config)
    hyper = member_hyper(session.config, session.members)
    agent, buffer = jax.eval_shape(init, session.keys(Stream.INIT_AGENT), hyper, None, session.dataset)
    envs, preferences, max_uncertainty = None, None, None
    if session.config.rollout.persistent:
        envs = jax.eval_shape(
            programs.init_envs_program(session.parts, session.config), model, session.dataset
        )
    if session.config.sac.cloning_rows == "advantage":
        keys = session.keys(Stream.INIT_AGENT)  # one for each member, as the state holds them
        pretrain = programs.pretrain_program(session.parts, session.config)
        preferences = jax.eval_shape(pretrain, keys, session.dataset)[0]
    if session.config.rollout.uncertainty_quantile is not None:
        max_uncertainty = jax.eval_shape(jnp.zeros, (num_members,))
    state = programs.TrainState(agent, buffer, model, envs, preferences, max_uncertainty)
    return place(state, _mesh(session, num_members))


def _mesh(session: Session, num_members: int) -> Mesh:
    wanted = session.config.num_devices if num_members == len(session.members) else None
    return choose_devices(num_members, wanted)


class _Job(NamedTuple):
    """A function to be compiled, and shapes of its arguments."""

    fn: Callable[..., Any]
    member_args: tuple[Any, ...]
    shared_args: tuple[Any, ...] = ()
    donate: tuple[int, ...] = ()


def _compile(session: Session) -> None:
    """Compiles fit, roll-out and update ahead of time and checks the memory they and the state take."""
    config, dataset = session.config, session.dataset
    fit, train = abstract_fit(session), abstract_train(session)
    mesh = _mesh(session, len(session.members))
    histories = place(programs.kept_histories(session.parts, config, train.model, dataset), mesh)
    estimate = partial(
        memory.estimate,
        state=(fit, train),
        histories=histories,
        resident=(dataset, session.holdout, session.long_holdout),
        kept=("init_train", "init_envs", "histories"),
    )
    require = partial(memory.require, limit_gib=config.memory_limit_gib, num_devices=mesh.size)
    session.checkpointer.require_room(train)
    # The arrays alone, before the programs: compiling them takes a while.
    require(estimate({}))
    compiled = {}
    for num_members, jobs in (
        (len(session.seeds), _jobs_of_seeds(session, fit)),
        (len(session.members), _jobs_of_members(session, train, histories)),
    ):
        mesh = _mesh(session, num_members)
        for name, job in jobs.items():
            compiled[name] = compile_program(
                job.fn, job.member_args, job.shared_args, mesh=mesh, donate=job.donate
            )
    obs = jax.ShapeDtypeStruct(
        (len(session.members), config.eval_episodes, session.parts.obs_dim), jnp.float32
    )
    on_host = partial(jax.ShapeDtypeStruct, sharding=policy_sharding())
    evaluated = jax.tree.map(lambda x: on_host(x.shape, x.dtype), (train.agent.actor_params, obs))
    compiled["act"] = compile_program(programs.mode_program(session.parts.agent), evaluated)
    session.compiled.update(compiled)
    need = estimate({name: program.compiled for name, program in compiled.items()})
    session.progress.note(need.line())
    if config.num_devices is None and (idle := idle_devices(mesh)):
        session.progress.note(idle)
    require(need)


def _jobs_of_seeds(session: Session, fit: fitting.FitState) -> dict[str, _Job]:
    """What is done once for every seed: all that comes before the policies."""
    config, parts, dataset, holdout = session.config, session.parts, session.dataset, session.holdout
    keys = session.keys(Stream.FIT)
    best = programs.best_program(parts)
    model = jax.eval_shape(best, fit, dataset, holdout)
    jobs = {
        "init_fit": _Job(programs.init_fit_program(parts), (keys,), (dataset,)),
        "fit": _Job(
            programs.fit_program(parts, config), (fit, keys, keys), (dataset, holdout, shared_key(0, 0)), (0,)
        ),
        "best": _Job(best, (fit,), (dataset, holdout)),
        "errors": _Job(programs.errors_program(parts), (model, keys), (holdout, session.long_holdout)),
    }
    preferences = None
    if config.pretrain.pretrain_steps:
        jobs["pretrain"] = _Job(programs.pretrain_program(parts, config), (keys,), (dataset,))
        if config.sac.cloning_rows == "advantage":
            preferences = jax.eval_shape(jobs["pretrain"].fn, keys, dataset)[0]
    if config.bc_steps:
        clone = programs.clone_program(parts, config)
        jobs["clone"] = _Job(clone, (keys, preferences), (dataset,))
    return jobs


def _jobs_of_members(
    session: Session, train: programs.TrainState, histories: Carry | None
) -> dict[str, _Job]:
    """The loop of policy optimisation, and the encoding of histories that are kept for it."""
    config, parts, dataset = session.config, session.parts, session.dataset
    keys, hyper = session.keys(Stream.UPDATE), member_hyper(config, session.members)
    agent, buffer, model, envs, preferences, max_uncertainty = train
    start = agent.actor_params if config.start == "cloned" else None
    jobs = {
        "init_train": _Job(programs.init_train_program(parts, config), (keys, hyper, start), (dataset,)),
        "rollout": _Job(
            programs.rollout_program(parts, config),
            ((buffer, envs), agent.actor_params, model, max_uncertainty, histories, hyper, keys),
            (dataset,),
            (0,),
        ),
        "update": _Job(
            programs.update_program(parts, config),
            (agent, buffer, preferences, hyper, keys),
            (dataset, (jnp.ones(()), jnp.ones(()))),
            (0,),
        ),
    }
    if max_uncertainty is not None:
        jobs["max_uncertainty"] = _Job(
            programs.max_uncertainty_program(parts, config),
            (agent.actor_params, model, hyper, keys),
            (dataset,),
        )
    if envs is not None:
        jobs["init_envs"] = _Job(programs.init_envs_program(parts, config), (model,), (dataset,))
    if histories is not None:
        jobs["histories"] = _Job(programs.histories_program(parts, config), (model,), (dataset,))
    return jobs
