"""All that a run compiles, lowered for GPU and TPU: neither has to be there for it."""

import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.config.settings import to_flat
from adm_jax.population.compiling import MemberProgram, Program
from adm_jax.population.members import all_members
from adm_jax.runs.clock import WallClock
from adm_jax.training import offline, online
from adm_jax.training.components import resolve_kernels
from adm_jax.training.loop import Desk, Plan
from benchmarks.accelerators.compile_for import prepare
from benchmarks.speed.workload import abstract_state
from tests.tiny import TINY
from tests.training.tiny_online import tiny

PLATFORMS = ("cuda", "tpu")
GRU = ("max_backtrack", "num_gru_layers", "num_residual_blocks", "dropout_rate")
# every option of policy optimisation that is a program of its own, or changes one
LEARNING = {"pretrain_steps": 10, "cloning_weight": 1.0, "cloning_rows": "advantage", "estimate_rows": 4}
WHOLE_EPISODES = {"persistent": True, "horizon": 6, "retain_epochs": 1, "uncertainty_quantile": 0.9}


def offline_plan(dynamics: str, **others: Any) -> Plan:
    known = to_flat(config_for_task("hopper", dynamics=dynamics))
    settings = {name: value for name, value in {**TINY, **others}.items() if name in known}
    return offline.plan(config_for_task(**{**settings, "dynamics": dynamics, "members": "vmap"}))


def online_plan(dynamics: str) -> Plan:
    return online.plan(tiny(dynamics, members="vmap"))


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch):
    """Lowers a plan's programs in place of compiling them: ``{(program, platform): StableHLO}``."""
    texts: dict[tuple[str, str], str] = {}

    def lower(program: MemberProgram, *args: Any, mesh: Any = None) -> Program:
        traced = jax.jit(program, donate_argnums=program.donated_positions).trace(*args)
        name = getattr(program.fn, "func", program.fn).__name__
        for platform in PLATFORMS:
            texts[name, platform] = traced.lower(lowering_platforms=(platform,)).as_text()
        return Program(SimpleNamespace(memory_analysis=lambda: None))  # type: ignore[arg-type]

    monkeypatch.setattr(MemberProgram, "compile", lower)

    def of(plan: Plan) -> dict[tuple[str, str], str]:
        desk = Desk(WallClock(), lambda line: None, lambda state: None)
        if isinstance(plan.config, OfflineConfig):
            plan.open(tuple(all_members(plan.config)), desk)
        else:  # it begins with a program's results
            with pytest.raises(TypeError):
                plan.open(tuple(all_members(plan.config)), desk)
        return texts

    return of


@pytest.mark.parametrize(
    ("make_plan", "dynamics", "settings"),
    [
        (offline_plan, "adm", LEARNING),
        (offline_plan, "adm_v2", WHOLE_EPISODES),
        (offline_plan, "ensemble", {}),
        (online_plan, "adm", {}),
    ],
)
def test_programs_serve_an_accelerator(make_plan, dynamics, settings, lowered, tiny_dataset):
    """No call back to Python (it is not lowered), no float64, and no sum in an order the device chooses."""
    texts = lowered(make_plan(dynamics, **settings))
    names = {name for name, _ in texts}
    assert {"fit_program", "rollout_program", "update_program"} <= names
    assert len(names) >= 8
    assert {where: found for where, text in texts.items() if (found := faults(text))} == {}


@pytest.mark.parametrize(
    ("platform", "settings", "chosen"),
    [
        ("gpu", {}, "on"),
        ("gpu", {"matmul_precision": "bfloat16"}, "on"),
        ("gpu", {"matmul_precision": "float32"}, "off"),  # they gain nothing there
        ("gpu", {"matmul_precision": "float32", "fused_kernels": "on"}, "on"),
        ("gpu", {"fused_kernels": "off"}, "off"),
        ("cpu", {"fused_kernels": "on"}, "off"),  # a run that is resumed there
        ("cpu", {}, "off"),
        (None, {}, "off"),
        ("tpu", {}, "off"),
    ],
)
def test_roll_outs_have_kernels_of_their_own_where_they_gain(platform, settings, chosen):
    assert resolve_kernels(config_for_task("hopper", **settings), platform).fused_kernels == chosen


@pytest.mark.parametrize("program", ["update", "full_horizon_update"])
def test_what_a_checkpoint_holds_depends_on_no_device(program):
    """So a run goes on on another kind: the same arrays, whatever programs it compiles there."""

    def described(platform: str) -> Any:
        sizes = {"model_hidden_dim": 8, "policy_hidden_dim": 8, "rollout_chunk": 250}  # which a run keeps
        work, _, _ = prepare(program, platform, 2, **sizes)
        states = abstract_state(work)
        return jax.tree.map(lambda x: (x.shape, str(x.dtype)), states)

    assert described("cpu") == described("gpu") == described("tpu")


@pytest.mark.parametrize(
    ("fn", "fault"),
    [
        (lambda x: x.at[jnp.array([0, 0, 1])].add(1.0), "unordered sum"),
        (lambda x: x + jax.random.key_data(jax.random.key(0)).sum(), ""),
    ],
)
def test_faults_are_found(fn, fault):
    text = jax.jit(fn).trace(jnp.zeros(3)).lower(lowering_platforms=("cuda",)).as_text()
    assert faults(text) == fault


def test_float64_and_calls_back_to_python_are_found():
    with jax.enable_x64(True):
        text = jax.jit(lambda x: 2 * x).lower(np.zeros(3)).as_text()
    assert faults(text) == "float64"
    with pytest.raises(ValueError, match="lowering platform cuda"):
        jax.jit(lambda x: jax.pure_callback(np.sin, x, x)).trace(jnp.zeros(3)).lower(
            lowering_platforms=("cuda",)
        )


def faults(text: str) -> str:
    """What in StableHLO an accelerator would not do, or not twice in the same way."""
    scatters = re.findall(r'"stablehlo\.scatter"\(.*?\}\) : ', text, re.DOTALL)
    unordered = [s for s in scatters if "stablehlo.add" in s and "unique_indices = true" not in s]
    found = {
        "float64": re.search(r"[x<]f64>", text) is not None,
        "unordered sum": bool(unordered),
    }
    return ", ".join(name for name, there in found.items() if there)
