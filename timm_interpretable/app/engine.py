"""Pictures in, explanations out: what is computed, where, and what can be taken from what is known

Nothing is computed here: methods come from the catalogue, predictions from the model, maps from the method.
"""

import logging
import time
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from timm_interpretable.app.cache import Cache
from timm_interpretable.app.images import Picture
from timm_interpretable.app.jobs import Job, JobQueue, Tick
from timm_interpretable.app.models import Model, Models, of_data
from timm_interpretable.app.settings import Settings
from timm_interpretable.attr import Cost, Evidence, Method, MethodSettings, evidence_of, own_method
from timm_interpretable.viz import Array, weight_picture

_LOG = logging.getLogger(__name__)
_POLL = 0.2  # seconds between two signs of life; after one, a dead client's place is freed


class UnknownChoice(ValueError):  # noqa: N818  said to users, not an error of the program
    """A name that does not exist; the message lists those that do."""


@dataclass(frozen=True)
class Choice:
    """A model and the key of a method, written `model:method`."""

    model: str
    method: str

    def __str__(self) -> str:
        return f"{self.model}:{self.method}"


@dataclass(frozen=True, eq=False)
class Prediction:
    """One forward pass of a model.

    seen: what the model saw, 8-bit `(H, W, 3)`. logits, probs: `(K,)`. evidence: what the model's own maps of all
    classes are read from; None for a model without an explanation of its own.
    """

    seen: Array
    logits: Array
    probs: Array
    evidence: Evidence | None
    seconds: float

    @property
    def nbytes(self) -> int:
        arrays = self.seen.nbytes + self.logits.nbytes + self.probs.nbytes
        return arrays + (self.evidence.nbytes if self.evidence is not None else 0)


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The map of one class.

    values: signed, `(H, W)`. score: what they should add up to; None where the method adds up to nothing. depth: maps
    `(h, w)` after every layer, each of which is a `depth_label`. weights: those of the class as a picture, 8-bit
    `(H, W, 4)`. These belong to a model's own explanation, where it has them.
    """

    values: Array
    score: float | None
    seconds: float
    depth: tuple[Array, ...] = ()
    depth_label: str = "layer"
    weights: Array | None = None

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in (self.values, *self.depth, self.weights) if one is not None)


@dataclass(frozen=True, eq=False)
class Explanation:
    """A map and everything that is shown with it.

    unknown: the name of a class that was asked for and that this model does not know.
    """

    choice: Choice
    model: Model
    method: Method
    target: int
    prediction: Prediction
    map: ClassMap
    unknown: str | None

    @property
    def title(self) -> str:
        return f"{self.model.entry.title}: {self.method.title}"

    @property
    def target_name(self) -> str:
        return self.model.class_names[self.target]


@dataclass(frozen=True)
class Progress:
    """How far the computation of a method of that title is; `queued` before it has begun."""

    title: str
    fraction: float
    queued: bool


@dataclass(frozen=True)
class Failure:
    """A method that cannot explain this model or this picture, and why."""

    title: str
    error: BaseException


State = Explanation | Progress | Failure


class Engine:
    """One per process.

    Args:
        settings: limits.
        models: the models to choose from; None for all released ones.
    """

    def __init__(self, settings: Settings | None = None, models: Models | None = None) -> None:
        self.settings = settings or Settings()
        self.models = models or Models()
        self.cache: Cache[Any] = Cache(self.settings.cache_bytes, self.settings.keep_seconds)
        self.jobs = JobQueue(self.cache, fast=self.settings.fast_workers, slow=self.settings.slow_workers)

    # --- what there is

    def choices(self) -> list[Choice]:
        return [Choice(e.name, key) for e in self.models.entries for key in self.models.methods(e.name)]

    def method(self, choice: Choice) -> Method:
        return self.models.methods(choice.model)[choice.method]

    def title(self, choice: Choice) -> str:
        """For people, such as 'FA-CNN, Imagenette: class map'."""
        return f"{self.models.entry(choice.model).title}: {self.method(choice).title}"

    def choice(self, text: str) -> Choice:
        """`model:method`, or a model alone for its first method.

        Raises:
            UnknownChoice: no such model or method.
        """
        name, _, key = text.strip().partition(":")
        known = [e.name for e in self.models.entries]
        if name not in known:
            raise UnknownChoice(f"There is no model {name!r}; expected one of {', '.join(known)}.")
        methods = self.models.methods(name)
        if key and key not in methods:
            raise UnknownChoice(f"{name} has no method {key!r}; expected one of {', '.join(methods)}.")
        return Choice(name, key or next(iter(methods)))

    def defaults(self, data: str | None = None) -> list[Choice]:
        """What the page begins with, for pictures of a data set: own explanations, and one from outside to compare.

        The second explanation is of another kind where there is one, if need be of a model of other data. The one from
        outside explains an ordinary model of these data where there is one, else the last of the others: Grad-CAM of a
        model with class maps is its class map again.
        """
        entries = of_data(self.models.entries, data or self.models.entries[0].data)
        own = [e for e in self.models.self_explaining() if e in entries]
        kinds = {self.choice(e.name).method for e in own}
        borrowed = [e for e in self.models.self_explaining() if self.choice(e.name).method not in kinds]
        own += borrowed[:1] if len(own) == 1 else []
        other = next((e for e in entries if e not in own), (own or entries)[-1])
        methods = self.models.methods(other.name).values()
        outside = [Choice(other.name, m.key) for m in methods if m.cost is Cost.GRADIENT]
        return [*(self.choice(e.name) for e in own[:2]), *outside[:1]]

    # --- what is computed

    def explain(self, picture: Picture, choice: Choice, target: str | int | None = None) -> Explanation:
        """Waits; arguments as in `run`. An error of the method is raised."""
        *_, (state,) = self.run(picture, [choice], target)
        if isinstance(state, Failure):
            raise state.error
        assert isinstance(state, Explanation)
        return state

    def predict(self, picture: Picture, name: str) -> Prediction:
        """Waits."""
        with self._prediction(picture, name) as job:
            return job.future.result()

    def run(
        self, picture: Picture, choices: Sequence[Choice], target: str | int | None = None
    ) -> Generator[list[State]]:
        """The state of every choice, again and again; the last time all are explanations or failures.

        Whoever stops listening, by closing the generator, ends the computations for which nobody else waits.

        Args:
            target: a class by name or index; None, or a name that a model does not know, for its likeliest.
        """
        with ExitStack() as stack:
            predictions = {c.model: stack.enter_context(self._prediction(picture, c.model)) for c in choices}
            maps: dict[Choice, Job[ClassMap]] = {}
            states: list[State] = [Progress(self.method(c).title, 0.0, True) for c in choices]
            while True:
                for i, choice in enumerate(choices):
                    prediction = predictions[choice.model].future
                    if isinstance(states[i], Progress) and prediction.done():
                        states[i] = self._state(picture, choice, target, prediction.result(), maps, stack)
                yield list(states)
                left = [c for c, state in zip(choices, states, strict=True) if isinstance(state, Progress)]
                if not left:
                    return
                futures: list[Future[Any]] = [(maps.get(c) or predictions[c.model]).future for c in left]
                wait(futures, _POLL, FIRST_COMPLETED)

    def close(self) -> None:
        self.jobs.close()

    def _prediction(self, picture: Picture, name: str) -> AbstractContextManager[Job[Prediction]]:
        return self.jobs.job((picture.digest, name), lambda tick: predict(self.models.get(name), picture.rgb), "fast")

    def _state(
        self, picture: Picture, choice: Choice, target: str | int | None, prediction: Prediction,
        maps: dict[Choice, Job[ClassMap]], stack: ExitStack,
    ) -> State:  # fmt: skip
        model, method = self.models.get(choice.model), self.method(choice)
        known = model.class_index(target) if isinstance(target, str) else target
        index = int(prediction.logits.argmax()) if known is None else known
        if choice not in maps:
            key = (picture.digest, choice.model, choice.method, index)
            lane = "slow" if method.cost is Cost.MANY_PASSES else "fast"

            def compute(tick: Tick) -> ClassMap:
                return class_map(model, method, picture.rgb, prediction, index, self.settings.methods, tick)

            maps[choice] = stack.enter_context(self.jobs.job(key, compute, lane))
        job = maps[choice]
        if not job.future.done():
            return Progress(method.title, job.fraction, not job.started)
        if (error := job.future.exception()) is not None:
            _LOG.error("%s failed", choice, exc_info=error)
            return Failure(self.title(choice), error)
        unknown = target if isinstance(target, str) and target and known is None else None
        return Explanation(choice, model, method, index, prediction, job.future.result(), unknown)


def predict(model: Model, picture: Image.Image) -> Prediction:
    """One forward pass."""
    start = time.perf_counter()
    x = model.inputs(picture)
    own = own_method(model.net)
    evidence = evidence_of(model.context, x) if own is not None and own.evidence is not None else None
    with torch.no_grad():
        logits = (model.net(x) if evidence is None else evidence.logits)[0].float()
        probs = model.probabilities(logits)
    return Prediction(
        model.seen(x), logits.cpu().numpy(), probs.cpu().numpy(), evidence, time.perf_counter() - start
    )  # fmt: skip


def class_map(
    model: Model, method: Method, picture: Image.Image, prediction: Prediction, target: int, settings: MethodSettings,
    tick: Tick,
) -> ClassMap:  # fmt: skip
    """The map of one class, read from the prediction where it is part of it."""
    start = time.perf_counter()
    x, classes = model.inputs(picture), torch.tensor([[target]], device=model.device)
    context = replace(model.context, settings=settings, tick=tick)
    depth: tuple[Array, ...] = ()
    label, weights = "layer", None
    if method.is_read and prediction.evidence is not None:
        values = method.read(context, prediction.evidence, classes)[0, 0]
        if method is own_method(model.net):
            own = prediction.evidence.explanation(classes[0])
            depth, label = tuple(one[0].float().cpu().numpy() for one in own.depth), own.depth_label
            weights = None if own.weights is None else weight_picture(own.weights[0], values)
    else:
        values = method.maps(context)(x, classes)[0, 0]
    logits = torch.from_numpy(prediction.logits).to(x)[None]
    score = None if method.sums_to is None else float(method.sums_to.score(context, x, logits, classes[0])[0])
    return ClassMap(values.float().cpu().numpy(), score, time.perf_counter() - start, depth, label, weights)
