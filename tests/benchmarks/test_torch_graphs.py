"""What is recorded as CUDA graphs, run as it is: the graphs themselves need a GPU."""

import dataclasses
import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install -e '.[bench]')")

from adm_jax.nn.precision import matmul_precision  # noqa: E402
from benchmarks.speed import torch_reference, torch_rows, workload  # noqa: E402
from benchmarks.speed.torch_graphs import GraphLearner  # noqa: E402
from benchmarks.speed.torch_sac import Learner  # noqa: E402


def learners(tiny, monkeypatch):
    """A fair learner, and one that records; on the CPU what is recorded is called."""
    work = workload.prepare(tiny, 1)
    state = workload.initial_state(work)
    monkeypatch.setattr(torch_rows, "SAC", lambda *args: sac(*args[:-1]))
    recorded = []

    def capture(run):
        recorded.append(run)
        return run

    monkeypatch.setattr(torch_rows, "GraphLearner", functools.partial(GraphLearner, capture=capture))
    make = torch_rows.make_learner
    return make(work, state, fair=True), make(work, state, fair=True, chunk=20, graphs=True), recorded


sac = torch_rows.SAC  # capturable Adam needs a GPU


def test_a_recorded_learner_does_as_much(tiny, monkeypatch):
    plain, graphs, recorded = learners(dataclasses.replace(tiny, rollout_batch_size=50), monkeypatch)
    for learner in (plain, graphs):
        assert isinstance(learner, Learner)
        learner.roll_out()
        before = learner.agent.actor[0].weight.clone()
        learner.update()
        assert not torch.equal(before, learner.agent.actor[0].weight)
        assert 50 <= learner.buffer.size <= 100
    assert len(recorded) == 3  # chunks of 20 and of 10 rows, and an update
    graphs.roll_out()
    graphs.update()
    assert len(recorded) == 3


def test_a_length_on_the_device_is_the_same_length(tiny, monkeypatch):
    plain, *_ = learners(tiny, monkeypatch)
    model, policy = plain._model, plain.agent.sample_action
    tensors, index, columns = plain._tensors, torch.arange(10, 20), []
    for ks in ([0, 1], [torch.tensor([0]), torch.tensor([1])]):
        torch.manual_seed(0)
        sizes = {"max_backtrack": 2, "penalty_coef": 1.0}
        with torch.no_grad():
            columns.append(torch_reference.roll_rows(model, policy, tensors, index, ks, **sizes))
    for ours, theirs in zip(*columns, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_products_have_the_librarys_precision(tiny, monkeypatch):
    plain, *_ = learners(tiny, monkeypatch)
    obs = plain._tensors["obs"][:100]
    assert torch.get_float32_matmul_precision() == "highest"
    exact = plain.agent.actor(obs)
    with matmul_precision("bfloat16"):
        rounded_learner, *_ = learners(tiny, monkeypatch)
    with rounded_learner._products():
        rounded = rounded_learner.agent.actor(obs)
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    exact, rounded = exact.detach(), rounded.detach()
    assert 1e-4 < float((exact - rounded).norm() / exact.norm()) < 2e-2
    rounded_learner.roll_out()
    rounded_learner.update()
    assert rounded_learner.buffer._store[0].dtype == torch.float32
