"""Contributions of a CoDA-Net against Captum's InputXGradient: what do they add up to?

python examples/contributions.py --data-dir DIR --model coda_net_s.cifar10 --split test
"""

import argparse
from pathlib import Path

import timm
import torch
from captum.attr import InputXGradient

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import InputContribution
from timm_interpretable.data.classes import match_classes
from timm_interpretable.data.datasets import open_split
from timm_interpretable.data.images import eval_transform
from timm_interpretable.metrics import rank_correlation

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data-dir", type=Path, required=True)
parser.add_argument("--model", default="coda_net_s.cifar10")
parser.add_argument("--split", default="test")
parser.add_argument("--images", type=int, default=200, help="evenly spaced over the split; all where there are fewer")
args = parser.parse_args()

model = timm.create_model(args.model, pretrained=True).eval()
images, folders = open_split(args.data_dir, args.split, eval_transform(model))
classes, count = match_classes(folders, model).indices, min(args.images, len(images))
chosen = [images[i * len(images) // count] for i in range(count)]
x, target = torch.stack([image for image, _ in chosen]), torch.tensor([classes[label] for _, label in chosen])

contributions = InputContribution(model).attribute(x, target, internal_batch_size=25)
parts = zip(x.split(25), target.split(25), strict=True)
products = torch.cat([InputXGradient(model).attribute(part.requires_grad_(), label).detach() for part, label in parts])
with torch.no_grad():
    logits = torch.cat([model(part) for part in x.split(25)]).gather(1, target[:, None])[:, 0] - model.logit_bias

print(f"{count} images, logit of the true class less its bias: mean {logits.mean().item():.2f}")
for name, maps in (("contributions", contributions), ("input x gradient", products)):
    missed = (maps.flatten(1).sum(1) - logits).abs()
    print(f"{name}: sum misses it by {missed.median().item():.2g} (median), {missed.max().item():.2g} (largest)")
print(f"rank correlation of the two: {rank_correlation(contributions.sum(1), products.sum(1)).mean().item():.2f}")
