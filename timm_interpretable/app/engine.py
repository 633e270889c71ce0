"""Pictures in, explanations out: what to compute, where, and what can be taken from what is known."""

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from timm_interpretable.app import methods
from timm_interpretable.app.cache import Desk, Job, Kept
from timm_interpretable.app.gpu import pick_device
from timm_interpretable.app.images import Picture
from timm_interpretable.app.methods import METHODS, Found, Look, methods_of
from timm_interpretable.app.models import Entry, Model, Models
from timm_interpretable.app.settings import Settings
from timm_interpretable.viz import Array

_POLL = 0.2  # seconds between two signs of life; after one, a dead client's place is freed


class UnknownChoice(ValueError):  # noqa: N818  said to users, not an error of the program
    """A name that does not exist; the message lists those that do."""


@dataclass(frozen=True)
class Choice:
    """A model and a method, written `model:method`."""

    model: str
    method: str

    def __str__(self) -> str:
        return f"{self.model}:{self.method}"


@dataclass(frozen=True, eq=False)
class Explanation:
    """A map of one class, `(h, w)`, and what it came from."""

    choice: Choice
    entry: Entry
    class_names: tuple[str, ...]
    target: int
    values: Array
    look: Look
    seconds: float
    facts: dict[str, float] = field(default_factory=dict)
    asked: str | None = None  # a class that this model does not know

    @property
    def title(self) -> str:
        return f"{self.entry.title}: {METHODS[self.choice.method].title}"

    @property
    def target_name(self) -> str:
        return self.class_names[self.target]

    @property
    def weights(self) -> Array | None:
        return self.look.weights[self.target] if self.look.weights is not None else None


@dataclass(frozen=True)
class Waiting:
    """How far a computation is; `queued` before it has begun."""

    method: str
    fraction: float
    queued: bool


State = Explanation | Waiting


class Engine:
    """One per process."""

    def __init__(self, settings: Settings | None = None, models: Models | None = None) -> None:
        self.settings = settings or Settings()
        self.models = models or Models(pick_device())
        self.kept: Kept[Any] = Kept(self.settings.cache_bytes, self.settings.keep_seconds)
        self.desk = Desk(self.kept, fast=self.settings.fast_workers, slow=self.settings.slow_workers)

    # --- what there is

    def choices(self) -> list[Choice]:
        return [Choice(e.name, method) for e in self.models.entries for method in methods_of(e.family)]

    def choice(self, text: str) -> Choice:
        """`model:method`, or a model alone for its own method.

        Raises:
            UnknownChoice: no such model or method.
        """
        name, _, method = text.strip().partition(":")
        known = {e.name: e for e in self.models.entries}
        if name not in known:
            raise UnknownChoice(f"There is no model {name!r}; expected one of {', '.join(known)}.")
        some = methods_of(known[name].family)
        if method and method not in some:
            raise UnknownChoice(f"{name} has no method {method!r}; expected one of {', '.join(some)}.")
        return Choice(name, method or some[0])

    def defaults(self, data: str | None = None) -> list[Choice]:
        """Three columns to begin with, of models of that data set: what they compute anyway."""
        data = data or self.models.entries[0].data
        wanted = ("FA-CNN", "class_map"), ("CoDA-Net", "contributions"), ("FA-CNN", "contrast")
        entries = [e for e in self.models.entries if e.data == data]
        return [Choice(e.name, method) for family, method in wanted for e in entries if e.family == family]

    # --- what is computed

    def look(self, picture: Picture, name: str) -> Look:
        """Waits; for tabs that need nothing else."""
        with self._look(picture, name) as job:
            return job.future.result()

    def explain(self, picture: Picture, choice: Choice, target: str | None = None) -> Explanation:
        """Waits."""
        states: list[State] = []
        for states in self.run(picture, [choice], target):  # noqa: B007  the last is wanted
            pass
        assert isinstance(states[0], Explanation)
        return states[0]

    def run(self, picture: Picture, choices: Sequence[Choice], target: str | None = None) -> Generator[list[State]]:
        """The state of every choice, again and again; the last time all are explanations.

        Whoever stops listening, by closing the generator, ends the computations for which nobody else waits.
        """
        with ExitStack() as stack:
            looks = {c.model: stack.enter_context(self._look(picture, c.model)) for c in choices}
            found: dict[Choice, Job[Found]] = {}
            states: list[State] = [Waiting(c.method, 0.0, True) for c in choices]
            while True:
                for i, choice in enumerate(choices):
                    seen = looks[choice.model].future
                    if isinstance(states[i], Waiting) and seen.done():
                        states[i] = self._state(picture, choice, target, seen.result(), found, stack)
                yield list(states)
                left = [c for c, state in zip(choices, states, strict=True) if isinstance(state, Waiting)]
                if not left:
                    return
                wait([found[c].future if c in found else looks[c.model].future for c in left], _POLL, FIRST_COMPLETED)

    def depth(self, picture: Picture, name: str, target: str | None) -> tuple[Look, int, list[Array]]:
        """The maps of one class after every block or layer, `(h_l, w_l)`, each in units of the logit."""
        model, seen = self.models.get(name), self.look(picture, name)
        index = _target(model, seen, target)
        if model.intrinsic == "class_map":
            return seen, index, [maps[index] for maps in seen.depth]
        key = (picture.digest, name, "depth", index)
        with self.desk.asking(
            key, lambda tick: _Stack(methods.through_depth(model, picture.rgb, index)), "fast"
        ) as job:
            return seen, index, list(job.future.result().maps)

    def sweep(self) -> None:
        self.kept.sweep()

    def close(self) -> None:
        self.desk.close()

    def _look(self, picture: Picture, name: str) -> Any:
        return self.desk.asking(
            (picture.digest, name), lambda tick: methods.look(self.models.get(name), picture.rgb), "fast"
        )

    def _state(
        self, picture: Picture, choice: Choice, target: str | None, seen: Look, found: dict[Choice, Job[Found]],
        stack: ExitStack,
    ) -> State:  # fmt: skip
        model = self.models.get(choice.model)
        index, method = _target(model, seen, target), METHODS[choice.method]
        asked = target if target and model.class_index(target) is None else None
        about: dict[str, Any] = dict(
            choice=choice, entry=model.entry, class_names=model.class_names, target=index, look=seen, asked=asked
        )
        if method.lane == "look":
            return Explanation(values=_intrinsic(choice.method, seen, index), seconds=seen.seconds, **about)
        if choice not in found:
            key = (picture.digest, choice.model, choice.method, index)
            ask = self.desk.asking(
                key, lambda tick: methods.find(model, picture.rgb, choice.method, index, tick), method.lane
            )
            found[choice] = stack.enter_context(ask)
        job = found[choice]
        if not job.future.done():
            return Waiting(choice.method, job.fraction, not job.started)
        result = job.future.result()
        return Explanation(values=result.values, seconds=result.seconds, facts=result.facts, **about)


@dataclass(frozen=True)
class _Stack:
    maps: tuple[Array, ...]

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.maps)


def _target(model: Model, seen: Look, name: str | None) -> int:
    known = model.class_index(name)
    return int(seen.logits.argmax()) if known is None else known


def _intrinsic(method: str, seen: Look, target: int) -> Array:
    maps = seen.depth[-1]
    if method == "contrast":
        return maps[target] - (seen.probs[:, None, None] * maps).sum(0)
    if method == "contributions_smoothed":
        return methods.smooth(maps[target])
    return maps[target]
