"""Fits an any-step model to arrays, and draws its predictions and their uncertainty against the truth."""

import matplotlib.pyplot as plt
import numpy as np

import adm_jax

STEPS = 20  # drawn


def pendulum(num_episodes: int, swing: float = 1.0, length: int = 50, seed: int = 0) -> dict[str, np.ndarray]:
    """Episodes of a damped pendulum under random torques: what you would load from your own files."""
    rng = np.random.default_rng(seed)
    obs = np.zeros((num_episodes, length + 1, 2), np.float32)  # angle, velocity
    action = rng.uniform(-1, 1, (num_episodes, length, 1)).astype(np.float32)
    obs[:, 0] = swing * rng.uniform(-1, 1, (num_episodes, 2))
    for t in range(length):
        angle, velocity = obs[:, t, 0], obs[:, t, 1]
        velocity = velocity + 0.1 * (-5.0 * np.sin(angle) - 0.2 * velocity + 2.0 * action[:, t, 0])
        obs[:, t + 1] = np.stack([angle + 0.1 * velocity, velocity], axis=-1)
    return {
        "observations": obs[:, :-1].reshape(-1, 2),
        "actions": action.reshape(-1, 1),
        "rewards": -np.abs(obs[:, 1:, 0]).reshape(-1),
        "next_observations": obs[:, 1:].reshape(-1, 2),
        "terminals": np.zeros(num_episodes * length, bool),
        "timeouts": np.arange(num_episodes * length) % length == length - 1,
    }


def main(file: str = "predictions.png", num_episodes: int = 200, **settings) -> None:
    """Fits, predicts, draws."""
    model = adm_jax.fit(pendulum(num_episodes), "adm", max_backtrack=5, **settings)
    _, (angles, spread) = plt.subplots(2, 1, sharex=True)
    steps = np.arange(1, STEPS + 1)
    for name, swing, colour in (("like the data", 1.0, "C0"), ("outside of them", 4.0, "C1")):
        unseen = pendulum(1, swing, seed=1)
        start, actions = unseen["observations"][0], unseen["actions"][:STEPS]
        ahead = model.predict(start, actions)  # of the 20 states that follow on these actions
        truth = unseen["next_observations"][:STEPS, 0]
        mean, uncertainty = np.asarray(ahead.mean[:, 0]), np.asarray(ahead.uncertainty)
        angles.plot(steps, truth, ".", color=colour)
        angles.plot(steps, mean, color=colour, label=f"mean of the predictions, {name}")
        for k in range(model.max_backtrack):  # k + 1 actions at once, from a state that many steps before
            known = np.asarray(ahead.valid[:, k])
            angles.plot(steps[known], ahead.unit_means[known, k, 0], color=colour, lw=0.4)
        spread.semilogy(steps[1:], uncertainty[1:], color=colour)
        print(f"{name}: error {abs(mean - truth).mean():.3f}, uncertainty {uncertainty.mean():.3f}")
    angles.set_ylabel("angle; dots: truth")
    angles.legend()
    spread.set(xlabel="steps ahead", ylabel="spread of the predictions")
    plt.savefig(file)


if __name__ == "__main__":
    main(fit_max_epochs=8, fit_steps_per_epoch=500, model_hidden_dim=64)
