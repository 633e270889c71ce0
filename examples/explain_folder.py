"""Write the map of every image in a folder as an overlay, and list how sure the model is.

    python examples/explain_folder.py FOLDER --out maps

Without a folder: the pictures that come with the package. `timm-interpretable explain FOLDER` draws whole figures.
"""

import argparse
import sys
from pathlib import Path

import timm
import torch
from PIL import Image

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import Context, own_method
from timm_interpretable.data.classes import class_names
from timm_interpretable.data.images import (
    ImageError,
    eval_transform,
    list_images,
    load_image,
    sample_images,
    to_picture,
)
from timm_interpretable.models import class_probabilities
from timm_interpretable.viz import overlay


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", default="facnn_resnet18", help="one that explains itself")
    parser.add_argument("--out", type=Path, default=Path("maps"))
    args = parser.parse_args()

    model = timm.create_model(args.model, pretrained=True).eval()
    own = own_method(model)
    if own is None:
        parser.error(f"{args.model} has no explanation of its own")
    maps, transform, names = own.maps(Context.of(model)), eval_transform(model), class_names(model)
    try:
        found = list_images([args.folder] if args.folder else [sample.path for sample in sample_images()])
    except ImageError as error:
        parser.error(str(error))
    failed = 0
    for file in found:
        try:
            x = transform(load_image(file.path))[None]
        except ImageError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        with torch.no_grad():
            probs = class_probabilities(model, model(x))
        best = probs.argmax(1, keepdim=True)
        target = (args.out / file.relative).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(overlay(to_picture(x[0], model), maps(x, best)[0, 0])).save(target)
        print(f"{file.relative}: {names[best]} {100 * probs[0, best].item():.1f} %")
    print(f"{len(found) - failed} explained, {failed} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
