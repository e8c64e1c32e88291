"""Learns a policy from arrays of one's own, and acts with it."""

import gymnasium
import numpy as np

import adm_jax

ENV = "InvertedPendulum-v5"


def record(num_steps: int) -> dict[str, list]:
    """Transitions of a shaky controller, as a robot's log would have them."""
    rows: dict[str, list] = {
        name: []
        for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    }
    env, rng = gymnasium.make(ENV, max_episode_steps=200), np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(num_steps):
        action = np.clip([[0.3, 8.0, 0.5, 1.5] @ obs + rng.normal(scale=1.6)], -3, 3)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        values = (obs, action, reward, next_obs, terminated, truncated)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
        obs = env.reset()[0] if terminated or truncated else next_obs
    rows["timeouts"][-1] = not rows["terminals"][-1]  # the log ends within an episode
    env.close()
    return rows


def main(num_steps: int = 20_000, **settings) -> None:
    """Records, learns, acts."""
    data = adm_jax.load_dataset(record(num_steps), env_id=ENV)
    run = adm_jax.train_offline(data, termination="inverted_pendulum", **settings)
    policy = run.policy(seed=0)

    env = gymnasium.make(ENV)
    obs, _ = env.reset(seed=1)
    steps, over = 0, False
    while not over:
        obs, _, terminated, truncated, _ = env.step(np.asarray(policy(obs)))
        steps, over = steps + 1, terminated or truncated
    print(
        f"balanced for {steps} of 1,000 steps; in the data for {np.mean(data.episode_lengths):.0f} on average"
    )


if __name__ == "__main__":
    main(seeds=(0,), num_epochs=4, fit_max_epochs=6, pretrain_steps=5_000, bc_steps=10_000, eval_episodes=5)
