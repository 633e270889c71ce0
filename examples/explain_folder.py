"""Write the class map of every image in a folder as an overlay, and list how sure the model is.

    python examples/explain_folder.py FOLDER --out maps

Without a folder: the pictures that come with the package. `timm-interpretable explain FOLDER` draws whole figures.
"""

import argparse
from pathlib import Path

import timm
import torch
from PIL import Image

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import ClassMap
from timm_interpretable.data.images import eval_transform, list_images, load_image, sample_images, to_picture
from timm_interpretable.viz import overlay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", default="facnn_resnet18")
    parser.add_argument("--out", type=Path, default=Path("maps"))
    args = parser.parse_args()

    model = timm.create_model(args.model, pretrained=True).eval()
    transform, names = eval_transform(model), model.pretrained_cfg["label_names"]
    args.out.mkdir(parents=True, exist_ok=True)
    paths = [file.path for file in list_images([args.folder])] if args.folder else [sample.path for sample in sample_images()]
    for path in paths:
        x = transform(load_image(path))[None]
        with torch.no_grad():
            probs = model(x).softmax(1)
        best = int(probs.argmax())
        class_map = ClassMap(model).attribute(x, target=best)[0].sum(0)
        Image.fromarray(overlay(to_picture(x[0], model), class_map)).save(args.out / f"{path.stem}.png")
        print(f"{path.name}: {names[best]} {100 * probs[0, best]:.1f} %")


if __name__ == "__main__":
    main()
