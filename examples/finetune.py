"""Fine-tune a released model on other classes, and check what its maps add up to.

    python examples/finetune.py --data-dir DIR --classes cat dog

DIR holds `train*.tar` and `test.tar` (or folders `train/` and `test/`) with one folder per class inside, as CIFAR-10 in
this project's layout does; without --classes all of them are learned. With `--limit 2000` two epochs tell cats from
dogs in 83.1 % of 2,000 test images of CIFAR-10's JPEG copy (torch 2.14, CPU).
"""

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch.utils.data import DataLoader, Subset

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import Context, own_method
from timm_interpretable.data.datasets import open_split
from timm_interpretable.models import is_yes_or_no
from timm_interpretable.train.losses import create_loss


def only(dataset: Any, names: list[str], classes: list[str], limit: int | None) -> Subset:
    """The images of these classes, numbered in their order; at most `limit`, from all over the split."""
    numbers = {names.index(name): k for k, name in enumerate(classes)}
    parts = getattr(dataset, "datasets", [dataset])
    for part in parts:
        part.target_transform = numbers.__getitem__
    folders = [Path(file).parent.name for part in parts for file in part.filenames()]
    chosen = [i for i, folder in enumerate(folders) if folder in classes]
    return Subset(dataset, chosen[:: max(1, len(chosen) // (limit or len(chosen)))][:limit])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="facnn_resnet18.cifar10")
    parser.add_argument("--classes", nargs="+", help="folders of the classes to keep; all by default")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--eval-split", default="test")
    parser.add_argument("--limit", type=int, help="use that many images of each split")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    torch.manual_seed(0)

    pretrained_cfg = timm.get_pretrained_cfg(args.model).to_dict()
    transform = create_transform(**resolve_data_config(pretrained_cfg=pretrained_cfg))
    data, names = open_split(args.data_dir, args.train_split, transform)
    classes = args.classes or names
    unknown = [name for name in classes if name not in names]
    if unknown:
        parser.error(f"{args.train_split} has no folder {', '.join(unknown)}, expected some of: {', '.join(names)}")
    model = timm.create_model(args.model, pretrained=True, num_classes=len(classes))
    train = only(data, names, classes, args.limit)
    test = only(*open_split(args.data_dir, args.eval_split, transform), classes, args.limit)

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    criterion = create_loss("bce" if is_yes_or_no(model) else "ce")  # one question per class, or one choice among all
    loader = DataLoader(train, batch_size=args.batch_size, shuffle=True, drop_last=len(train) > args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * len(loader))
    for epoch in range(args.epochs):
        model.train()
        for x, y in loader:
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {accuracy(model, test):.4f} on {len(test)} images")

    x = torch.stack([test[i][0] for i in range(min(32, len(test)))])
    with torch.no_grad():
        logits = model.eval()(x)
    top, own, context = logits.argmax(1), own_method(model), Context.of(model)
    total = own.maps(context)(x, top[:, None]).sum((1, 2, 3))
    error = (total - own.sums_to.score(context, x, logits, top)).abs().max()
    print(f"maps of {len(x)} images add up to {own.sums_to.words}: largest error {error.item():.1e}")


def accuracy(model: torch.nn.Module, data: Subset) -> float:
    model.eval()
    with torch.inference_mode():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in DataLoader(data, batch_size=256))
    return right / len(data)


if __name__ == "__main__":
    main()
