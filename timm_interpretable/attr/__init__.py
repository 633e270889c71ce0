"""Attributions, each behind Captum's interface, and the catalogue of all explanation methods."""

from timm_interpretable.attr.cams import GradCAM, HiResCAM
from timm_interpretable.attr.catalogue import (
    METHODS,
    Context,
    Cost,
    Method,
    MethodSettings,
    SumsTo,
    evidence_of,
    explained_by,
    method_named,
    methods_for,
    own_method,
    register_method,
)
from timm_interpretable.attr.class_map import ClassMap, LayerClassMap
from timm_interpretable.attr.contribution import InputContribution, LayerContribution
from timm_interpretable.attr.evidence import Evidence, Explanation
from timm_interpretable.attr.fame import FAME, FAMEDetails, change_map
from timm_interpretable.attr.losses import (
    CosineDissimilarity,
    CosineSimilarity,
    FeatureLocationLoss,
    LogitLoss,
    Loss,
)
from timm_interpretable.attr.maps import MapsOfClasses, MapSource, maps_by_class, maps_of
from timm_interpretable.attr.permutation import PatchPermutation
from timm_interpretable.attr.regions import by_region
from timm_interpretable.attr.rise import RISE, CorrRISE
from timm_interpretable.attr.smoothing import smoothed

__all__ = [
    "FAME",
    "METHODS",
    "RISE",
    "ClassMap",
    "Context",
    "CorrRISE",
    "CosineDissimilarity",
    "CosineSimilarity",
    "Cost",
    "Evidence",
    "Explanation",
    "FAMEDetails",
    "FeatureLocationLoss",
    "GradCAM",
    "HiResCAM",
    "InputContribution",
    "LayerClassMap",
    "LayerContribution",
    "LogitLoss",
    "Loss",
    "MapSource",
    "MapsOfClasses",
    "Method",
    "MethodSettings",
    "PatchPermutation",
    "SumsTo",
    "by_region",
    "change_map",
    "evidence_of",
    "explained_by",
    "maps_by_class",
    "maps_of",
    "method_named",
    "methods_for",
    "own_method",
    "register_method",
    "smoothed",
]
