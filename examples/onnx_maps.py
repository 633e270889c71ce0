"""Explain a picture with onnxruntime, without PyTorch: the prediction, and where the evidence for it lies.

timm-interpretable export facnn_hybrid_efficientnet_lite0 --out model.onnx
python examples/onnx_maps.py model.onnx photo.jpg --out explained.png
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=Path)
parser.add_argument("picture", type=Path)
parser.add_argument("--out", type=Path, default=Path("explained.png"))
args = parser.parse_args()

session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
height, width = about["input_size"][1:]
mean, std = (np.array(about[key], dtype=np.float32) for key in ("mean", "std"))

picture = Image.open(args.picture).convert("RGB")
pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
images = ((pixels - mean) / std).transpose(2, 0, 1)[None]
logits, maps = session.run(["logits", "maps"], {"images": images})

target = int(logits[0].argmax())
name, cells = about["class_names"][target], maps.shape[2:]
print(f"{name}: logit {logits[0, target]:.2f}, its map has {cells[0]} x {cells[1]} cells")

# positive evidence in red over a grey picture
evidence = np.clip(maps[0, target] / maps[0, target].max(), 0, 1) * 255
large = Image.fromarray(evidence.astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
red = Image.new("RGB", picture.size, (220, 30, 30))
Image.composite(red, picture.convert("L").convert("RGB"), large.point(lambda value: value * 0.7)).save(args.out)
