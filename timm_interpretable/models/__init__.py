"""Interpretable classifiers; importing this package registers them with timm."""

from timm_interpretable.models import baseline as baseline  # registers what the others are compared with
from timm_interpretable.models.bcos import (
    BcosConv2d as BcosConv2d,
    BcosConvNeXt as BcosConvNeXt,
    BcosDenseNet as BcosDenseNet,
    BcosResNet as BcosResNet,
    HeldCosines as HeldCosines,
    bcosify as bcosify,
)
from timm_interpretable.models.coda_net import (
    CoDANet as CoDANet,
    DynamicWeights as DynamicWeights,
    published_state_dict as published_state_dict,
)
from timm_interpretable.models.dau import DAUConv2d as DAUConv2d, dynamic_alignment as dynamic_alignment
from timm_interpretable.models.face_resnet import VERIFICATION_THRESHOLDS as VERIFICATION_THRESHOLDS
from timm_interpretable.models.facnn import (
    ClassMapHead as ClassMapHead,
    DampenedBlock as DampenedBlock,
    DampenedSkip as DampenedSkip,
    FeatureAlignedCNN as FeatureAlignedCNN,
    Lift as Lift,
)
from timm_interpretable.models.hybrid import (
    ClassMapModel as ClassMapModel,
    LinearMapHead as LinearMapHead,
    class_map_model as class_map_model,
)
from timm_interpretable.models.interface import (
    LinearMap as LinearMap,
    class_probabilities as class_probabilities,
    encode as encode,
    explanation_of as explanation_of,
    forward_encoded as forward_encoded,
    has_encoding as has_encoding,
    has_maps_through_depth as has_maps_through_depth,
    is_yes_or_no as is_yes_or_no,
    plain_model as plain_model,
)
