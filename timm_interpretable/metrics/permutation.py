"""Patch permutation importance: what a prediction loses when a patch comes from another image.

Sources: `Random Forests` (Breiman, Machine Learning 45, 2001), section 10, for the importance of a feature whose values
are permuted over the samples; `All Models are Wrong, but Many are Useful` (Fisher, Rudin, Dominici, JMLR 20, 2019),
section 3, for that of any model. A patch of the image is the feature here, and the importance is kept per image.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from timm_interpretable.metrics.removal import images_per_pass

__all__ = ["patch_permutation_importance"]


def patch_permutation_importance(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    classes: Tensor,
    patch: int = 16,
    n_permutations: int = 5,
    seed: int = 0,
    reference: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """The mean loss of the logits when a patch is replaced by that of other images at the same place, `(B, n, H, W)`.

    Unlike a grey square, the patch of another photograph looks like one: the image keeps the statistics of images but
    for the edges of the patch. Patches lie side by side from the upper left corner on; the last ones may be cut off.

    Costs a pass for each patch and permutation: 980 for 224 pixels, patches of 16 and 5 permutations.

    Args:
        model: images to logits `(B, K)`.
        images: `(B, C, H, W)`.
        classes: n for each image, `(B, n)`: all from the same passes. With the other arguments filled in this is a
            `MapsOfClasses`.
        patch: side of a patch in pixels.
        n_permutations: other images that each patch is taken from, each only once.
        seed: of the permutations.
        reference: images `(R, C, H, W)` that patches are taken from, drawn anew for each patch and the same ones for
            every image, so that a map does not depend on the other images of the batch. None to permute the images
            themselves, as the sources do: no image keeps its own patch.
        batch_size: altered images per pass; None as in `removal_curves`.

    Raises:
        ValueError: shapes that do not match; a patch larger than the image; fewer images to take patches from than
            permutations.
    """
    _check(images, classes, patch, n_permutations, reference)
    size = images_per_pass(images, batch_size)
    height, width = images.shape[2:]
    jobs = list(_jobs(height, width, patch, len(images), n_permutations, seed, reference))
    donors = images if reference is None else reference.to(images)
    maps = torch.zeros(*classes.shape, height, width, device=images.device)
    with torch.no_grad():
        for part in torch.arange(len(images), device=images.device).split(size):
            some, wanted = images[part], classes[part]
            whole = model(some).gather(1, wanted).float()
            step = max(1, size // len(part))
            for first in range(0, len(jobs), step):
                group = jobs[first : first + step]
                altered = some.expand(len(group), *some.shape).clone()
                for one, (rows, columns, donor) in zip(altered, group, strict=True):
                    one[..., rows, columns] = donors[donor.to(part.device)[part], :, rows, columns]
                logits = model(altered.flatten(0, 1)).float().unflatten(0, (len(group), len(part)))
                lost = whole - logits.gather(2, wanted.expand(len(group), -1, -1))
                for (rows, columns, _), loss in zip(group, lost, strict=True):
                    maps[part, :, rows, columns] += loss[:, :, None, None] / n_permutations
    return maps


def _jobs(
    height: int, width: int, patch: int, count: int, n_permutations: int, seed: int, reference: Tensor | None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows and columns of every patch with the images that it is taken from, one for each of `count`."""
    generator = torch.Generator().manual_seed(seed)
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            rows, columns = slice(top, top + patch), slice(left, left + patch)
            if reference is None:
                order = torch.randperm(count, generator=generator)
                for shift in range(1, n_permutations + 1):  # shifted, nothing stays in its place
                    yield rows, columns, torch.empty_like(order).scatter_(0, order, order.roll(shift))
            else:
                for donor in torch.randperm(len(reference), generator=generator)[:n_permutations]:
                    yield rows, columns, donor.expand(count)


def _check(images: Tensor, classes: Tensor, patch: int, n_permutations: int, reference: Tensor | None) -> None:
    if images.ndim != 4 or not len(images) or classes.ndim != 2 or len(classes) != len(images):
        raise ValueError(
            f"images {tuple(images.shape)} and classes {tuple(classes.shape)}, expected (B, C, H, W) and (B, n)."
        )
    if not 1 <= patch <= min(images.shape[2:]):
        raise ValueError(f"patch={patch} is out of range, expected 1 to {min(images.shape[2:])}, the side of images.")
    if reference is not None and reference.shape[1:] != images.shape[1:]:
        raise ValueError(f"reference {tuple(reference.shape)}, expected images {('R', *images.shape[1:])}.")
    most = len(images) - 1 if reference is None else len(reference)
    if not 1 <= n_permutations <= most:
        raise ValueError(
            f"n_permutations={n_permutations}, expected 1 to {most}, the number of images that a patch can come from."
        )
