"""One model trained by several ranks: replicated (DDP) or sharded (FSDP2).

A step's loss is a sum over all ranks' targets, divided once; DDP and FSDP2 take means over ranks,
so each rank's share is multiplied by their number.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.models.anatomy import anatomy_of
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.training.options import Fsdp


def shard(
    model: MaskedLM, aux: nn.ModuleDict, options: Fsdp, device: torch.device, dtype: torch.dtype
) -> None:
    """Leave each rank a share of ``model``, layer by layer, and of ``aux``.

    Weights are gathered on ``device`` in ``dtype``, gradients summed in fp32.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # it would fill a copy of `Features`
    )
    place = OffloadPolicy()
    if options.cpu_offload:
        place = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    if options.activation_checkpointing:
        model.model.activation_checkpointing_enable()
    layers = model.model.get_submodule(anatomy_of(model.model).layers)
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, offload_policy=place)
    # the outermost one too gives back what it has gathered: who asks for its parameters after a
    # look at held-out text, the optimiser first of all, has to get the shares
    fully_shard(
        model, mesh=mesh, mp_policy=policy, offload_policy=place, reshard_after_forward=True
    )
    for module in aux.values():
        if any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh, offload_policy=place, reshard_after_forward=True)


def state_on_first(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers in one piece, in CPU memory, on rank 0; nothing on the others.

    A tied tensor has its first name alone. All ranks call it: what is sharded is put together
    tensor by tensor.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(module, options=options)
    names = dict.fromkeys(_first_names(module).values())
    return {name: state[name].contiguous() for name in names if name in state}


def load_state(module: nn.Module, state: dict[str, Tensor], ranks: Ranks = ALONE) -> None:
    """Fill a module, whole or sharded, with what rank 0 has from `state_on_first` of one like it.

    Each rank receives one tensor at a time and keeps its share of it.
    """
    names = _first_names(module)
    if ranks.is_first:
        assert state.keys() == set(names.values()), "the tensors are of another model"
        state = {name: state[first] for name, first in names.items()}
    several = ranks.size > 1
    options = StateDictOptions(full_state_dict=several, broadcast_from_rank0=several)
    set_model_state_dict(module, dict(state), options=options)


def _first_names(module: nn.Module) -> dict[str, str]:
    """Each name of a module's state, and the first name of the same tensor."""
    first: dict[int, str] = {}
    tensors = module.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor in one piece, on every rank; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Gradients:
    """The gradients of a model and of its loss's ``aux`` modules, summed over all ranks."""

    def __init__(self, model: nn.Module, aux: nn.ModuleDict, ranks: Ranks) -> None:
        self._aux, self._ranks = aux, ranks
        self._parameters = [*model.parameters(), *aux.parameters()]
        self._sharded = [m for m in (model, *aux.values()) if isinstance(m, FSDPModule)]
        self._replica: DistributedDataParallel | None = None
        if ranks.size > 1 and not self._sharded:
            self._replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
        self.model = self._replica or model

    @contextlib.contextmanager
    def part(self, is_last: bool) -> Iterator[None]:
        """Around the passes over one part of a step: gradients are exchanged in the last one."""
        for module in self._sharded:
            module.set_requires_gradient_sync(is_last)
        replica = self._replica
        with contextlib.nullcontext() if is_last or replica is None else replica.no_sync():
            yield
        if is_last and replica is not None:
            for parameter in self._aux.parameters():
                if parameter.grad is not None:
                    self._ranks.sum(parameter.grad).div_(self._ranks.size)

    def clip(self, most: float) -> float:
        """Scale all of them down to a common norm of at most ``most``; the norm before."""
        return whole(nn.utils.clip_grad_norm_(self._parameters, most)).item()
