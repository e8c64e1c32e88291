"""Soft actor-critic in eager PyTorch, its replay buffers, and one seed's epoch of ADMPO-OFF on top of both.

As in the authors' code the actor and each critic have an optimiser of their own, and a batch is drawn from
NumPy arrays and turned into tensors at every update (``Replay`` on no device); the fair second row keeps the
buffer on the device.
"""

# pyright: reportMissingImports=false

import contextlib
import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from adm_jax.config import Hyper, OfflineConfig, SACConfig
from adm_jax.nn.squashed_gaussian import LOG_STD_MAX, LOG_STD_MIN
from benchmarks.speed import torch_reference
from benchmarks.speed.torch_reference import ADM, Data, Products, Rows

Batch = Sequence[torch.Tensor]  # obs, action, reward, next_obs, terminated


def mlp(in_dim: int, width: int, num_hidden: int, out_dim: int) -> nn.Sequential:
    """ReLU network [..., in_dim] to [..., out_dim]."""
    layers: list[nn.Module] = []
    for i in range(num_hidden):
        layers += [nn.Linear(width if i else in_dim, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, out_dim))


class SAC:
    """Two critics, their targets and an actor; the entropy weight is fixed or adapted, as configured."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        action_scale: float,
        config: SACConfig,
        hyper: Hyper,
        device: str,
        capturable: bool = False,
    ):
        """``capturable``: updates can be recorded as a CUDA graph."""
        width, depth = config.policy_hidden_dim, config.policy_hidden_layers
        self._scale, self._config = action_scale, config
        self._tau = float(hyper.tau)
        self.log_alpha = torch.tensor(np.log(float(hyper.entropy_weight)), dtype=torch.float32, device=device)
        adam = functools.partial(torch.optim.Adam, capturable=capturable)
        self._alpha_optimizer = None
        if config.auto_entropy:
            self.log_alpha.requires_grad_()
            self._alpha_optimizer = adam([self.log_alpha], lr=float(hyper.entropy_lr))
        self._target_entropy = -float(action_dim) if config.target_entropy is None else config.target_entropy
        self.actor = mlp(obs_dim, width, depth, 2 * action_dim).to(device)
        self.critics = [mlp(obs_dim + action_dim, width, depth, 1).to(device) for _ in range(2)]
        self.targets = copy.deepcopy(self.critics)
        self._actor_optimizer = adam(self.actor.parameters(), lr=float(hyper.actor_lr))
        self._critic_optimizers = [
            adam(critic.parameters(), lr=float(hyper.critic_lr)) for critic in self.critics
        ]

    def load(self, actor_params: Any, critic_params: Any, target_critic_params: Any) -> None:
        """Copies the library's parameters into the networks."""
        _load_mlp(self.actor, actor_params)
        for modules, params in ((self.critics, critic_params), (self.targets, target_critic_params)):
            for i, module in enumerate(modules):
                _load_mlp(module, params, i)

    def act(self, obs: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """A sampled action [B, A] and its log-density [B]; ``noise`` is standard normal."""
        mean, log_std = self.actor(obs).float().chunk(2, dim=-1)
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        sample = torch.randn_like(mean) if noise is None else noise
        raw = mean + log_std.exp() * sample
        log_normal = -0.5 * sample**2 - log_std - 0.5 * np.log(2.0 * np.pi)
        # log of tanh's derivative, in the form that does not overflow
        log_slope = 2.0 * (np.log(2.0) - raw - F.softplus(-2.0 * raw)) + np.log(self._scale)
        return raw.tanh() * self._scale, (log_normal - log_slope).sum(-1)

    @torch.no_grad()
    def sample_action(self, obs: torch.Tensor) -> torch.Tensor:
        """An action [B, A] for a roll-out."""
        return self.act(obs)[0]

    def update(
        self, batch: Batch, next_noise: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """One update of the critics, then the actor and the entropy weight, then the targets; the losses."""
        obs, action, reward, next_obs, terminated = batch
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_action, next_log_prob = self.act(next_obs, next_noise)
            next_q = self._lowest_q(self.targets, next_obs, next_action)
            if not self._config.deterministic_backup:
                next_q = next_q - alpha * next_log_prob
            target = reward + self._config.gamma * (1.0 - terminated.float()) * next_q
        inputs, critic_losses = torch.cat([obs, action], dim=-1), []
        for critic, optimizer in zip(self.critics, self._critic_optimizers, strict=True):
            loss = F.mse_loss(critic(inputs).float().squeeze(-1), target)
            _descend(optimizer, loss)
            critic_losses.append(loss.detach())
        new_action, log_prob = self.act(obs, noise)
        actor_loss = (alpha * log_prob - self._lowest_q(self.critics, obs, new_action)).mean()
        _descend(self._actor_optimizer, actor_loss)
        if self._alpha_optimizer is not None:
            missing = log_prob.detach() + self._target_entropy
            _descend(self._alpha_optimizer, -(self.log_alpha * missing).mean())
        with torch.no_grad():
            for target_critic, critic in zip(self.targets, self.critics, strict=True):
                for old, new in zip(target_critic.parameters(), critic.parameters(), strict=True):
                    old.lerp_(new, self._tau)
        return {"critic": sum(critic_losses), "actor": actor_loss.detach()}  # pyright: ignore

    def _lowest_q(
        self, critics: list[nn.Sequential], obs: torch.Tensor, action: torch.Tensor
    ) -> torch.Tensor:
        inputs = torch.cat([obs, action], dim=-1)
        return torch.min(*[critic(inputs).float() for critic in critics]).squeeze(-1)


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _load_mlp(module: nn.Sequential, params: Any, index: int | None = None) -> None:
    """Linear layers stand at even places; ``index`` is the critic's among stacked parameters."""
    arrays = {}
    for i in range((len(module) + 1) // 2):
        dense = params["params"][f"Dense_{i}"]
        dense = dense if index is None else {name: value[index] for name, value in dense.items()}
        arrays |= {f"{2 * i}.weight": dense["kernel"], f"{2 * i}.bias": dense["bias"]}
    torch_reference.load_arrays(module, arrays)


class Replay:
    """A ring buffer of transitions: NumPy arrays, or with a device tensors on it."""

    def __init__(self, capacity: int, obs_dim: int, action_dim: int, device: str | None = None):
        shapes = ((obs_dim,), (action_dim,), (), (obs_dim,), ())
        types = (np.float32, np.float32, np.float32, np.float32, bool)
        arrays = [np.zeros((capacity, *s), t) for s, t in zip(shapes, types, strict=True)]
        self._device = device
        self._store: list[Any] = (
            arrays if device is None else [torch.from_numpy(x).to(device) for x in arrays]
        )
        self.capacity, self._position, self.size = capacity, 0, 0

    def add(self, rows: Rows) -> None:
        """Appends a roll-out's valid rows."""
        valid = rows.valid.reshape(-1)
        columns = [x.reshape(-1, *x.shape[2:])[valid] for x in rows[:5]]
        self.add_flat(columns)

    def add_flat(self, columns: Sequence[Any]) -> None:
        """Appends transitions [n, ...], of the kind that the buffer holds."""
        count = len(columns[0])
        index: Any = (self._position + np.arange(count)) % self.capacity
        if self._device is not None:
            index = torch.from_numpy(index).to(self._device)
        for store, new in zip(self._store, columns, strict=True):
            store[index] = new
        self._position = (self._position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int, rng: np.random.Generator) -> list[Any]:
        """Rows drawn uniformly with replacement, of the kind that the buffer holds."""
        if self._device is None:
            index: Any = rng.integers(self.size, size=count)
        else:
            index = torch.randint(self.size, (count,), device=self._device)
        return self.at(index)

    def at(self, index: Any) -> list[Any]:
        """The rows at these places."""
        return [store[index] for store in self._store]


class Learner:
    """One seed of ADMPO-OFF: roll out, then update, in the authors' way or the fair one."""

    def __init__(
        self,
        config: OfflineConfig,
        model: ADM,
        agent: SAC,
        data: Data,
        penalty_coef: float,
        *,
        device: str,
        fair: bool,
        chunk: int | None = None,
        products: Products = contextlib.nullcontext,
    ):
        self._products = products
        self._config, self._model, self.agent, self._data = config, model.to(device), agent, data
        self._penalty_coef, self._device, self._fair, self._chunk = penalty_coef, device, fair, chunk
        self._rng = np.random.default_rng(config.seeds[0])
        obs_dim, action_dim = data.obs.shape[1], data.action.shape[1]
        rollout = config.rollout
        capacity = rollout.rollout_batch_size * rollout.rollout_length * rollout.retain_epochs
        self.buffer = Replay(capacity, obs_dim, action_dim, device if fair else None)
        self._real = Replay(len(data.obs), obs_dim, action_dim, device if fair else None)
        names = ("obs", "action", "reward", "next_obs", "terminated", "windows")
        arrays = {name: getattr(data, name) for name in names}
        self._tensors = {name: torch.from_numpy(x.copy()).to(device) for name, x in arrays.items()}
        columns = self._tensors if fair else arrays
        self._real.add_flat([columns[name] for name in names[:5]])

    def roll_out(self) -> None:
        """One epoch's roll-outs, put into the buffer."""
        sizes = {
            "num_starts": self._config.rollout.rollout_batch_size,
            "length": self._config.rollout.rollout_length,
            "max_backtrack": len(self._data.train),
            "penalty_coef": self._penalty_coef,
        }
        model, policy, rng = self._model, self.agent.sample_action, self._rng
        with self._products():
            if self._fair:
                rows = torch_reference.rollout_fair(
                    model, policy, self._tensors, rng, chunk=self._chunk, **sizes
                )
            else:
                rows = torch_reference.rollout_authors(
                    model, policy, self._data, rng, device=self._device, **sizes
                )
        self.buffer.add(rows)
        synchronize(self._device)

    def record(
        self, obs: np.ndarray, action: np.ndarray, reward: float, next_obs: np.ndarray, terminated: bool
    ) -> None:
        """Adds a real transition over the oldest one."""
        columns = (obs[None], action[None], [reward], next_obs[None], [terminated])
        arrays = [np.asarray(column, np.float32) for column in columns[:4]]
        arrays.append(np.asarray(columns[4], bool))
        self._real.add_flat([torch.from_numpy(x).to(self._device) if self._fair else x for x in arrays])

    def fill_buffer(self) -> None:
        """Fills the buffer with the dataset's transitions, where updates alone are wanted."""
        columns = self._real.sample(self.buffer.capacity, self._rng)
        self.buffer.add_flat(columns)

    def update(self) -> None:
        """One epoch's updates, on batches of real and imagined transitions."""
        batch_size = self._config.sac.batch_size
        num_real = int(batch_size * self._config.real_ratio)
        for _ in range(self._config.updates_per_epoch):
            parts = [self._real.sample(num_real, self._rng)] if num_real else []
            if num_real < batch_size:
                parts.append(self.buffer.sample(batch_size - num_real, self._rng))
            if self._fair:
                batch = [torch.cat(columns) for columns in zip(*parts, strict=True)]
            else:
                batch = [
                    torch.from_numpy(np.concatenate(columns)).to(self._device)
                    for columns in zip(*parts, strict=True)
                ]
            with self._products():
                self.agent.update(batch)
        synchronize(self._device)


def synchronize(device: str) -> None:
    """Waits for what the device still has to do."""
    if device != "cpu":
        torch.cuda.synchronize()
