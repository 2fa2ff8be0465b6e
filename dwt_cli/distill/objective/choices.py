"""The objectives over features by their names. Imports no torch."""

from dwt_cli.distill.objective.attention import Attention
from dwt_cli.distill.objective.features import FeatureObjective
from dwt_cli.distill.objective.hidden import Hidden
from dwt_cli.distill.objective.itself import SelfFeatures
from dwt_cli.distill.objective.masked import MaskedHidden
from dwt_cli.distill.objective.relations import MiniLM, MiniLMv2

FEATURE_OBJECTIVES: dict[str, type[FeatureObjective]] = {
    "minilm": MiniLM,
    "minilmv2": MiniLMv2,
    "hidden": Hidden,
    "attention": Attention,
    "masked_hidden": MaskedHidden,
    "self_features": SelfFeatures,
}
