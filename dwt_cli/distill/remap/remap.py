"""The teacher's weights into the student: depth and width together, every tensor accounted for.

Only weights are taken over: the optimiser's state starts empty, as for any student.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.distill.remap import depth, width
from dwt_cli.distill.remap.options import FromTeacher
from dwt_cli.distill.remap.vocabulary import Transfer, rows_of_vocabulary
from dwt_cli.distill.remap.width import Axis, Piece
from dwt_cli.models.anatomy import ANATOMIES, anatomy_of, head_size, num_heads
from dwt_cli.models.families.parts import Anatomy


@dataclass
class Account:
    """Where each tensor of the student comes from.

    copied: student tensor -> teacher tensor. grown: student tensor -> teacher tensors that a width
    rule made it of. reset: student tensor -> why it is not the teacher's. layers: student layer ->
    teacher layer -> share in it. silent: student layers that are the identity at first. tokens:
    where the vocabulary is another, how many rows are of each kind (see `Transfer`).
    """

    copied: dict[str, str] = field(default_factory=dict)
    grown: dict[str, list[str]] = field(default_factory=dict)
    reset: dict[str, str] = field(default_factory=dict)
    layers: dict[int, dict[int, float]] = field(default_factory=dict)
    silent: list[int] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)


@torch.no_grad()
def remap(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    options: FromTeacher,
    tokens: Transfer | None = None,
) -> Account:
    """Write the teacher's weights into the student, in place; return where each is from.

    tokens: how the rows of another vocabulary are made; None: both have one, or they are not. On
    the meta device shapes alone are compared. Raises `UserError` when the rules cannot make one of
    the other: another family, a wider teacher, layers of another kind.
    """
    sources = sources_of(student.config, teacher.config, options)
    repeats = [n for n in range(1, len(sources)) if sources[n] == sources[n - 1]]
    donor, anatomy = Donor.of(teacher, tokens), anatomy_of(teacher)
    left = options.vocabulary.left_out(rows_of_vocabulary(student))
    account = Account(
        layers=_shares(sources, student.config, teacher.config, options),
        silent=repeats if options.depth in depth.SILENT else [],
        tokens=dict(tokens.kinds) if tokens else {},
    )
    axes = axes_by_letter(student.config, teacher.config)
    target = student.state_dict()
    for name, tensor in target.items():
        number, inside = anatomy.place_of(name)
        origin = None if number is None else sources[number]
        is_embedding = name.startswith(anatomy.embeddings) or name == f"{anatomy.output}.weight"
        if name in left:
            account.reset[name] = "remap.vocabulary=fresh leaves it as it was made"
        elif number is None and not (options.head or is_embedding):
            account.reset[name] = "remap.head=false leaves it as it was made"
        elif number is not None and origin is None:
            account.reset[name] = "the rule leaves this layer as it was made"
        elif number in account.silent and _adds_to_stream(inside, anatomy):
            account.reset[name] = "zero: the layer is the identity at first"
            tensor.copy_(stored(torch.zeros_like(tensor), name, student.config))
        if name in account.reset:
            continue
        layers = [] if origin is None else [origin, min(origin + 1, donor.num_layers - 1)]
        origins = donor.names(name, layers)
        own, following = (donor.tensors[origins[n]].to(tensor) for n in (0, -1))
        if own.shape == tensor.shape:
            account.copied[name] = origins[0]
        else:
            two = options.width in width.FROM_TWO_LAYERS
            account.grown[name] = origins if two else origins[:1]
            if options.width is not None:
                letters, rule = anatomy.axes_of(name), width.RULES[options.width]
                given = ((own, teacher), (following, teacher), (tensor, student))
                whole = (counted(each, name, model.config) for each, model in given)
                (first, single), (second, _), (fresh, _) = (unfused(t, letters) for t in whole)
                sizes = zip(single, first.shape, strict=True)
                along = tuple(axes.get(letter, Axis(n, n)) for letter, n in sizes)
                grown = rule(Piece(first, second, fresh, along))
                own = stored(fused(grown, letters), name, student.config)
        if own.shape != tensor.shape:
            raise UserError(
                f"remap: the student's {name} is {tuple(tensor.shape)}, the teacher's "
                f"{origins[0]} is {tuple(donor.tensors[origins[0]].shape)}; choose remap=random"
            )
        tensor.copy_(own)
    assert account.copied.keys() | account.grown.keys() | account.reset.keys() == target.keys()
    left = options.vocabulary.left_out(rows_of_vocabulary(teacher))
    _check_nothing_is_lost(donor, account, options, left)
    return account


def _adds_to_stream(inside: str, anatomy: Anatomy) -> bool:
    """Return whether a layer's tensor is of the last step to the residual stream.

    That is a projection, or a norm after it: of zeros it would multiply gradients by 1 / sqrt(eps).
    """
    module, _, _ = inside.rpartition(".")
    if anatomy.output_norms:
        return module in anatomy.output_norms
    letters = anatomy.axes.get(module, "").split()
    return len(letters) == 2 and "D" in letters


def _check_nothing_is_lost(
    donor: "Donor", account: Account, options: FromTeacher, left: set[str]
) -> None:
    used = {*account.copied.values(), *(name for names in account.grown.values() for name in names)}
    used |= left
    layers = {origin for each in account.layers.values() for origin, share in each.items() if share}
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


def counted(tensor: Tensor, name: str, config: PreTrainedConfig) -> Tensor:
    """Return a stored tensor as it counts in its model: a gain, what is added to the stream."""
    factor, summand = ANATOMIES[config.model_type].stored(name.rpartition(".")[0], config)
    return tensor if (factor, summand) == (1, 0) else factor * (tensor + summand)


def stored(tensor: Tensor, name: str, config: PreTrainedConfig) -> Tensor:
    """Return what `counted` took, as a model of this configuration stores it."""
    factor, summand = ANATOMIES[config.model_type].stored(name.rpartition(".")[0], config)
    return tensor if (factor, summand) == (1, 0) else tensor / factor - summand


@dataclass(frozen=True)
class Donor:
    """The teacher's tensors, as the student asks for them."""

    tensors: dict[str, Tensor]
    anatomy: Anatomy
    num_layers: int

    @classmethod
    def of(cls, teacher: PreTrainedModel, tokens: Transfer | None = None) -> "Donor":
        """Return them in a vocabulary of other tokens, or in the teacher's."""
        tensors = teacher.state_dict()
        if tokens is not None:
            tensors |= {name: tokens(tensors[name]) for name in rows_of_vocabulary(teacher)}
        return cls(tensors, anatomy_of(teacher), teacher.config.num_hidden_layers)

    def names(self, name: str, layers: Iterable[int]) -> list[str]:
        """Return the tensors that do in the teacher's layers what the student's ``name`` does.

        Outside of layers it is the one of that name.
        """
        number, inside = self.anatomy.place_of(name)
        asked = [name]
        if number is not None:
            asked = [f"{self.anatomy.layers}.{layer}.{inside}" for layer in layers]
        found = []
        for origin in asked:
            there = origin if origin in self.tensors else self.anatomy.optional.get(inside)
            if there is None:
                raise UserError(
                    f"remap: the teacher has no tensor {origin} for the student's {name}; "
                    "choose remap=random"
                )
            found.append(there)
        return list(dict.fromkeys(found))


def axes_by_letter(ours: PreTrainedConfig, theirs: PreTrainedConfig) -> dict[str, Axis]:
    """Return the axes that grow, by the letters of `Anatomy.axes`."""
    head, mlp_width = head_size(theirs), ANATOMIES[theirs.model_type].mlp_width
    (of_theirs, kv_of_theirs), (of_ours, kv_of_ours) = num_heads(theirs), num_heads(ours)
    written = {
        "D": Axis(theirs.hidden_size, ours.hidden_size),
        "H": Axis(of_theirs * head, of_ours * head, unit=head),
        "K": Axis(kv_of_theirs * head, kv_of_ours * head, unit=head),
        "M": Axis(mlp_width(theirs), mlp_width(ours)),
    }
    return written | {name.lower(): replace(axis, read=True) for name, axis in written.items()}


def unfused(tensor: Tensor, letters: list[str]) -> tuple[Tensor, list[str]]:
    """Return a view in which fused parts are an axis of their own: "3H d" -> ". H d"."""
    for dim, letter in enumerate(letters):
        if parts := letter[:-1]:
            single = [*letters[:dim], ".", letter[-1], *letters[dim + 1 :]]
            return tensor.unflatten(dim, (int(parts), -1)), single
    return tensor, letters


def fused(tensor: Tensor, letters: list[str]) -> Tensor:
    """Return what `unfused` took apart, in one again."""
    places = [dim for dim, letter in enumerate(letters) if letter[:-1]]
    return tensor.flatten(places[0], places[0] + 1) if places else tensor


def sources_of(
    ours: PreTrainedConfig, theirs: PreTrainedConfig, options: FromTeacher
) -> Sequence[int | None]:
    """Return the teacher's layer that each of the student's comes from; None for none.

    Raises `UserError` unless the rules can make the student's shapes of the teacher's.
    """
    for problem in _problems_of_shapes(ours, theirs, options):
        raise UserError(f"{problem}, or remap=random")
    sources = depth.RULES[options.depth](ours.num_hidden_layers, theirs.num_hidden_layers)
    for layer, shares in _shares(sources, ours, theirs, options).items():
        for origin in shares:
            mine, given = _kind(ours, layer), _kind(theirs, origin)
            if mine != given:
                raise UserError(
                    f"remap.depth={options.depth}: the student's layer {layer} ({mine}) and the "
                    f"teacher's layer {origin} ({given}) are not interchangeable; use a teacher "
                    "whose layers are alike, or remap=random"
                )
    return sources


def _problems_of_shapes(
    ours: PreTrainedConfig, theirs: PreTrainedConfig, options: FromTeacher
) -> Iterator[str]:
    """Yield why the one's shapes cannot be made of the other's; each line takes those before it.

    With a remedy that keeps the rule, or is the next best one.
    """
    at_depth, at_width = f"remap.depth={options.depth}", f"remap.width={options.width}"
    family, anatomy = ours.model_type, ANATOMIES[ours.model_type]
    if theirs.model_type != family:
        known = ANATOMIES.get(theirs.model_type)
        is_made = known and known.configure
        remedy = f"student.family={theirs.model_type}" if is_made else "another teacher"
        yield (
            f"{at_depth}: the student is a {family}, the teacher a {theirs.model_type}; choose "
            f"{remedy}"
        )
    for key in anatomy.same:
        if getattr(ours, key) != getattr(theirs, key):
            yield (
                f"{at_depth}: the teacher has {key}={getattr(theirs, key)}, the student "
                f"{getattr(ours, key)}: weights mean something else there; choose another teacher"
            )
    sizes = (
        ("width", ours.hidden_size, theirs.hidden_size),
        ("mlp_width", anatomy.mlp_width(ours), anatomy.mlp_width(theirs)),
        ("num_heads", ours.num_attention_heads, theirs.num_attention_heads),
    )
    for setting, mine, given in sizes:
        named = f"{at_depth}: student.{setting}={mine}"
        if given > mine:
            yield (
                f"{named} is less than the teacher's {given}, and weights are not cut; set "
                f"student.{setting}={given} or more"
            )
        if given < mine and setting != "num_heads" and options.width is None:
            yield (
                f"{named} is more than the teacher's {given}; choose remap.width=net2net (or "
                f"another rule), set student.{setting}={given}"
            )
    head = head_size(theirs)
    (of_ours, kv_of_ours), (of_theirs, kv_of_theirs) = num_heads(ours), num_heads(theirs)
    if head_size(ours) != head:
        fits = ours.hidden_size % head == 0
        remedy = (
            f"num_heads={ours.hidden_size // head}" if fits else f"width to a multiple of {head}"
        )
        yield (
            f"{at_depth}: student.num_heads={of_ours} of size {head_size(ours)}, the teacher's "
            f"{of_theirs} of size {head}: heads are taken over whole; set student.{remedy}"
        )
    if of_ours * kv_of_theirs != of_theirs * kv_of_ours:
        yield (
            f"{at_depth}: the student has {of_ours} heads to {kv_of_ours} of keys and values, the "
            f"teacher {of_theirs} to {kv_of_theirs}: groups are taken over whole; set "
            f"student.num_kv_heads={max(1, of_ours * kv_of_theirs // of_theirs)}"
        )
    if any(axis.old != axis.new for axis in axes_by_letter(ours, theirs).values()):
        if not anatomy.axes:
            yield (
                f"{at_width}: for a {family} there is no width rule; use a teacher of the "
                "student's own width"
            )
        if options.width in width.EXACT_OR_NOTHING and ours.hidden_size % theirs.hidden_size:
            multiple = -(-ours.hidden_size // theirs.hidden_size) * theirs.hidden_size
            yield (
                f"{at_width} is exact at multiples of the teacher's width alone: student.width="
                f"{ours.hidden_size}, the teacher's {theirs.hidden_size}; set student.width="
                f"{multiple}, remap.width=net2net"
            )
    if options.depth in depth.SILENT and not anatomy.pre_norm:
        yield (
            f"{at_depth}: a layer that adds zero still normalises in a {family} (post-LN), and is "
            "not the identity; choose student.family=modernbert, remap.depth=stack"
        )
    if options.depth in depth.SILENT and ours.num_hidden_layers < theirs.num_hidden_layers:
        yield (
            f"{at_depth} adds layers: the teacher has {theirs.num_hidden_layers}, "
            f"student.num_layers={ours.num_hidden_layers}; raise it, or choose "
            "remap.depth=interpolate"
        )


def _kind(config: PreTrainedConfig, layer: int) -> str:
    """Return what makes one layer attend otherwise than another, besides its weights."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return ""
    named = dict((getattr(config, "rope_parameters", None) or {}).get(kinds[layer], {}))
    if kinds[layer] == "sliding_attention":
        named["window"] = getattr(config, "local_attention", None) or config.sliding_window
    return ", ".join([kinds[layer], *(f"{key} {value}" for key, value in sorted(named.items()))])


def _shares(
    sources: Sequence[int | None],
    ours: PreTrainedConfig,
    theirs: PreTrainedConfig,
    options: FromTeacher,
) -> dict[int, dict[int, float]]:
    """Return student layer -> teacher layer -> the share of its places that come from there."""
    num_teacher, part = theirs.num_hidden_layers, theirs.hidden_size / ours.hidden_size
    two = options.width in width.FROM_TWO_LAYERS and part < 1
    shares: dict[int, dict[int, float]] = {}
    for layer, origin in enumerate(sources):
        if origin is None:
            continue
        shares[layer] = {origin: 1.0}
        if options.learned:  # it may be made of any
            shares[layer] = {each: float(each == origin) for each in range(num_teacher)}
        elif two and origin + 1 < num_teacher:
            shares[layer] = {origin: part, origin + 1: 1 - part}
    return shares
