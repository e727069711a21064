"""relora and PyTorch on this machine, in turn, so that both meet the same weather: prints a Markdown table of ratios.

    python compare.py RELORA [--pairs N] [--shapes laptop,9m] [--methods full] [--compile]

Each pair runs `relora bench-step` once and each PyTorch program once (`peer.py`: one for full rank; for ReLoRA a
program of our own and one with the library `peft`); the better of these is what ours is divided by. A ratio is the median
over the pairs, with the smallest and the largest behind it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# name, what `relora bench-step` is told, sequences, tokens of each
SHAPES = {
    "laptop": (["--profile", "laptop", "--size", "nano"], 8, 128),
    "9m": (["--size", "9m"], 8, 256),
    "20m": (["--size", "20m"], 8, 256),
    "35m": (["--size", "35m"], 8, 256),
    "60m": (["--size", "60m"], 8, 256),
    "60m-4x512": (["--size", "60m"], 4, 512),
}
METHODS = {"full": ["full"], "relora": ["relora", "peft"]}
PEER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer.py")


def timed(command):
    begun = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return {**json.loads(ended.stdout), "wall_seconds": time.perf_counter() - begun}


def ours(relora, shape, method, steps, threads):
    flags, batch, length = SHAPES[shape]
    numbers = {"--batch": batch, "--seq": length, "--steps": steps, "--threads": threads}
    flags = [*flags, *(str(word) for pair in numbers.items() for word in pair)]
    # PyTorch's programs have no dropout either.
    return timed([relora, "bench-step", *flags, "--method", method, "--set", "dropout=0", "--device", "cpu", "--json"])


def theirs(own, method, steps, threads, compiled):
    shape = ("hidden", "intermediate", "layers", "heads", "vocabulary", "batch")
    flags = [word for key in shape for word in (f"--{key}", str(own[key]))]
    flags += ["--seq", str(own["sequence_length"]), "--steps", str(steps), "--threads", str(threads), "--method", method]
    flags += ["--rank", str(own["rank"])] if own["rank"] else []
    return timed([sys.executable, PEER, *flags, *(["--compile"] if compiled else [])])


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("relora")
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=5, help="that a program times; 200 at the laptop shape")
    arguments.add_argument("--shapes", type=lambda text: [shape.strip() for shape in text.split(",")], default=list(SHAPES), help=", ".join(SHAPES))
    arguments.add_argument("--methods", type=lambda text: [method.strip() for method in text.split(",")], default=list(METHODS), help=", ".join(METHODS))
    arguments.add_argument("--compile", action="store_true", help="PyTorch's programs through torch.compile as well")
    options = arguments.parse_args()
    if min(options.pairs, options.steps) < 1:
        arguments.error("--pairs and --steps must be at least 1")
    for what, asked, known in (("shape", options.shapes, SHAPES), ("method", options.methods, METHODS)):
        unknown = [name for name in asked if name not in known]
        if unknown:
            arguments.error(f"no {what} {unknown[0]}; there are {', '.join(known)}")
    threads = len(os.sched_getaffinity(0))
    header = ("shape", "method", "tokens/s", "PyTorch's", "ratio", "memory", "ratio", "first step", "ratio", "whole run, ratio", "of a large product")
    print(f"{options.pairs} pairs, {threads} threads\n")
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
    for shape in options.shapes:
        steps = 200 if shape == "laptop" else options.steps
        for method in options.methods:
            programs = METHODS[method]
            pairs = []
            for _ in range(options.pairs):
                own = ours(options.relora, shape, method, steps, threads)
                peers = [
                    theirs(own, program, steps, threads, compiled)
                    for program in programs
                    for compiled in ([False, True] if options.compile else [False])
                ]
                pairs.append((own, max(peers, key=lambda peer: peer["tokens_per_second"])))
            speeds = [own["tokens_per_second"]["median"] for own, _ in pairs]
            shares = [own["flops_per_second"] / own["product_flops_per_second"] for own, _ in pairs]

            def ratio(key, digits=2):
                return spread([own[key] / peer[key] for own, peer in pairs], digits)

            row = (
                shape,
                method,
                f"{statistics.median(speeds):.0f}",
                f"{statistics.median(peer['tokens_per_second'] for _, peer in pairs):.0f}",
                spread([speed / peer["tokens_per_second"] for speed, (_, peer) in zip(speeds, pairs)], 2),
                f"{statistics.median(own['peak_memory_bytes'] for own, _ in pairs) / 1e6:.0f} MB",
                ratio("peak_memory_bytes"),
                f"{statistics.median(own['first_step_seconds'] for own, _ in pairs):.1f} s",
                ratio("first_step_seconds"),
                ratio("wall_seconds"),
                f"{100 * statistics.median(shares):.0f}%",
            )
            print(f"| {' | '.join(row)} |", flush=True)
    peer = pairs[-1][1]
    print(f"\ntorch {peer['torch']}, transformers {peer['transformers']}")


if __name__ == "__main__":
    main()
