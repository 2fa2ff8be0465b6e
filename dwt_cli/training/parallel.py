"""One model trained by several ranks: replicated (DDP) or sharded (FSDP2).

A step's loss is a sum over all ranks' targets, divided once; DDP and FSDP2 take means over ranks,
so each rank's loss is multiplied by their number.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import fsdp
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.models.anatomy import layers_of
from dwt_cli.models.wrapper import Wrapper
from dwt_cli.training.options import Fsdp


def shard(
    model: Wrapper, aux: nn.ModuleDict, options: Fsdp, device: torch.device, dtype: torch.dtype
) -> None:
    """Leave each rank its shards of ``model`` and of ``aux``, in place.

    They may come from CPU memory: they are moved to ``device`` layer by layer, so that it never
    holds the whole. Weights are gathered there in ``dtype``, gradients summed in fp32.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = fsdp.MixedPrecisionPolicy(
        param_dtype=dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # autocast says what is computed in it
    )
    pinned = fsdp.CPUOffloadPolicy(pin_memory=device.type == "cuda")
    offload = pinned if options.cpu_offload else fsdp.OffloadPolicy()
    own = partial(fsdp.fully_shard, mesh=mesh, offload_policy=offload)
    if options.activation_checkpointing:
        model.model.activation_checkpointing_enable()
    for layer in layers_of(model.model):
        own(layer, mp_policy=policy)
    # the root too frees what it has gathered: after an evaluation its parameters are the shards,
    # which the optimiser is made of
    own(model, mp_policy=policy, reshard_after_forward=True)
    for module in aux.values():
        if any(True for _ in module.parameters()):
            own(module, reshard_after_forward=True)


def state_on_first(module: nn.Module) -> dict[str, Tensor]:
    """Return whole parameters and buffers, in CPU memory, on rank 0; nothing on the others.

    A tied tensor has its first name alone. All ranks call it: shards are gathered tensor by
    tensor.
    """
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = states.get_model_state_dict(module, options=options)
    names = dict.fromkeys(_first_names(module).values())
    return {name: state[name].contiguous() for name in names if name in state}


def load_state(module: nn.Module, state: dict[str, Tensor], ranks: Ranks = ALONE) -> None:
    """Load the result of `state_on_first` on rank 0 into a module of all ranks, whole or sharded.

    Each rank receives one tensor at a time and keeps its shard of it.
    """
    names = _first_names(module)
    if ranks.is_first:
        assert state.keys() == set(names.values()), "the tensors are of another model"
        state = {name: state[first] for name, first in names.items()}
    several = ranks.size > 1
    options = states.StateDictOptions(full_state_dict=several, broadcast_from_rank0=several)
    states.set_model_state_dict(module, dict(state), options=options)


def _first_names(module: nn.Module) -> dict[str, str]:
    """Return, for each name in a module's state, the first name of the same tensor."""
    first: dict[int, str] = {}
    tensors = module.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered, on every rank; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Gradients:
    """The gradients of a model and of its loss's ``aux`` modules, summed over all ranks.

    model: the module to call in the forward pass.
    """

    def __init__(self, model: nn.Module, aux: nn.ModuleDict, ranks: Ranks) -> None:
        self._ranks = ranks
        self._of_model, self._of_aux = list(model.parameters()), list(aux.parameters())
        self._sharded = [m for m in (model, *aux.values()) if isinstance(m, fsdp.FSDPModule)]
        self._replica: DistributedDataParallel | None = None
        if ranks.size > 1 and not self._sharded:
            self._replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
        self.model = self._replica or model

    @contextlib.contextmanager
    def micro_batch(self, is_last: bool) -> Iterator[None]:
        """Wrap the passes over one micro-batch: gradients are exchanged in a step's last one."""
        for module in self._sharded:
            module.set_requires_gradient_sync(is_last)
        replica = self._replica
        with contextlib.nullcontext() if is_last or replica is None else replica.no_sync():
            yield
        if is_last and replica is not None:
            self._average_aux()

    def _average_aux(self) -> None:
        """Do for the ``aux`` modules what DDP does for the model: take means over ranks."""
        if not self._of_aux:
            return
        present = torch.tensor([float(p.grad is not None) for p in self._of_aux])
        on_all = self._ranks.sum(present.clone()) == self._ranks.size * present
        assert on_all.all(), "which aux parameters have a gradient depends on a rank's data"
        for parameter in self._of_aux:
            if parameter.grad is not None:
                self._ranks.sum(parameter.grad).div_(self._ranks.size)

    def clip(self, max_norm: float) -> tuple[float, float]:
        """Scale gradients down to a norm of at most ``max_norm``; return the norms before.

        The model's and those of ``aux`` by a norm of their own: what is trained beside the model
        never shrinks its step.
        """
        norms = [nn.utils.clip_grad_norm_(p, max_norm) for p in (self._of_model, self._of_aux)]
        of_model, of_aux = (whole(norm).item() for norm in norms)
        return of_model, of_aux
