"""Patch permutation importance: what a prediction loses when a patch comes from another image

Sources: `Random Forests` (Breiman, Machine Learning 45, 2001), section 10, for the importance of a feature whose values
are permuted over the samples; `All Models are Wrong, but Many are Useful` (Fisher, Rudin, Dominici, JMLR 20, 2019),
section 3, for that of any model. A patch of the image is the feature here, and the importance is kept per image.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from captum.attr import PerturbationAttribution
from captum.log import log_usage
from torch import Tensor

from timm_interpretable.attr.contract import (
    AttributionOutput,
    Inputs,
    TargetType,
    as_logits,
    at_least_float32,
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
from timm_interpretable.attr.maps import images_per_pass

__all__ = ["PatchPermutation"]


class PatchPermutation(PerturbationAttribution):
    """The mean loss of a score when a patch is replaced by the same place of other images.

    Unlike a grey square, the patch of another photograph looks like one: the image keeps the statistics of images but
    for the edges of the patch. Patches lie side by side from the upper left corner on; the last ones may be cut off.
    Captum's `FeaturePermutation` permutes any features over the batch, the same way for all of it; here patches may
    come from images of a reference, so that a map does not depend on the other images of the batch.

    A module is explained in evaluation mode, whichever mode it is in. The score is what the model gives.

    Args:
        forward_func: a module or function of images `(B, C, H, W)`, else `TypeError` (not callable).
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        if not callable(forward_func):
            raise TypeError(f"{type(forward_func).__name__} cannot be explained: expected a module or a function.")
        super().__init__(forward_func)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        patch: int = 16,
        n_samples: int = 1,
        seed: int = 0,
        reference: Tensor | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool | None = None,
    ) -> AttributionOutput:
        """What the score loses, in the shape of `inputs`: every pixel and channel holds the value of its patch.

        In units of the score, and signed. Costs a pass for each image, patch and sample: 196 per image of 224 pixels
        with the defaults.

        Args:
            inputs: images `(B, C, H, W)`, a tensor or a 1-tuple of it; the result comes back the same way.
            target: class, in any of Captum's forms.
            additional_forward_args: passed on; tensors with one entry per sample follow their sample.
            patch: side of a patch in pixels.
            n_samples: other images that each patch is taken from, each only once. The error of the mean falls with its
                root.
            seed: of the choice of other images.
            reference: images `(R, C, H, W)` that patches are taken from, drawn anew for each patch and the same ones
                for every image. None to permute the images themselves, as the sources do: no image keeps its own patch.
            perturbations_per_eval: patches in one forward call, which takes this many times B images; None for calls
                of a size that suits the device, as in `removal_curves`, however many B are.
            show_progress: a bar that counts patches; None for one in a terminal, where it takes over three seconds.

        Returns:
            contiguous and detached, fp32 (fp64 for fp64 images).

        Raises:
            AssertionError: no target for more than one class.
            IndexError: a target outside the model's classes.
            ValueError: a patch larger than the image; fewer images to take patches from than samples; a bad value of
                any other argument; a model that does not give `(B, K)`; NaN or infinity in the maps.
        """
        x, is_tuple = single_input(inputs)

        def column(num_classes: int, device: torch.device) -> Tensor:
            return class_indices(target, len(x), num_classes, device)[:, None]

        maps = self._losses(
            x, column, additional_forward_args, patch, n_samples, seed, reference, perturbations_per_eval, show_progress
        )
        return like_input(maps.expand(x.shape).contiguous(), is_tuple)

    def all_classes(
        self,
        inputs: Inputs,
        additional_forward_args: Any = None,
        classes: Tensor | None = None,
        patch: int = 16,
        n_samples: int = 1,
        seed: int = 0,
        reference: Tensor | None = None,
        perturbations_per_eval: int | None = None,
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

        maps = self._losses(
            x, columns, additional_forward_args, patch, n_samples, seed, reference, perturbations_per_eval,
            show_progress,
        )  # fmt: skip
        if isinstance(inputs, tuple):
            return (maps,)
        return maps

    def _losses(
        self, x: Tensor, find: Callable[[int, torch.device], Tensor | None], additional_forward_args: Any, patch: int,
        n_samples: int, seed: int, reference: Tensor | None, per_eval: int | None, show_progress: bool | None,
    ) -> Tensor:  # fmt: skip
        """`(B, n, H, W)` for the n classes of each image, `(B, n)`, that are found once their number K is known."""
        _check(x, patch, n_samples, reference)
        check_at_least_one("perturbations_per_eval", per_eval)
        jobs = list(_jobs(x, patch, n_samples, seed, reference))
        forward, args = runnable(self.forward_func), extra_arguments(additional_forward_args)
        donors = x if reference is None else reference.to(x)
        size = images_per_pass(x, None)
        parts = torch.arange(len(x), device=x.device).split(size if per_eval is None else len(x))
        sums: list[Tensor] = []
        columns: Tensor | None = None
        title = type(self).__name__
        with torch.no_grad(), progress_bar(len(jobs) * len(parts), title, show_progress) as bar:
            for part in parts:
                whole = as_logits(forward(x[part], *of_samples(args, len(x), part)))
                if not sums:
                    columns = find(whole.shape[1], whole.device)
                wanted = None if columns is None else columns[part]
                whole = at_least_float32(whole if wanted is None else whole.gather(1, wanted))
                total = whole.new_zeros(*whole.shape, *(-(-side // patch) for side in x.shape[2:]))
                step = per_eval or max(1, size // len(part))
                for first in range(0, len(jobs), step):
                    group = jobs[first : first + step]
                    altered = _altered(x[part], part, donors, group, patch)
                    follow = of_samples(args, len(x), part.repeat(len(group)))
                    scores = as_logits(forward(altered, *follow)).unflatten(0, (len(group), len(part)))
                    if wanted is not None:
                        scores = scores.gather(2, wanted.expand(len(group), -1, -1))
                    for job, loss in zip(group, whole - at_least_float32(scores), strict=True):
                        total[:, :, job.row, job.column] += loss
                    bar.update(len(group))
                sums.append(total / n_samples)
        means = finite(torch.cat(sums).to(at_least_float32(x).dtype), title, x, self.forward_func)
        large = means.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        return large[..., : x.shape[2], : x.shape[3]].contiguous()


class _Job(NamedTuple):
    """A patch, by its place among the patches, and the image that it comes from, for each of the images `(B,)`."""

    row: int
    column: int
    donor: Tensor


def _jobs(x: Tensor, patch: int, n_samples: int, seed: int, reference: Tensor | None) -> Iterator[_Job]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (-(-side // patch) for side in x.shape[2:])
    for row in range(rows):
        for column in range(columns):
            if reference is None:
                order = torch.randperm(len(x), generator=generator)
                for shift in range(1, n_samples + 1):  # shifted, nothing stays in its place
                    yield _Job(row, column, torch.empty_like(order).scatter_(0, order, order.roll(shift)))
            else:
                for donor in torch.randperm(len(reference), generator=generator)[:n_samples]:
                    yield _Job(row, column, donor.expand(len(x)))


def _altered(images: Tensor, part: Tensor, donors: Tensor, group: list[_Job], patch: int) -> Tensor:
    """Images `(b, C, H, W)`, those of `part`, with one patch replaced in each copy: `(len(group) * b, C, H, W)`."""
    altered = images.expand(len(group), *images.shape).clone()
    for one, job in zip(altered, group, strict=True):
        top, left = job.row * patch, job.column * patch
        rows, columns = slice(top, top + patch), slice(left, left + patch)
        one[..., rows, columns] = donors[job.donor.to(part.device)[part], :, rows, columns]
    return altered.flatten(0, 1)


def _check(x: Tensor, patch: int, n_samples: int, reference: Tensor | None) -> None:
    if not 1 <= patch <= min(x.shape[2:]):
        raise ValueError(f"patch={patch} is out of range, expected 1 to {min(x.shape[2:])}, the side of images.")
    if reference is not None and reference.shape[1:] != x.shape[1:]:
        raise ValueError(f"reference {tuple(reference.shape)}, expected images {('R', *x.shape[1:])}.")
    most = len(x) - 1 if reference is None else len(reference)
    if not 1 <= n_samples <= most:
        raise ValueError(
            f"n_samples={n_samples}, expected 1 to {most}, the number of images that a patch can come from."
        )
