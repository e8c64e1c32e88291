"""Makes adm.npz, adm_v2.npz, ensemble.npz, sac.npz: what PyTorch computes for weights, inputs and noise.

Run ``python tests/golden/make_golden.py`` where PyTorch is installed; the tests read the files only. Written
from the published description with PyTorch's own modules (``nn.GRU``, ``nn.LayerNorm``,
``torch.distributions``, ``torch.optim.Adam``), so that nothing is shared with the code under test. Biases,
LayerNorm's affine part and the log-variance bounds are random: at their initial values a swapped or missing
one would go unnoticed. Arrays are named as in PyTorch: ``param/gru.weight_ih_l0``, ``grad_one/head.weight``.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

HERE = Path(__file__).parent

OBS_DIM, ACTION_DIM, WIDTH, LAYERS, MAX_BACKTRACK, BATCH = 3, 2, 12, 3, 5, 7
ONE_BACKTRACK = 3  # the k of the one-k minibatch
BOUND_COEF = 0.01

NETWORKS, ENSEMBLE_WIDTH, DECAYS = 3, 9, (0.03, 0.05, 0.07)

SAC_WIDTH, SAC_BATCH, SAC_UPDATES = 16, 24, 3
SCALE, GAMMA, TAU, ALPHA = 0.4, 0.97, 0.05, 0.3
ACTOR_LR, CRITIC_LR, ENTROPY_LR, TARGET_ENTROPY = 0.003, 0.01, 0.02, -1.5


class Blocks(nn.Module):
    """Residual post-norm blocks of WIDTH, a linear layer behind; one before if the input is not as wide."""

    def __init__(self, in_dim: int, blocks: int, out_dim: int) -> None:
        super().__init__()
        if in_dim != WIDTH:
            self.read_in = nn.Linear(in_dim, WIDTH)
        self.linears = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(blocks)])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(blocks)])
        self.head = nn.Linear(WIDTH, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.read_in(x) if hasattr(self, "read_in") else x
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(F.silu(linear(x)) + x)
        return self.head(x)


class ADM(nn.Module):
    """GRU over (start state, action), residual head, Gaussian with soft-clamped log-variance."""

    bound_coef = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(OBS_DIM + ACTION_DIM, WIDTH, LAYERS)
        self.decoder = Blocks(WIDTH, 4, 2 * (OBS_DIM + 1))
        self.min_logvar = nn.Parameter(torch.empty(OBS_DIM + 1))
        self.max_logvar = nn.Parameter(torch.empty(OBS_DIM + 1))

    def origin(self, obs: torch.Tensor, k: int) -> torch.Tensor:
        """The state that the displacement after k steps starts from, of obs [B, m + 1, D]."""
        return obs[:, 0]

    def forward(self, start_obs: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """start_obs [B, D], actions [B, k, A], both normalised, to mean and log-variance [B, D + 1]."""
        steps = actions.transpose(0, 1)
        inputs = torch.cat([start_obs.expand(steps.shape[0], -1, -1), steps], dim=-1)
        return self.decode(self.gru(inputs)[0][-1])

    def decode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, logvar = self.decoder(x).chunk(2, dim=-1)
        logvar = self.max_logvar - F.softplus(self.max_logvar - logvar)
        return mean, self.min_logvar + F.softplus(logvar - self.min_logvar)


class ADMv2(ADM):
    """The state is encoded into the GRU's hidden states, actions drive it; two hidden states are decoded."""

    bound_coef = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(ACTION_DIM, WIDTH, LAYERS)
        self.encoder = Blocks(OBS_DIM, 3, LAYERS * WIDTH)
        self.decoder = Blocks(2 * WIDTH, 3, 2 * (OBS_DIM + 1))

    def origin(self, obs: torch.Tensor, k: int) -> torch.Tensor:
        return obs[:, k - 1]

    def forward(self, start_obs: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.stack(self.encoder(start_obs).chunk(LAYERS, dim=-1))
        after = self.gru(actions.transpose(0, 1), hidden)[0]
        before = hidden[-1] if len(after) == 1 else after[-2]
        return self.decode(torch.cat([before, after[-1]], dim=-1))


def randomize(module: nn.Module) -> None:
    for name, param in module.named_parameters():
        if ".norms." in name and name.endswith("weight"):
            nn.init.normal_(param, 1.0, 0.5)
        elif name == "min_logvar":
            nn.init.uniform_(param, -4.0, -2.0)
        elif name == "max_logvar":
            nn.init.uniform_(param, -0.5, 1.0)
        else:
            nn.init.normal_(param, 0.0, 0.4)


def gradients(module: nn.Module, loss: torch.Tensor, prefix: str) -> dict[str, torch.Tensor]:
    names, params = zip(*module.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, params, retain_graph=True)
    return {f"{prefix}{name}": grad for name, grad in zip(names, grads, strict=True)}


def make_adm(model: ADM) -> dict[str, torch.Tensor]:
    """What an any-step model computes."""
    torch.manual_seed(7)
    randomize(model)
    obs = torch.randn(BATCH, MAX_BACKTRACK + 1, OBS_DIM) * 2.0 + 1.0
    action = torch.rand(BATCH, MAX_BACKTRACK, ACTION_DIM) * 2.0 - 1.0
    reward = torch.randn(BATCH, MAX_BACKTRACK)
    obs_mean, obs_std = torch.randn(OBS_DIM), torch.rand(OBS_DIM) + 0.5
    action_mean, action_std = torch.randn(ACTION_DIM) * 0.3, torch.rand(ACTION_DIM) + 0.3
    lengths = torch.tensor([5, 1, 3, 2, 5, 4, 3])  # steps inside the episode, for the loss over all k
    start, actions = (obs[:, 0] - obs_mean) / obs_std, (action - action_mean) / action_std

    means, logvars, nlls = [], [], []
    for k in range(1, MAX_BACKTRACK + 1):
        mean, logvar = model(start, actions[:, :k])
        target = torch.cat([obs[:, k] - model.origin(obs, k), reward[:, k - 1 : k]], dim=-1)
        nlls.append((mean - target) ** 2 * torch.exp(-logvar) + logvar)
        means.append(mean)
        logvars.append(logvar)
    # what a roll-out sees after the first m - 1 steps: the k-step prediction starts k - 1 steps back
    last = MAX_BACKTRACK - 1
    windows = [
        model((obs[:, last - back] - obs_mean) / obs_std, actions[:, last - back :])
        for back in range(MAX_BACKTRACK)
    ]
    inputs = torch.randn(MAX_BACKTRACK, BATCH, model.gru.input_size)
    bounds = model.bound_coef * (model.max_logvar.sum() - model.min_logvar.sum())
    loss_one = nlls[ONE_BACKTRACK - 1].mean() + bounds
    loss_all = torch.stack([nll[lengths > k].mean() for k, nll in enumerate(nlls)]).mean() + bounds
    return {
        **{f"param/{name}": param for name, param in model.named_parameters()},
        **{"obs": obs, "action": action, "reward": reward, "lengths": lengths},
        **{"obs_mean": obs_mean, "obs_std": obs_std, "action_mean": action_mean, "action_std": action_std},
        **{"mean": torch.stack(means), "logvar": torch.stack(logvars)},
        **{
            "window_mean": torch.stack([w[0] for w in windows]),
            "window_logvar": torch.stack([w[1] for w in windows]),
        },
        **{"gru_input": inputs, "gru_output": model.gru(inputs)[0]},
        **{"loss_one": loss_one, "loss_all": loss_all, "one_backtrack": torch.tensor(ONE_BACKTRACK)},
        **gradients(model, loss_one, "grad_one/"),
        **gradients(model, loss_all, "grad_all/"),
    }


class Network(nn.Module):
    """One network of an ensemble: Swish layers, Gaussian with soft-clamped log-variance."""

    def __init__(self) -> None:
        super().__init__()
        widths = [OBS_DIM + ACTION_DIM, *[ENSEMBLE_WIDTH] * (len(DECAYS) - 1), 2 * (OBS_DIM + 1)]
        self.linears = nn.ModuleList([nn.Linear(*pair) for pair in itertools.pairwise(widths)])
        self.min_logvar = nn.Parameter(torch.empty(OBS_DIM + 1))
        self.max_logvar = nn.Parameter(torch.empty(OBS_DIM + 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, D + A] normalised to mean and log-variance [B, D + 1]."""
        for linear in self.linears[:-1]:
            x = F.silu(linear(x))
        mean, logvar = self.linears[-1](x).chunk(2, dim=-1)
        logvar = self.max_logvar - F.softplus(self.max_logvar - logvar)
        return mean, self.min_logvar + F.softplus(logvar - self.min_logvar)


def make_ensemble() -> dict[str, torch.Tensor]:
    torch.manual_seed(13)
    ensemble = nn.ModuleList([Network() for _ in range(NETWORKS)])
    for network in ensemble:
        randomize(network)
    obs = torch.randn(NETWORKS, BATCH, 2, OBS_DIM) * 2.0 + 1.0  # a bootstrap batch for each network
    action = torch.rand(NETWORKS, BATCH, 1, ACTION_DIM) * 2.0 - 1.0
    reward = torch.randn(NETWORKS, BATCH, 1)
    obs_mean, obs_std = torch.randn(OBS_DIM), torch.rand(OBS_DIM) + 0.5
    action_mean, action_std = torch.randn(ACTION_DIM) * 0.3, torch.rand(ACTION_DIM) + 0.3
    inputs = torch.cat(
        [(obs[:, :, 0] - obs_mean) / obs_std, (action[:, :, 0] - action_mean) / action_std], -1
    )
    target = torch.cat([obs[:, :, 1] - obs[:, :, 0], reward], dim=-1)
    loss = torch.zeros(())
    means, logvars = [], []
    for i, network in enumerate(ensemble):
        mean, logvar = network(inputs[i])
        loss = loss + ((mean - target[i]) ** 2 * torch.exp(-logvar) + logvar).mean()
        loss = loss + BOUND_COEF / NETWORKS * (network.max_logvar.sum() - network.min_logvar.sum())
        for decay, linear in zip(DECAYS, network.linears, strict=True):
            loss = loss + 0.5 * decay * linear.weight.square().sum()
        # what a roll-out sees: every network at the first batch's states
        mean, logvar = network(inputs[0])
        means.append(mean)
        logvars.append(logvar)
    return {
        **{f"param/{name}": param for name, param in ensemble.named_parameters()},
        **{"obs": obs, "action": action, "reward": reward, "loss": loss},
        **{"obs_mean": obs_mean, "obs_std": obs_std, "action_mean": action_mean, "action_std": action_std},
        **{"mean": torch.stack(means), "logvar": torch.stack(logvars)},
        **gradients(ensemble, loss, "grad/"),
    }


def mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_dim, SAC_WIDTH),
        nn.ReLU(),
        nn.Linear(SAC_WIDTH, SAC_WIDTH),
        nn.ReLU(),
        nn.Linear(SAC_WIDTH, out_dim),
    )


class SAC:
    """Two critics, their targets, an actor and log alpha; noise comes from outside."""

    def __init__(self) -> None:
        self.actor = mlp(OBS_DIM, 2 * ACTION_DIM)
        self.critics = nn.ModuleList([mlp(OBS_DIM + ACTION_DIM, 1) for _ in range(2)])
        self.targets = nn.ModuleList([mlp(OBS_DIM + ACTION_DIM, 1) for _ in range(2)])
        self.log_alpha = torch.tensor(np.float32(np.log(ALPHA)), requires_grad=True)
        for module in (self.actor, self.critics, self.targets):
            for param in module.parameters():
                nn.init.normal_(param, 0.0, 0.4)
        with torch.no_grad():  # wide enough that log-std leaves [-5, 2] on both sides
            self.actor[-1].weight[ACTION_DIM:] *= 5.0
            self.actor[-1].bias[ACTION_DIM:] += torch.tensor([-1.0, 3.0])

    def act(self, obs: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.actor(obs).chunk(2, dim=-1)
        base = Normal(mean, log_std.clamp(-5.0, 2.0).exp())
        squash = [TanhTransform(cache_size=1), AffineTransform(0.0, SCALE, cache_size=1)]
        action = squash[1](squash[0](base.loc + base.scale * noise))
        return action, TransformedDistribution(base, squash).log_prob(action).sum(-1)

    def critic_loss(self, batch: dict[str, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            action, log_prob = self.act(batch["next_obs"], noise)
            inputs = torch.cat([batch["next_obs"], action], -1)
            q_next = torch.min(*[target(inputs) for target in self.targets]).squeeze(-1)
            value = q_next - self.log_alpha.exp() * log_prob
            goal = batch["reward"] + GAMMA * torch.where(batch["terminated"], 0.0, value)
        inputs = torch.cat([batch["obs"], batch["action"]], -1)
        return sum(F.mse_loss(critic(inputs).squeeze(-1), goal) for critic in self.critics)

    def actor_and_alpha_loss(
        self, batch: dict[str, torch.Tensor], noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        action, log_prob = self.act(batch["obs"], noise)
        q = torch.min(*[critic(torch.cat([batch["obs"], action], -1)) for critic in self.critics]).squeeze(-1)
        actor_loss = (self.log_alpha.exp().detach() * log_prob - q).mean()
        return actor_loss, -(self.log_alpha * (log_prob.detach() + TARGET_ENTROPY)).mean()

    def modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({"actor": self.actor, "critics": self.critics, "targets": self.targets})


def make_sac() -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    sac = SAC()
    batch = {
        "obs": torch.randn(SAC_BATCH, OBS_DIM),
        "action": (torch.rand(SAC_BATCH, ACTION_DIM) * 2.0 - 1.0) * SCALE,
        "reward": torch.randn(SAC_BATCH),
        "next_obs": torch.randn(SAC_BATCH, OBS_DIM),
        "terminated": torch.arange(SAC_BATCH) % 3 == 0,
    }
    critic_noise, actor_noise = torch.randn(2, SAC_UPDATES, SAC_BATCH, ACTION_DIM)
    out = {f"param/{name}": param.detach().clone() for name, param in sac.modules().named_parameters()}
    out |= {f"batch/{name}": value for name, value in batch.items()}
    out |= {"critic_noise": critic_noise, "actor_noise": actor_noise}
    settings = (SCALE, GAMMA, TAU, ALPHA, ACTOR_LR, CRITIC_LR, ENTROPY_LR, TARGET_ENTROPY)
    names = ("scale", "gamma", "tau", "alpha", "actor_lr", "critic_lr", "entropy_lr", "target_entropy")
    out |= {f"setting/{name}": torch.tensor(value) for name, value in zip(names, settings, strict=True)}

    # losses and gradients at the first parameters, each on its own
    critic_loss = sac.critic_loss(batch, critic_noise[0])
    actor_loss, _ = sac.actor_and_alpha_loss(batch, actor_noise[0])
    out |= {"critic_loss": critic_loss, "actor_loss": actor_loss}
    out |= gradients(sac.critics, critic_loss, "grad/critics.") | gradients(
        sac.actor, actor_loss, "grad/actor."
    )

    # whole updates, alpha adapted: critics, then actor and alpha on the new critics, then the targets
    critic_opt = torch.optim.Adam(sac.critics.parameters(), lr=CRITIC_LR)
    actor_opt = torch.optim.Adam(sac.actor.parameters(), lr=ACTOR_LR)
    alpha_opt = torch.optim.Adam([sac.log_alpha], lr=ENTROPY_LR)
    alpha_grads = []
    for i in range(SAC_UPDATES):
        critic_opt.zero_grad()
        sac.critic_loss(batch, critic_noise[i]).backward()
        critic_opt.step()
        for opt in (actor_opt, alpha_opt):
            opt.zero_grad()
        for loss in sac.actor_and_alpha_loss(batch, actor_noise[i]):
            loss.backward()
        alpha_grads.append(sac.log_alpha.grad.clone())
        for opt in (actor_opt, alpha_opt):
            opt.step()
        with torch.no_grad():
            for target, param in zip(sac.targets.parameters(), sac.critics.parameters(), strict=True):
                target.lerp_(param, TAU)
    out |= {f"updated/{name}": param for name, param in sac.modules().named_parameters()}
    return out | {"alpha_grads": torch.stack(alpha_grads), "updated_log_alpha": sac.log_alpha}


def main() -> None:
    torch.set_num_threads(1)
    golden = {
        "adm": make_adm(ADM()),
        "adm_v2": make_adm(ADMv2()),
        "ensemble": make_ensemble(),
        "sac": make_sac(),
    }
    for name, arrays in golden.items():
        np.savez_compressed(
            HERE / f"{name}.npz", **{key: value.detach().numpy() for key, value in arrays.items()}
        )


if __name__ == "__main__":
    main()
