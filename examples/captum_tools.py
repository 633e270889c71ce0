"""Class maps in Captum's own tools: NoiseTunnel, infidelity and sensitivity.

python examples/captum_tools.py
"""

import timm
import torch
from captum.attr import NoiseTunnel
from captum.metrics import infidelity, sensitivity_max

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import ClassMap
from timm_interpretable.data.images import eval_transform, load_image, sample_images

torch.manual_seed(0)
sample = sample_images()[0]
model = timm.create_model(sample.model, pretrained=True).eval()
x = eval_transform(model)(load_image(sample.path))[None]
target = model.pretrained_cfg["label_names"].index(sample.label)
class_map = ClassMap(model)

smooth = NoiseTunnel(class_map).attribute(x, nt_type="smoothgrad", nt_samples=4, stdevs=0.05, target=target)
print(f"{sample.file}, class {sample.label!r}: smoothed map adds up to {smooth.sum().item():.3f}")


def erase(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pixels to black: what was taken away, and what is left."""
    taken = images * (torch.rand_like(images[:, :1]) < 0.2)
    return taken, images - taken


with torch.no_grad():
    worse = infidelity(model, erase, x, class_map.attribute(x, target=target), target=target, n_perturb_samples=8)
print(f"infidelity {worse.item():.3g}")
change = sensitivity_max(class_map.attribute, x, perturb_radius=0.02, n_perturb_samples=4, target=target)
print(f"sensitivity {change.item():.3g}")
