"""Drives the built `relora` against the real libraries: transformers, peft, safetensors, lm-eval, tensorboard.

    python tests/hf/ecosystem.py target/debug/relora

`just test-hf` makes the environment and calls this. Everything happens on the CPU, in f32, in a folder of its own, and
without a network. Each check prints what it compared; the first that fails ends the program.
"""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

# Before the libraries are imported: they read these then.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from peft import PeftModel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.simplefilter("ignore", FutureWarning)

# Largest relative difference of a loss in f32.
TOLERANCE = 1e-5
SEQUENCES = 64

PROFILE = """
description = "two methods in seconds"
sizes = ["tiny"]
methods = ["full", "relora", "low-rank", "relora-scaled"]
seeds = [1]
jobs = 1

[data]
vocabulary = 320
validation_share = 0.1

[size.tiny]
hidden = 32
intermediate = 48
layers = 2
heads = 2

[settings]
steps = 40
sequence_length = 32
global_batch_size = 8
micro_batch_size = 4
warm_start_steps = 10
warmup_steps = 2
restart_every = 10
rewarmup_steps = 2
rank = 4
alpha = 8.0
learning_rate = 1e-2
evaluate_every = 10
log_every = 1

[method.relora-scaled]
preset = "relora"
scaling = "tanh-scalar"
"""


class World:
    """A folder with a corpus, a profile and a trained suite in it."""

    def __init__(self, relora: Path, folder: Path):
        self.relora = relora.resolve()
        self.folder = folder
        (folder / "tiny.toml").write_text(PROFILE)
        write_documents(folder / "corpus.jsonl", stories(400, seed=1))
        self.suite("out", "--tensorboard")

    def run(self, *arguments, code=0) -> subprocess.CompletedProcess:
        environment = os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache"), "NO_COLOR": "1"}
        ended = subprocess.run(
            [self.relora, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if ended.returncode != code:
            raise AssertionError(f"relora {arguments} ended {ended.returncode}\n{ended.stderr}")
        return ended

    def suite(self, out, *more):
        fixed = ["--profile", "tiny.toml", "--data", "corpus.jsonl", "--device", "cpu"]
        self.run("bench-all", *fixed, "--out", out, *more)

    def evaluate(self, directory, data, length) -> dict:
        arguments = ["--data", data, "--sequence-length", length, "--device", "cpu", "--json"]
        return json.loads(self.run("eval", directory, *arguments).stdout)


def stories(count: int, seed: int) -> list[str]:
    who = ["the miller", "a sailor", "the old queen", "my neighbour", "a fox", "the wind"]
    does = ["carries", "finds", "forgets", "paints", "counts", "follows"]
    what = ["a lantern", "the map", "seven stones", "the river", "a letter", "the road"]
    draw = random.Random(seed)
    sentence = lambda: f" And then {draw.choice(who)} {draw.choice(does)} {draw.choice(what)}."
    return [f"Story {number}." + "".join(sentence() for _ in range(8)) for number in range(count)]


def write_documents(path: Path, documents: list[str]):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def rows_of(tokenizer, documents: list[str]) -> tuple[int, list[list[int]]]:
    """The stream of all documents, each followed by its end, in SEQUENCES rows that share one token with their neighbour."""
    stream = []
    for text in documents:
        stream += tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
    targets = len(stream) - 1
    length = math.ceil(targets / SEQUENCES)
    rows = [stream[start : start + length + 1] for start in range(0, targets, length)]
    assert len(rows) == SEQUENCES, len(rows)
    return length, rows


@torch.no_grad()
def loss_of(model, rows) -> tuple[float, int]:
    """Mean loss over the targets of all rows, each once, by the model's own forward pass."""
    total, targets = 0.0, 0
    for row in rows:
        row = torch.tensor([row])
        logits = model(input_ids=row[:, :-1]).logits[0].double()
        total += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
        targets += row.shape[1] - 1
    return total / targets, targets


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert type(model).__name__ == "LlamaForCausalLM", type(model)
    return model.eval()


def same_loss(world, name, directory, model, documents):
    """Compares the loss that `relora eval` gives a folder with that of the model that was loaded from it."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    length, rows = rows_of(tokenizer, documents)
    write_documents(world.folder / "held-out.jsonl", documents)
    theirs, targets = loss_of(model, rows)
    ours = world.evaluate(directory, "held-out.jsonl", length)
    compare(name, ours, theirs, targets)
    return ours["loss"], theirs


def compare(name, ours, theirs, targets):
    assert ours["targets"] == targets, (ours["targets"], targets)
    difference = abs(ours["loss"] - theirs) / theirs
    print(f"  {name:34} ours {ours['loss']:.9f}  theirs {theirs:.9f}  relative {difference:.1e}")
    assert difference < TOLERANCE, name


def exports(world):
    """Base, merged and adapter forms of every kind of run."""
    documents = stories(40, seed=2)
    for method in ["full", "relora", "low-rank", "relora-scaled"]:
        run, merged = f"out/tiny-{method}-seed1", world.folder / f"merged-{method}"
        world.run("export", run, merged)
        ours, _ = same_loss(world, f"{method}, merged", merged, load(merged), documents)
        if method == "full":
            continue
        base = world.folder / f"base-{method}"
        world.run("export", run, base, "--adapter")
        ours_base, _ = same_loss(world, f"{method}, base alone", base, load(base), documents)
        assert ours_base != ours, "the factors make a difference"
        # What peft computes with the factors apart is what the merged model computes, in ours and in theirs.
        model = PeftModel.from_pretrained(load(base), base / "adapter").eval()
        length, rows = rows_of(AutoTokenizer.from_pretrained(base), documents)
        theirs, targets = loss_of(model, rows)
        compare(f"{method}, base and adapter", world.evaluate(merged, "held-out.jsonl", length), theirs, targets)
        theirs, _ = loss_of(model.merge_and_unload(), rows)
        compare(f"{method}, merged by peft", world.evaluate(merged, "held-out.jsonl", length), theirs, targets)


def made(world, name, tokenizer_from, **changes) -> Path:
    """A folder that transformers makes: random weights, larger than usual so that the loss depends on all of them."""
    torch.manual_seed(5)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    settings = dict(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    how = {key: changes.pop(key) for key in ["max_shard_size"] if key in changes}
    dtype = changes.pop("dtype", torch.float32)
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).to(dtype)
    directory = world.folder / name
    model.save_pretrained(directory, **how)
    tokenizer.save_pretrained(directory)
    return directory


def imports(world):
    """Models that transformers made and saved: evaluated, and started from."""
    documents = stories(40, seed=3)
    tokenizer = world.folder / "merged-full"
    for name, changes in {
        "untied": {},
        "tied": {"tie_word_embeddings": True},
        "sharded": {"max_shard_size": "20KB"},
        "bfloat16": {"dtype": torch.bfloat16},
        "float16": {"dtype": torch.float16, "tie_word_embeddings": True},
        "padded-vocabulary": {"vocab_size": 352},
    }.items():
        directory = made(world, name, tokenizer, **changes)
        if name == "sharded":
            assert (directory / "model.safetensors.index.json").exists()
        same_loss(world, f"made by transformers, {name}", directory, load(directory), documents)
        # With a rate that moves nothing, what is trained and exported is what it was started from.
        for method in ["full", "relora"]:
            fixed = ["--profile", "tiny.toml", "--data", "corpus.jsonl", "--device", "cpu", "--steps", "24"]
            out = world.folder / f"from-{name}"
            world.run(
                "train", "--init-from", directory, "--method", method, "--set", "learning_rate=1e-30", *fixed, "--out", out
            )
            world.run("export", out / f"{name}-{method}-seed1", out / method)
            ours = load_file(out / method / "model.safetensors")
            theirs = load(directory).state_dict()
            assert ours.keys() == theirs.keys(), (ours.keys(), theirs.keys())
            for tensor, value in theirs.items():
                assert torch.equal(ours[tensor], value), (name, method, tensor)
        print(f"  {name + ', trained from':34} {len(theirs)} tensors equal after full and relora steps of no size")


def refusals(world):
    """What cannot be computed is refused in a line, not approximated."""
    tokenizer = world.folder / "merged-full"
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    rope = {"rope_parameters": scaled} if "rope_parameters" in LlamaConfig().to_dict() else {"rope_scaling": scaled}
    for name, changes, said in [
        ("grouped", {"num_attention_heads": 4, "num_key_value_heads": 2}, "grouped-query attention"),
        ("scaled", rope, "rotary"),
        ("biased", {"attention_bias": True}, "attention_bias"),
        ("epsilon", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("activation", {"hidden_act": "gelu"}, "hidden_act"),
    ]:
        directory = made(world, f"refused-{name}", tokenizer, **changes)
        for arguments in [
            ("eval", directory, "--data", "corpus.jsonl"),
            ("train", "--init-from", directory, "--method", "full", "--data", "corpus.jsonl", "--device", "cpu"),
        ]:
            ended = world.run(*arguments, code=2)
            lines = ended.stderr.splitlines()
            assert len(lines) == 1 and said in lines[0], ended.stderr
        print(f"  {lines[0].split('config.json: ')[-1]}")


def generation(world):
    """Text that transformers generates decodes, and text survives the tokenizer."""
    directory = world.folder / "merged-full"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "Story 7. And then the miller counts seven stones. Ünïcode, too: 石."
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    model = load(directory)
    prompt = tokenizer("Story 7. And then", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    generated = tokenizer.decode(out[0], skip_special_tokens=True)
    assert generated.startswith("Story 7. And then") and len(generated) > 30, generated
    print(f"  {generated!r}")


TASK = """
task: stories
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
metadata:
  version: 1.0
"""


def harness(world):
    """lm-eval runs a task on an exported folder as on any other, and finds what we compute for its definition."""
    documents = stories(6, seed=4)
    write_documents(world.folder / "task.jsonl", documents)
    tasks = world.folder / "tasks"
    tasks.mkdir()
    (tasks / "stories.yaml").write_text(TASK.format(data=world.folder / "task.jsonl"))
    directory = world.folder / "merged-relora"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", "stories", "--include_path", tasks]
    command += ["--model_args", f"pretrained={directory},dtype=float32", "--device", "cpu", "--batch_size", "1"]
    command += ["--output_path", world.folder / "lm-eval"]
    environment = os.environ | {"HF_HOME": str(world.folder / "hf-home"), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, cwd=world.folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = next((world.folder / "lm-eval").rglob("results*.json"))
    results = json.loads(found.read_text())["results"]["stories"]
    bits = results["bits_per_byte,none"]
    # Its definition: each document by itself behind one end of text, in windows of the model's length.
    tokenizer, model = AutoTokenizer.from_pretrained(directory), load(directory)
    window, total, count = model.config.max_position_embeddings, 0.0, 0
    for text in documents:
        tokens = tokenizer(text).input_ids
        stream, done = [tokenizer.eos_token_id] + tokens, 0
        while done < len(tokens):
            new = min(window, len(tokens) - done)
            # The first window is short of context; later ones are filled up with the tokens before them.
            begin = max(0, done + new - window)
            row = torch.tensor([stream[begin : done + new + 1]])
            with torch.no_grad():
                logits = model(input_ids=row[:, :-1]).logits[0].double()
            losses = torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="none")
            total += losses[-new:].sum().item()
            done += new
        count += len(text.encode())
    expected = total / math.log(2) / count
    print(f"  bits per byte of six documents      lm-eval {bits:.6f}  by hand {expected:.6f}")
    assert abs(bits - expected) < 1e-4 * expected


def events(world):
    """TensorBoard reads from every event file what stands in metrics.jsonl, also where a run has been resumed."""
    # One run once more, killed at different moments, under the same name as an undisturbed one.
    command = ["bench-all", "--profile", "tiny.toml", "--data", "corpus.jsonl", "--device", "cpu", "--only", "relora"]
    command += ["--set", "checkpoint_every=5", "--out", "resumed", "--tensorboard"]
    environment = os.environ | {"XDG_CACHE_HOME": str(world.folder / "cache")}
    metrics = world.folder / "resumed/tiny-relora-seed1/metrics.jsonl"
    for lines in [8, 25]:
        child = subprocess.Popen(
            [world.relora, *command], cwd=world.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while child.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > lines):
            pass
        child.kill()
        child.wait()
    world.run(*command)
    sessions = json.loads(metrics.with_name("manifest.json").read_text())["sessions"]
    # And one whose event file was asked for when it had ended.
    world.suite("late", "--only", "full")
    world.suite("late", "--only", "full", "--tensorboard")
    late = world.folder / "late/tiny-full-seed1"
    for run in [*sorted((world.folder / "out").glob("tiny-*")), metrics.parent, late]:
        accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0})
        accumulator.Reload()
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        compared = 0
        for tag, kind in {
            "loss": "step",
            "learning_rate": "step",
            "grad_norm": "step",
            "tokens_per_second": "step",
            "validation_loss": "evaluation",
        }.items():
            expected = [(r["step"], r[tag]) for r in records if r["type"] == kind and r[tag] is not None]
            found = [(event.step, event.value) for event in accumulator.Scalars(tag)]
            single = lambda value: torch.tensor(value, dtype=torch.float64).float().item()
            assert found == [(step, single(value)) for step, value in expected], (run, tag)
            assert expected, tag
            compared += len(expected)
        assert sorted(accumulator.Tags()["scalars"]) == sorted(
            ["loss", "learning_rate", "grad_norm", "tokens_per_second", "validation_loss"]
        )
        print(f"  {run.parent.name + '/' + run.name:34} {compared} values as in metrics.jsonl")
    assert len(sessions) > 1, "the run had ended before it was killed"
    print(f"  the resumed run had {len(sessions)} processes")


def main():
    relora = Path(sys.argv[1])
    packages = ["torch", "transformers", "peft", "tokenizers", "safetensors", "tensorboard", "lm-eval"]
    print("python", sys.version.split()[0], "", ", ".join(f"{name} {version(name)}" for name in packages))
    print(subprocess.run([relora, "--version"], capture_output=True, text=True, check=True).stdout.strip())
    folder = Path(tempfile.mkdtemp(prefix="relora-hf-"))
    try:
        world = World(relora, folder)
        for check in [exports, imports, refusals, generation, harness, events]:
            print(f"\n{check.__doc__}")
            check(world)
    finally:
        shutil.rmtree(folder)
    print("\nall of it agrees")


main()
