"""How well do the units of a CoDA-Net align with what they see?

python -m tools.alignment MODEL --data-dir DIR --split test
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from torch.utils.data import Subset

from timm_interpretable.cli.common import evenly_spaced, fail, image_loader, load_any, open_images, pick_device
from timm_interpretable.data.images import eval_transform


def alignment(
    model: Annotated[str, typer.Argument(help="A CoDA-Net with L2 norms.")],
    data_dir: Annotated[Path, typer.Option(help="Folder with the images.")],
    split: Annotated[str, typer.Option(help="Which of them.")],
    images: Annotated[int, typer.Option(min=1, help="How many, evenly spaced.")] = 100,
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file instead of the released one.")] = None,
) -> None:
    """Print the mean |cos(w(x), x)| of every layer, first to head, over images, units and positions."""
    net = load_any(model, weights, pick_device("cpu"))
    if not hasattr(net, "dynamic_layers") or any(layer.norm != "l2" for layer in net.dynamic_layers()):
        fail(f"{model}: expected a CoDA-Net with L2 norms, whose weights have length 1")
    shown = open_images(data_dir, split, eval_transform(net), net)
    chosen = Subset(shown, evenly_spaced(min(images, len(shown)), len(shown)))
    batches = [cosines(net, x) for x, _ in image_loader(chosen, 20, 0)]
    typer.echo(" ".join(f"{value:.2f}" for value in torch.stack(batches).mean(0).tolist()))


@torch.no_grad()
def cosines(net: Any, images: Tensor) -> Tensor:
    """Mean |cos(w(x), x)| of every layer, `(L,)`: its output over the length of the patch, as w(x) has length 1."""
    found = net.dynamic_weights(images)
    means = []
    for layer, seen, output in zip(found.layers, found.inputs[:-1], found.inputs[1:], strict=True):
        square = torch.ones(1, 1, *layer.code.kernel_size)
        energy = F.conv2d(seen.square().sum(1, keepdim=True), square, None, layer.code.stride, layer.code.padding)
        means.append((output.abs() / energy.sqrt().clamp_min(1e-9)).mean())
    return torch.stack(means)


if __name__ == "__main__":
    typer.run(alignment)
