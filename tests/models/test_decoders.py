"""Decoders through the wrapper: eq. 3 by plain calls of transformers, and what a row may see."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from dwt_cli.data.bpe import train_tokenizer
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.relations import MiniLMv2
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.models.anatomy import ANATOMIES, head_size
from dwt_cli.models.checkpoint import save_model
from dwt_cli.models.flops import forward_flops
from dwt_cli.models.making import make_model
from dwt_cli.models.wrapper import LanguageModel, Want
from dwt_cli.tasks.clm import NextToken, shifted
from dwt_cli.tasks.task import Batch, Place
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.options import Muon
from dwt_cli.training.protocols import Moment
from tests.conftest import tiny_architecture

FAMILIES = ["qwen3", "llama", "gpt2", "olmo2", "gemma2", "gemma3_text"]
B, L, V = 3, 16, 300
GROUPED = {"qwen3": {"num_heads": 4, "num_kv_heads": 2, "width": 32}, "llama": {"num_kv_heads": 1}}


def decoder(family: str, num_layers: int = 2, seed: int = 0) -> PreTrainedModel:
    """A model with weights large enough that attention is sharp."""
    more: dict[str, Any] = GROUPED.get(family, {})
    options = tiny_architecture(family, num_layers, vocab_size=V, max_length=L, **more)
    model = make_model(options, seed, "student")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model


def batch() -> Any:
    blocks_BL = np.random.default_rng(0).integers(0, V, (B, L))
    return NextToken().batch(blocks_BL, 0, [Place(n, 0, n) for n in range(B)])


@pytest.mark.parametrize("family", FAMILIES)
def test_equation_3_is_that_of_plain_calls_with_the_shift_written_out(family: str) -> None:
    teacher, student, read = decoder(family, 1, seed=1), decoder(family), batch()
    hard, soft, tau = 0.7, 1.5, 2.0
    settings = {"logits": ForwardKL(temperature=tau)}
    signal = ModelSignal(LanguageModel(teacher, torch.float32))
    loss = DistillationLoss(Distillation(signal, Constant(hard=hard, soft=soft), settings))
    found = loss(LanguageModel(student, torch.float32).train(), read, Moment(0.0))
    found.total.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters()}
    student.zero_grad()

    logits_NV = student(input_ids=read.ids_BL).logits[:, :-1].flatten(0, 1)
    with torch.no_grad():
        teacher_NV = teacher(input_ids=read.ids_BL).logits[:, :-1].flatten(0, 1)
    labels_N = read.ids_BL[:, 1:].flatten()
    q_NV = (teacher_NV / tau).log_softmax(-1)
    p_NV = (logits_NV / tau).log_softmax(-1)
    hard_loss = F.cross_entropy(logits_NV, labels_N, reduction="sum")
    plain = hard * hard_loss + soft * (q_NV.exp() * (q_NV - p_NV)).sum()
    plain.backward()
    assert found.total.item() == pytest.approx(plain.item(), rel=1e-6)
    assert found.sums["hard_loss"].item() == pytest.approx(hard_loss.item(), rel=1e-6)
    flat = torch.cat([p.grad.flatten() for p in student.parameters()])
    difference = torch.cat([gradients[name].flatten() for name, _ in student.named_parameters()])
    assert (difference - flat).norm() < 1e-5 * flat.norm()


PATHS: dict[str, tuple[torch.dtype, bool, Want]] = {
    "training": (torch.float32, True, Want()),
    "evaluating": (torch.float32, False, Want()),
    "bf16, training": (torch.bfloat16, True, Want()),
    "bf16, evaluating": (torch.bfloat16, False, Want()),
    "features": (torch.float32, True, Want(features=frozenset({("hidden", 0), ("hidden", -1)}))),
    "relations": (torch.float32, True, Want(features=frozenset({("heads", 1)}))),
    "ragged": (torch.float32, True, Want(ragged=True)),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_position_sees_a_later_one(family: str, path: str) -> None:
    dtype, training, want = PATHS[path]
    model, read = decoder(family), batch()
    states: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        states.append(output)

    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(keep)
    output = LanguageModel(model, dtype).train(training)(*read.inputs, want)
    hook.remove()
    log_p_NV = output.logits_NV.float().log_softmax(-1)
    losses_BT = -log_p_NV.gather(1, read.labels_N[:, None]).view(B, L - 1)
    for place in (0, 5, L - 2):
        (gradient_BLD,) = torch.autograd.grad(losses_BT[1, place], states[0], retain_graph=True)
        assert gradient_BLD[1, : place + 1].abs().sum(-1).min() > 0
        gradient_BLD[1, : place + 1] = 0
        assert not gradient_BLD.any(), "of later places, and of other blocks"


MARK = 7
ENDS = (0, 5, 6, 11)  # a document of one id is among them


def apart() -> Any:
    """Blocks in which documents begin at the same places, and see no other."""
    blocks_BL = np.random.default_rng(0).integers(8, V, (B, L))
    blocks_BL[:, ENDS] = MARK
    return NextToken(MARK).batch(blocks_BL, 0, [Place(n, 0, n) for n in range(B)])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_position_sees_another_document(family: str, path: str) -> None:
    dtype, training, want = PATHS[path]
    model, read = decoder(family), apart()
    assert read.documents_BL.tolist() == [[1] * 5 + [2] + [3] * 5 + [4] * 5] * B
    states: list[torch.Tensor] = []
    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda *passed: states.append(passed[-1]))
    want = want._replace(documents_BL=read.documents_BL)
    output = LanguageModel(model, dtype).train(training)(*read.inputs, want)
    hook.remove()
    log_p_NV = output.logits_NV.float().log_softmax(-1)
    losses_BT = -log_p_NV.gather(1, read.labels_N[:, None]).view(B, L - 1)
    for place, first in ((3, 0), (5, 5), (6, 6), (14, 11)):
        (gradient_BLD,) = torch.autograd.grad(losses_BT[1, place], states[0], retain_graph=True)
        assert gradient_BLD[1, first : place + 1].abs().sum(-1).min() > 0
        gradient_BLD[1, first : place + 1] = 0
        assert not gradient_BLD.any(), "of other documents, later places and other blocks"


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_beside_others_are_what_they_are_alone(family: str) -> None:
    """For the loss in tiles, the teacher's answer and relations inside layers."""
    teacher, student, read = decoder(family, 1, seed=1), decoder(family), apart()
    settings = {"logits": ForwardKL(temperature=2.0), "relations": MiniLMv2()}
    signal = ModelSignal(LanguageModel(teacher, torch.float32))
    loss = DistillationLoss(Distillation(signal, Constant(hard=0.7, soft=1.5), settings))
    wrapped = LanguageModel(student, torch.float32).train()

    terms: Counter[str] = Counter()
    for first, end in itertools.pairwise((*ENDS, L)):
        ids_BT = read.ids_BL[:, first:end]
        # its last position's target is the next document's mark
        rows_N = torch.arange(ids_BT.numel()) if end < L else shifted(ids_BT)[0]
        labels_N = read.ids_BL[:, first + 1 : end + 1].flatten()
        alone = Batch(ids_BT, rows_N, labels_N, read.places_B3)
        own = loss(wrapped, alone, Moment(0.0)).sums
        for name in ("hard_loss", "teacher_loss", "soft_logits"):
            terms[name] += own[name].item()
        # a mean over positions, times the targets
        terms["soft_relations"] += own["soft_relations"].item() / len(labels_N) * (end - first)
    terms["soft_relations"] *= B * (L - 1) / L
    together = loss(wrapped, read, Moment(0.0)).sums
    for name, value in terms.items():
        assert together[name].item() == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("family", FAMILIES)
def test_half_of_attention_s_products_are_counted(family: str) -> None:
    """A position sees those before it; torch's counter counts what the plain kernel computes."""
    model, read = decoder(family), batch()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        LanguageModel(model, torch.float32)(*read.inputs)
    width = model.config.num_attention_heads * head_size(model.config)
    unseen = B * 2 * 2 * L * L * width  # 2 layers: half of 4 L L D each
    expected = forward_flops(model, B, L, L - 1)
    assert counter.get_total_flops() - unseen == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_muon_has_the_matrices_of_the_layers(family: str) -> None:
    model = LanguageModel(decoder(family), torch.float32)
    adamw, muon = Optimizer(model, Muon()).parts
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {named[id(p)] for group in muon.param_groups for p in group["params"]}
    layers = f"model.{ANATOMIES[family].layers}."
    assert ours == {n for n, p in model.named_parameters() if n.startswith(layers) and p.ndim == 2}
    assert len(ours) == (8 if family == "gpt2" else 14)
    others = {named[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert ours | others == set(named.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_is_saved_as_transformers_makes_one(family: str, tmp_path: Path) -> None:
    model, tokenizer = decoder(family), train_tokenizer(["some text"], V, L)
    save_model(LanguageModel(model, torch.float32).model, tokenizer, tmp_path / "saved")
    config = type(model.config)(**model.config.to_diff_dict() | {"pad_token_id": 1})
    fresh = type(model)(config)
    fresh.save_pretrained(tmp_path / "fresh")
    for file in ("config.json", "generation_config.json"):
        ours, theirs = (json.loads((tmp_path / x / file).read_text()) for x in ("saved", "fresh"))
        assert ours == theirs
    ours, theirs = (load_file(tmp_path / x / "model.safetensors") for x in ("saved", "fresh"))
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(opened) is type(model)
    said = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (said.bos_token_id, said.eos_token_id, said.pad_token_id) == (0, 0, 1)
    ids_BL = torch.tensor([[0, 40, 50]])
    written = opened.generate(ids_BL, max_new_tokens=5, do_sample=False)
    assert torch.equal(opened(ids_BL).logits[0, -1].argmax(), written[0, 3])
