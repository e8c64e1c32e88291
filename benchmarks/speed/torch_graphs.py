"""PyTorch's fair row without the launches: roll-outs and updates recorded once as CUDA graphs, then replayed.

What a graph replays has fixed shapes, reads fixed places and asks the host nothing: starts and each step's
length k are drawn on the device, and the number of filled rows of the buffer is a tensor.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.speed import torch_reference
from benchmarks.speed.torch_reference import Rows
from benchmarks.speed.torch_sac import Learner, synchronize

_WARMUPS = 3  # PyTorch's own advice: libraries set themselves up in the first calls

Capture = Callable[[Callable[[], Any]], Callable[[], Any]]


def record(work: Callable[[], Any]) -> Callable[[], Any]:
    """The work as a CUDA graph; each call gives the same result tensors, filled anew."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARMUPS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


class GraphLearner(Learner):
    """A fair learner whose chunks of roll-outs and whose updates are graphs; its Adam must be capturable."""

    def __init__(self, *args: Any, capture: Capture = record, **kwargs: Any):
        super().__init__(*args, fair=True, **kwargs)
        self._capture = capture
        self._filled = torch.zeros((), device=self._device)
        self._rollouts: dict[int, Callable[[], Rows]] = {}  # rows of a chunk -> its roll-out
        self._updates: Callable[[], Any] | None = None

    @torch.no_grad()
    def roll_out(self) -> None:
        """One epoch's roll-outs, put into the buffer."""
        left = self._config.rollout.rollout_batch_size
        while left:
            rows = min(self._chunk or left, left)
            if rows not in self._rollouts:
                self._rollouts[rows] = self._capture(lambda rows=rows: self._roll_chunk(rows))
            self.buffer.add(self._rollouts[rows]())
            left -= rows
        synchronize(self._device)

    def _roll_chunk(self, num_rows: int) -> Rows:
        windows, length = self._tensors["windows"], self._config.rollout.rollout_length
        max_backtrack = len(self._data.train)
        index = windows[torch.randint(len(windows), (num_rows,), device=self._device)]
        ks = torch.randint(max_backtrack, (length, 1), device=self._device)
        with self._products():
            columns = torch_reference.roll_rows(
                self._model,
                self.agent.sample_action,
                self._tensors,
                index,
                list(ks),
                max_backtrack=max_backtrack,
                penalty_coef=self._penalty_coef,
            )
        return Rows(*columns)

    def update(self) -> None:
        """One epoch's updates, on batches of real and imagined transitions."""
        self._filled.fill_(float(self.buffer.size))
        if self._updates is None:
            self._updates = self._capture(self._one_update)
        for _ in range(self._config.updates_per_epoch):
            self._updates()
        synchronize(self._device)

    def _one_update(self) -> None:
        batch_size = self._config.sac.batch_size
        num_real = int(batch_size * self._config.real_ratio)
        parts = []
        for replay, count in ((self._real, num_real), (self.buffer, batch_size - num_real)):
            filled = self._filled if replay is self.buffer else float(replay.size)
            if count:
                index = (torch.rand(count, device=self._device) * filled).long()
                parts.append(replay.at(index.clamp(max=replay.capacity - 1)))
        with self._products():
            self.agent.update([torch.cat(columns) for columns in zip(*parts, strict=True)])
