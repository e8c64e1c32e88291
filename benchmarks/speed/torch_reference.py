"""The any-step model in eager PyTorch, as the authors' code runs it step by step: the side to compare with.

Written anew from the published description. ``Fit`` is their model learning: minibatches of one
backtracking length, gathered in NumPy. ``rollout_authors`` is their roll-out: NumPy arrays between steps,
the sampled prediction by one forward pass over its whole history and the penalty by m more, all from
scratch, dropout on as they never turn it off. ``rollout_fair`` is what the same PyTorch can do: m streams
advanced together by one GRU step, tensors that stay on the device, no dropout, rows in chunks if that is
faster.

Arrays are exchanged with the library in NumPy under PyTorch's names (``gru.weight_ih_l0``); a test holds both
to the same predictions and losses.
"""

# pyright: reportMissingImports=false
# (PyTorch is in the extra "bench" alone: types are checked without it, too)

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from adm_jax.data.dataset import Dataset
from adm_jax.dynamics.recurrent import MAX_LOGVAR_INIT, MIN_LOGVAR_INIT, RecurrentParams
from adm_jax.nn.gru import GRULayer
from adm_jax.types import Normalizer

BOUND_COEF = 0.01  # of the log-variance bounds in the loss
Products = Callable[[], contextlib.AbstractContextManager[Any]]  # what networks are computed in
_GRU_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Data(NamedTuple):
    """The dataset in NumPy."""

    obs: np.ndarray  # [N, D]
    action: np.ndarray  # [N, A]
    reward: np.ndarray  # [N]
    next_obs: np.ndarray  # [N, D]
    terminated: np.ndarray  # [N] bool
    windows: np.ndarray  # [S] states with m - 1 transitions before them
    train: list[np.ndarray]  # starts of training segments of k + 1 steps at index k
    holdout: list[np.ndarray]  # likewise, held out


def to_numpy(dataset: Dataset) -> Data:
    """The library's dataset, with the same split."""

    def by_length(starts: Any) -> list[np.ndarray]:
        index = np.asarray(starts.index)
        return [index[:count] for count in np.asarray(starts.count)]

    arrays = (np.array(x) for x in dataset.transitions[:5])
    return Data(
        *arrays,
        windows=by_length(dataset.windows)[-1],
        train=by_length(dataset.train),
        holdout=by_length(dataset.holdout),
    )


class ADM(nn.Module):
    """GRU over (start state, action), residual post-norm blocks, Gaussian with soft-clamped log-variance."""

    obs_mean: torch.Tensor
    obs_std: torch.Tensor
    action_mean: torch.Tensor
    action_std: torch.Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        width: int,
        normalizer: Normalizer,
        num_layers: int = 3,
        num_blocks: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.gru = nn.GRU(obs_dim + action_dim, width, num_layers)
        self.linears = nn.ModuleList([nn.Linear(width, width) for _ in range(num_blocks)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(num_blocks)])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 2 * (obs_dim + 1))
        self.min_logvar = nn.Parameter(torch.full((obs_dim + 1,), MIN_LOGVAR_INIT))
        self.max_logvar = nn.Parameter(torch.full((obs_dim + 1,), MAX_LOGVAR_INIT))
        for name, value in normalizer._asdict().items():
            self.register_buffer(name, torch.from_numpy(np.array(value)))

    def decode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Top hidden states [..., W] to mean and log-variance [..., D + 1]."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(self.dropout(F.silu(linear(x))) + x)
        mean, logvar = self.head(x).float().chunk(2, dim=-1)  # whatever the products' precision
        logvar = self.max_logvar - F.softplus(self.max_logvar - logvar)
        return mean, self.min_logvar + F.softplus(logvar - self.min_logvar)

    def inputs(self, start_obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """What the GRU reads, normalised: [..., D] and [..., A] to [..., D + A]."""
        start_obs = (start_obs - self.obs_mean) / self.obs_std
        return torch.cat([start_obs, (action - self.action_mean) / self.action_std], dim=-1)

    def forward(self, start_obs: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From scratch: start [B, D] and k actions [B, k, A] to displacement and reward, [B, D + 1] each."""
        steps = actions.transpose(0, 1)
        return self.decode(self.gru(self.inputs(start_obs.expand(len(steps), -1, -1), steps))[0][-1])


def load_learned(model: ADM, learned: RecurrentParams) -> None:
    """Copies the library's parameters into the network."""
    arrays: dict[str, Any] = {}
    for i, layer in enumerate(learned.gru):
        arrays |= {f"gru.{name}_l{i}": value for name, value in zip(_GRU_NAMES, layer, strict=True)}
    head = learned.head["params"]
    for i in range(len(model.linears)):
        block = head[f"ResidualBlock_{i}"]
        arrays |= _dense_to_torch(f"linears.{i}", block["Dense_0"])
        arrays |= {f"norms.{i}.weight": block["LayerNorm_0"]["scale"]}
        arrays |= {f"norms.{i}.bias": block["LayerNorm_0"]["bias"]}
    arrays |= _dense_to_torch("head", head["Dense_0"])
    arrays |= {"min_logvar": learned.min_logvar, "max_logvar": learned.max_logvar}
    load_arrays(model, arrays)


def load_arrays(module: nn.Module, arrays: dict[str, Any]) -> None:
    """Copies arrays under PyTorch's names into a module's parameters; matrices are transposed, [in, out]."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(arrays[name]).T.copy()))


def _dense_to_torch(name: str, dense: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}.weight": dense["kernel"], f"{name}.bias": dense["bias"]}


def learned_from(model: ADM) -> RecurrentParams:
    """The network's parameters in the library's layout."""
    arrays = {
        name: jnp.asarray(value.detach().cpu().numpy().T.copy()) for name, value in model.named_parameters()
    }

    def dense(name: str) -> dict[str, Any]:
        return {"kernel": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]}

    layers = [
        GRULayer(*(arrays[f"gru.{name}_l{i}"] for name in _GRU_NAMES)) for i in range(model.gru.num_layers)
    ]
    head = {"Dense_0": dense("head")}
    for i in range(len(model.linears)):
        norm = {"scale": arrays[f"norms.{i}.weight"], "bias": arrays[f"norms.{i}.bias"]}
        head[f"ResidualBlock_{i}"] = {"Dense_0": dense(f"linears.{i}"), "LayerNorm_0": norm}
    return RecurrentParams(tuple(layers), {"params": head}, arrays["min_logvar"], arrays["max_logvar"])


class FitSettings(NamedTuple):
    """How a model is fitted; the defaults are the authors', with ``dropout=0.1`` in the network."""

    batch_size: int = 256
    learning_rate: float = 3e-4
    cosine_steps: int | None = None  # steps in which the rate decays to zero; it stays where it is when None


class Fit:
    """The authors' model learning, minibatch by minibatch."""

    def __init__(
        self,
        model: ADM,
        data: Data,
        settings: FitSettings,
        rng: np.random.Generator,
        device: str,
        products: Products = contextlib.nullcontext,
    ):
        self._products = products
        self.model, self._data, self._settings = model.to(device), data, settings
        self._rng, self._device, self._steps = rng, device, 0
        self._optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)

    def step(self) -> None:
        """One minibatch of segments of one length."""
        settings, k = self._settings, int(self._rng.integers(len(self._data.train)))
        if settings.cosine_steps is not None:
            progress = min(self._steps / settings.cosine_steps, 1.0)
            for group in self._optimizer.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
        mean, logvar, target = self._predict(self._data.train[k], k + 1, settings.batch_size)
        bounds = self.model.max_logvar.sum() - self.model.min_logvar.sum()
        loss = negative_log_likelihood(mean, logvar, target) + BOUND_COEF * bounds
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._steps += 1

    def validate(self) -> float:
        """The authors' held-out error: mean over lengths of the squared error of one random batch of 256."""
        errors = []
        with torch.no_grad():
            for k, starts in enumerate(self._data.holdout):
                mean, _, target = self._predict(starts, k + 1, 256)
                errors.append(float(F.mse_loss(mean, target)))
        return float(np.mean(errors))

    def _predict(
        self, starts: np.ndarray, length: int, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        data, index = self._data, starts[self._rng.integers(len(starts), size=batch_size)]
        last = index + length - 1
        displacement = data.next_obs[last] - data.obs[index]
        target = np.concatenate([displacement, data.reward[last, None]], axis=-1)
        actions = data.action[index[:, None] + np.arange(length)]
        start_obs, actions, target = (
            torch.from_numpy(x).to(self._device) for x in (data.obs[index], actions, target)
        )
        with self._products():
            return *self.model(start_obs, actions), target


def negative_log_likelihood(mean: torch.Tensor, logvar: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of ``(y - mu)^2 exp(-logvar)`` plus mean of ``logvar``."""
    return ((mean - target) ** 2 * torch.exp(-logvar)).mean() + logvar.mean()


def hopper_terminated(obs: Any, xp: Any) -> Any:
    """Hopper's termination of states [..., D]; ``xp`` is ``np`` or ``torch``, as ``obs``."""
    bounded = xp.isfinite(obs).all(-1) & (xp.abs(obs[..., 1:]) < 100.0).all(-1)
    return ~(bounded & (obs[..., 0] > 0.7) & (xp.abs(obs[..., 1]) < 0.2))


class Rows(NamedTuple):
    """A roll-out's rows [H, B, ...], NumPy or tensors; rewards are penalised."""

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any
    valid: Any  # False after termination
    uncertainty: Any


Policy = Callable[[torch.Tensor], torch.Tensor]  # obs [B, D] to a sampled action [B, A]


def history_means(model: ADM, history_obs: np.ndarray, history_action: np.ndarray, device: str) -> np.ndarray:
    """The m predictions' means [m, B, D + 1], every history [B, m, ...] encoded from scratch; k = 1 first."""
    means = []
    for back in range(history_obs.shape[1] - 1, -1, -1):
        start = torch.from_numpy(history_obs[:, back]).to(device)
        mean, _ = model(start, torch.from_numpy(history_action[:, back:]).to(device))
        mean = mean.cpu().numpy()
        mean[:, :-1] += history_obs[:, back]
        means.append(mean)
    return np.stack(means)


@torch.no_grad()
def rollout_authors(
    model: ADM,
    policy: Policy,
    data: Data,
    rng: np.random.Generator,
    *,
    num_starts: int,
    length: int,
    max_backtrack: int,
    penalty_coef: float,
    device: str,
) -> Rows:
    """The authors' roll-out; rows that have ended are still simulated, uncertainty is 0 without a penalty."""
    index = data.windows[rng.integers(len(data.windows), size=num_starts)]
    window = index[:, None] - np.arange(max_backtrack - 1, 0, -1)
    history_obs, history_action, obs = data.obs[window], data.action[window], data.obs[index]
    alive, rows = np.ones(num_starts, bool), []
    for _ in range(length):
        action = policy(torch.from_numpy(obs).to(device)).cpu().numpy()
        history_obs = np.concatenate([history_obs, obs[:, None]], axis=1)
        history_action = np.concatenate([history_action, action[:, None]], axis=1)
        back = max_backtrack - 1 - int(rng.integers(max_backtrack))  # one k for the whole batch
        start = torch.from_numpy(history_obs[:, back]).to(device)
        mean, logvar = model(start, torch.from_numpy(history_action[:, back:]).to(device))
        sample = (mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).cpu().numpy()
        next_obs, reward = history_obs[:, back] + sample[:, :-1], sample[:, -1]
        uncertainty = np.zeros(num_starts, np.float32)
        if penalty_coef:
            means = history_means(model, history_obs, history_action, device)[..., :-1]
            uncertainty = np.sqrt(np.var(means, axis=0).mean(axis=-1))
            reward = reward - penalty_coef * uncertainty
        terminated = hopper_terminated(next_obs, np)
        valid = alive & np.isfinite(next_obs).all(axis=-1) & np.isfinite(reward)
        rows.append((obs, action, reward, next_obs, terminated, valid, uncertainty))
        history_obs, history_action = history_obs[:, 1:], history_action[:, 1:]
        obs, alive = next_obs, valid & ~terminated
    return Rows(*(np.stack(column) for column in zip(*rows, strict=True)))


class Streams:
    """The m youngest histories of B rows, each encoded as far as it goes; newest first."""

    def __init__(self, model: ADM, window_obs: torch.Tensor, window_action: torch.Tensor):
        """Begins from windows [B, m - 1, ...]."""
        num_rows, history, obs_dim = window_obs.shape
        self._model, self._max = model, history + 1
        self._hidden = window_obs.new_zeros(model.gru.num_layers, 0, num_rows, model.gru.hidden_size)
        self._start_obs = window_obs.new_zeros(0, num_rows, obs_dim)
        for i in range(history):
            self._advance(window_obs[:, i], window_action[:, i])

    def _advance(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Starts a stream at ``obs``, advances all by one GRU step; top hidden states [m, B, W]."""
        fresh = self._hidden.new_zeros(len(self._hidden), 1, *self._hidden.shape[2:])
        hidden = torch.cat([fresh, self._hidden], dim=1)
        self._start_obs = torch.cat([obs[None], self._start_obs])
        inputs = self._model.inputs(self._start_obs, action.expand(len(self._start_obs), -1, -1))
        _, last = self._model.gru(inputs.flatten(0, 1)[None], hidden.flatten(1, 2))
        self._hidden = last.view_as(hidden)
        return self._hidden[-1]

    def step(self, obs: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and log-variances [m, B, D + 1] of next observation and reward; the oldest stream ends."""
        mean, logvar = self._model.decode(self._advance(obs, action))
        mean[..., :-1] += self._start_obs
        self._hidden = self._hidden[:, : self._max - 1]
        self._start_obs = self._start_obs[: self._max - 1]
        return mean, logvar


@torch.no_grad()
def rollout_fair(
    model: ADM,
    policy: Policy,
    tensors: dict[str, torch.Tensor],
    rng: np.random.Generator,
    *,
    num_starts: int,
    length: int,
    max_backtrack: int,
    penalty_coef: float,
    chunk: int | None = None,
) -> Rows:
    """The same roll-out by streams, on the device of ``tensors`` (obs, action, windows: as in Data)."""
    windows, parts = tensors["windows"], []
    chosen = torch.from_numpy(rng.integers(len(windows), size=num_starts)).to(windows.device)
    for index in windows[chosen].split(chunk or num_starts):
        ks = [int(rng.integers(max_backtrack)) for _ in range(length)]
        parts.append(
            roll_rows(
                model,
                policy,
                tensors,
                index,
                ks,
                max_backtrack=max_backtrack,
                penalty_coef=penalty_coef,
            )
        )
    return Rows(*(torch.cat(column, dim=1) for column in zip(*parts, strict=True)))


def roll_rows(
    model: ADM,
    policy: Policy,
    tensors: dict[str, torch.Tensor],
    index: torch.Tensor,
    ks: Sequence[int | torch.Tensor],
    *,
    max_backtrack: int,
    penalty_coef: float,
) -> list[torch.Tensor]:
    """The columns of Rows of a chunk that starts at states ``index`` [B]; a step for each k, int or [1]."""
    back = index[:, None] - torch.arange(max_backtrack - 1, 0, -1, device=index.device)
    obs = tensors["obs"][index]
    streams = Streams(model, tensors["obs"][back], tensors["action"][back])
    alive, rows = torch.ones_like(index, dtype=torch.bool), []
    for k in ks:
        action = policy(obs)
        mean, logvar = streams.step(obs, action)
        mean_k, logvar_k = _at(mean, k), _at(logvar, k)
        sample = mean_k + torch.exp(0.5 * logvar_k) * torch.randn_like(mean_k)
        next_obs, reward = sample[:, :-1], sample[:, -1]
        uncertainty = mean[..., :-1].var(dim=0, correction=0).mean(dim=-1).sqrt()
        reward = reward - penalty_coef * uncertainty
        terminated = hopper_terminated(next_obs, torch)
        valid = alive & torch.isfinite(next_obs).all(-1) & torch.isfinite(reward)
        rows.append((obs, action, reward, next_obs, terminated, valid, uncertainty))
        obs, alive = next_obs, valid & ~terminated
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _at(x: torch.Tensor, k: int | torch.Tensor) -> torch.Tensor:
    """``x[k]``; a tensor k is not asked of the device."""
    return x[k] if isinstance(k, int) else x.index_select(0, k)[0]
