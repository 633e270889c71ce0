"""What a card says whatever run its weights come from: use, data and licence, limits, citation."""

from importlib import resources
from pathlib import Path

import timm
from jinja2 import Template

from timm_interpretable.data.images import sample_of
from timm_interpretable.models.weights import HUB_ORG, HUB_PUBLISHED

PICTURE = "maps.jpg"

_FACNN = """@misc{farvardin2026feature,
  title = {End-to-end Feature Alignment: A Simple {CNN} with Intrinsic Class Attribution},
  author = {Farvardin, Parniyan and Chapman, David},
  year = {2026},
  eprint = {2603.25798},
  archivePrefix = {arXiv}
}"""
_CODA_NET = """@inproceedings{boehle2021convolutional,
  title = {Convolutional Dynamic Alignment Networks for Interpretable Classifications},
  author = {B{\\"o}hle, Moritz and Fritz, Mario and Schiele, Bernt},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2021},
  eprint = {2104.00032},
  archivePrefix = {arXiv}
}"""

_BASELINE = """@inproceedings{he2016deep,
  title = {Deep Residual Learning for Image Recognition},
  author = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2016}
}

@misc{wightman2019timm,
  title = {PyTorch Image Models},
  author = {Wightman, Ross},
  year = {2019},
  url = {https://github.com/huggingface/pytorch-image-models}
}"""

# by tag: where the training images come from and under what terms, and what to cite for them
_DATA = {
    "imagenette": (
        "Trained on the 9,103 training images of [Imagenette](https://github.com/fastai/imagenette) (J. Howard), "
        "ten classes of ImageNet (Deng et al., 2009), in 224 x 224 copies. ImageNet's images were collected on the web "
        "and belong to their owners; ImageNet gives access for non-commercial research and education.",
        """@inproceedings{deng2009imagenet,
  title = {{ImageNet}: A Large-Scale Hierarchical Image Database},
  author = {Deng, Jia and Dong, Wei and Socher, Richard and Li, Li-Jia and Li, Kai and Fei-Fei, Li},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2009}
}

@misc{howard2019imagenette,
  title = {Imagenette},
  author = {Howard, Jeremy},
  year = {2019},
  url = {https://github.com/fastai/imagenette}
}""",
    ),
    "cifar10": (
        "Trained on the 50,000 training images of [CIFAR-10](https://www.cs.toronto.edu/~kriz/cifar.html) "
        "(A. Krizhevsky, 2009), in a JPEG quality-75 copy. The images are a labelled part of 80 Million Tiny Images, "
        "which were collected on the web and whose authors withdrew them in 2020; CIFAR-10 has no formal licence.",
        """@techreport{krizhevsky2009learning,
  title = {Learning Multiple Layers of Features from Tiny Images},
  author = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year = {2009}
}""",
    ),
}


def kind_of(name: str) -> dict[str, bool]:
    """What the templates ask of a model's family; neither for FA-CNN."""
    return dict(coda_net=name.startswith("coda_net"), baseline_net=name.startswith("baseline_"))


def use_section(name: str, picture: bool) -> str:
    """How to use the released model `arch.tag`, with the picture of its maps where the folder has one."""
    cfg = timm.get_pretrained_cfg(name)
    labels = cfg.label_names or ()
    sample = sample_of(labels)
    return _rendered(
        "card_use.md",
        name=name,
        **kind_of(name),
        size="{} x {}".format(*cfg.input_size[1:]),
        classes=", ".join(labels),
        published=HUB_PUBLISHED,
        repository=f"{HUB_ORG}/{name}",
        picture=f"`{sample.file}`: {sample.source}" if picture else None,
    )


def closing_sections(name: str) -> str:
    """Data and licence, limits, citation.

    Raises:
        ValueError: nothing is known about the data set of this tag.
    """
    tag = name.split(".")[1]
    if tag not in _DATA:
        raise ValueError(f"The origin and terms of the data set {tag!r} are not known; add them to {__name__}.")
    provenance, citation = _DATA[tag]
    kind = kind_of(name)
    method = _BASELINE if kind["baseline_net"] else _CODA_NET if kind["coda_net"] else _FACNN
    citations = f"{method}\n\n{citation}"
    return _rendered("card_closing.md", **kind, provenance=provenance, citations=citations)


def refresh_card(folder: Path) -> None:
    """Write these sections anew into an existing card; everything that came from a run stays as it is.

    Raises:
        ValueError: the card does not have the headings between which they stand.
    """
    file = folder / "README.md"
    text = file.read_text(encoding="utf-8")
    headings = ("## Use", "## Results", "## Data and licence", "## Limits")
    use, results, data, limits = (text.find(f"\n{heading}\n") + 1 for heading in headings)
    closing = data or limits
    if not 0 < use < results < closing:
        raise ValueError(f"{file} has no headings Use, Results and Limits in this order.")
    new_use = use_section(folder.name, (folder / PICTURE).is_file())
    parts = [text[:use], new_use, "\n", text[results:closing], closing_sections(folder.name)]
    file.write_text("".join(parts), encoding="utf-8")


def _rendered(template: str, **values: object) -> str:
    text = (resources.files(__package__) / template).read_text(encoding="utf-8")
    return Template(text, keep_trailing_newline=True).render(**values)
