"""What the maps mean, what is proved, what is not, what was measured; numbers come from the models' cards."""

import os

import gradio as gr

from timm_interpretable.app.cards import measured
from timm_interpretable.app.service import Service
from timm_interpretable.app.sidebar import Sidebar
from timm_interpretable.attr import METHODS

TEXT = """
## What you see

Every map says which parts of a picture speak for a class, and, where it has a sign, which parts speak against it. The
line below a map says what the map adds up to for your picture.

- **Class map**: the logit is the mean of the map, and the map is part of the forward pass. In an FA-CNN every class
  owns a group of channels, whose mean is the map. The EfficientNet with class maps applies its linear layer at every
  position before it averages, which leaves its logits as they are.
- **Contributions** (B-cos networks and CoDA-Nets): for each picture the network is one linear map. Its row for a class
  times the picture is what every pixel adds to the logit. **Weights** show that row as colours, on the pixels that
  speak for the class. **Smoothed** contributions are means over a tenth of the side.
- **Head map** (B-cos networks): what every position of the last feature map adds to the logit.
- **Grad-CAM** and **HiResCAM** weigh the last feature map with the gradient of the logit.
- **Input x gradient** and **integrated gradients** use the gradient at the pixels.
- **Occlusion**, **patch permutation** and **RISE** change parts of the picture and watch the prediction.
- **FAME** changes the picture in small steps until the logit falls. The map is what has changed.
- **Random** is a map of chance, for comparison.

The page takes fewer passes than the papers, so that a map is there in seconds: {ig} steps of integrated gradients,
{fame} steps of FAME, {rise} masks of RISE.

## What the methods cost and add up to

{methods}

## What is proved, and what is not

- The last class map is Grad-CAM of its logit, up to a positive factor, a constant and negative parts. For earlier
  blocks of an FA-CNN no such identity holds.
- The class map and the contributions add up to what the table says, to rounding.
- A map that adds up is not a map of what would change the decision. What lies behind a cell of the class map is
  wider than the cell.

## Measured

{measured}

The models' cards give conditions, baselines and localisation.

## Sources

- FA-CNN: a **reconstruction from the abstract** of P. Farvardin and D. Chapman, *End-to-end Feature Alignment*,
  [arXiv 2603.25798](https://arxiv.org/abs/2603.25798). No code or weights of the authors were available.
- EfficientNet with class maps: EfficientNet-Lite0 with Google's weights (Apache-2.0), as ported to timm; trained on
  ImageNet. Its map is the CAM of Zhou et al., 2016, [arXiv 1512.04150](https://arxiv.org/abs/1512.04150).
- B-cos networks: written from the equations of M. Böhle, N. Singh, M. Fritz and B. Schiele, *B-cos Alignment for
  Inherently Interpretable CNNs and Vision Transformers*, TPAMI 2024, [arXiv 2306.10898](https://arxiv.org/abs/2306.10898).
- CoDA-Net: written from the equations of M. Böhle, M. Fritz and B. Schiele, *Convolutional Dynamic Alignment
  Networks for Interpretable Classifications*, CVPR 2021, [arXiv 2104.00032](https://arxiv.org/abs/2104.00032).
- FAME: written from the equations of X. Zhang and M. Günther, *FAME: Feature Activation Map Explanation on Image
  Classification and Face Recognition*, [arXiv 2605.12017](https://arxiv.org/abs/2605.12017).
- Grad-CAM: Selvaraju et al., 2017. HiResCAM: Draelos and Carin, 2020. RISE: Petsiuk et al., 2018. Integrated
  gradients (Sundararajan et al., 2017), input x gradient and occlusion are Captum's.
- Example pictures: drawings by this project (Apache-2.0), and Chelsea the cat, a photograph by Stéfan van der
  Walt (CC0).

## Limits

The FA-CNNs, CoDA-Nets and the B-cos network are small, trained from scratch on Imagenette and CIFAR-10, and call every
picture one of ten classes. The EfficientNet knows the thousand classes of ImageNet. All see the whole picture pressed
into a square of the size given above; larger pictures are first reduced to {side} pixels. Bias and altered pictures
were not tested. The face network knows 30 people.

## For programs

`/methods`, `/explain`, `/compare` and `/verify` for `gradio_client`; a picture alone is enough.

```python
from gradio_client import Client, handle_file
numbers, overlay = Client("{address}").predict(handle_file("photo.jpg"), api_name="/explain")
```

## Your picture

It is read within limits ({megabytes} MiB, {megapixels} million pixels), kept in memory while the page is open and
in use, and its file is deleted when you close the page, at the latest after ten minutes. Maps are remembered for
{minutes} minutes. Pictures that programs send and get are deleted after ten minutes too. Nothing is sent anywhere
else.
"""


def tab(service: Service, side: Sidebar, tab: gr.Tab) -> None:
    settings = service.settings
    text = TEXT.format(
        ig=settings.methods.ig_steps, fame=settings.methods.fame_steps, rise=settings.methods.n_samples,
        methods=_methods(service), measured=_measured(service), side=settings.side,
        address=os.environ.get("SPACE_ID", "http://127.0.0.1:7860"), megabytes=settings.max_bytes // 2**20,
        megapixels=settings.max_pixels // 10**6, minutes=round(settings.keep_seconds / 60),
    )  # fmt: skip
    gr.Markdown(text, elem_id="ti-about")


def _methods(service: Service) -> str:
    """A table of the catalogue, as far as the models of the page have its methods."""
    models = service.engine.models
    there = {key for entry in models.entries for key in models.methods(entry.name)}
    rows = [
        f"| {m.title} | {m.cost.value} | {m.sums_to.words if m.sums_to else '–'} |"
        for key, m in METHODS.items()
        if key in there
    ]
    return "\n".join(["| method | cost | adds up to |", "| --- | --- | --- |", *rows])


def _measured(service: Service) -> str:
    models = service.engine.models
    lines = []
    for entry in (*models.entries, *([models.faces] if models.faces else [])):
        size = " × ".join(str(n) for n in models.input_size(entry.name))
        lines.append(f"- **{entry.title}** (`{entry.name}`, sees {size} pixels): {measured(entry.name)}.")
    return "\n".join(lines)
