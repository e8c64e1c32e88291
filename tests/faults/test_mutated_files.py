"""Files of data and of policies with random damage are read as what they are, or refused in one line.

A flipped bit of a number in a file without digests is another number, which nothing can tell; what this
library wrote has digests, and is never read as something else. The long form, of 10,000 files of others and
1,000 of each of our own, writes benchmarks/results/faults/mutated_files.json:

pytest -n0 -m slow tests/faults/test_mutated_files.py
"""

import collections
import contextlib
import io
import json
import pickle
import pickletools
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np
import pytest

from adm_jax.data import validation
from adm_jax.data.episodes import FIELDS, EpisodeData
from adm_jax.data.formats import d4rl, minari_files, minari_io, neorl
from adm_jax.envs.recovered import task_from_dataset
from adm_jax.evaluation import policies
from adm_jax.runs import policy_file
from adm_jax.types import ActionBounds
from tests.data.sample_data import d4rl_arrays, make_data
from tests.faults.damage import damage, failure

REPORT = Path(__file__).parents[2] / "benchmarks" / "results" / "faults" / "mutated_files.json"
DATA = make_data((4, 3, 5, 3), obs_dim=11, action_dim=3)  # Hopper's dimensions
ID = "tests/mutated-v0"
SECONDS = 20  # that a reading may take


class Source(NamedTuple):
    """A sound file, and what reads it."""

    file: Path
    read: Callable[[], Any]  # its content, to compare; raises InputError
    tries: int  # of the long form
    has_digest: bool = False  # so that another content is one that passed unnoticed


def _content(data: EpisodeData) -> tuple[Any, ...]:
    """Every value, once it has passed the checks of loading."""
    validation.validate(data, *data.action_bounds()[0].arrays())
    arrays = [getattr(data, name) for name in FIELDS]
    return tuple((x.dtype, x.shape, x.tobytes()) for x in arrays), dict(data.metadata)


def _d4rl(path: Path) -> Source:
    with h5py.File(path / "file.hdf5", "w") as file:
        for name, array in d4rl_arrays(DATA).items():
            file[name] = array
        file.attrs["env_id"] = "Hopper-v4"
    return Source(path / "file.hdf5", lambda: _content(d4rl.read(path / "file.hdf5")[0]), 2000)


def _neorl(save: Callable[..., None], tries: int) -> Callable[[Path], Source]:
    def make(path: Path) -> Source:
        file = path / "Mine-v1-train.npz"
        arrays = {"obs": DATA.obs, "action": DATA.action, "next_obs": DATA.next_obs, "reward": DATA.reward}
        save(file, **arrays, done=np.float32(DATA.terminated), truncated=np.float32(DATA.truncated))
        return Source(file, lambda: _content(neorl.read(file)[0]), tries)

    return make


def _minari(name: str, tries: int, *, ours: bool) -> Callable[[Path], Source]:
    """A file of a dataset of this library, or of one that another has written, and its task."""

    def make(path: Path) -> Source:
        folder = minari_io.save(DATA, ID, env_id="Hopper-v4", root=path) / "data"
        if not ours:
            _take_digests(folder)

        def read() -> Any:
            data = minari_files.read(ID, root=path)
            content, task = _content(data), task_from_dataset(data, "hopper")
            return content, task

        return Source(folder / name, read, tries, has_digest=ours)

    return make


def _take_digests(folder: Path) -> None:
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["adm_jax"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file.attrs.clear()


def _policy(name: str, write: Callable[[Path], Any]) -> Callable[[Path], Source]:
    def make(path: Path) -> Source:
        write(path / name)

        def read() -> Any:
            policy = policies.read_policy(path / name)
            leaves = jax.tree.leaves(policy.params)
            assert all(np.isfinite(x).all() for x in leaves)
            return policy.kind, [(x.shape, np.asarray(x).tobytes()) for x in leaves]

        return Source(path / name, read, 1000)

    return make


def _layers(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _write_plain(path: Path) -> None:
    shapes = {"w0": (4, 5), "b0": (5,), "w1": (5, 5), "b1": (5,), "w2": (5, 2), "b2": (2,), "log_std": (2,)}
    np.savez(path, **_layers(shapes))


def _write_dope(path: Path) -> None:
    shapes = {"fc0": (5, 4), "fc1": (5, 5), "last_fc": (2, 5), "last_fc_log_std": (2, 5)}
    arrays = _layers({f"{name}/weight": shape for name, shape in shapes.items()})
    arrays |= _layers({f"{name}/bias": shape[:1] for name, shape in shapes.items()})
    details = {"nonlinearity": "relu", "output_distribution": "tanh_gaussian"}
    path.write_bytes(pickle.dumps({**arrays, **details}))


def _write_own(path: Path) -> None:
    names = {"Dense_0": (4, 5), "Dense_1": (5, 5), "Dense_2": (5, 4)}
    params = {name: _layers({"kernel": shape, "bias": shape[1:]}) for name, shape in names.items()}
    policy_file.save_policy(path, {"params": params}, ActionBounds.symmetric(1.0, 2), {"env_id": "Hopper-v4"})


SOURCES: dict[str, Callable[[Path], Source]] = {
    "D4RL": _d4rl,
    "NeoRL": _neorl(np.savez, 1000),
    "NeoRL, compressed": _neorl(np.savez_compressed, 1000),
    "Minari, HDF5": _minari("main_data.hdf5", 1500, ours=False),
    "Minari, metadata": _minari("metadata.json", 1500, ours=False),
    "policy, plain": _policy("a.npz", _write_plain),
    "policy, DOPE": _policy("a.pkl", _write_dope),
    "policy, our own": _policy("own.npz", _write_own),
    "our dataset, HDF5": _minari("main_data.hdf5", 1000, ours=True),
    "our dataset, metadata": _minari("metadata.json", 1000, ours=True),
}


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _outcome(source: Source, sound: Any) -> str:
    """``refused`` in one line, read as ``the same``, or as ``other values`` that pass all checks."""
    try:
        with _at_most(SECONDS), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = source.read()
    except Exception as error:
        return failure(error)
    if found == sound:
        return "the same"
    return "silent" if source.has_digest else "other values"


def _try_out(source: Source, number: int, seed: int, proof: Path) -> collections.Counter[str]:
    """Damages a file so many times, a pickle with code in a quarter of them; counts outcomes."""
    rng, content, sound = np.random.default_rng(seed), source.file.read_bytes(), source.read()
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(number):
        if source.file.suffix == ".pkl" and rng.random() < 0.25:
            left: bytes | None = _with_code(content, proof, rng)
        else:
            _, left = damage(content, rng)
        source.file.unlink(missing_ok=True)
        if left is not None:
            source.file.write_bytes(left)
        counts[_outcome(source, sound)] += 1
        counts["code run"] += proof.exists()
    source.file.write_bytes(content)
    assert source.read() == sound
    return +counts


def _with_code(content: bytes, proof: Path, rng: np.random.Generator) -> bytes:
    """A pickle that makes a file when it is loaded as pickles are, and then goes on as it did."""
    starts = [
        at for operation, _, at in pickletools.genops(content) if operation.name not in ("PROTO", "FRAME")
    ]
    at = starts[int(rng.integers(len(starts)))]
    return content[:at] + f"cposix\nsystem\n(Vtouch {proof}\ntR0".encode() + content[at:]


@pytest.mark.parametrize("name", SOURCES)
def test_damage_is_read_as_what_it_is_or_refused(name: str, tmp_path: Path) -> None:
    counts = _try_out(SOURCES[name](tmp_path), 60, seed=0, proof=tmp_path / "proof")
    assert counts.keys() <= {"refused", "the same", "other values"}
    assert counts["refused"] > 0


def test_the_code_in_a_pickle_would_run(tmp_path: Path) -> None:
    _write_dope(tmp_path / "a.pkl")
    hostile = _with_code((tmp_path / "a.pkl").read_bytes(), tmp_path / "proof", np.random.default_rng(0))
    assert pickle.loads(hostile).keys() >= {"fc0/weight", "nonlinearity"}
    assert (tmp_path / "proof").exists()


@pytest.mark.slow
def test_ten_thousand_files(tmp_path: Path) -> None:
    report: dict[str, dict[str, Any]] = {}
    for name, make in SOURCES.items():
        (tmp_path / name).mkdir()
        source = make(tmp_path / name)
        counts = _try_out(source, source.tries, seed=1, proof=tmp_path / "proof")
        report[name] = {"tries": source.tries, "outcomes": dict(sorted(counts.items()))}
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    found = {outcome for each in report.values() for outcome in each["outcomes"]}
    assert found <= {"refused", "the same", "other values"}
