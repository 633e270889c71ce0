"""The classes of a model and the folders of a data set: brought together by name, never silently by position"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

from timm.data import ImageNetInfo, infer_imagenet_subset

__all__ = ["ClassMatch", "class_index", "class_names", "match_classes"]

_WORDNET_ID = re.compile(r"n\d{8}")
_LISTED = 12  # names of a list that a message shows


class ClassMatch(NamedTuple):
    """For every folder the index of its class, and a sentence that the user must read, where there is one."""

    indices: list[int]
    note: str | None


class _Label(NamedTuple):
    """A class as the model's configuration names it: a name or a WordNet id, and a description where there is one."""

    name: str
    description: str | None


def class_names(model: Any) -> list[str]:
    """What to call the classes of a model when results are shown, in the order of its logits.

    The names of its configuration; for WordNet ids the first word of their description, with the id where two classes
    share it; `class 0`, `class 1`, ... where nothing names them.

    Args:
        model: a timm model with `num_classes` and `pretrained_cfg`.
    """
    labels = _labels(model)
    if labels is None:
        return [f"class {k}" for k in range(int(model.num_classes))]
    shown = [_shown(label) for label in labels]
    twice = {name for name, times in Counter(shown).items() if times > 1}
    return [f"{name} ({label.name})" if name in twice else name for name, label in zip(shown, labels, strict=True)]


def class_index(text: str, model: Any) -> int:
    """The class of a model that a user means: by its label, WordNet id or description, in any case, or by its index.

    Args:
        model: a timm model with `num_classes` and `pretrained_cfg`.

    Raises:
        ValueError: no class goes by that name, or several do; the message suggests what may have been meant.
    """
    count, labels = int(model.num_classes), _labels(model) or []
    shown = class_names(model)
    same = [k for k, name in enumerate(shown) if _plain(name) == _plain(text)]
    fits = same or [k for k, label in enumerate(labels) if _plain(text) in (_words(label) | {_plain(label.name)})]
    if len(fits) == 1:
        return fits[0]
    if len(fits) > 1:
        raise ValueError(f"class {text!r} means several: {_listed(_full(labels[k]) for k in fits)}; give the id")
    if text.isdecimal() and int(text) < count:
        return int(text)
    words = {word: shown[k] for k, label in enumerate(labels) for word in _words(label)}
    words = {word: name for word, name in words.items() if not _WORDNET_ID.fullmatch(word)}
    close = dict.fromkeys(words[word] for word in get_close_matches(_plain(text), words, n=5, cutoff=0.6))
    if not close and len(_plain(text)) > 2:
        close = dict.fromkeys([words[word] for word in words if _plain(text) in word.split()][:5])
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected an index from 0 to {count - 1}, or a name"
    hint += f" of: {', '.join(shown)}" if not close and count <= 20 else ""
    raise ValueError(f"unknown class {text!r}; {hint}")


def match_classes(folders: Sequence[str], model: Any) -> ClassMatch:
    """The model's class of every folder, found by WordNet id, label or description, in upper or lower case.

    A folder that is a WordNet id also goes by the words of ImageNet-1k for it, and so does a class; `golf_ball` and
    `golf ball` are the same. Fewer folders than classes are fine, and the note says so. Only a model whose classes have
    no names at all takes the folders in their order, if there are as many, and the note says that too.

    Args:
        folders: class folders of a data set.
        model: a timm model with `num_classes` and `pretrained_cfg`.

    Raises:
        ValueError: a folder fits no class, or several; two folders fit one class.
    """
    count, labels = int(model.num_classes), _labels(model)
    if labels is None:
        if len(folders) != count:
            raise ValueError(
                f"The model's {count} classes have no names, and there are {len(folders)} class folders: "
                f"{_listed(folders)}; expected {count}."
            )
        note = f"the model's classes have no names; the folders are taken for them in this order: {_listed(folders)}"
        return ClassMatch(list(range(count)), note)
    found = [_fitting(folder, labels) for folder in folders]
    lists = f"Folders: {_listed(folders)}. Classes of the model: {_listed([_full(label) for label in labels])}."
    unknown = [folder for folder, fits in zip(folders, found, strict=True) if not fits]
    if unknown:
        raise ValueError(f"No class of the model fits {_listed(unknown)}. {lists}")
    for folder, fits in zip(folders, found, strict=True):
        if len(fits) > 1:
            raise ValueError(
                f"The class folder {folder} fits several classes: {_listed(_full(labels[k]) for k in fits)}."
            )
    indices = [fits[0] for fits in found]
    for k in indices:
        same = [folder for folder, index in zip(folders, indices, strict=True) if index == k]
        if len(same) > 1:
            raise ValueError(f"The class folders {_listed(same)} are all the class {_full(labels[k])}. {lists}")
    subset = f"{len(folders)} of the model's {count} classes are in the data"
    return ClassMatch(indices, subset if len(folders) < count else None)


def _labels(model: Any) -> list[_Label] | None:
    """From the configuration, or from ImageNet for a model with as many classes as one of its subsets has."""
    config, count = getattr(model, "pretrained_cfg", None) or {}, int(model.num_classes)
    names = config.get("label_names") or ()
    names = list(names.values()) if isinstance(names, dict) else list(names)
    if not count:
        return None
    if len(names) != count:
        subset = infer_imagenet_subset(model)
        if subset is None:
            return None
        names = ImageNetInfo(subset).label_names()
    described = config.get("label_descriptions") or {}
    return [_Label(name, described.get(name) or _wordnet_description(name)) for name in names]


def _fitting(folder: str, labels: Sequence[_Label]) -> list[int]:
    """Classes of this very name or id; where there are none, those that share a word with the folder."""
    exact = [k for k, label in enumerate(labels) if _plain(label.name) == _plain(folder)]
    if exact:
        return exact
    # the words of the thousand usual classes, unlike those of all of WordNet, hardly ever mean two things
    usual = folder.lower() in _imagenet_1k().label_names()
    words = _words(_Label(folder, _wordnet_description(folder.lower()) if usual else None))
    return [k for k, label in enumerate(labels) if words & _words(label)]


def _words(label: _Label) -> set[str]:
    """All that a class goes by: its name, its description and the parts of it between commas."""
    parts = [label.name, label.description or "", *(label.description or "").split(",")]
    return {_plain(part) for part in parts} - {""}


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_-]", " ", text).casefold().split())


@lru_cache(maxsize=1)
def _imagenet_1k() -> ImageNetInfo:
    return ImageNetInfo("imagenet-1k")


def _wordnet_description(name: str) -> str | None:
    """The words for a WordNet id of any ImageNet class, with commas between; None for what is no such id."""
    try:
        return _imagenet_1k().label_name_to_description(name) if _WORDNET_ID.fullmatch(name) else None
    except KeyError:
        return None


def _shown(label: _Label) -> str:
    if label.description and _WORDNET_ID.fullmatch(label.name):
        return label.description.split(",")[0].strip()
    return label.name


def _full(label: _Label) -> str:
    return f"{label.name} ({_shown(label)})" if _shown(label) != label.name else label.name


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"… ({len(names)} in all)"] if len(names) > _LISTED else []
    return ", ".join([*names[:_LISTED], *more])
