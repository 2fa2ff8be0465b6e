"""The teacher's weights into the student: depth and width together, every tensor accounted for.

Only weights are taken over: the optimiser's state starts empty, as for any student.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.distill.remap import depth, width
from dwt_cli.distill.remap.depth import Source
from dwt_cli.distill.remap.options import FromTeacher
from dwt_cli.distill.remap.width import Axis, Piece
from dwt_cli.models.anatomy import ANATOMIES, anatomy_of
from dwt_cli.models.families.parts import SIZES, Anatomy


@dataclass
class Account:
    """Where each tensor of the student comes from.

    copied: student tensor -> teacher tensor. grown: student tensor -> teacher tensors that a width
    rule made it of. reset: student tensor -> why it is not the teacher's. layers: student layer ->
    teacher layer -> share in it. silent: student layers that are the identity at first.
    """

    copied: dict[str, str] = field(default_factory=dict)
    grown: dict[str, list[str]] = field(default_factory=dict)
    reset: dict[str, str] = field(default_factory=dict)
    layers: dict[int, dict[int, float]] = field(default_factory=dict)
    silent: list[int] = field(default_factory=list)


@torch.no_grad()
def remap(student: PreTrainedModel, teacher: PreTrainedModel, options: FromTeacher) -> Account:
    """Write the teacher's weights into the student, in place; return where each is from.

    On the meta device shapes alone are compared. Raises `UserError` when the rules cannot make one
    of the other: another family, a wider teacher, layers of another kind.
    """
    sources = sources_of(student.config, teacher.config, options)
    donor = Donor.of(teacher)
    account = Account(
        layers=_shares(sources, student.config, teacher.config, options),
        silent=[layer for layer, source in enumerate(sources) if source.silent],
    )
    axes = axes_by_letter(student.config, teacher.config)
    target = student.state_dict()
    for name, tensor in target.items():
        number, _ = donor.anatomy.place_of(name)
        source = None if number is None else sources[number]
        if reason := _why_reset(name, source, donor.anatomy, options):
            account.reset[name] = reason
            if source is not None and source.silent:
                tensor.zero_()
            continue
        layer = None if source is None else source.layer
        origins = donor.names_for(name, layer)
        own, following = (donor.tensors[origin].to(tensor) for origin in origins)
        if own.shape == tensor.shape:
            account.copied[name] = origins[0]
            tensor.copy_(own)
            continue
        grown = None
        if options.width is not None:
            grown = _widened(
                Piece(own, following, tensor, ()), donor.anatomy.axes_of(name), axes, options
            )
        if grown is None or grown.shape != tensor.shape:
            raise UserError(
                f"remap: the student's {name} is {tuple(tensor.shape)}, the teacher's "
                f"{origins[0]} is {tuple(own.shape)}; choose remap=random"
            )
        uses = origins if options.width in width.FROM_TWO_LAYERS else origins[:1]
        account.grown[name] = list(dict.fromkeys(uses))
        tensor.copy_(grown)
    assert account.copied.keys() | account.grown.keys() | account.reset.keys() == target.keys()
    _check_nothing_is_lost(donor, account, options)
    return account


def _why_reset(
    name: str, source: Source | None, anatomy: Anatomy, options: FromTeacher
) -> str | None:
    if source is None:
        is_tied = name == f"{anatomy.output}.weight"  # it is the embeddings
        if options.head or is_tied or name.startswith(f"{anatomy.embeddings}."):
            return None
        return "remap.head=false leaves it as it was made"
    if source.layer is None:
        return "the rule leaves this layer as it was made"
    _, inside = anatomy.place_of(name)
    if source.silent and _adds_to_stream(inside, anatomy):
        return "zero: the layer is the identity at first"
    return None


def _adds_to_stream(inside: str, anatomy: Anatomy) -> bool:
    """Return whether a layer's tensor is of a projection to the residual stream."""
    module, _, _ = inside.rpartition(".")
    return anatomy.axes.get(module, "").startswith("D ")


# ------------------------------------------------------------------------- the teacher's tensors


@dataclass(frozen=True)
class Donor:
    """The teacher's tensors, as the student asks for them."""

    tensors: dict[str, Tensor]
    anatomy: Anatomy
    num_layers: int

    @classmethod
    def of(cls, teacher: PreTrainedModel) -> "Donor":
        return cls(teacher.state_dict(), anatomy_of(teacher), teacher.config.num_hidden_layers)

    def name_for(self, name: str, layer: int | None) -> str:
        """Return the tensor of the teacher's ``layer`` that does what ``name`` does there."""
        number, inside = self.anatomy.place_of(name)
        origin = name if number is None else f"{self.anatomy.layers}.{layer}.{inside}"
        if origin not in self.tensors and inside in self.anatomy.optional:
            return self.anatomy.optional[inside]
        if origin not in self.tensors:
            raise UserError(
                f"remap: the teacher has no tensor {origin} for the student's {name}; "
                "choose remap=random"
            )
        return origin

    def names_for(self, name: str, layer: int | None) -> tuple[str, str]:
        """Return `name_for` a layer and for the one after it; the last is its own successor."""
        following = None if layer is None else min(layer + 1, self.num_layers - 1)
        return self.name_for(name, layer), self.name_for(name, following)


def _check_nothing_is_lost(donor: Donor, account: Account, options: FromTeacher) -> None:
    used = {*account.copied.values(), *(name for names in account.grown.values() for name in names)}
    layers = {origin for shares in account.layers.values() for origin in shares}
    for name in sorted(donor.tensors.keys() - used):
        number, inside = donor.anatomy.place_of(name)
        if number is None and not options.head:
            continue
        if number is not None and (number not in layers or inside in donor.anatomy.optional):
            continue
        raise UserError(
            f"remap.depth={options.depth}: the student has no place for the teacher's {name}; "
            "choose remap=random"
        )


# ------------------------------------------------------------------------------------- width


def axes_by_letter(ours: PreTrainedConfig, theirs: PreTrainedConfig) -> dict[str, Axis]:
    """Return the axes that grow, by the letters of `Anatomy.axes`."""
    head = theirs.hidden_size // theirs.num_attention_heads
    written = {
        "D": Axis(theirs.hidden_size, ours.hidden_size),
        "H": Axis(theirs.hidden_size, ours.hidden_size, unit=head),
        "M": Axis(theirs.intermediate_size, ours.intermediate_size),
    }
    return written | {name.lower(): replace(axis, read=True) for name, axis in written.items()}


def unfused(tensor: Tensor, letters: list[str]) -> tuple[Tensor, list[str]]:
    """Return a view in which fused parts are an axis of their own: "3H d" -> ". H d"."""
    if (parts := letters[0][:-1]) == "":
        return tensor, letters
    return tensor.unflatten(0, (int(parts), -1)), [".", letters[0][-1], *letters[1:]]


def _widened(
    piece: Piece, letters: list[str], axes: Mapping[str, Axis], options: FromTeacher
) -> Tensor:
    assert options.width is not None
    own, single = unfused(piece.own, letters)
    following, _ = unfused(piece.following, letters)
    fresh, _ = unfused(piece.fresh, letters)
    each = [axes.get(one, Axis(n, n)) for one, n in zip(single, own.shape, strict=True)]
    grown = width.RULES[options.width](Piece(own, following, fresh, tuple(each)))
    return grown if len(single) == len(letters) else grown.flatten(0, 1)


# ----------------------------------------------------------------------------- what can be done


def sources_of(
    ours: PreTrainedConfig, theirs: PreTrainedConfig, options: FromTeacher
) -> list[Source]:
    """Return where each of the student's layers comes from.

    Raises `UserError` unless the rules can make the student's shapes of the teacher's.
    """
    anatomy = _check_family(ours, theirs, options)
    _check_sizes(ours, theirs, options, anatomy)
    num_student, num_teacher = ours.num_hidden_layers, theirs.num_hidden_layers
    if options.depth == "zero_init":
        if not anatomy.pre_norm:
            raise UserError(
                f"remap.depth=zero_init: a layer that adds zero still normalises in a "
                f"{ours.model_type} (post-LN), and is not the identity; choose "
                "student.family=modernbert, or remap.depth=stack"
            )
        if num_student < num_teacher:
            raise UserError(
                f"remap.depth=zero_init adds layers: the teacher has {num_teacher}, "
                f"student.num_layers={num_student}; raise it, or choose remap.depth=interpolate"
            )
    rule = depth.RULES[options.depth]
    sources = [rule(layer, num_student, num_teacher) for layer in range(num_student)]
    _check_kinds(ours, theirs, options, sources)
    return sources


def _check_family(
    ours: PreTrainedConfig, theirs: PreTrainedConfig, options: FromTeacher
) -> Anatomy:
    if ours.model_type != theirs.model_type:
        known = ANATOMIES.get(theirs.model_type)
        can_be_made = known is not None and known.configure is not None
        remedy = f"student.family={theirs.model_type} or " if can_be_made else ""
        raise UserError(
            f"remap.depth={options.depth}: the student is a {ours.model_type}, the teacher a "
            f"{theirs.model_type}; choose {remedy}remap=random"
        )
    anatomy = ANATOMIES[ours.model_type]
    for key in anatomy.same:
        if getattr(ours, key) != getattr(theirs, key):
            raise UserError(
                f"remap.depth={options.depth}: the teacher has {key}={getattr(theirs, key)}, the "
                f"student {getattr(ours, key)}: weights mean something else there; choose "
                "another teacher or remap=random"
            )
    return anatomy


def _check_sizes(
    ours: PreTrainedConfig, theirs: PreTrainedConfig, options: FromTeacher, anatomy: Anatomy
) -> None:
    for setting, key in SIZES.items():
        mine, given = getattr(ours, key), getattr(theirs, key)
        if given > mine:
            raise UserError(
                f"remap.depth={options.depth}: student.{setting}={mine} is less than the "
                f"teacher's {given}, and weights are not cut; set student.{setting}={given} or "
                "more, or remap=random"
            )
        if given < mine and setting != "num_heads" and options.width is None:
            raise UserError(
                f"remap.depth={options.depth}: student.{setting}={mine} is more than the "
                f"teacher's {given}; choose remap.width=net2net (or another rule), set "
                f"student.{setting}={given}, or remap=random"
            )
    head = theirs.hidden_size // theirs.num_attention_heads
    if ours.hidden_size != head * ours.num_attention_heads:
        raise UserError(
            f"remap.depth={options.depth}: student.num_heads={ours.num_attention_heads} of size "
            f"{ours.hidden_size // ours.num_attention_heads}, the teacher's "
            f"{theirs.num_attention_heads} of size {head}: heads are taken over whole; "
            f"{_head_remedy(ours.hidden_size, head)}, or remap=random"
        )
    if any(getattr(ours, SIZES[s]) != getattr(theirs, SIZES[s]) for s in ("width", "mlp_width")):
        if not anatomy.axes:
            raise UserError(
                f"remap.width={options.width}: for a {ours.model_type} there is no width rule; "
                "use a teacher of the student's own width, or remap=random"
            )
        if options.width in width.EXACT_OR_NOTHING and ours.hidden_size % theirs.hidden_size:
            raise UserError(
                f"remap.width={options.width} is exact at multiples of the teacher's width alone: "
                f"student.width={ours.hidden_size}, the teacher's {theirs.hidden_size}; set "
                f"student.width={-(-ours.hidden_size // theirs.hidden_size) * theirs.hidden_size}, "
                "or remap.width=net2net"
            )


def _head_remedy(hidden_size: int, head: int) -> str:
    if hidden_size % head:
        return f"set student.width to a multiple of {head}"
    return f"set student.num_heads={hidden_size // head}"


def _check_kinds(
    ours: PreTrainedConfig, theirs: PreTrainedConfig, options: FromTeacher, sources: list[Source]
) -> None:
    for layer, shares in _shares(sources, ours, theirs, options).items():
        for origin in shares:
            mine, given = _kind(ours, layer), _kind(theirs, origin)
            if mine != given:
                raise UserError(
                    f"remap.depth={options.depth}: the student's layer {layer} ({_said(mine)}) "
                    f"and the teacher's layer {origin} ({_said(given)}) are not interchangeable; "
                    "use a teacher whose layers are alike, or remap=random"
                )


def _kind(config: PreTrainedConfig, layer: int) -> dict[str, Any]:
    """Return what makes one layer attend otherwise than another, besides its weights."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return {}
    rotary = (getattr(config, "rope_parameters", None) or {}).get(kinds[layer], {})
    window = {"window": config.local_attention} if kinds[layer] == "sliding_attention" else {}
    return {"kind": kinds[layer], **rotary, **window}


def _said(kind: Mapping[str, Any]) -> str:
    return ", ".join(str(v) if k == "kind" else f"{k} {v}" for k, v in kind.items())


def _shares(
    sources: list[Source], ours: PreTrainedConfig, theirs: PreTrainedConfig, options: FromTeacher
) -> dict[int, dict[int, float]]:
    """Return student layer -> teacher layer -> the share of its places that come from there."""
    shares: dict[int, dict[int, float]] = {}
    num_teacher = theirs.num_hidden_layers
    for layer, source in enumerate(sources):
        if source.layer is None:
            continue
        if options.mixes_layers:
            shares[layer] = {other: float(other == source.layer) for other in range(num_teacher)}
            continue
        shares[layer] = {source.layer: 1.0}
        following = min(source.layer + 1, num_teacher - 1)
        if options.width in width.FROM_TWO_LAYERS and following != source.layer:
            part = theirs.hidden_size / ours.hidden_size
            if part < 1:
                shares[layer] = {source.layer: part, following: 1 - part}
    return shares
