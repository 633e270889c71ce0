"""What the maps mean, what is proved, what is not, what was measured; numbers come from the models' cards."""

import os

import gradio as gr

from timm_interpretable.app.cards import measured
from timm_interpretable.app.methods import FAME_STEPS, IG_STEPS, RISE_MASKS
from timm_interpretable.app.service import Service
from timm_interpretable.app.sidebar import Sidebar

TEXT = """
## What you see

- **Class map** (FA-CNN): every class owns a group of channels; their mean is the map, and the mean of the map times
  one temperature is the logit. The map is part of the forward pass.
- **Class map, contrast**: the same, less the mean map of all classes weighted by their probabilities.
  A constant that all classes share cannot be seen in it.
- **Contributions** (CoDA-Net): for each picture the network is one linear map. Its row for a class times the
  picture is what every pixel adds to the logit. **Weights**: that row as colours, on the pixels that speak for the
  class. **Smoothed**: means over a tenth of the side. The contributions alternate in sign from pixel to pixel, and show
  where they point once they are averaged.
- **Grad-CAM**: the positive part of the last feature map, weighted by the gradient of the logit.
- **Integrated gradients**: gradients summed on the way from a black picture, {ig} steps. They add up to the
  difference of the two logits, up to the error of so few steps, which is shown.
- **FAME**: the picture is changed in {fame} small steps until the logit falls; the map is what changed. The paper
  takes 500 steps; with {fame} the map correlates .53 with that one.
- **RISE**: the mean of {rise} random masks, weighted by the probability of the class behind them. The paper takes
  thousands.

## What is proved, and what is not

- The last class map of an FA-CNN is Grad-CAM of its logit, up to a positive factor and negative parts. For earlier
  blocks no such identity holds.
- The class map adds up to the logit, and the contributions to the logit less one constant, exactly (to rounding).
  The line below every map shows the sums of your picture.
- A map that adds up is not a map of what would change the decision. What lies behind a cell of the class map is
  wider than the cell.
- Grad-CAM, FAME and RISE add up to nothing.

## Measured

{measured}

Conditions, baselines and localisation stand in the models' cards.

## Sources

- FA-CNN: a **reconstruction from the abstract** of P. Farvardin and D. Chapman, *End-to-end Feature Alignment*,
  [arXiv 2603.25798](https://arxiv.org/abs/2603.25798). No code or weights of the authors were available.
- CoDA-Net: written from the equations of M. Böhle, M. Fritz and B. Schiele, *Convolutional Dynamic Alignment
  Networks for Interpretable Classifications*, CVPR 2021, [arXiv 2104.00032](https://arxiv.org/abs/2104.00032).
- FAME: written from the equations of X. Zhang and M. Günther, *FAME: Feature Activation Map Explanation on Image
  Classification and Face Recognition*, [arXiv 2605.12017](https://arxiv.org/abs/2605.12017).
- Grad-CAM: Selvaraju et al., 2017. Integrated gradients: Sundararajan et al., 2017, by Captum. RISE: Petsiuk et
  al., 2018.
- Example pictures: drawings by this project (Apache-2.0), and Chelsea the cat, a photograph by Stéfan van der
  Walt (CC0).

## Limits

The models are small, trained from scratch on Imagenette and CIFAR-10, and call every picture one of ten classes.
They see the whole picture pressed into a square of 192, 96 or 32 pixels; larger pictures are first reduced to
{side} pixels. Bias and altered pictures were not tested. The face network knows 30 people.

## For programs

`/explain`, `/compare` and `/verify` for `gradio_client`; a picture alone is enough.

```python
from gradio_client import Client, handle_file
told, overlay = Client("{address}").predict(handle_file("photo.jpg"), api_name="/explain")
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
        ig=IG_STEPS, fame=FAME_STEPS, rise=RISE_MASKS, measured=_measured(service), side=settings.side,
        address=os.environ.get("SPACE_ID", "http://127.0.0.1:7860"), megabytes=settings.max_bytes // 2**20,
        megapixels=settings.max_pixels // 10**6, minutes=round(settings.keep_seconds / 60),
    )  # fmt: skip
    gr.Markdown(text, elem_id="ti-about")


def _measured(service: Service) -> str:
    models = service.engine.models
    lines = []
    for entry in (*models.entries, *([models.faces] if models.faces else [])):
        size = " × ".join(str(n) for n in models.input_size(entry.name))
        lines.append(f"- **{entry.title}** (`{entry.name}`, sees {size} pixels): {measured(entry.name)}.")
    return "\n".join(lines)
