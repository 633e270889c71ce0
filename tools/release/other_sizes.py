"""What `tools.sizes` found about a model, for its card"""

import json

from tools.sizes import RESULTS

__all__ = ["sizes_section"]


def sizes_section(name: str, digest: str) -> str:
    """Command and table for the model `arch.tag` with these very weights; empty where it was not measured.

    digest: sha256 of the weights.
    """
    found = json.loads(RESULTS.read_text(encoding="utf-8")).get(name) if RESULTS.is_file() else None
    if not found or found["sha256"] != digest:
        return ""
    lines = ["| input | times the native size | accuracy | calibration error | mean logit of the true class |"]
    lines.append("|---|---|---|---|---|")
    for row in found["rows"]:
        size, times = f"{row['size']} x {row['size']}", f"{row['times']:g}"
        accuracy, error = f"{100 * row['accuracy']:.1f} %", f"{row['calibration_error']:.3f}"
        lines.append(f"| {size} | {times} | {accuracy} | {error} | {row['true_logit']:.2f} |")
    table = "\n".join(lines)
    about = (
        f"Measured on {found['images']} images of {found['split']}, evenly spaced and scaled to each size. The "
        "calibration error is the mean distance between the probability of the predicted class and how often it is "
        "right, over 15 bins."
    )
    return f"    {found['command']}\n\n{table}\n\n{about}"
