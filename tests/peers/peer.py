"""One PyTorch program to be measured against: trains a LLaMA of `transformers` on generated tokens, prints one JSON line.

It is as fast as PyTorch makes it in the precision that is asked for: attention by `scaled_dot_product_attention`, no key-value
cache, the fused AdamW, gradients set to None. `--device cuda` trains on a GPU, `--dtype bf16` with everything in bf16, Adam's
moments included, as `relora --precision bf16` does. `full` trains everything; `relora` puts a frozen weight and a product of two
factors in every linear layer, as the paper's code does; `peft` lets the library `peft` do so. `compile` runs the model
through `torch.compile`, where a C++ compiler is at hand.
"""

import argparse
import json
import os
import resource
import statistics
import time

ARGUMENTS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("hidden", "intermediate", "layers", "heads", "vocabulary", "batch", "seq", "threads"):
    ARGUMENTS.add_argument(f"--{name}", type=int, required=True)
ARGUMENTS.add_argument("--method", choices=("full", "relora", "peft"), required=True)
ARGUMENTS.add_argument("--rank", type=int, default=128)
ARGUMENTS.add_argument("--steps", type=int, default=10, help="that are timed, after two that are not")
ARGUMENTS.add_argument("--compile", action="store_true")
ARGUMENTS.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N")
ARGUMENTS.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
OPTIONS = ARGUMENTS.parse_args()
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(OPTIONS.threads)

import torch  # noqa: E402  (after the number of threads is set)
import transformers  # noqa: E402

WARMUP_STEPS = 2


def seconds_since_start():
    """Since this process was created, imports included."""
    with open("/proc/self/stat") as file:
        started = int(file.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def peak_memory(device):
    """Of the process on the CPU, of what its allocator has taken from the device on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class LowRankLinear(torch.nn.Module):
    """`x·Wᵀ + s·(x·Aᵀ)·Bᵀ`, W frozen."""

    def __init__(self, linear, rank, scale):
        super().__init__()
        self.linear, self.scale = linear.requires_grad_(False), scale
        self.a = torch.nn.Parameter(torch.empty(rank, linear.in_features))
        self.b = torch.nn.Parameter(torch.zeros(linear.out_features, rank))
        torch.nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x):
        low_rank = torch.nn.functional.linear(torch.nn.functional.linear(x, self.a), self.b)
        return self.linear(x) + low_rank * self.scale


def with_factors(model):
    """Every linear layer of the blocks; embedding, norms and head go on being trained."""
    if OPTIONS.method == "peft":
        import peft

        config = peft.LoraConfig(
            r=OPTIONS.rank,
            lora_alpha=OPTIONS.rank,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        )
        model = peft.get_peft_model(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name or "base_layer" not in name)
    elif OPTIONS.method == "relora":
        for layer in model.model.layers:
            for part in (layer.self_attn, layer.mlp):
                for name, module in list(part.named_children()):
                    if isinstance(module, torch.nn.Linear):
                        setattr(part, name, LowRankLinear(module, OPTIONS.rank, 1.0))
    return model


def main():
    torch.set_num_threads(OPTIONS.threads)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=OPTIONS.hidden,
        intermediate_size=OPTIONS.intermediate,
        num_hidden_layers=OPTIONS.layers,
        num_attention_heads=OPTIONS.heads,
        vocab_size=OPTIONS.vocabulary,
        max_position_embeddings=max(1024, OPTIONS.seq),
        use_cache=False,
        attn_implementation="sdpa",
        tie_word_embeddings=False,
    )
    device = torch.device(OPTIONS.device)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[OPTIONS.dtype]
    model = with_factors(transformers.LlamaForCausalLM(config)).to(device, dtype)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    tokens = (torch.arange(OPTIONS.batch * OPTIONS.seq) * 2654435761 % OPTIONS.vocabulary).view(OPTIONS.batch, OPTIONS.seq)
    tokens = tokens.to(device)
    run = torch.compile(model) if OPTIONS.compile else model

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def step():
        wait()
        begun = time.perf_counter()
        run(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()
        return time.perf_counter() - begun

    step()
    first_step = seconds_since_start()
    for _ in range(WARMUP_STEPS - 1):
        step()
    seconds = [step() for _ in range(OPTIONS.steps)]
    print(json.dumps({
        "torch": torch.__version__,
        "device": str(device),
        "dtype": OPTIONS.dtype,
        "transformers": transformers.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sum(parameter.numel() for parameter in trained),
        "tokens_per_second": OPTIONS.batch * OPTIONS.seq / statistics.median(seconds),
        "first_step_seconds": first_step,
        "peak_memory_bytes": peak_memory(device),
    }))


if __name__ == "__main__":
    main()
