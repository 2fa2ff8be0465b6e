"""The accounts of a few steps: a trace of torch's profiler, and where their time went.

Parts are named where they are called (`span`), and inside the student by hooks on its modules. A
backward pass belongs to the part of the forward pass that autograd links it to. A sharded student
is one part, and compiled layers are what is left of it. On a GPU its own time counts, not that of
its host.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._C._autograd import DeviceType, _profiler_enabled
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile, record_function

from dwt_cli.base import atomic
from dwt_cli.models.anatomy import layers_of
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training.protocols import Numbers, Observer

SKIPPED, TAKEN = 7, 3  # auto has decided on compiling by then
"""Steps of a process before those that are recorded, and how many are."""
_NAMED, _BACKWARD = "part: ", "autograd::engine::evaluate_function: "
_OTHERS = "others"


def span(name: str) -> AbstractContextManager[Any]:
    """Return a context whose work has a name in the accounts; nothing where none are taken."""
    return record_function(_NAMED + name) if _profiler_enabled() else nullcontext()


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs a second of a large square matrix product, the best of eight."""
    side = 8192 if device.type == "cuda" else 2048
    one, two = (torch.randn(side, side, device=device, dtype=dtype) for _ in "ab")
    seconds = []
    for _ in range(9):
        started = time.perf_counter()
        (one @ two)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds[1:])


class Profile(Observer, AbstractContextManager["Profile"]):
    """An observer that writes a trace and a table of a few steps. say: prints a line.

    Left before these are taken it says so, and leaves nothing on the model either.
    """

    def __init__(
        self, model: Wrapper, device: torch.device, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._model, self._device, self._folder, self._say = model, device, folder, say
        self._num_steps, self._open = 0, ExitStack()

    def __exit__(self, *error: object) -> None:
        self._open.close()
        if self._num_steps < SKIPPED + TAKEN:
            self._say(
                f"warning: train.profile=true left nothing: it is about steps {SKIPPED + 1} to "
                f"{SKIPPED + TAKEN} of a process, and this one took {self._num_steps}"
            )

    def stepped(self, step: int, progress: float, metrics: Numbers) -> None:
        self._num_steps += 1
        if self._num_steps == SKIPPED:
            self._begin()
        if self._num_steps == SKIPPED + TAKEN:
            self._end(step)

    def _begin(self) -> None:
        for part in _parts(self._model):
            for hook in _hooked(*part):
                self._open.callback(hook.remove)
        self._profile = self._open.enter_context(profile(record_shapes=True, with_flops=True))
        self._started = time.perf_counter()

    def _end(self, step: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = (time.perf_counter() - self._started) / TAKEN
        self._open.close()
        spent = accounts(self._profile.events(), TAKEN, on_gpu=self._device.type == "cuda")
        peak = None
        with suppress(torch.OutOfMemoryError):  # a large model leaves little
            peak = matrix_peak(self._device, self._model.dtype)
        text = "\n".join([f"steps {step - TAKEN + 1} to {step}", "", *_table(spent, seconds, peak)])
        self._profile.export_chrome_trace(str(self._folder / "trace.json.gz"))
        atomic.write_text(self._folder / "profile.md", f"{text}\n")
        self._say(text)
        del self._profile


def _parts(wrapper: Wrapper) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a known model: embeddings, what layers consist of, the head."""
    if (anatomy := wrapper.anatomy) is not None:
        yield "embeddings", wrapper.model.get_submodule(anatomy.embeddings)
        for layer in () if wrapper.is_compiled else layers_of(wrapper.model):  # not anew for hooks
            yield "layers", layer
            yield from ((f"layers: {name}", module) for name, module in layer.named_children())
        for module in wrapper.model.children():
            if module is not wrapper.model.base_model:
                yield "head", module


def _hooked(name: str, module: nn.Module) -> Iterator[Any]:
    """Yield the hooks that name a module's forward pass."""
    opened: list[AbstractContextManager[Any]] = []

    def enter(*_: Any) -> None:
        opened.append(span(name))
        opened[-1].__enter__()

    yield module.register_forward_pre_hook(enter)
    yield module.register_forward_hook(lambda *_: opened.pop().__exit__(None, None, None))


Spent = tuple[float, float]
"""A part's seconds and FLOPs of a step."""


def accounts(events: Iterable[FunctionEvent], num_steps: int, on_gpu: bool) -> dict[str, Spent]:
    """Return what each part takes of a step, in the order in which parts begin.

    FLOPs are those of matrix products, but for fused attention's and what a compiler fused.
    """
    linked: dict[int, str] = {}  # autograd's number of an operation -> its part
    names: dict[int, str] = {}
    spent: dict[str, Spent] = {}
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    for event in sorted(on_host, key=lambda e: (e.time_range.start, -e.time_range.end)):
        name = names.get(event.cpu_parent.id, _OTHERS) if event.cpu_parent else _OTHERS
        if event.name.startswith(_NAMED):
            name = event.name.removeprefix(_NAMED)
        elif event.name.startswith(_BACKWARD):
            name = f"{linked.get(event.sequence_nr, _OTHERS)}, backward"
        elif event.sequence_nr >= 0 and event.scope == 0:  # the last of a number has the node
            linked[event.sequence_nr] = name
        names[event.id] = name
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds, flops = spent.get(name, (0.0, 0.0))
        flops += (event.flops or 0) / num_steps if "mm" in event.name else 0
        spent[name] = (seconds + micros / 1e6 / num_steps, flops)
    return spent


def _table(spent: dict[str, Spent], seconds: float, peak: float | None) -> Iterator[str]:
    """Yield the Markdown table of a step. peak: None leaves its column empty."""
    yield "| part | ms | of the step | GFLOP | of the product |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    named, flops_of_step = map(sum, zip(*spent.values(), strict=True))
    rows = {**spent, "in between": (seconds - named, 0.0), "step": (seconds, flops_of_step)}
    for name, (used, flops) in rows.items():
        share = f"{flops / used / peak:.1%}" if flops and peak else ""
        yield f"| {name} | {1000 * used:.2f} | {used / seconds:.1%} | {flops / 1e9:.3f} | {share} |"
    if peak:
        yield f"| matrix product, for a second | 1000 | | {peak / 1e9:,.0f} | 100% |"
