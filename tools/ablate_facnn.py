"""Short runs over the design space of FA-CNN: accuracy, localisation and cost of each variant, at equal epochs.

    python -m tools.ablate_facnn --data-dir DIR                # every variant
    python -m tools.ablate_facnn --data-dir DIR --only resnet18 "C 192, stride 4"

DIR holds Imagenette as `train*.tar`, `val.tar`, `boxed.tar` and `boxed_boxes.csv`. Protocol: 96 px random crops of
112 px images, flip, AdamW 2e-3 one-cycle, 5 epochs, batch 64, label smoothing 0.1, bf16, one thread, one seed; accuracy
on every second validation image; energy and pointing of the penultimate class map (Grad-CAM for timm's resnet18) of the
true class on the boxed images.
"""

import argparse
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import transforms

import timm_interpretable  # noqa: F401
from timm_interpretable.data.boxes import box_mask, load_boxes
from timm_interpretable.data.datasets import open_split
from timm_interpretable.metrics.localisation import energy_in_box, pointing_game

CROP, LOADED, EPOCHS, BATCH, RATE = 96, 112, 5, 64, 2e-3

VARIANTS: dict[str, dict] = {
    "resnet18": {},
    "C 384, stride 8, no pooling": dict(trunk_width=384, stem_stride=8, pools=(), branch_widths=(128, 128, 128, 256)),
    "C 384, stride 8, one pooling": dict(
        trunk_width=384, stem_stride=8, pools=(1,), branch_widths=(128, 128, 256, 256)
    ),
    "C 192, stride 4": {},
    "C 192, stride 4, alpha .1": dict(alpha=0.1),
    "C 192, stride 4, alpha .35": dict(alpha=0.35),
    "C 192, stride 4, alpha 1": dict(alpha=1.0),
    "C 192, stride 4, tau from 30": dict(tau=30.0),
    "C 96, stride 4": dict(trunk_width=96),
}


def load(data_dir: Path, split: str, size: int) -> tuple[Tensor, Tensor, list[str]]:
    """A whole split in memory: uint8 images `(N, 3, size, size)`, labels, file names."""
    resize = transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC)
    images, _ = open_split(data_dir, split, transforms.Compose([resize, transforms.PILToTensor()]))
    pairs = [images[i] for i in range(len(images))]  # type: ignore[arg-type]
    names = [name for shard in getattr(images, "datasets", [images]) for name in shard.filenames()]
    return torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs]), names


class Variant(nn.Module):
    """A model with its preprocessing and its map of one class."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.baseline = name == "resnet18"
        arch = "resnet18" if self.baseline else "facnn_resnet18"
        self.model = timm.create_model(arch, num_classes=10, **VARIANTS[name])

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.45) / 0.25 if self.baseline else x
        return self.model(x.contiguous(memory_format=torch.channels_last)).float()

    def maps(self, x: Tensor, labels: Tensor) -> Tensor:
        if self.baseline:  # Grad-CAM of a network that ends in pooling and a linear layer is its class activation map
            features = self.model.forward_features((x - 0.45) / 0.25).float()
            return torch.einsum("bchw,bc->bhw", features, self.model.fc.weight[labels])
        return self.model.class_maps(x)[-1][torch.arange(len(x)), labels]


def train(net: Variant, images: Tensor, labels: Tensor) -> float:
    """CPU seconds per epoch."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05, betas=(0.9, 0.99))
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps * EPOCHS, pct_start=0.25)
    start = time.process_time()
    for _ in range(EPOCHS):
        net.train()
        order = torch.randperm(len(images), generator=random)
        for i in range(steps):
            batch = order[i * BATCH : (i + 1) * BATCH]
            top, left = torch.randint(0, LOADED - CROP + 1, (2,), generator=random).tolist()
            x = images[batch][:, :, top : top + CROP, left : left + CROP]
            flip = torch.rand(BATCH, generator=random) < 0.5
            x = torch.where(flip[:, None, None, None], x.flip(3), x).float() / 255
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(net(x), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return (time.process_time() - start) / EPOCHS


@torch.no_grad()
def measure(net: Variant, val: tuple[Tensor, Tensor], boxed: tuple[Tensor, Tensor], masks: Tensor) -> tuple[float, ...]:
    """Accuracy, energy in box, pointing."""
    net.eval()
    with torch.autocast("cpu", torch.bfloat16):
        parts = zip(val[0].split(100), val[1].split(100), strict=True)
        right = sum(int((net(x.float() / 255).argmax(1) == y).sum()) for x, y in parts)
        parts = zip(boxed[0].split(50), boxed[1].split(50), strict=True)
        maps = torch.cat([net.maps(x.float() / 255, y).float() for x, y in parts])
    maps = F.interpolate(maps[:, None], (224, 224), mode="bilinear", align_corners=False)[:, 0]
    energy, pointing = energy_in_box(maps, masks), pointing_game(maps, masks)
    return right / len(val[1]), energy.mean().item(), pointing.float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, labels, _ = load(args.data_dir, "train", LOADED)
    val, val_labels, _ = load(args.data_dir, "val", CROP)
    boxed, boxed_labels, names = load(args.data_dir, "boxed", CROP)
    boxes = load_boxes(args.data_dir / "boxed_boxes.csv")
    masks = torch.stack([box_mask(boxes[name], 224, 224) for name in names])
    print("| variant | params | CPU s/epoch | accuracy | energy in box | pointing |\n|---|---|---|---|---|---|")
    for name in args.only:
        torch.manual_seed(0)
        net = Variant(name).to(memory_format=torch.channels_last)
        seconds = train(net, images, labels)
        accuracy, energy, pointing = measure(net, (val[::2], val_labels[::2]), (boxed, boxed_labels), masks)
        params = sum(p.numel() for p in net.parameters()) / 1e6
        print(
            f"| {name} | {params:.2f} M | {seconds:.0f} | {accuracy:.3f} | {energy:.3f} | {pointing:.3f} |", flush=True
        )


if __name__ == "__main__":
    main()
