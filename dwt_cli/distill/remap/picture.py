"""Which of the student's layers came from which of the teacher's, as one PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dwt_cli.distill.remap.remap import Account


def draw_origins(account: Account, num_student: int, num_teacher: int, picture: Path) -> Figure:
    """Draw a matrix of shares, a row for each of the student's layers, the last one on top."""
    shares, rows = np.zeros((num_student, num_teacher)), []
    for layer in range(num_student):
        origins = account.layers.get(layer, {})
        shares[layer, list(origins)] = list(origins.values())
        silent = " (identity at first)" if layer in account.silent else ""
        rows.append(f"{layer}{silent}" if origins else f"{layer} (fresh)")
    size = (3.2 + 0.55 * num_teacher, 1.6 + 0.4 * num_student)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    # learned shares may be negative, or above 1
    drawn = axes.imshow(shares, cmap="PuOr_r", vmin=-1, vmax=1, origin="lower", aspect="auto")
    for (layer, origin), share in np.ndenumerate(shares):
        if rounded := round(share, 2):
            colour = "white" if abs(share) > 0.6 else "black"
            axes.text(origin, layer, f"{rounded:g}", ha="center", va="center", color=colour)
    axes.set_xticks(range(num_teacher))
    axes.set_yticks(range(num_student), rows)
    axes.set_xlabel("the teacher's layer")
    axes.set_ylabel("the student's layer")
    copied, grown, reset = len(account.copied), len(account.grown), len(account.reset)
    title = f"tensors: {copied} copied, {grown} grown, {reset} reset"
    if account.tokens:
        kinds = (f"{count} {kind.replace('_', ' ')}" for kind, count in account.tokens.items())
        title += f"\ntokens: {', '.join(kinds)}"
    axes.set_title(title, fontsize=10)
    figure.colorbar(drawn, label="share")
    figure.savefig(picture, dpi=110)
    return figure
