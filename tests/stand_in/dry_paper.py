"""Every cell of the profile `paper` over the stand-in driver, six steps of it: whether anything panics, and in what memory.

    python dry_paper.py RELORA [--only 60m] [--out DIR] [--full-batch] [--keep]

Everything is as on a GPU but the arithmetic: the text is prepared with the paper's vocabulary out of generated shards in
C4's layout, each cell is a worker process with its checkpoints, restarts, resets and evaluations, and the tables are made. What
is read back from the device is zero or what was copied there, so no number in those tables means anything. Without
`--full-batch` an update has two micro-batches of the profile's size instead of up to 72: the same kernels and the same memory.
Prints a Markdown table of each cell's launches and peak, and that peak's share of the memory plan. Fails where a cell does, where
a peak is more than a tenth off its plan, or where ReLoRA's is not below full rank's at its size.
"""

import argparse
import glob
import gzip
import json
import os
import random
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = os.path.join(HERE, "run")

# One of everything: two steps of warm start and two cycles of two, the second of which begins with a restart and a reset.
CUT = {
    "steps": 6,
    "warm_start_steps": 2,
    "warmup_steps": 1,
    "restart_every": 2,
    "rewarmup_steps": 0,
    "evaluate_every": 2,
    "checkpoint_every": 6,
    "log_every": 1,
}
PEAK_OF_PLAN = (0.9, 1.1)
MICRO_BATCHES = {"60m": 40, "130m": 60, "250m": 24, "350m": 16}


def words(count, draws):
    """Pronounceable words, no two alike: a tokenizer finds 32,100 pieces in them."""
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
    made = {}
    while len(made) < count:
        syllables = draws.choice((1, 2, 2, 3, 3, 4))
        made["".join(draws.choice(consonants) + draws.choice(vowels) for _ in range(syllables))] = None
    return list(made)


def write_shards(folder, documents, draws):
    """Two shards named and filled as those of C4 (https://huggingface.co/datasets/allenai/c4)."""
    vocabulary = words(40_000, draws)
    # Zipf's law, roughly: the word of rank r is drawn r times less often than the first.
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    os.makedirs(folder, exist_ok=True)
    for split, share in (("train.00000-of-01024", 0.95), ("validation.00000-of-00008", 0.05)):
        with gzip.open(os.path.join(folder, f"c4-{split}.json.gz"), "wt", encoding="utf-8", compresslevel=1) as file:
            for _ in range(int(documents * share)):
                text = " ".join(draws.choices(vocabulary, weights, k=400))
                line = {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org/"}
                file.write(json.dumps(line) + "\n")


def settings(options):
    """The `--set` flags: by size, since the profile's own keys are."""
    flags = ["--set", "data.validation_tokens=16384"]
    for size, rows in MICRO_BATCHES.items():
        cut = dict(CUT)
        if not options.full_batch:
            cut["global_batch_size"] = 2 * rows
        for key, value in cut.items():
            flags += ["--set", f"size.{size}.{key}={value}"]
        # More specific than a size's own: the warm-up of these is set by method.
        if size == "250m":
            for method in ("full", "control"):
                flags += ["--set", f"size.{size}.method.{method}.warmup_steps=1"]
    return flags


def ended(folder):
    """How a run ended, what its result says or the line that it failed with, and the bytes that were planned for it."""
    for name, key in (("result.json", "status"), ("failed.json", "error")):
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                content = json.load(file)
            return str(content.get(key, content)), sum(content.get("planned_memory", {}).values())
        except FileNotFoundError:
            continue
    return "never ended", 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("relora")
    arguments.add_argument("--only", help="as of `relora bench-all`")
    arguments.add_argument("--out", default="dry-paper", metavar="DIR", help="a folder to work in; it must not exist yet")
    arguments.add_argument("--full-batch", action="store_true")
    arguments.add_argument("--keep", action="store_true", help="leave the folder, with gigabytes of checkpoints in it")
    options = arguments.parse_args()
    if os.path.exists(options.out):
        arguments.error(f"{options.out} exists; name another folder with --out")
    reports = os.path.join(options.out, "reports")
    os.makedirs(reports)
    text = os.path.join(options.out, "c4")
    # Enough for an update of the largest batch, 1152 sequences of 512 tokens, where that is asked for.
    write_shards(text, 8000 if options.full_batch else 2500, random.Random(0))
    suite = os.path.join(options.out, "suite")
    command = [
        RUN,
        f"STAND_IN_REPORT={os.path.abspath(reports)}/%p.json",
        f"RELORA_KERNEL_CACHE={os.path.abspath(options.out)}/kernels",
        f"XDG_CACHE_HOME={os.path.abspath(options.out)}/cache",
        options.relora,
        *("bench-all", "--profile", "paper", "--device", "cuda", "--data", text, "--out", suite),
        *settings(options),
        *(["--only", options.only] if options.only else []),
    ]
    suite_ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    failed = suite_ended.returncode != 0
    counted = {}
    for path in glob.glob(os.path.join(reports, "*.json")):
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        # A worker is told its run directory.
        for word in report["command"]:
            counted[os.path.basename(word)] = report
    print("| cell | status | launches | kernels | peak | of the plan |\n|---|---|--:|--:|--:|--:|")
    peaks, beyond = {}, []
    cells = sorted(glob.glob(os.path.join(suite, "*-seed*")))
    failed |= not cells
    for folder in cells:
        name = os.path.basename(folder)
        status, planned = ended(folder)
        failed |= status != "complete"
        report = counted.get(name)
        figures = ("", "", "", "")
        if report and planned:
            peaks[name] = report["peak_bytes"]
            of_plan = report["peak_bytes"] / planned
            figures = (report["launches"], report["modules"], f"{report['peak_bytes'] / 1e6:.0f} MB", f"{of_plan:.2f}")
            if not PEAK_OF_PLAN[0] <= of_plan <= PEAK_OF_PLAN[1]:
                beyond.append(f"{name}: its peak is {of_plan:.2f} of the plan, not within {PEAK_OF_PLAN}")
        print(f"| {name} | {status} | {' | '.join(map(str, figures))} |")
    for name, peak in peaks.items():
        full = peaks.get(name.replace("-relora-", "-full-"), 0)
        if "-relora-" in name and full and peak >= full:
            beyond.append(f"{name}: its peak is {peak / 1e6:.0f} MB, not below the {full / 1e6:.0f} MB of full rank")
    if beyond:
        print("\nbeyond the limits:\n" + "\n".join(beyond), file=sys.stderr)
    if not options.keep:
        shutil.rmtree(options.out)
    sys.exit(1 if failed or beyond else 0)


if __name__ == "__main__":
    main()
