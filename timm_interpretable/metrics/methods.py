"""Attributions of one class by many methods, ready to be scored and timed side by side

Everything here comes from where its users take it: pytorch-grad-cam, Captum, and this package's `attr`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from timm_interpretable.attr import RISE, ClassMap
from timm_interpretable.attr.fame import FAME, change_map
from timm_interpretable.metrics.comparison import comparison_methods

__all__ = ["FAME_STEPS", "NamedMaps", "attribution_methods", "fame_after"]

NamedMaps = Callable[[Tensor, Tensor], Iterator[tuple[str, Tensor]]]
"""Images `(B, C, H, W)` and classes `(B,)` to one or several maps `(B, H, W)`, signed, one after the other."""

FAME_STEPS = (25, 50, 100, 200, 500)

_OWN = ("contributions", "class map", "class map, contrast")


def attribution_methods(
    model: Any,
    black: Tensor,
    fame_steps: Sequence[int] = FAME_STEPS,
    n_masks: int = 1000,
    ig_steps: int = 50,
    seed: int = 0,
) -> dict[str, NamedMaps]:
    """The model's own maps, FAME, CAMs, RISE, integrated gradients, and two that do not look at the model.

    FAME comes with one map per number of steps, from one descent. Random is noise per pixel; centre a Gaussian in the
    middle of the image, which is where photographs have their object.

    Args:
        model: an FA-CNN, a CoDA-Net, or a timm model in the table of `cam.target_layers`, in evaluation mode. It is
            left as it is.
        black: what a black pixel is to the model, `(C, 1, 1)`: 0, or `-mean / std` for standardised images. The
            baseline of RISE and integrated gradients.
        fame_steps: numbers of steps, ascending.
        n_masks: of RISE, which explains the probability.
        ig_steps: of integrated gradients, at most 16 images per pass.
        seed: of RISE and of the noise.

    Raises:
        ImportError: pytorch-grad-cam is missing.
        ValueError: a model that is not in the table.
    """
    from pytorch_grad_cam import GradCAM, GradCAMElementWise, HiResCAM

    from timm_interpretable.cam import target_layers

    # pytorch-grad-cam writes gradients into the parameters, and needs parameters that take them
    private = copy.deepcopy(model).requires_grad_()
    layers = target_layers(private)
    probability = nn.Sequential(model, nn.Softmax(1))
    own = comparison_methods(model)
    noise = torch.Generator().manual_seed(seed)
    methods: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        name: partial(_one_class, own[name]) for name in _OWN if name in own
    }
    if hasattr(model, "class_maps"):
        methods["class maps, average"] = lambda x, c: _summed(ClassMap(model).attribute(x, c, layers="average"))
    cams = {"Grad-CAM": GradCAM, "Grad-CAM, element-wise": GradCAMElementWise, "HiResCAM": HiResCAM}
    methods |= {name: partial(_cam, cam, private, layers) for name, cam in cams.items()}
    methods["RISE"] = lambda x, c: _summed(
        RISE(probability).attribute(x, c, n_masks=n_masks, baselines=black[None], seed=seed)
    )
    methods["integrated gradients"] = lambda x, c: integrated_gradients(model, x, c, black, ig_steps)
    methods["random"] = lambda x, c: torch.rand(len(x), *x.shape[2:], generator=noise).to(x.device)
    methods["centre"] = lambda x, c: _centre(x.shape[2], x.shape[3], x.device).expand(len(x), -1, -1)
    named: dict[str, NamedMaps] = {name: partial(_named, name, maps) for name, maps in methods.items()}
    named["FAME"] = partial(_fame, model, tuple(fame_steps))
    return named


def integrated_gradients(model: nn.Module, images: Tensor, target: Tensor, black: Tensor, n_steps: int = 50) -> Tensor:
    """Captum's, from a black image, added up over the colours: `(B, H, W)`. Arguments as in `attribution_methods`."""
    size = max(16, len(images))  # images per pass
    return _summed(
        IntegratedGradients(model).attribute(
            images, black.expand_as(images), target, n_steps=n_steps, internal_batch_size=size
        )
    )


def fame_after(
    model: Callable[..., Any], images: Tensor, target: Tensor, steps: Sequence[int], **options: Any
) -> Iterator[Tensor]:
    """FAME's maps after each of the numbers of steps, `(B, H, W)`, from one descent as long as the longest.

    Args:
        model: as `FAME` takes it.
        images: `(B, C, H, W)`, at least fp32.
        target: classes `(B,)`.
        steps: ascending.
        options: of `FAME.attribute`.

    Raises:
        ValueError: numbers of steps that do not ascend from 1 on; as `FAME`.
    """
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1:
        raise ValueError(f"steps={tuple(steps)}, expected ascending numbers from 1 on.")
    shown = {name: options[name] for name in ("blur", "normalization") if name in options}
    perturbed, done = images, 0
    for count in steps:
        _, details = FAME(model).attribute(perturbed, target, n_steps=count - done, return_details=True, **options)
        perturbed, done = details.perturbed, count
        yield change_map(images, perturbed, **shown)


def _fame(model: Any, steps: Sequence[int], x: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
    for count, maps in zip(steps, fame_after(model, x, target, steps), strict=True):
        yield f"FAME, {count} steps", maps


def _named(
    name: str, maps: Callable[[Tensor, Tensor], Tensor], x: Tensor, target: Tensor
) -> Iterator[tuple[str, Tensor]]:
    yield name, maps(x, target)


def _one_class(maps: Callable[[Tensor, Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
    return maps(x, target[:, None])[:, 0]


def _cam(method: Any, model: nn.Module, layers: dict[str, Any], x: Tensor, target: Tensor) -> Tensor:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with method(model, **layers) as cam:
        maps = cam(x, [ClassifierOutputTarget(category) for category in target.tolist()])
    model.zero_grad()
    return torch.from_numpy(maps).to(x.device)


def _summed(attribution: Any) -> Tensor:
    """Over the colours: `(B, C, H, W)` to `(B, H, W)`."""
    total: Tensor = attribution.detach().sum(1)
    return total


def _centre(height: int, width: int, device: torch.device) -> Tensor:
    y, x = (torch.linspace(-1, 1, side, device=device) for side in (height, width))
    return torch.exp(-2 * (y[:, None] ** 2 + x**2))
