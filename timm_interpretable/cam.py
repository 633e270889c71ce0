"""The maps of this package's models for pytorch-grad-cam, and its own methods for them and for common baselines

Needs `pip install 'timm-interpretable[cam]'`.
"""

from typing import Any

import numpy as np
import torch
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from timm_interpretable.attr.catalogue import Context, MethodSettings, method_named, own_method
from timm_interpretable.attr.contract import class_indices, evaluation_view, explained_model, finite
from timm_interpretable.models import CoDANet, FeatureAlignedCNN

try:
    from pytorch_grad_cam.base_cam import BaseCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
except ImportError as error:
    raise ImportError(
        f"timm_interpretable.cam needs pytorch-grad-cam ({error}): pip install 'timm-interpretable[cam]'"
    ) from error

__all__ = ["IntrinsicCAM", "target_layers"]


class IntrinsicCAM(BaseCAM):
    """The map that a model has anyway, as a CAM: class maps of an FA-CNN, contributions of a CoDA-Net.

    Called as any CAM of pytorch-grad-cam: `IntrinsicCAM(model)(images, [ClassifierOutputTarget(8)])` gives numpy
    `(B, H, W)` in [0, 1], the positive part of the map stretched. `signed` gives the map itself. Works with
    `aug_smooth`, ROAD and `show_cam_on_image`.

    No hooks, no backward pass and no modes: the model keeps its mode and its gradients, may be frozen, compiled, in
    half precision or under autocast, and calls are thread-safe.

    Args:
        model: a model with an explanation of its own, see `timm_interpretable.models.explanation_of`; else `TypeError`.
        method: key of another row of the catalogue that applies to the model, such as 'class_map_average'; None for
            the model's own explanation.
        tta_transforms: of `aug_smooth`; None for those of pytorch-grad-cam.
        settings: of the methods; None for the defaults.

    Raises:
        TypeError: the model has no explanation of its own, and no `method` is given.
        ValueError: the catalogue has no such method, or not for this model.
    """

    def __init__(
        self, model: nn.Module, method: str | None = None, tta_transforms: Any = None,
        settings: MethodSettings | None = None,
    ) -> None:  # fmt: skip
        plain = explained_model(model, "forward")
        row = own_method(plain) if method is None else method_named(method)
        if row is None:
            raise TypeError(
                f"{type(plain).__name__} cannot be explained: expected a model with an explanation of its own, or a "
                "method of the catalogue."
            )
        if not row.applies(plain):
            raise ValueError(f"method={method!r} does not apply to {type(plain).__name__}.")
        self.method, self.settings = row, settings
        # the base class puts what it is given into evaluation mode: a view, so the model keeps its own
        super().__init__(evaluation_view(plain), target_layers=[], uses_gradients=False, tta_transforms=tta_transforms)
        self.model = model

    def __call__(
        self, input_tensor: Tensor, targets: list[Any] | None = None, aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """Maps `(B, H, W)` in [0, 1]; zero where nothing speaks for the class.

        Args:
            input_tensor: images `(B, C, H, W)`.
            targets: a `ClassifierOutputTarget` per image; None for the predicted classes (of the images as they are,
                also with `aug_smooth`).
            aug_smooth: mean over flipped and scaled copies.
            eigen_smooth: must be False: there are no channels to project.

        Raises:
            IndexError: a category outside the model's classes.
            TypeError: another kind of target.
            ValueError: not one target per image; `eigen_smooth`; NaN or infinity in a map.
        """
        if eigen_smooth:
            raise ValueError("eigen_smooth=True is not supported, expected False: the map has no channels to project.")
        targets = [ClassifierOutputTarget(category) for category in self._categories(input_tensor, targets)]
        maps: np.ndarray = super().__call__(input_tensor, targets, aug_smooth)
        return maps

    def forward(self, input_tensor: Tensor, targets: list[Any] | None, eigen_smooth: bool = False) -> np.ndarray:
        scaled: np.ndarray = self.aggregate_multi_layers(
            self.compute_cam_per_layer(input_tensor, targets, eigen_smooth)
        )
        return scaled

    def compute_cam_per_layer(
        self, input_tensor: Tensor, targets: list[Any] | None, eigen_smooth: bool = False
    ) -> list[np.ndarray]:
        maps = np.maximum(self.signed(input_tensor, targets), 0)
        peaks = maps.max(axis=(1, 2), keepdims=True)
        # scaling adds 1e-7 to the maximum, which contributions of single pixels do not dwarf
        return [scale_cam_image(maps / np.where(peaks > 0, peaks, 1))[:, None]]

    def signed(self, input_tensor: Tensor, targets: list[Any] | None = None) -> np.ndarray:
        """The map itself, summed over the colours, `(B, H, W)`: in units of the logit, neither cut nor scaled.

        Arguments and errors as in a call.
        """
        x = input_tensor.to(self._device())
        categories = self._categories(x, targets)
        context = Context.of(self.model, self.settings)  # of now: buffers may be others after a training or a move
        classes = class_indices(categories, len(x), context.model.num_classes, x.device)
        maps = finite(self.method.maps(context)(x, classes[:, None])[:, 0].detach(), self.method.title, x, self.model)
        values: np.ndarray = maps.cpu().numpy()
        return values

    def _categories(self, input_tensor: Tensor, targets: list[Any] | None) -> list[int]:
        if targets is None:
            model = evaluation_view(explained_model(self.model, "forward"))
            with torch.no_grad():
                logits = model(input_tensor.to(self._device()))
            return (logits if logits.ndim == 2 else logits.mean((2, 3))).argmax(1).tolist()
        wrong = [target for target in targets if not isinstance(target, ClassifierOutputTarget)]
        if wrong:
            raise TypeError(
                f"target {wrong[0]!r} is not supported, expected ClassifierOutputTarget: a map is of a logit."
            )
        if len(targets) != len(input_tensor):
            raise ValueError(f"{len(targets)} targets for {len(input_tensor)} images, expected one for each.")
        return [int(target.category) for target in targets]

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device  # of now: a model may have moved since

    def __exit__(self, *error: Any) -> None:
        """Nothing to undo; errors go their way (the base class swallows an `IndexError`)."""

    def __del__(self) -> None:
        """Nothing to release."""


def target_layers(model: nn.Module, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Where pytorch-grad-cam's methods belong in a model: `GradCAM(model, **target_layers(model))`.

    | model | layer |
    |---|---|
    | FA-CNN | the last stage: the trunk that the class maps are means of |
    | CoDA-Net | the last stage: the input of the head |
    | ResNet of timm (also ResNeXt, wide, SE, B-cos) | the last block, after its activation |
    | DenseNet of timm (also B-cos) | the last norm, after its activation |
    | ConvNeXt | the last block, before pooling and norm |
    | VisionTransformer (also DeiT) | the first norm of the last block: after it, attention has moved what the class \
token needs, and the gradient at all other tokens is zero. Tokens become a map by `reshape_transform`. |

    Args:
        model: the model, compiled or not.
        image_size: height and width of the images, for a VisionTransformer with `dynamic_img_size`: its tokens do not
            say how they are laid out. Other models have no use for it.

    Returns:
        `target_layers` and `reshape_transform` (None but for transformers).

    Raises:
        ValueError: a model of another family; no `image_size` where it is needed.
    """
    plain: Any = explained_model(model, "forward")
    transform = None
    if isinstance(plain, (FeatureAlignedCNN, CoDANet)):
        layer = plain.stages[-1]
    elif isinstance(plain, ResNet):
        layer = plain.layer4[-1]
    elif isinstance(plain, DenseNet):
        layer = plain.features[-1]
    elif isinstance(plain, ConvNeXt):
        layer = plain.stages[-1].blocks[-1]
    elif isinstance(plain, VisionTransformer):
        layer, transform = plain.blocks[-1].norm1, _TokensToMap(plain.num_prefix_tokens, _token_grid(plain, image_size))
    else:
        raise ValueError(
            f"{type(plain).__name__} is not in the table, expected an FA-CNN, a CoDA-Net or timm's ResNet, DenseNet, "
            "ConvNeXt or VisionTransformer."
        )
    return {"target_layers": [layer], "reshape_transform": transform}


def _token_grid(model: Any, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of the tokens."""
    embed = model.patch_embed
    if not getattr(model, "dynamic_img_size", False):
        rows, columns = embed.grid_size
    elif image_size is not None:
        rows, columns = embed.dynamic_feat_size(image_size)
    else:
        raise ValueError(
            f"{type(model).__name__} takes images of any size (dynamic_img_size=True): target_layers needs the size of "
            "yours, such as image_size=tuple(images.shape[2:])."
        )
    return rows, columns


class _TokensToMap:
    """Tokens `(B, prefix + h * w, C)` to `(B, C, h, w)`."""

    def __init__(self, prefix: int, grid: tuple[int, int]) -> None:
        self.prefix, self.grid = prefix, grid

    def __call__(self, tokens: Tensor) -> Tensor:
        h, w = self.grid
        if tokens.shape[1] != self.prefix + h * w:
            raise ValueError(
                f"{tokens.shape[1]} tokens are not {h} x {w} after {self.prefix} others, expected images of the size "
                "that target_layers was told, or else of the model's own."
            )
        return tokens[:, self.prefix :].transpose(1, 2).unflatten(2, (h, w))
