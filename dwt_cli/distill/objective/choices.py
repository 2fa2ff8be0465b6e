"""The objectives over features by their names. Imports no torch."""

from dwt_cli.distill.objective.attention import Attention
from dwt_cli.distill.objective.features import FeatureObjective, Hidden, MiniLM, MiniLMv2
from dwt_cli.distill.objective.itself import SelfFeatures
from dwt_cli.distill.objective.masked import MaskedHidden

FEATURE_OBJECTIVES: dict[str, type[FeatureObjective]] = {
    "minilm": MiniLM,
    "minilmv2": MiniLMv2,
    "hidden": Hidden,
    "attention": Attention,
    "masked_hidden": MaskedHidden,
    "self_features": SelfFeatures,
}
