"""What cards say of data sets and sources: names, terms, citations"""

from typing import NamedTuple

__all__ = ["CITATIONS", "Dataset", "dataset_of", "family_of"]


class Dataset(NamedTuple):
    """What a released model was trained and measured on.

    id: on the Hub.
    name: for people.
    measured: the images of the accuracy.
    caveat: what distinguishes these images from the usual ones.
    origin: where the training images come from and under what terms.
    citation: BibTeX.
    """

    id: str
    name: str
    measured: str
    caveat: str
    origin: str
    citation: str


_DATASETS = {
    "imagenette": Dataset(
        id="frgfm/imagenette",
        name="Imagenette",
        measured="3,791-image val",
        caveat="The images are copies of 224 x 224 pixels, squashed to square. This is not the standard split: the 250 "
        "validation images that have bounding boxes were taken out of it. ImageNet's terms apply to the images: "
        "non-commercial research and education.",
        origin="Trained on the 9,103 training images of [Imagenette](https://github.com/fastai/imagenette) "
        "(J. Howard), ten classes of ImageNet (Deng et al., 2009), in copies of 224 x 224 pixels. ImageNet's images "
        "were collected on the web and belong to their owners; ImageNet gives access for non-commercial research and "
        "education.",
        citation="""@inproceedings{deng2009imagenet,
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
    "cifar10": Dataset(
        id="uoft-cs/cifar10",
        name="CIFAR-10, JPEG q75 copy",
        measured="10,000-image test",
        caveat="The images are a JPEG quality-75 (4:2:0) copy of CIFAR-10 (Krizhevsky, 2009), about 30 dB PSNR against "
        "the originals, so accuracies are not strictly comparable to published ones.",
        origin="Trained on the 50,000 training images of [CIFAR-10](https://www.cs.toronto.edu/~kriz/cifar.html) "
        "(A. Krizhevsky, 2009), in a JPEG quality-75 copy. The images are a labelled part of 80 Million Tiny Images, "
        "which were collected on the web and whose authors withdrew them in 2020; CIFAR-10 has no formal licence.",
        citation="""@techreport{krizhevsky2009learning,
  title = {Learning Multiple Layers of Features from Tiny Images},
  author = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year = {2009}
}""",
    ),
}

_DATASETS["in1k"] = Dataset(
    id="ILSVRC/imagenet-1k",
    name="Imagenette's images",
    measured="250 images with boxes",
    caveat="They are ImageNet validation images of ten classes, in copies of 224 x 224 pixels, squashed to square; the "
    "network tells them from all 1,000 classes. The network was trained on ImageNet's training images, so it saw other "
    "images of the same classes, and Imagenette's own training images among them.",
    origin="EfficientNet-Lite was published by Google under Apache-2.0, and ported to timm by R. Wightman as "
    "[tf_efficientnet_lite0.in1k](https://huggingface.co/timm/tf_efficientnet_lite0.in1k), also under Apache-2.0. It "
    "was trained on ImageNet-1k (Deng et al., 2009), whose images were collected on the web and belong to their "
    "owners; ImageNet gives access for non-commercial research and education.",
    citation=_DATASETS["imagenette"].citation,
)

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
_BCOS = """@article{boehle2024bcos,
  title = {{B-cos} Alignment for Inherently Interpretable {CNNs} and Vision Transformers},
  author = {B{\\"o}hle, Moritz and Singh, Navdeeppal and Fritz, Mario and Schiele, Bernt},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence (TPAMI)},
  year = {2024},
  eprint = {2306.10898},
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

_HYBRID = """@inproceedings{tan2019efficientnet,
  title = {{EfficientNet}: Rethinking Model Scaling for Convolutional Neural Networks},
  author = {Tan, Mingxing and Le, Quoc V.},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2019}
}

@inproceedings{zhou2016learning,
  title = {Learning Deep Features for Discriminative Localization},
  author = {Zhou, Bolei and Khosla, Aditya and Lapedriza, Agata and Oliva, Aude and Torralba, Antonio},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2016}
}

@misc{wightman2019timm,
  title = {PyTorch Image Models},
  author = {Wightman, Ross},
  year = {2019},
  url = {https://github.com/huggingface/pytorch-image-models}
}"""

CITATIONS: dict[str, str] = {
    "facnn": _FACNN, "coda_net": _CODA_NET, "bcos": _BCOS, "hybrid": _HYBRID, "baseline": _BASELINE,
}  # fmt: skip
"""BibTeX by family, of converted networks under `hybrid`."""


def family_of(name: str) -> str:
    """The family of the released model `arch.tag`, a key of `CITATIONS`: how its name begins."""
    return next(family for family in CITATIONS if name.startswith(family))


def dataset_of(name: str) -> Dataset:
    """The data set of the released model `arch.tag`.

    Raises:
        ValueError: nothing is known about the data set of this tag.
    """
    tag = name.split(".")[1]
    if tag not in _DATASETS:
        raise ValueError(f"The origin and terms of the data set {tag!r} are not known; add them to {__name__}.")
    return _DATASETS[tag]
