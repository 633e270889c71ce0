"""ZeroGPU's decorator around what computes, with a stand-in for the package `spaces`."""

import subprocess
import sys

CODE = """
import sys, types
spaces, asked = types.ModuleType("spaces"), []
def GPU(function):
    def lent(*args):
        asked.append(function.__name__)
        return function(*args)
    return lent
spaces.GPU = GPU
if {present}:
    sys.modules["spaces"] = spaces
from timm_interpretable.app.engine import Choice, Engine
from timm_interpretable.app.images import read_picture
from timm_interpretable.data.images import sample_images
engine = Engine()
picture = read_picture(sample_images()[0].path, engine.settings)
found = engine.explain(picture, Choice("facnn_resnet18.cifar10", "grad_cam"))
print(asked, round(float(found.values.sum()), 3))
engine.close()
"""


def run(present: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(present=present)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_functions_ask_for_a_gpu_where_one_is_lent():
    names, value = run(True).rsplit(" ", 1)
    assert names == "['look', 'find']"
    assert run(False) == f"[] {value}"
