"""The recipes behind the released weights, and their baselines: plain data, one entry per model."""

import math
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training run, besides the data and the hardware.

    sizes: training resolution by the epoch at which it starts, `((0, 96), (20, 128))`.
    crop: 'rrc' for timm's random resized crop with `scale`, or 'pad' for a random crop after 1/8 reflection padding.
    batch_size: global, over all processes.
    loss: 'ce', or 'bce' for one binary cross-entropy per class on one-hot labels, or 'bce_off_label' for targets 1/K
        off the label; see `losses.create_loss`.
    anneal: (factor, fraction), for CoDA-Nets: the logits less the model's bias count `factor` times at first, falling
        geometrically to once at that fraction of the run, from a low temperature, where random units already make
        logits that differ, to the model's own.
    follows: the recipe whose final weights this one starts from, or None. A CoDA-Net may have grown in rank.
    """

    name: str
    model: str
    num_classes: int
    epochs: int
    sizes: tuple[tuple[int, int], ...]
    eval_size: int
    eval_split: str
    model_args: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    batch_size: int = 64
    opt: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 2
    clip_grad: float = 1.0
    smoothing: float = 0.1
    ema_decay: float = 0.998
    crop: str = "rrc"
    scale: tuple[float, float] = (0.35, 1.0)
    hflip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str | None = None
    eval_every: int = 2
    loss: str = "ce"
    anneal: tuple[float, float] | None = None
    seed: int = 0
    follows: str | None = None

    def with_epochs(self, epochs: int) -> "Recipe":
        """The same recipe for another number of epochs; resolutions change at the same fractions of it."""
        sizes = tuple((round(start * epochs / self.epochs), size) for start, size in self.sizes)
        return replace(self, epochs=epochs, sizes=sizes)

    def logit_factor(self, progress: float) -> float:
        """What the logits count in the loss at that fraction of the run."""
        if self.anneal is None:
            return 1.0
        factor, end = self.anneal
        return float(factor ** max(0.0, 1 - progress / end))

    def size_at(self, epoch: int) -> int:
        return [size for start, size in self.sizes if start <= epoch][-1]


_IMAGENET_STATS: dict[str, Any] = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# FA-CNNs are trained in two runs. The first learns to classify, with the softmax and Muon, which is good at that; its
# maps show what all classes share, and point badly. The second turns the evidence to the classes: one sigmoid per
# class, maps less their mean over the classes, a last block that can take evidence away, and AdamW.
_SOFTMAX: dict[str, Any] = dict(signed_blocks=0, centred=False, output="softmax")
_SIGMOID: dict[str, Any] = dict(signed_blocks=1, centred=True, logit_bias=math.log(0.1 / 0.9), output="sigmoid")

_facnn_imagenette_start = Recipe(
    name="facnn_resnet18_start.imagenette",
    model="facnn_resnet18.imagenette",
    model_args=_SOFTMAX,
    num_classes=10,
    epochs=30,
    sizes=((0, 96), (12, 128), (24, 160)),
    eval_size=160,
    eval_split="val",
    opt="muon",
    lr=1.2e-2,
    eval_every=10,
)
_facnn_imagenette = replace(
    _facnn_imagenette_start,
    name="facnn_resnet18.imagenette",
    follows="facnn_resnet18_start.imagenette",
    model_args=_SIGMOID,
    epochs=8,
    sizes=((0, 128), (5, 160)),
    eval_size=192,
    opt="adamw",
    lr=1e-3,
    warmup_epochs=0.5,
    smoothing=0.0,
    loss="bce",
    eval_every=4,
)
_facnn_cifar10_start = Recipe(
    name="facnn_resnet18_start.cifar10",
    model="facnn_resnet18.cifar10",
    model_args=_SOFTMAX,
    num_classes=10,
    epochs=22,
    sizes=((0, 24), (10, 32)),
    eval_size=32,
    eval_split="test",
    batch_size=128,
    opt="muon",
    lr=1.2e-2,
    ema_decay=0.999,
    crop="pad",
    eval_every=10,
)
_facnn_cifar10 = replace(
    _facnn_cifar10_start,
    name="facnn_resnet18.cifar10",
    follows="facnn_resnet18_start.cifar10",
    model_args=_SIGMOID,
    epochs=4,
    sizes=((0, 32),),
    opt="adamw",
    lr=1e-3,
    warmup_epochs=0.25,
    smoothing=0.0,
    loss="bce",
    eval_every=2,
)

# The baselines: as many epochs as take the FA-CNN's time. Muon's orthogonalisation of ResNet-18's wide kernels takes
# .54 s a step on one core: less than a step on Imagenette, nearly three times one on CIFAR-10. So there AdamW.
_resnet18_imagenette = replace(
    _facnn_imagenette_start.with_epochs(15),
    name="resnet18.imagenette",
    model="resnet18",
    model_args={},
    eval_every=5,
    **_IMAGENET_STATS,
)
_resnet18_cifar10 = replace(
    _facnn_cifar10_start.with_epochs(37),
    name="resnet18.cifar10",
    model="resnet18",
    model_args={},
    opt="adamw",
    lr=2e-3,
    **_IMAGENET_STATS,
)

# CoDA-Nets: binary cross-entropy as in the paper. Small images first, since the cost grows with the area and the layers
# take any size.
_coda_net_cifar10_start = Recipe(
    name="coda_net_s_start.cifar10",
    model="coda_net_s.cifar10",
    model_args=dict(temperature=1e3),
    num_classes=10,
    epochs=15,
    sizes=((0, 16), (9, 24), (13, 32)),
    eval_size=32,
    eval_split="test",
    batch_size=128,
    opt="muon",
    lr=8e-3,
    warmup_epochs=0.5,
    smoothing=0.0,
    crop="pad",
    eval_every=10,
    loss="bce",
    anneal=(100.0, 0.3),
)
# The second run raises the temperature a thousandfold. Units must then align with their input to make a logit at all,
# and aligned units are what makes contributions coherent.
_coda_net_cifar10 = replace(
    _coda_net_cifar10_start,
    name="coda_net_s.cifar10",
    follows="coda_net_s_start.cifar10",
    model_args=dict(temperature=1e6),
    epochs=8,
    sizes=((0, 24), (3, 32)),
    opt="adamw",
    lr=2e-3,
    eval_every=2,
    anneal=(1000.0, 0.5),
)
_coda_net_imagenette_start = replace(
    _coda_net_cifar10_start,
    name="coda_net_m_start.imagenette",
    model="coda_net_m.imagenette",
    epochs=52,
    sizes=((0, 48), (24, 72), (42, 96)),
    eval_size=96,
    eval_split="val",
    batch_size=64,
    lr=5e-3,
    crop="rrc",
)
_coda_net_imagenette = replace(
    _coda_net_imagenette_start,
    name="coda_net_m.imagenette",
    follows="coda_net_m_start.imagenette",
    model_args=dict(temperature=1e6),
    epochs=45,
    sizes=((0, 72), (17, 96)),
    lr=8e-3,
    anneal=(1000.0, 0.5),
)

# B-cos networks: the loss of their paper, and no decay of the filters, whose lengths do not matter. Muon instead of the
# paper's Adam: after four epochs at 64 pixels it had 70 % where Adam had 58.
_bcos_imagenette = replace(
    _facnn_imagenette_start,
    name="bcos_resnet18_050.imagenette",
    model="bcos_resnet18_050.imagenette",
    model_args={},
    epochs=32,
    sizes=((0, 96), (16, 128), (26, 160)),
    lr=2e-2,
    weight_decay=0.0,
    smoothing=0.0,
    loss="bce_off_label",
)

# A baseline for studies where no better one is at hand: minutes on one core, and far from what the model can do.
_resnet18_quick = replace(
    _resnet18_imagenette, name="resnet18_quick.imagenette", epochs=3, sizes=((0, 64),), eval_size=96, opt="adamw",
    lr=2e-3, warmup_epochs=1, ema_decay=0.99,
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _facnn_imagenette_start,
        _facnn_imagenette,
        _facnn_cifar10_start,
        _facnn_cifar10,
        _coda_net_cifar10_start,
        _coda_net_cifar10,
        _coda_net_imagenette_start,
        _coda_net_imagenette,
        _bcos_imagenette,
        _resnet18_imagenette,
        _resnet18_cifar10,
        _resnet18_quick,
    )
}
