"""What training on CUDA asks of the driver, counted without a GPU: prints a Markdown table.

    python dry_runs.py RELORA [--sizes 60m,350m] [--methods full] [--precisions bf16] [--architectures 90] [--check]

Each configuration is trained by `relora bench-step` over the stand-in driver (`run`, `driver.c`): the real NVRTC compiles
every kernel, nothing is computed. A first process with no kernels at hand takes two steps more than a second one that finds
what the first has compiled: the difference of their launches is what steps cost, and their first steps are a cold and a warm
start. Host time is the median of the second one's steps: what the program itself spends on a step before any GPU does, without
the driver's own part. `--twice` runs each a third time with twice the sequences, to see whether launches grow with tokens.
`--check` ends with 1 where a count is beyond its limit; times, which a busy machine stretches, are for a reader to judge.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run")
SIZES = ("60m", "130m", "250m", "350m")
METHODS = ("full", "relora")
PRECISIONS = ("f32", "bf16", "bf16-master")
ARCHITECTURES = ("80", "89", "90")

# Steps of the second process, and what the first has more of: bench-step adds two that it does not time to both. A step takes
# some milliseconds, and a moment of a machine is not the machine.
STEPS, MORE = 100, 2

# What the limits are for: the arithmetic of a small step takes a data-centre card one or two milliseconds, so a step must not
# wait for its launches; and a micro-batch is chosen by the plan.
LAUNCHES_PER_LAYER = {"full": 50, "relora": 80}
LAUNCHES_BESIDE = 100
PEAK_OF_PLAN = (0.9, 1.1)


def bench_step(options, size, method, precision, architecture, kernels, steps, batch):
    """One process: what it measured, and what the driver counted."""
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        command = [
            RUN,
            f"STAND_IN_ARCHITECTURE={architecture}",
            f"STAND_IN_REPORT={report}",
            f"RELORA_KERNEL_CACHE={kernels}",
            options.relora,
            "bench-step",
            *("--device", "cuda", "--size", size, "--method", method, "--precision", precision),
            *("--batch", str(batch), "--seq", str(options.seq), "--steps", str(steps), "--json"),
        ]
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if ended.returncode != 0:
            sys.exit(f"{size} {method} {precision} sm_{architecture}: relora ended with {ended.returncode}")
        with open(report, encoding="utf-8") as file:
            return json.loads(ended.stdout), json.load(file)


def configuration(options, size, method, precision, architecture):
    """The figures of a configuration."""
    with tempfile.TemporaryDirectory() as kernels:
        same = (options, size, method, precision, architecture, kernels)
        cold, counted_cold = bench_step(*same, STEPS + MORE, options.batch)
        warm, counted_warm = bench_step(*same, STEPS, options.batch)
        grown = 0
        if options.twice:
            _, counted_twice = bench_step(*same, STEPS, 2 * options.batch)
            grown = counted_twice["launches"] - counted_warm["launches"]
    launches = (counted_cold["launches"] - counted_warm["launches"]) / MORE
    layers = warm["layers"]
    planned = sum(warm["planned_bytes"].values())
    peak = counted_warm["peak_bytes"]
    figures = {
        "launches": launches,
        "allowed": LAUNCHES_PER_LAYER[method] * layers + LAUNCHES_BESIDE,
        "per_layer": launches / layers,
        "grown": grown,
        "kernels": counted_cold["modules"],
        "peak": peak,
        "of_plan": peak / planned,
        "host_milliseconds": 1e3 * warm["step_seconds"]["median"],
        "cold_seconds": cold["first_step_seconds"],
        "warm_seconds": warm["first_step_seconds"],
    }
    return figures


def too_much(figures):
    """Which counts are beyond their limits."""
    lowest, highest = PEAK_OF_PLAN
    limits = {
        "launches": (0, figures["allowed"]),
        "grown": (0, 0),
        "of_plan": (lowest, highest),
    }
    beyond = [name for name, (low, high) in limits.items() if not low <= figures[name] <= high]
    return [f"{name} {figures[name]:.4g}, not within {limits[name]}" for name in beyond]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("relora")
    for name, known in (("sizes", SIZES), ("methods", METHODS), ("precisions", PRECISIONS), ("architectures", ARCHITECTURES)):
        arguments.add_argument(f"--{name}", default=",".join(known), metavar="LIST", help=f"of {', '.join(known)}")
    arguments.add_argument("--batch", type=int, default=4, help="sequences of a step")
    arguments.add_argument("--seq", type=int, default=512, help="tokens of a sequence")
    arguments.add_argument("--twice", action="store_true")
    arguments.add_argument("--check", action="store_true")
    options = arguments.parse_args()
    lists = {}
    for name, known in (("sizes", SIZES), ("methods", METHODS), ("precisions", PRECISIONS), ("architectures", ARCHITECTURES)):
        lists[name] = getattr(options, name).split(",")
        for value in lists[name]:
            if value not in known:
                arguments.error(f"--{name}: {value} is none of {', '.join(known)}")

    print(f"{options.batch} sequences of {options.seq} tokens; nothing was computed\n")
    header = ("size", "method", "precision", "sm", "launches a step", "at most", "per layer", "kernels", "peak", "of the plan",
              "host, ms a step", "first step, cold", "warm")
    print(f"| {' | '.join(header)} |\n|{'---|' * 4}{'--:|' * (len(header) - 4)}", flush=True)
    failures = []
    for size in lists["sizes"]:
        for method in lists["methods"]:
            for precision in lists["precisions"]:
                for architecture in lists["architectures"]:
                    figures = configuration(options, size, method, precision, architecture)
                    row = (
                        size, method, precision, architecture,
                        f"{figures['launches']:.0f}",
                        f"{figures['allowed']}",
                        f"{figures['per_layer']:.0f}",
                        f"{figures['kernels']}",
                        f"{figures['peak'] / 1e6:.0f} MB",
                        f"{figures['of_plan']:.2f}",
                        f"{figures['host_milliseconds']:.1f}",
                        f"{figures['cold_seconds']:.1f} s",
                        f"{figures['warm_seconds']:.1f} s",
                    )
                    print(f"| {' | '.join(row)} |", flush=True)
                    failures += [f"{size} {method} {precision} sm_{architecture}: {what}" for what in too_much(figures)]
    if options.check and failures:
        print("\nbeyond the limits:\n" + "\n".join(failures), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
