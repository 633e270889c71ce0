"""Training of the face embedding network: accelerate for the device, timm for augmentation, optimiser and schedule."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL.Image import Image
from safetensors.torch import save_file
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

from timm_interpretable.data.faces import load_people
from timm_interpretable.data.images import eval_transform
from timm_interpretable.metrics.verification import EqualError, all_pairs, equal_error_rate
from timm_interpretable.train.engine import hardware, released_state
from timm_interpretable.train.face_recipes import FaceRecipe
from timm_interpretable.train.pipeline import EpochBatches, seeded


class CosFace(nn.Module):
    """Large margin cosine loss: every person has a direction, and an embedding must be closer to its own by a margin.

    Source: `CosFace: Large Margin Cosine Loss for Deep Face Recognition` (Wang et al., CVPR 2018), equation 4 -
    https://arxiv.org/abs/1801.09414.
    """

    def __init__(self, features: int, people: int, margin: float, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(people, features))
        nn.init.xavier_normal_(self.weight)
        self.margin, self.scale = margin, scale

    def forward(self, embeddings: Tensor, people: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(embeddings), F.normalize(self.weight))
        own = F.one_hot(people, len(self.weight))
        return F.cross_entropy(self.scale * (cosines - self.margin * own), people)


class CrossEntropy(nn.Module):
    """A linear classifier with plain cross-entropy, for comparison."""

    def __init__(self, features: int, people: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(features, people)

    def forward(self, embeddings: Tensor, people: Tensor) -> Tensor:
        return F.cross_entropy(self.classifier(embeddings), people)


def face_loss(recipe: FaceRecipe, features: int) -> nn.Module:
    if recipe.loss == "cosface":
        return CosFace(features, len(recipe.people), recipe.margin, recipe.scale)
    if recipe.loss == "ce":
        return CrossEntropy(features, len(recipe.people))
    raise ValueError(f"loss={recipe.loss!r} is unknown, expected 'cosface' or 'ce'.")


class SeededFaces(Dataset[tuple[Tensor, Tensor]]):
    """Pictures keyed by (epoch, index), each augmented by random numbers of its own."""

    def __init__(self, pictures: list[Image], people: Tensor, recipe: FaceRecipe, size: tuple[int, int]) -> None:
        self.pictures, self.people, self.seed = pictures, people, recipe.seed
        augment = create_transform(
            size, is_training=True, scale=recipe.crop, ratio=(0.9 * size[1] / size[0], 1.1 * size[1] / size[0]),
            hflip=recipe.hflip, color_jitter=(recipe.jitter, recipe.jitter, 0.0), re_prob=recipe.erasing,
            interpolation="bilinear", mean=(0.0,), std=(1.0,),
        )  # fmt: skip
        self.transform = transforms.Compose([transforms.Grayscale(), augment])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        with seeded(hash((self.seed, epoch, index)) % 2**63):
            return self.transform(self.pictures[index]), self.people[index]


class FaceTrainer:
    """One run of a face recipe, which leaves `model.safetensors` and `result.json` in `out`.

    It takes minutes, so an interrupted run starts anew.

    Raises:
        FileNotFoundError: `data_dir` holds no faces.
        ValueError: a person is missing, or is in both parts of the recipe.
    """

    def __init__(self, recipe: FaceRecipe, data_dir: Path, out: Path, cpu: bool = False) -> None:
        shared = set(recipe.people) & set(recipe.eval_people)
        if shared:
            raise ValueError(f"{shared.pop()} is in both parts of {recipe.name}, expected nobody in both.")
        self.recipe, self.out = recipe, out
        self.accelerator = Accelerator(cpu=cpu or not torch.cuda.is_available())
        torch.manual_seed(recipe.seed)
        model: Any = timm.create_model(recipe.model)
        pictures = SeededFaces(*load_people(data_dir, recipe.people), recipe, model.pretrained_cfg["input_size"][1:])
        self.batches = EpochBatches(len(pictures.pictures), recipe.batch_size, recipe.seed)
        self.loader: DataLoader[Any] = DataLoader(pictures, batch_sampler=self.batches)
        self.eval_pictures, self.eval_people = load_people(data_dir, recipe.eval_people)
        self.model = model.to(self.accelerator.device, memory_format=torch.channels_last)
        self.loss = face_loss(recipe, model.num_features).to(self.accelerator.device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True)
        self.optimizer = create_optimizer_v2(
            nn.ModuleList([self.model, self.loss]), opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer, sched="cosine", num_epochs=recipe.epochs, warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 100, min_lr=recipe.lr / 1000, step_on_epochs=False,
            updates_per_epoch=len(self.loader),
        )  # fmt: skip

    def run(self) -> EqualError:
        """Train to the end of the recipe; the equal-error rate on its `eval_people`, for the weights as stored."""
        self.out.mkdir(parents=True, exist_ok=True)
        start, cpu_start = time.time(), time.process_time()
        bar = tqdm(range(self.recipe.epochs), desc=self.recipe.name, leave=False, mininterval=5)
        losses = [self._epoch(epoch) for epoch in bar]
        minutes, cpu_minutes = (time.time() - start) / 60, (time.process_time() - cpu_start) / 60
        state = released_state(self.ema.module)
        save_file(state, self.out / "model.safetensors", metadata={"format": "pt"})
        self.ema.module.load_state_dict(state)
        error = self.evaluate()
        result = dict(
            recipe=dataclasses.asdict(self.recipe), pictures=self.batches.length,
            eval_pictures=len(self.eval_pictures), eer=error.rate, threshold=error.threshold, losses=losses,
            minutes=minutes, cpu_minutes=cpu_minutes, hardware=hardware(self.accelerator),
            torch=torch.__version__, timm=timm.__version__,
        )  # fmt: skip
        (self.out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return error

    def _epoch(self, epoch: int) -> float:
        """The mean loss."""
        self.batches.epoch = epoch
        self.model.train()
        total, updates = 0.0, epoch * len(self.loader)
        for images, people in self.loader:
            self.scheduler.step_update(updates)
            images = images.to(self.accelerator.device, memory_format=torch.channels_last)
            loss = self.loss(self.model(images), people.to(self.accelerator.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            updates += 1
            self.ema.update(self.model, step=updates)
            total += loss.item()
        mean = total / len(self.loader)
        if not mean < float("inf"):
            raise FloatingPointError(f"The training loss became {mean} in epoch {epoch + 1}.")
        return mean

    @torch.no_grad()
    def evaluate(self) -> EqualError:
        """Equal-error rate of the averaged weights over all pairs of `eval_people`."""
        transform = eval_transform(self.ema.module)
        images = torch.stack([transform(picture) for picture in self.eval_pictures]).to(self.accelerator.device)
        unit = F.normalize(torch.cat([self.ema.module.eval()(part) for part in images.split(64)]).float().cpu())
        first, second, genuine = all_pairs(self.eval_people)
        return equal_error_rate((unit[first] * unit[second]).sum(1), genuine)
