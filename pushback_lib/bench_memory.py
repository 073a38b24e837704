"""Measures what tensors hold and how high they climb: torch's CPU allocator, or the CUDA allocator; knows nothing of plans."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

QUANTISED = ("absmax", "code", "offset")


@dataclass(frozen=True)
class Peak:
    """Bytes that tensors hold before a training step, and the most that they held within it."""

    resident: int
    peak: int


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind the tensors, each storage once."""
    seen = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors if not tensor.is_meta}
    return sum(seen.values())


def quantisation_state(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The tensors that bitsandbytes keeps beside each NF4 weight: scales, their own scales, code books, offset."""
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            yield from (getattr(state, name) for name in QUANTISED if getattr(state, name) is not None)
            state = state.state2


def optimizer_state(optimizer: Any) -> Iterator[torch.Tensor]:
    """The tensors of an optimizer's state, but for its step counts."""
    import torch

    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    for state in inner.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


class StepPeak:
    """Watches one training step, the `at`-th, and keeps its `peak`; the optimizer's state must exist, so `at` is 2 or more."""

    def __init__(self, at: int = 2) -> None:
        self.at, self.peak = at, Peak(0, 0)
        self._resident, self._profile = 0, None

    def callback(self) -> TrainerCallback:
        """For a trainer; made here so that importing this module stays light."""
        from transformers import TrainerCallback

        watch = self

        class Watch(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
                if state.global_step == watch.at - 1:
                    watch.begin(parts["model"], parts["optimizer"])

            def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
                if state.global_step == watch.at:
                    watch.end()

        return Watch()

    def begin(self, model: torch.nn.Module, optimizer: Any) -> None:
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self._resident = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            return
        tensors = [*model.parameters(), *model.buffers(), *quantisation_state(model), *optimizer_state(optimizer)]
        self._resident = storage_bytes(tensors)
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._profile = torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True)
        self._profile.__enter__()

    def end(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.peak = Peak(self._resident, torch.cuda.max_memory_allocated())
            return
        self._profile.__exit__(None, None, None)
        self.peak = Peak(self._resident, self._resident + climb(self._profile))


def climb(profile: Any) -> int:
    """The highest sum of bytes taken and given back while the profile ran, from torch's CPU allocator."""
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
