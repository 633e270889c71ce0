"""`timm-interpretable explain`."""

import hashlib
import json
import os
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_interpretable.cli.common import fail, load_model, pick_device

if TYPE_CHECKING:
    from torch import Tensor, nn

    from timm_interpretable.attr import Method

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
    method: Annotated[
        str | None,
        typer.Option(help="Explanation, such as class_map_average or grad_cam.", show_default="the model's own"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("explanations"),
    raw: Annotated[bool, typer.Option("--raw", help="Also save the signed maps as safetensors.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 16,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:0 or mps.", show_default="the best there is")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Explain the pictures that ship with the package.")] = False,
) -> None:
    """Show which parts of an image speak for a class.

    The explanation is the model's own unless --method names another one.
    """
    if not images and not sample:
        fail("no images given; name image files or folders, or try --sample")
    if batch_size < 1:
        fail(f"--batch-size is {batch_size}, expected at least 1")

    from timm_interpretable.data.images import ImageError, list_images, sample_images

    work: dict[str, list[tuple[Path, Path]]] = {}
    skipped: list[str] = []
    try:
        for found in list_images(images or [], skipped):
            work.setdefault(model or _DEFAULT_MODEL, []).append((found.path, found.relative))
    except ImageError as error:
        fail(str(error))
    for entry in sample_images() if sample else []:
        work.setdefault(model or entry.model, []).append((entry.path, Path(entry.path.name)))

    chosen_device = pick_device(device)
    explainers = {name: Explainer(name, load_model(name, chosen_device), method, target, raw) for name in work}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the folder {out}: {error.strerror}")
    for line in skipped:
        _say(f"skipped: {line}", error=True)

    from tqdm import tqdm

    count = sum(map(len, work.values()))
    failed, stems = 0, Stems(out)
    with tqdm(total=count, unit="image", disable=count == 1) as progress:
        for name, explainer in explainers.items():
            for start in range(0, len(work[name]), batch_size):
                chunk = work[name][start : start + batch_size]
                failed += explainer.run([path for path, _ in chunk], [stems.of(*pair) for pair in chunk])
                progress.update(len(chunk))
    if count > 1 or skipped:
        _say(f"{count - failed} explained, {failed} failed, {len(skipped)} skipped", error=True)
    if failed:
        raise typer.Exit(2)


class Explainer:
    """One model with its preprocessing; fails before any work where it does not fit what is asked.

    Args:
        name: of the model, for people.
        method: a key of the catalogue; None for the model's own explanation.
        target: a class by name or index, or 'top1'.
        raw: also write the signed maps.
    """

    def __init__(self, name: str, model: "nn.Module", method: str | None, target: str, raw: bool) -> None:
        from timm_interpretable.attr import Context
        from timm_interpretable.data.classes import class_names
        from timm_interpretable.data.images import eval_transform

        self.name, self.model, self.raw = name, model, raw
        self.method = chosen_method(name, model, method)
        self.context = Context.of(model)
        self.class_names = class_names(model)
        self.target = resolve_target(target, self.class_names)
        self.transform = eval_transform(model)
        self.depth_label = "layer"

    def run(self, paths: list[Path], stems: list[Path]) -> int:
        """Explain a batch: write `<stem>.png`, with raw also `<stem>.safetensors`; the result counts what failed."""
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
        written = 0
        if good:
            x = torch.stack(inputs).to(next(self.model.parameters()).device)
            batch = self.tensors(x)
            for i, (path, stem) in enumerate(good):
                written += self._write(path, stem, x[i], {key: v[i].cpu().contiguous() for key, v in batch.items()})
        return len(paths) - written

    def tensors(self, x: "Tensor") -> "dict[str, Tensor]":
        """`logits`, `target` and `attribution` of a batch, where there are any also `depth.1` and so on, and `weights`.

        A model with an explanation of its own is run once.
        """
        import torch

        from timm_interpretable.attr import evidence_of, own_method

        own = own_method(self.model)
        if own is not None and own.evidence is not None and self.method.is_read:
            evidence = evidence_of(self.context, x)
            logits = evidence.logits
            target = self._targets(logits)
            explanation = evidence.explanation(target)
            tensors, self.depth_label = {"attribution": explanation.attribution}, explanation.depth_label
            if self.method is not own:
                tensors["attribution"] = self.method.read(self.context, evidence, target[:, None])
            tensors |= {f"depth.{i}": one for i, one in enumerate(explanation.depth, start=1)}
            tensors |= {} if explanation.weights is None else {"weights": explanation.weights}
        else:
            with torch.no_grad():
                logits = self.context.model(x).float()
            target = self._targets(logits)
            tensors = {"attribution": self.method.maps(self.context)(x, target[:, None])}
        return tensors | {"logits": logits, "target": target}

    def _targets(self, logits: "Tensor") -> "Tensor":
        import torch

        top1 = logits.argmax(1)
        return top1 if self.target is None else torch.full_like(top1, self.target)

    def _write(self, path: Path, stem: Path, x: "Tensor", tensors: dict[str, "Tensor"]) -> bool:
        """Whether the results could be written."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        from timm_interpretable.data.images import to_picture
        from timm_interpretable.models import class_probabilities, is_yes_or_no
        from timm_interpretable.viz import explanation_figure

        target, name = int(tensors["target"]), shown_name(path)
        probs = class_probabilities(self.model, tensors["logits"])
        depth = [value for key, value in tensors.items() if key.startswith("depth.")]
        weights = tensors.get("weights")
        figure = explanation_figure(
            to_picture(x, self.model), tensors["attribution"].sum(0), depth, self.class_names, probs, target,
            title=name, map_label=self._map_label(), depth_label=self.depth_label, model=self.name,
            weights=None if weights is None else self._picture(tensors), yes_or_no=is_yes_or_no(self.model),
        )  # fmt: skip
        # not with_suffix: a stem may have dots of its own
        picture, file = (stem.with_name(stem.name + suffix) for suffix in (".png", ".safetensors"))
        try:
            picture.parent.mkdir(parents=True, exist_ok=True)
            if self.raw:  # the longer name first: a picture alone would look like a success
                save_file(tensors, file, metadata=self._metadata(name))
            figure.savefig(picture, metadata={"Source": Stems.mark(path)})
        except (OSError, SafetensorError) as error:
            _say(f"error: cannot write {shown_name(picture)} for {name}: {error}", error=True)
            return False
        best = int(probs.argmax())
        asked = "" if best == target else f" (shown: {self.class_names[target]} {100 * probs[target]:.1f} %)"
        _say(f"{name}: {self.class_names[best]} {100 * probs[best]:.1f} %{asked} -> {shown_name(picture, whole=True)}")
        return True

    def _picture(self, tensors: dict[str, "Tensor"]) -> Any:
        from timm_interpretable.viz import weight_picture

        return weight_picture(tensors["weights"], tensors["attribution"].sum(0))

    def _map_label(self) -> str:
        if self.method.sums_to is None:
            return self.method.title
        return f"{self.method.title}, per pixel; adds up to {self.method.sums_to.words}"

    def _metadata(self, name: str) -> dict[str, str]:
        return dict(model=self.name, method=self.method.key, image=name, class_names=json.dumps(self.class_names))


class Stems:
    """Names of results: inputs from a folder keep their place in it, and no input overwrites the result of another.

    A result says in its metadata which file it came from, so that a second run replaces what the first one wrote of
    the same file and nothing else.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.taken: dict[str, str] = {}  # by the name in lower case, which some file systems take for the same

    def of(self, path: Path, relative: Path) -> Path:
        """Where the result for `path` goes, without its suffix; `relative` is the place of the image in its folder."""
        mark, number = self.mark(path), 1
        first = self.out / relative.parent / relative.stem
        stem = first
        while self._source(stem) not in (None, mark):
            number += 1
            stem = first.with_name(f"{first.name}-{number}")
        self.taken[str(stem).casefold()] = mark
        return stem

    def _source(self, stem: Path) -> str | None:
        """The mark of the file whose result has this name; None where the name is free."""
        if (known := self.taken.get(str(stem).casefold())) is not None:
            return known
        picture = stem.with_name(stem.name + ".png")
        try:
            if not picture.exists():
                return None
            from PIL import Image

            with Image.open(picture) as image:
                return str(image.info.get("Source", ""))
        except OSError:  # a name that is too long, or a picture of somebody else: writing will say more
            return None if not picture.is_file() else ""

    @staticmethod
    def mark(path: Path) -> str:
        return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]


def chosen_method(name: str, model: "nn.Module", key: str | None) -> "Method":
    """The method of that key, or the model's own; `fail` where the model does not have it."""
    from timm_interpretable.attr import methods_for, own_method

    there = methods_for(model)
    if key is None:
        own = own_method(model)
        if own is None:
            fail(f"model {name!r} has no explanation of its own; choose one with --method: {', '.join(there)}")
        return own
    if key not in there:
        fail(f"model {name!r} has no method {key!r}; expected one of: {', '.join(there)}")
    return there[key]


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


def shown_name(path: Path, whole: bool = False) -> str:
    """A file's name as text: bytes that are not UTF-8 become question marks."""
    return os.fsencode(path if whole else path.name).decode("utf-8", errors="replace")


def _say(line: str, error: bool = False) -> None:
    from tqdm import tqdm

    # around the progress bar, not through it
    tqdm.write(line, file=sys.stderr if error else sys.stdout)
