"""Benchmarks at sizes that compile in moments."""

import functools

import pytest

from benchmarks.speed import options, workload
from benchmarks.speed.options import Options


@pytest.fixture
def tiny(monkeypatch) -> Options:
    """Options of a run without PyTorch, on a model of one layer."""
    prepare = functools.partial(workload.prepare, num_gru_layers=1, num_residual_blocks=1)
    monkeypatch.setattr(workload, "prepare", prepare)
    return options.by_device(
        Options(
            torch=False,
            repeats=2,
            max_backtrack=2,
            model_hidden_dim=8,
            rollout_length=2,
            rollout_batch_size=30,
            rollout_chunk=20,
            batch_size=16,
            policy_hidden_dim=8,
            updates=3,
            num_seeds=2,
            population=(1, 2),
            sac_seeds=(1, 2),
            fit_seeds=(2,),
            epochs=1,
            fit_steps=300,
            eval_steps=100,
            max_seconds=120.0,
            matmul_size=16,
            copy_mib=1,
            torch_threads=1,
        )
    )
