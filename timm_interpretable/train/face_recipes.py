"""The recipes of the face embedding network: plain data, one entry per run."""

from dataclasses import dataclass, replace

from timm_interpretable.data.faces import ORL_TRAINING, ORL_VERIFICATION, people_range


@dataclass(frozen=True)
class FaceRecipe:
    """Everything that decides the result of a training run, besides the data and the hardware.

    people, eval_people: folders of the pictures that it learns from and is verified on; nobody is in both.
    loss: 'cosface', or 'ce' for a linear classifier with cross-entropy.
    margin, scale: of CosFace.
    crop: area of timm's random resized crop.
    jitter: brightness and contrast, timm's colour jitter.
    erasing: probability of a black rectangle, timm's random erasing.
    """

    name: str
    model: str
    people: tuple[str, ...]
    eval_people: tuple[str, ...]
    epochs: int
    loss: str = "cosface"
    margin: float = 0.2
    scale: float = 16.0
    batch_size: int = 25
    opt: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 5
    ema_decay: float = 0.99
    crop: tuple[float, float] = (0.8, 1.0)
    hflip: float = 0.5
    jitter: float = 0.3
    erasing: float = 0.25
    seed: int = 0


_face_resnet10 = FaceRecipe(
    name="face_resnet10.orl",
    model="face_resnet10",
    people=ORL_TRAINING,
    eval_people=ORL_VERIFICATION,
    epochs=60,
)

FACE_RECIPES: dict[str, FaceRecipe] = {
    recipe.name: recipe
    for recipe in (
        _face_resnet10,
        # the same budget without a margin
        replace(_face_resnet10, name="face_resnet10_ce.orl", loss="ce"),
        # what the settings were chosen by: without the people of the verification
        replace(
            _face_resnet10, name="face_resnet10.selection", people=people_range(1, 25),
            eval_people=people_range(26, 30),
        ),
    )
}  # fmt: skip
