"""`timm-interpretable explain`."""

import json
import sys
from collections import Counter
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, load_model, pick_device
from timm_interpretable.cli.views import LAYERS, Options, view_of

if TYPE_CHECKING:
    from torch import Tensor, nn

_DEFAULT_MODEL = "facnn_resnet18"


def explain(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A name of `timm-interpretable list`.", show_default=_DEFAULT_MODEL)
    ] = None,
    target: Annotated[
        str, typer.Option(help="Class to explain: its name or index, or top1 for the predicted one.")
    ] = "top1",
    layers: Annotated[str, typer.Option(help=f"Maps to show: {', '.join(LAYERS)}.")] = "penultimate",
    contrast: Annotated[
        bool, typer.Option("--contrast", help="What speaks for the class rather than for others.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("explanations"),
    raw: Annotated[bool, typer.Option("--raw", help="Also save the signed maps as safetensors.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 16,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:0 or mps.", show_default="the best there is")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Explain the pictures that ship with the package.")] = False,
) -> None:
    """Show which parts of an image speak for a class, as the model itself computes it."""
    if not images and not sample:
        fail("no images given; name image files or folders, or try --sample")
    if layers not in LAYERS:
        fail(f"unknown layers {layers!r}, expected one of: {', '.join(LAYERS)}")
    if batch_size < 1:
        fail(f"--batch-size is {batch_size}, expected at least 1")

    from timm_interpretable.data.images import ImageError, list_images, sample_images

    work: dict[str, list[Path]] = {}
    try:
        for path in list_images(images or []):
            work.setdefault(model or _DEFAULT_MODEL, []).append(path)
    except ImageError as error:
        fail(str(error))
    for entry in sample_images() if sample else []:
        work.setdefault(model or entry.model, []).append(entry.path)

    chosen_device = pick_device(device)
    options = Options(layers, contrast)
    explainers = {name: Explainer(name, load_model(name, chosen_device), options, target, raw) for name in work}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the folder {out}: {error.strerror}")

    from tqdm import tqdm

    jobs = [(name, path) for name, paths in work.items() for path in paths]
    stems = distinct_stems([path for _, path in jobs])
    failed = 0
    with tqdm(total=len(jobs), unit="image", disable=len(jobs) == 1) as progress:
        for name, explainer in explainers.items():
            mine = [i for i, job in enumerate(jobs) if job[0] == name]
            for start in range(0, len(mine), batch_size):
                chunk = mine[start : start + batch_size]
                failed += explainer.run([jobs[i][1] for i in chunk], [out / stems[i] for i in chunk])
                progress.update(len(chunk))
    if failed:
        raise typer.Exit(2)


class Explainer:
    """One model with its preprocessing; fails before any work where it does not fit what is asked."""

    def __init__(self, name: str, model: "nn.Module", options: Options, target: str, raw: bool) -> None:
        from timm_interpretable.data.images import eval_transform

        self.name, self.model, self.options, self.raw = name, model, options, raw
        self.view = view_of(name, model, options)
        self.class_names = class_names(model)
        self.target = resolve_target(target, self.class_names)
        self.transform = eval_transform(model)

    def run(self, paths: list[Path], stems: list[Path]) -> int:
        """Explain a batch: write `<stem>.png`, with raw also `<stem>.safetensors`; the result counts the bad images."""
        import torch

        from timm_interpretable.data.images import ImageError, load_image

        good: list[tuple[Path, Path]] = []
        inputs: list[Tensor] = []
        for path, stem in zip(paths, stems, strict=True):
            try:
                inputs.append(self.transform(load_image(path)))
            except ImageError as error:
                _say(f"error: {error}", error=True)
            else:
                good.append((path, stem))
        if good:
            x = torch.stack(inputs).to(next(self.model.parameters()).device)
            with torch.inference_mode():
                logits = self.model(x).float()
            top1 = logits.argmax(1)
            target = top1 if self.target is None else torch.full_like(top1, self.target)
            batch = self.view.tensors(x, logits, target) | {"logits": logits, "target": target}
            for i, (path, stem) in enumerate(good):
                self._write(path, stem, x[i], {key: value[i].cpu().contiguous() for key, value in batch.items()})
        return len(paths) - len(good)

    def _write(self, path: Path, stem: Path, x: "Tensor", tensors: dict[str, "Tensor"]) -> None:
        from safetensors.torch import save_file

        from timm_interpretable.data.images import to_picture
        from timm_interpretable.models import class_probabilities
        from timm_interpretable.viz import explanation_figure

        view, target = self.view, int(tensors["target"])
        probs = class_probabilities(self.model, tensors["logits"])
        figure = explanation_figure(
            to_picture(x, self.model), tensors["attribution"].sum(0), view.depth(tensors, target), self.class_names,
            probs, target, title=path.name, map_label=view.map_label, depth_label=view.depth_label,
            weights=view.weights(tensors),
        )  # fmt: skip
        # not with_suffix: a stem may have dots of its own
        picture, file = (stem.with_name(stem.name + suffix) for suffix in (".png", ".safetensors"))
        try:
            figure.savefig(picture)
            if self.raw:
                save_file(tensors, file, metadata=self._metadata(path))
        except OSError as error:
            fail(f"cannot write {picture}: {error}")
        best = int(probs.argmax())
        asked = "" if best == target else f" (shown: {self.class_names[target]} {100 * probs[target]:.1f} %)"
        _say(f"{path.name}: {self.class_names[best]} {100 * probs[best]:.1f} %{asked} -> {picture}")

    def _metadata(self, path: Path) -> dict[str, str]:
        options: dict[str, Any] = dict(layers=self.options.layers, contrast=self.options.contrast)
        return dict(
            model=self.name, image=path.name, class_names=json.dumps(self.class_names), options=json.dumps(options)
        )  # fmt: skip


def class_names(model: "nn.Module") -> list[str]:
    """The names in the model's configuration; `class 0`, ... where it has none."""
    count = int(model.num_classes)  # type: ignore[arg-type]
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    return list(names) if names and len(names) == count else [f"class {k}" for k in range(count)]


def resolve_target(target: str, names: list[str]) -> int | None:
    """The index of a class given by name (in any case) or index; None for 'top1'."""
    if target == "top1":
        return None
    matches = [k for k, name in enumerate(names) if name.casefold() == target.casefold()]
    if matches:
        return matches[0]
    if target.isdecimal() and int(target) < len(names):
        return int(target)
    close = get_close_matches(target, names, cutoff=0.5)
    expected = f"did you mean {' or '.join(close)}?" if close else f"expected top1, 0 to {len(names) - 1}, or a name"
    if not close and len(names) <= 20:
        expected += f" of: {', '.join(names)}"
    fail(f"unknown class {target!r}; {expected}")


def distinct_stems(paths: list[Path]) -> list[str]:
    """One output name per path: its stem, numbered where several share it; upper and lower case count as the same."""
    taken = Counter(path.stem.casefold() for path in paths)
    first: set[str] = set()
    stems = []
    for path in paths:
        stem, number = path.stem, 2
        if stem.casefold() in first:
            # also not the stem of any other image
            while taken[f"{stem}-{number}".casefold()]:
                number += 1
            stem = f"{stem}-{number}"
            taken[stem.casefold()] += 1
        first.add(stem.casefold())
        stems.append(stem)
    return stems


def _say(line: str, error: bool = False) -> None:
    from tqdm import tqdm

    # around the progress bar, not through it
    tqdm.write(line, file=sys.stderr if error else sys.stdout)
