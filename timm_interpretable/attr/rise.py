"""RISE and CorrRISE: cover parts of the image at random, and see what that does to the output

Sources: `RISE: Randomized Input Sampling for Explanation of Black-box Models` (Vitali Petsiuk, Abir Das, Kate Saenko,
BMVC 2018) - https://arxiv.org/abs/1806.07421; `Towards Visual Saliency Explanations of Face Verification` (Yuhang Lu,
Zewei Xu, Touradj Ebrahimi) - https://arxiv.org/abs/2305.08546. Written from their equations.

What is random (which cells, which corners) is a few numbers per mask and is drawn on the CPU at once, so that a seed
means the same masks on every device and for every batch size. The masks themselves are made where the images are, a
few at a time.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import PerturbationAttribution
from captum.log import log_usage
from torch import Tensor

from timm_interpretable.attr.contract import (
    AttributionOutput,
    BaselineType,
    Inputs,
    TargetType,
    as_logits,
    at_least_float32,
    baseline_values,
    check_at_least_one,
    class_columns,
    class_indices,
    extra_arguments,
    finite,
    like_input,
    of_samples,
    progress_bar,
    runnable,
    single_input,
)
from timm_interpretable.attr.losses import cosine, fitting_reference, unit_reference

__all__ = ["RISE", "CorrRISE"]

Masks = Callable[[slice], Tensor]
"""Some of the masks, `(n, 1, H, W)`."""

_PER_CALL = 64  # masked images in one forward call, where the user does not say


class _MaskedForward(PerturbationAttribution):
    """What both methods share: a model without gradients, run on masked images."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        if not callable(forward_func):
            raise TypeError(f"{type(forward_func).__name__} cannot be explained: expected a module or a function.")
        super().__init__(forward_func)

    def _outputs(
        self, x: Tensor, masks: Masks, count: int, baselines: BaselineType, additional_forward_args: Any,
        per_eval: int | None, show_progress: bool | None,
    ) -> Iterator[tuple[Tensor, slice, Tensor, Tensor]]:  # fmt: skip
        """A few at a time: which images, which masks, these masks, and the outputs, image by image."""
        forward, args = runnable(self.forward_func), extra_arguments(additional_forward_args)
        hidden = baseline_values(baselines, x)
        parts = torch.arange(len(x), device=x.device).split(_PER_CALL if per_eval is None else len(x))
        with progress_bar(count * len(parts), type(self).__name__, show_progress) as bar:
            for images in parts:
                step = per_eval or max(1, _PER_CALL // len(images))
                for start in range(0, count, step):
                    part = slice(start, min(start + step, count))
                    some = masks(part)
                    covered = _covered(x[images], some, None if hidden is None else hidden[images])
                    outputs = forward(covered, *of_samples(args, len(x), images.repeat_interleave(len(some))))
                    yield images, part, some, outputs
                    bar.update(len(some))


class RISE(_MaskedForward):
    """Randomized input sampling: the mean of random masks, weighted with the score of the image seen through them.

    A module is explained in evaluation mode, whichever mode it is in. The score is what the model gives: the paper
    averages probabilities, so give it `nn.Sequential(model, nn.Softmax(1))`; raw logits work too.

    Args:
        forward_func: a module or function of images `(B, C, H, W)`, else `TypeError` (not callable).
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        n_samples: int = 500,
        grid: int = 7,
        p: float = 0.5,
        baselines: BaselineType = None,
        seed: int = 0,
        perturbations_per_eval: int | None = None,
        mask_dtype: torch.dtype = torch.float32,
        show_progress: bool | None = None,
    ) -> AttributionOutput:
        """`S = 1 / (p N) sum_i f(x * M_i) M_i` (section 3.1) in the shape of `inputs`, equal in all channels.

        In units of the score, and signed where that is. All images of a batch see the same masks.

        Args:
            inputs: images `(B, C, H, W)`, a tensor or a 1-tuple of it; the result comes back the same way.
            target: class, in any of Captum's forms.
            additional_forward_args: passed on; tensors with one entry per sample follow their sample.
            n_samples: N, the number of masks. The cost is linear in it, one pass per mask and image. The paper takes
                4000 for a VGG-16 and 8000 for a ResNet-50. Few masks leave noise: how often a pixel happens to be
                seen, times the mean score.
            grid: cells per row and column of the binary mask that is upsampled.
            p: probability that a cell is seen.
            baselines: what a masked pixel shows: None for zero, a number, a tensor that broadcasts to `inputs`, or a
                1-tuple of these.
            seed: of the masks.
            perturbations_per_eval: masks in one forward call, which takes this many times B images; None for calls of
                at most 64 images, however many B are.
            mask_dtype: float32, or bfloat16 or float16 for half the memory.
            show_progress: a bar that counts masks; None for one in a terminal, where it takes over three seconds.

        Returns:
            contiguous and detached, fp32 (fp64 for fp64 images).

        Raises:
            AssertionError: no target for more than one class.
            IndexError: a target outside the model's classes.
            ValueError: a bad value of any other argument; a model that does not give `(B, K)`; NaN or infinity in the
                maps.
        """
        x, is_tuple = single_input(inputs)

        def column(num_classes: int, device: torch.device) -> Tensor:
            return class_indices(target, len(x), num_classes, device)[:, None]

        maps = self._mean(
            x, column, additional_forward_args, n_samples, grid, p, baselines, seed, perturbations_per_eval,
            mask_dtype, show_progress,
        )  # fmt: skip
        return like_input(maps.expand(x.shape).contiguous(), is_tuple)

    def all_classes(
        self,
        inputs: Inputs,
        additional_forward_args: Any = None,
        classes: Tensor | None = None,
        n_samples: int = 500,
        grid: int = 7,
        p: float = 0.5,
        baselines: BaselineType = None,
        seed: int = 0,
        perturbations_per_eval: int | None = None,
        mask_dtype: torch.dtype = torch.float32,
        show_progress: bool | None = None,
    ) -> Inputs:
        """The maps of all K classes from the passes of one, `(B, K, H, W)`.

        Class by class one channel of what `attribute` gives. Other arguments and errors as there.

        Args:
            classes: only these, n for each image, `(B, n)`: the maps are `(B, n, H, W)`.
        """
        x, _ = single_input(inputs)

        def columns(num_classes: int, device: torch.device) -> Tensor | None:
            return class_columns(classes, len(x), num_classes, device)

        maps = self._mean(
            x, columns, additional_forward_args, n_samples, grid, p, baselines, seed, perturbations_per_eval,
            mask_dtype, show_progress,
        )  # fmt: skip
        if isinstance(inputs, tuple):
            return (maps,)
        return maps

    def _mean(
        self, x: Tensor, find: Callable[[int, torch.device], Tensor | None], args: Any, n_samples: int, grid: int,
        p: float, baselines: BaselineType, seed: int, per_eval: int | None, mask_dtype: torch.dtype,
        show_progress: bool | None,
    ) -> Tensor:  # fmt: skip
        """`(B, n, H, W)` for the n classes of each image, `(B, n)`, that are found once their number K is known."""
        _check(x, n_samples, per_eval, mask_dtype)
        if grid < 1:
            raise ValueError(f"grid={grid} is out of range, expected at least 1.")
        if not 0 < p < 1:
            raise ValueError(f"p={p} is out of range, expected a probability above 0 and below 1.")
        total = columns = None
        with torch.no_grad():
            masks = grid_masks(n_samples, grid, p, x, seed, mask_dtype)
            passes = self._outputs(x, masks, n_samples, baselines, args, per_eval, show_progress)
            for images, _, some, outputs in passes:
                scores = as_logits(outputs).unflatten(0, (len(images), len(some)))
                if total is None:
                    columns = find(scores.shape[2], scores.device)
                    count = scores.shape[2] if columns is None else columns.shape[1]
                    total = at_least_float32(x.new_zeros(len(x), count, *x.shape[2:]))
                if columns is not None:
                    scores = scores.gather(2, columns[images][:, None].expand(-1, len(some), -1))
                total[images] += _weighted(scores.mT, some)
            assert total is not None  # there is at least one mask and one image
            return finite(total / (p * n_samples), type(self).__name__, x, self.forward_func).contiguous()


class CorrRISE(_MaskedForward):
    """Correlation of what is covered with how alike two images remain: face verification.

    A module is explained in evaluation mode, whichever mode it is in.

    Args:
        embed: a module or function of images `(B, C, H, W)` to embeddings `(B, D)`, else `TypeError` (not callable).
    """

    def __init__(self, embed: Callable[..., Any]) -> None:
        super().__init__(embed)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        reference: Tensor,
        additional_forward_args: Any = None,
        n_samples: int = 500,
        n_patches: int = 3,
        patch_size: int | str = "auto",
        correlation: str = "spearman",
        baselines: BaselineType = None,
        seed: int = 0,
        perturbations_per_eval: int | None = None,
        mask_dtype: torch.dtype = torch.float32,
        show_progress: bool | None = None,
    ) -> AttributionOutput:
        """Correlation over the masks of `cos(embed(x * M_i), reference)` with `M_i`, pixel by pixel.

        Signed, in [-1, 1], in the shape of `inputs` and equal in all channels: `map.clamp_min(0)` are the similar parts
        (e+), `(-map).clamp_min(0)` the dissimilar ones (e-). Zero where a pixel is always or never covered, and where
        the similarity does not change.

        Args:
            inputs: images `(B, C, H, W)`, a tensor or a 1-tuple of it; the result comes back the same way.
            reference: embeddings of the other images `(B, D)`, or of one for all, `(D,)` or `(1, D)`.
            additional_forward_args: passed on; tensors with one entry per sample follow their sample.
            n_samples: the number of masks. All images of a batch see the same ones.
            n_patches: black squares per mask, inside the image; they may overlap. The paper: 10.
            patch_size: their side in pixels, or 'auto' for 30 at 112 pixels.
            correlation: 'spearman', or 'pearson' as in the paper.
            baselines, seed, perturbations_per_eval, mask_dtype, show_progress: as in `RISE.attribute`.

        Returns:
            contiguous and detached, fp32 (fp64 for fp64 images).

        Raises:
            ValueError: a bad value of any argument; a model that does not give embeddings like the reference; NaN or
                infinity in the embeddings.
        """
        x, is_tuple = single_input(inputs)
        _check(x, n_samples, perturbations_per_eval, mask_dtype)
        side = _patch_size(patch_size, x)
        if n_patches < 1:
            raise ValueError(f"n_patches={n_patches} is out of range, expected at least 1.")
        if correlation not in ("spearman", "pearson"):
            raise ValueError(f"correlation={correlation!r} is unknown, expected 'spearman' or 'pearson'.")
        unit = unit_reference(reference)
        similarity = at_least_float32(x.new_zeros(len(x), n_samples))
        with torch.no_grad():
            masks = patch_masks(n_samples, n_patches, side, x, seed, mask_dtype)
            for images, part, some, embeddings in self._outputs(
                x, masks, n_samples, baselines, additional_forward_args, perturbations_per_eval, show_progress
            ):
                others = fitting_reference(unit, embeddings, len(x))[images].repeat_interleave(len(some), 0)
                similarity[images, part] = cosine(embeddings, others).view(len(images), -1).to(similarity.dtype)
            # ranks would hide a NaN
            similarity = finite(similarity, "CorrRISE", x, self.forward_func, what="similarities")
            weights = standardised(similarity, ranked=correlation == "spearman")
            maps = _correlation(weights, masks)
            return like_input(maps[:, None].expand(x.shape).contiguous(), is_tuple)


def grid_masks(count: int, grid: int, p: float, x: Tensor, seed: int, dtype: torch.dtype = torch.float32) -> Masks:
    """The masks of RISE (section 3.2): binary cells, upsampled to one cell more than the image, shifted at random."""
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(count, 1, grid, grid, generator=generator) < p).to(x.device)
    sizes = [math.ceil(side / grid) for side in x.shape[2:]]
    shifts = [torch.randint(size, (count, 1), generator=generator).to(x.device) for size in sizes]
    pixels = [torch.arange(side, device=x.device) for side in x.shape[2:]]
    large = [(grid + 1) * size for size in sizes]

    def some(part: slice) -> Tensor:
        smooth = F.interpolate(cells[part].to(dtype), large, mode="bilinear", align_corners=False)
        rows, cols = (shift[part] + pixel for shift, pixel in zip(shifts, pixels, strict=True))
        index = torch.arange(len(smooth), device=x.device)[:, None, None]
        return smooth[index, 0, rows[:, :, None], cols[:, None, :]][:, None]

    return some


def patch_masks(count: int, patches: int, side: int, x: Tensor, seed: int, dtype: torch.dtype = torch.float32) -> Masks:
    """The masks of CorrRISE: 1, and 0 in square patches that lie inside the image."""
    generator = torch.Generator().manual_seed(seed)
    corners = [
        torch.randint(length - side + 1, (count, patches, 1), generator=generator).to(x.device)
        for length in x.shape[2:]
    ]
    pixels = [torch.arange(length, device=x.device) for length in x.shape[2:]]

    def some(part: slice) -> Tensor:
        rows, cols = (
            (pixel >= corner[part]) & (pixel < corner[part] + side)
            for corner, pixel in zip(corners, pixels, strict=True)
        )
        covered = torch.zeros(len(rows), *x.shape[2:], dtype=torch.bool, device=x.device)
        for patch in range(patches):
            covered |= rows[:, patch, :, None] & cols[:, patch, None, :]
        return (~covered)[:, None].to(dtype)

    return some


def _covered(x: Tensor, masks: Tensor, hidden: Tensor | None) -> Tensor:
    """Images `(b, C, H, W)` behind masks `(n, 1, H, W)`: `(b * n, C, H, W)`, in the type of the images."""
    covered = x[:, None] * masks
    if hidden is not None:
        covered = covered + hidden[:, None] * (1 - masks)
    return covered.to(x.dtype).flatten(0, 1)


def _weighted(weights: Tensor, masks: Tensor) -> Tensor:
    """Sums over the masks, `(..., n)` and `(n, 1, H, W)` to `(..., H, W)`, in at least fp32 also under autocast."""
    weights = at_least_float32(weights)
    with torch.autocast(weights.device.type, enabled=False):
        sums = weights @ masks.flatten(1).to(weights.dtype)
    return sums.unflatten(-1, masks.shape[2:])


def standardised(values: Tensor, ranked: bool) -> Tensor:
    """`(B, N)` values, or their ranks, less their mean and of length 1; 0 where they are all equal."""
    exact = values.cpu().double()  # similarities differ in their last digits only; not every device has fp64
    exact = _ranks(exact) if ranked else exact
    exact = exact - exact.mean(1, keepdim=True)
    length = exact.norm(dim=1, keepdim=True)
    return (exact / length.where(length > 0, 1)).to(values.dtype).to(values.device)


def _ranks(values: Tensor) -> Tensor:
    """Ranks along the last dimension; equal values share the mean of theirs."""
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    return (below + torch.searchsorted(ordered, values, right=True) + 1).double() / 2


def _correlation(weights: Tensor, masks: Masks) -> Tensor:
    """Pearson correlation of standardised `(B, N)` with each pixel of N binary masks, `(B, H, W)`; 0 for a constant.

    The ranks of a mask are a linear function of it, for it has two values: of ranks this is Spearman's correlation.
    """
    count = weights.shape[1]
    total = seen = weights.new_zeros(())
    for start in range(0, count, _PER_CALL):
        some = masks(slice(start, min(start + _PER_CALL, count)))
        total = total + _weighted(weights[:, start : start + _PER_CALL], some)
        seen = seen + some.sum((0, 1), dtype=weights.dtype)
    length = (seen * (count - seen) / count).sqrt()
    return (total / length.where(length > 0, 1)).clamp(-1, 1) * (length > 0)


def _check(x: Tensor, n_samples: int, perturbations_per_eval: int | None, mask_dtype: torch.dtype) -> None:
    if not x.is_floating_point():
        raise ValueError(f"inputs have dtype {x.dtype}, expected floating point.")
    check_at_least_one("n_samples", n_samples)
    if not mask_dtype.is_floating_point:
        raise ValueError(f"mask_dtype={mask_dtype} is not supported, expected a floating point type.")
    check_at_least_one("perturbations_per_eval", perturbations_per_eval)


def _patch_size(patch_size: int | str, x: Tensor) -> int:
    shorter = min(x.shape[2:])
    if patch_size == "auto":
        return max(1, round(30 * shorter / 112))
    if not isinstance(patch_size, int) or not 0 < patch_size <= shorter:
        raise ValueError(f"patch_size={patch_size!r} does not fit, expected 'auto' or 1 to {shorter}.")
    return patch_size
