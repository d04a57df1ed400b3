"""Does the memory of perturbation methods stay within the budget they were given?

Growth of the peak over what the process holds with the model loaded and one forward pass done; the trace that a method
takes of a network is part of it. Each case runs in a process of its own.
"""

from __future__ import annotations

import sys

from _memory import again, peak_growth
from _table import Table, options

from convscope.cli.output import counted

CLASS = 281
BUDGETS = (256, 512, 1024)
MANY = 24  # images whose forward passes together would take more than the least budget
# Two chunks of the most variants that go into one (16) are enough to see the peak; layers with few maps keep it short.
SCORED = {"vgg16": "features.4", "efficientnet_lite0": "blocks.2"}
METHODS = ("occlusion", "rise", "score-cam", "ablation")
SETTINGS = {"occlusion": {"stride": 32}, "rise": {"masks": 48}}


def growth(name: str, method: str, budget: float, count: int) -> float:
    """MiB that the method takes for so many images. To be called once a process."""
    import torch
    from _nets import classifier, network, pixels

    from convscope.instrument.target import Target
    from convscope.methods import configure

    model, images = classifier(network(name)), pixels(count)
    settings = {"budget": budget, **SETTINGS.get(method, {"layer": SCORED[name]})}
    with torch.no_grad():
        model(images[:1])
    return peak_growth(lambda: configure(method, settings).run(model, images, Target(index=(CLASS,) * count)))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--case", nargs=4, metavar=("NETWORK", "METHOD", "BUDGET", "IMAGES"), help="one case, in this process"
    )
    chosen = parser.parse_args()
    if chosen.case:
        name, method, budget, count = chosen.case
        print(growth(name, method, float(budget), int(count)))
        return
    table = Table("Memory of perturbation methods against their budget")
    for name in ("efficientnet_lite0",) if chosen.quick else tuple(SCORED):
        for method in METHODS:
            cases = [(budget, 1) for budget in BUDGETS[:: 2 if chosen.quick else 1]]
            if method == "occlusion":
                cases.append((BUDGETS[0], MANY))
            for budget, count in cases:
                done = again("--case", name, method, str(budget), str(count))
                if done.returncode != 0:
                    sys.exit(f"{name} {method} {budget} ended with {done.returncode}")
                case = f"{name}: {method} of {counted(count, 'image')}, budget {budget} MiB"
                table.at_most(case, float(done.stdout), budget, "MiB")
    table.finish()


if __name__ == "__main__":
    main()
