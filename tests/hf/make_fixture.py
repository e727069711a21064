"""Makes tests/fixtures/hugging-face: a LLaMA as Python's transformers saves it, a text, and the losses that transformers
computes on it. What it prints goes into no file; the versions it was last made with are in losses.json.

    python tests/hf/make_fixture.py        (in the environment that `just test-hf` makes)
"""

import json
import random
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LENGTH = 24  # tokens of a sequence
FOLDER = Path(__file__).parent.parent / "fixtures/hugging-face"


def documents():
    draw = random.Random(11)
    fish = ["herring", "pike", "an eel", "two carp", "one old trout"]
    where = ["under the bridge", "in the mill pond", "off the pier", "at dawn"]
    return [" ".join(f"We saw {draw.choice(fish)} {draw.choice(where)}." for _ in range(6)) for _ in range(12)]


@torch.no_grad()
def loss(model, stream):
    """Mean over all targets of the stream, each once: rows share one token with their neighbours."""
    total = 0.0
    for start in range(0, len(stream) - 1, LENGTH):
        row = torch.tensor([stream[start : start + LENGTH + 1]])
        logits = model(input_ids=row[:, :-1]).logits[0].double()
        total += torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
    return total / (len(stream) - 1)


texts = documents()
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator(
    texts, trainers.BpeTrainer(vocab_size=288, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
)
PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<|endoftext|>", model_max_length=64
).save_pretrained(FOLDER / "model")

tokenizer = AutoTokenizer.from_pretrained(FOLDER / "model")
torch.manual_seed(17)
config = LlamaConfig(
    vocab_size=len(tokenizer),
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=64,
    initializer_range=0.2,  # ten times the usual, so that the loss depends on every weight
    bos_token_id=tokenizer.eos_token_id,
    eos_token_id=tokenizer.eos_token_id,
)
model = LlamaForCausalLM(config).eval()
for name, parameter in model.named_parameters():
    if "norm" in name:
        torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
model.save_pretrained(FOLDER / "model")
(FOLDER / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

stream = [token for text in texts for token in tokenizer(text).input_ids + [tokenizer.eos_token_id]]
losses = {"untied": loss(model, stream)}
halves = lambda dtype: LlamaForCausalLM.from_pretrained(FOLDER / "model", dtype=dtype).to(torch.float32).eval()
losses["bf16"] = loss(halves(torch.bfloat16), stream)
losses["f16"] = loss(halves(torch.float16), stream)
model.lm_head.weight = model.model.embed_tokens.weight
losses["tied"] = loss(model, stream)
made_with = {name: version(name) for name in ["torch", "transformers", "tokenizers"]}
written = {"sequence_length": LENGTH, "targets": len(stream) - 1, "losses": losses, "made_with": made_with}
(FOLDER / "losses.json").write_text(json.dumps(written, indent=2) + "\n")
print(json.dumps(written, indent=2))
