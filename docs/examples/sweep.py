"""Trains several penalties and seeds at once, in one program, and prints what each penalty came to."""

import numpy as np

import adm_jax

DATASET = "adm_jax/hopper-replay-v0"  # comes with the package


def main(penalties: tuple[float, ...] = (0.5, 5.0), **settings) -> None:
    """Every penalty with every seed is a member of the run."""
    run = adm_jax.train_offline(DATASET, task="hopper-builtin", penalty_coef=penalties, **settings)
    last = run.evaluations["train"]["eval/return"][-1].mean(axis=-1)  # [members], over episodes
    uncertainty = run.metrics["train"]["rollout/uncertainty"][-1]
    for penalty in penalties:
        own = np.array([member.swept["penalty_coef"] == penalty for member in run.members])
        returns = ", ".join(f"{value:,.0f}" for value in last[own])
        print(f"penalty {penalty:g}: returns {returns}; uncertainty {uncertainty[own].mean():.3f}")


if __name__ == "__main__":
    main(seeds=(0, 1), num_epochs=3, fit_max_epochs=4, pretrain_steps=5_000, bc_steps=10_000, eval_every=3)
