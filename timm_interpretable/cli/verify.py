"""`timm-interpretable verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, load_model, make_folder, pick_device

if TYPE_CHECKING:
    from torch import Tensor

    from timm_interpretable.attr.faces import FaceMaps


def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="A picture of a face.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("explanations"),
    model: Annotated[str, typer.Option(help="A face model of `list`.")] = "face_resnet10",
    threshold: Annotated[
        float | None, typer.Option(help="Cosine from which on it is one person.", show_default="the model's own")
    ] = None,
    n_steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of FAME.")] = 100,
    n_masks: Annotated[int, typer.Option("--masks", min=2, help="Masks of CorrRISE.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the masks.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:0 or mps.", show_default="the best there is")
    ] = None,
) -> None:
    """Do two pictures show one person, and which parts say so?

    No face is looked for: each picture must show one upright face that fills it as in a portrait. Of a picture that is
    not 92 wide to 112 high the border is cut off.
    """
    from timm_interpretable.data.images import ImageError, load_image
    from timm_interpretable.models import VERIFICATION_THRESHOLDS

    if threshold is not None and not -1 <= threshold <= 1:
        fail(f"--threshold is {threshold}, expected a cosine from -1 to 1")
    try:
        pictures = [load_image(path) for path in (first, second)]
    except ImageError as error:
        fail(str(error))
    net = load_model(model, pick_device(device))
    if net.num_classes:
        fail(f"model {model!r} is a classifier, expected one of faces, such as face_resnet10")
    limit = threshold if threshold is not None else VERIFICATION_THRESHOLDS.get(_full_name(net))
    if limit is None:
        fail(f"model {model!r} has no threshold of its own; give --threshold")
    make_folder(out)
    typer.echo("note: no face detection is done; each picture should show one upright face that fills it", err=True)
    file = out / f"{first.stem}-{second.stem}.png"
    x, similarity, maps = _compare(net, pictures, limit, n_steps, n_masks, seed)
    _draw(net, x, (first.name, second.name), similarity, limit, maps, file)
    decision = "same person" if similarity >= limit else "different people"
    typer.echo(f"{first.name}, {second.name}: cosine {similarity:.3f}, {decision} (threshold {limit:.3f}) -> {file}")


def _full_name(net: Any) -> str:
    return f"{net.pretrained_cfg['architecture']}.{net.pretrained_cfg['tag']}"


def _compare(
    net: Any, pictures: list[Any], threshold: float, n_steps: int, n_masks: int, seed: int
) -> tuple["Tensor", float, dict[str, "FaceMaps"]]:
    """The pictures as the model sees them, their cosine, and the maps of each against the other."""
    import torch
    import torch.nn.functional as F

    from timm_interpretable.attr.faces import face_methods
    from timm_interpretable.data.images import eval_transform

    transform = eval_transform(net)
    x = torch.stack([transform(picture) for picture in pictures]).to(next(net.parameters()).device)
    with torch.no_grad():
        unit = F.normalize(net(x).float())
    similarity = float(unit[0] @ unit[1])
    # nobody tells whether the pair is genuine: FAME stops as for what the model takes it for
    taken = torch.full((2,), similarity >= threshold, device=x.device)
    methods = face_methods(net, n_steps, n_masks, seed)
    return x, similarity, {name: methods[name](x, unit.flip(0), taken) for name in ("FAME", "CorrRISE")}


def _draw(
    net: Any, x: "Tensor", names: tuple[str, str], similarity: float, threshold: float, maps: dict[str, "FaceMaps"],
    file: Path,
) -> None:  # fmt: skip
    from timm_interpretable.data.images import to_picture
    from timm_interpretable.viz import verification_figure

    columns = {}
    for method, found in maps.items():
        columns[f"{method}: similar (e+)"], columns[f"{method}: dissimilar (e\N{MINUS SIGN})"] = found
    figure = verification_figure([to_picture(one, net) for one in x], columns, names, similarity, threshold)
    try:
        figure.savefig(file)
    except OSError as error:
        fail(f"cannot write {file}: {error}")
