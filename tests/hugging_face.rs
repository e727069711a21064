//! Models to and from Hugging Face folders, without Python: against a folder that `transformers` made and the losses that
//! it computed (fixtures/hugging-face, made by hf/make_fixture.py). The libraries themselves come in with `just test-hf`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use serde_json::{Value, json};

use crate::support::{World, corpus, ended, patiently};

/// Largest relative difference of a loss in f32.
const TOLERANCE: f64 = 1e-5;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hugging-face")
}

fn json_of(path: &Path) -> Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// Copies the folder that `transformers` made to `name`.
pub fn model(world: &World, name: &str) -> PathBuf {
    let directory = world.path(name);
    fs::create_dir(&directory).expect("created");
    for entry in fs::read_dir(fixture().join("model")).expect("the fixture") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, directory.join(path.file_name().expect("a name"))).expect("copied");
    }
    directory
}

/// A tensor's type, shape and elements.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Tensor>;

fn weights(directory: &Path) -> Tensors {
    let bytes = fs::read(directory.join("model.safetensors")).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    file.iter()
        .map(|(name, view)| {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name.to_owned(), tensor)
        })
        .collect()
}

fn write_weights(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor");
        (name.as_str(), view)
    });
    serialize_to_file(views, None, path).expect("written");
}

/// Changes what is in the folder's weights.
fn edit_weights(directory: &Path, edit: impl FnOnce(&mut Tensors)) {
    let mut tensors = weights(directory);
    edit(&mut tensors);
    write_weights(&directory.join("model.safetensors"), &tensors);
}

fn edit_config(directory: &Path, key: &str, value: Value) {
    let path = directory.join("config.json");
    let mut config = json_of(&path);
    config[key] = value;
    fs::write(path, config.to_string()).expect("written");
}

/// Every element in another type of 16 bits.
fn in_halves(tensors: &mut Tensors, dtype: Dtype, half: impl Fn(f32) -> [u8; 2]) {
    for (kind, _, bytes) in tensors.values_mut() {
        *kind = dtype;
        let values = bytes.as_chunks::<4>().0.iter();
        *bytes = values
            .flat_map(|value| half(f32::from_le_bytes(*value)))
            .collect();
    }
}

/// What `relora eval` says of a folder.
fn evaluated(world: &World, folder: &str, data: &str, length: u64) -> Value {
    let length = length.to_string();
    let ended = world.succeed(&[
        "eval",
        folder,
        "--data",
        data,
        "--sequence-length",
        &length,
        "--device",
        "cpu",
        "--json",
    ]);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

fn assert_close(what: &str, found: &Value, expected: &Value) {
    let (found, expected) = (
        found.as_f64().expect("a loss"),
        expected.as_f64().expect("a loss"),
    );
    let difference = (found - expected).abs() / expected;
    assert!(
        difference < TOLERANCE,
        "{what}: {found}, not {expected}: {difference:e} relative"
    );
}

#[test]
fn a_model_that_transformers_saved_has_the_loss_that_transformers_computed() {
    let world = World::new();
    fs::copy(fixture().join("text.jsonl"), world.path("text.jsonl")).expect("copied");
    let recorded = json_of(&fixture().join("losses.json"));
    let length = recorded["sequence_length"].as_u64().expect("a length");

    model(&world, "untied");
    let tied = model(&world, "tied");
    edit_config(&tied, "tie_word_embeddings", true.into());
    edit_weights(&tied, |tensors| drop(tensors.remove("lm_head.weight")));
    let in_bf16 = model(&world, "bf16");
    edit_weights(&in_bf16, |tensors| {
        in_halves(tensors, Dtype::BF16, |value| {
            bf16::from_f32(value).to_le_bytes()
        });
    });
    let in_f16 = model(&world, "f16");
    edit_weights(&in_f16, |tensors| {
        in_halves(tensors, Dtype::F16, |value| {
            f16::from_f32(value).to_le_bytes()
        });
    });
    // The same as transformers splits it where a shard must not grow too large.
    let sharded = model(&world, "sharded");
    let first = weights(&sharded);
    let mut second = first.clone();
    let mut first = first;
    first.retain(|name, _| name.contains("layers.0"));
    second.retain(|name, _| !name.contains("layers.0"));
    let mut map = BTreeMap::new();
    for (file, tensors) in [("a.safetensors", &first), ("b.safetensors", &second)] {
        write_weights(&sharded.join(file), tensors);
        map.extend(tensors.keys().map(|name| (name.clone(), file)));
    }
    let index = json!({ "metadata": {}, "weight_map": map }).to_string();
    fs::write(sharded.join("model.safetensors.index.json"), index).expect("written");
    fs::remove_file(sharded.join("model.safetensors")).expect("removed");

    for (folder, recording) in [
        ("untied", "untied"),
        ("tied", "tied"),
        ("bf16", "bf16"),
        ("f16", "f16"),
        ("sharded", "untied"),
    ] {
        let found = evaluated(&world, folder, "text.jsonl", length);
        assert_eq!(found["targets"], recorded["targets"], "{folder}");
        assert_close(folder, &found["loss"], &recorded["losses"][recording]);
    }
    // How many go through the network at once decides no more than the order of a sum.
    let one = world.succeed(&[
        "eval",
        "untied",
        "--data",
        "text.jsonl",
        "--sequence-length",
        "24",
        "--batch-size",
        "1",
        "--device",
        "cpu",
        "--json",
    ]);
    let one: Value = serde_json::from_str(&one.stdout).expect("JSON");
    assert_close("one by one", &one["loss"], &recorded["losses"]["untied"]);
}

/// The documents that a suite held out, as a text of their own.
fn write_held_out(world: &World, suite: &str, name: &str) {
    let plan: toml::Value =
        toml::from_str(&fs::read_to_string(world.path(suite).join("plan.toml")).expect("a plan"))
            .expect("TOML");
    let store = Path::new(plan["store"].as_str().expect("a path"));
    let store = datasets::Store::open(store).expect("a store");
    let tokenizer =
        datasets::tokenizer::Tokenizer::load(&store.tokenizer_path()).expect("a tokenizer");
    let held_out: Vec<Vec<u32>> = (0..store.documents(datasets::Split::Validation))
        .map(|number| {
            let split = datasets::Split::Validation;
            let mut tokens = Vec::new();
            let range = store.document(split, number).expect("a document");
            store.read(split, range, &mut tokens).expect("tokens");
            tokens
        })
        .collect();
    let text: String = corpus(400)
        .lines()
        .filter(|line| {
            let document: Value = serde_json::from_str(line).expect("JSON");
            let mut tokens = tokenizer
                .encode(document["text"].as_str().expect("a text"))
                .expect("tokens");
            tokens.push(tokenizer.end_of_text());
            held_out.contains(&tokens)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(text.lines().count(), held_out.len());
    fs::write(world.path(name), text).expect("written");
}

#[test]
fn an_exported_run_has_the_loss_that_the_run_ended_with() {
    let world = World::new();
    let profile = fs::read_to_string(world.path("tiny.toml")).expect("a profile");
    let scaled = "\n[method.scaled]\npreset = \"relora\"\nscaling = \"tanh-scalar\"\n";
    let profile = profile.replace("\"relora\"]", "\"relora\", \"scaled\"]") + scaled;
    fs::write(world.path("tiny.toml"), profile).expect("written");
    world.succeed(&World::suite("out", &[]));
    write_held_out(&world, "out", "held-out.jsonl");
    for method in ["full", "lora", "low-rank", "relora", "scaled"] {
        let run = format!("out/tiny-{method}-seed1");
        let result = json_of(&world.path(&run).join("result.json"));
        let merged = format!("merged-{method}");
        world.succeed(&["export", &run, &merged]);
        let found = evaluated(&world, &merged, "held-out.jsonl", 16);
        assert_eq!(found["targets"], result["validation_targets"], "{method}");
        assert_close(method, &found["loss"], &result["validation_loss"]);
        let bits = result["validation_loss"].as_f64().expect("a loss")
            / std::f64::consts::LN_2
            / result["bytes_per_target"].as_f64().expect("bytes");
        assert_close(method, &found["bits_per_byte"], &bits.into());

        if method == "full" {
            continue;
        }
        // W + s·BA of the two parts is what the merged folder holds.
        let base = format!("base-{method}");
        world.succeed(&["export", &run, &base, "--adapter"]);
        let adapter = world.path(&base).join("adapter");
        let config = json_of(&adapter.join("adapter_config.json"));
        let number = |key: &str| config[key].as_f64().expect("a number");
        let scale = number("lora_alpha") / number("r");
        let bytes = fs::read(adapter.join("adapter_model.safetensors")).expect("factors");
        let factors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        assert_eq!(factors.len(), 2 * 7 * 2);
        let (base, merged) = (weights(&world.path(&base)), weights(&world.path(&merged)));
        assert!(base.keys().eq(merged.keys()));
        for (name, (_, shape, whole)) in &merged {
            let whole = floats(whole);
            let mut sum: Vec<f64> = floats(&base[name].2).into_iter().map(f64::from).collect();
            let module = name.trim_end_matches(".weight");
            let factor = |which: &str| {
                let name = format!("base_model.model.{module}.lora_{which}.weight");
                factors.tensor(&name).map(|view| floats(view.data()))
            };
            if let (Ok(a), Ok(b)) = (factor("A"), factor("B")) {
                let (rank, inputs) = (number("r") as usize, shape[1]);
                for (place, sum) in sum.iter_mut().enumerate() {
                    let (row, column) = (place / inputs, place % inputs);
                    let product: f64 = (0..rank)
                        .map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * inputs + column]))
                        .sum();
                    *sum += scale * product;
                }
            }
            for (sum, whole) in sum.iter().zip(&whole) {
                assert!((sum - f64::from(*whole)).abs() < 1e-6, "{method} {name}");
            }
        }
    }
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}

/// `train --init-from` of the tiny profile without its shape, into `out`.
fn start_from<'a>(folder: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "train",
        "--init-from",
        folder,
        "--method",
        "full",
        "--profile",
        "shapeless.toml",
        "--data",
        "corpus.jsonl",
        "--device",
        "cpu",
        "--out",
        out,
    ];
    fixed.into_iter().chain(more.iter().copied()).collect()
}

pub fn write_shapeless(world: &World) {
    let profile = fs::read_to_string(world.path("tiny.toml")).expect("a profile");
    let shape = ["hidden", "intermediate", "layers", "heads"];
    let shapeless: String = profile
        .lines()
        .filter(|line| {
            !shape
                .iter()
                .any(|key| line.starts_with(&format!("{key} =")))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(world.path("shapeless.toml"), shapeless).expect("written");
}

#[test]
fn training_starts_from_the_weights_of_a_folder() {
    let world = World::new();
    write_shapeless(&world);
    let tied = model(&world, "Small Model");
    edit_config(&tied, "tie_word_embeddings", true.into());
    edit_weights(&tied, |tensors| drop(tensors.remove("lm_head.weight")));
    // At a rate of no size the run ends where it began, the head a copy of the embedding.
    let ended = world.succeed(&start_from(
        "Small Model",
        "still",
        &["--set", "learning_rate=1e-30"],
    ));
    assert!(ended.stderr.contains("tied"), "{}", ended.stderr);
    world.succeed(&["export", "still/small-model-full-seed1", "copy"]);
    let (before, after) = (weights(&tied), weights(&world.path("copy")));
    for (name, tensor) in &after {
        let from = if name == "lm_head.weight" {
            "model.embed_tokens.weight"
        } else {
            name
        };
        assert_eq!(tensor, &before[from], "{name}");
    }
    // The tokenizer is the folder's own.
    for folder in ["Small Model", "copy"] {
        let tokenizer = fs::read(world.path(folder).join("tokenizer.json")).expect("read");
        let own = fs::read(fixture().join("model/tokenizer.json")).expect("read");
        assert_eq!(tokenizer, own, "{folder}");
    }
    let manifest = json_of(&world.path("still/small-model-full-seed1/manifest.json"));
    assert!(manifest["determines"]["initial_weights"].is_string());

    // A rate of some size goes somewhere, and an interrupted run to the same place.
    world.succeed(&start_from("Small Model", "whole", &[]));
    let run = "whole/small-model-full-seed1";
    let whole = json_of(&world.path(run).join("result.json"))["validation_loss"].clone();
    let still = json_of(&world.path("still/small-model-full-seed1/result.json"));
    assert!(whole.as_f64() < still["validation_loss"].as_f64());
    fs::remove_file(world.path(run).join("result.json")).expect("removed");
    fs::remove_dir_all(world.path(run).join("checkpoints")).expect("removed");
    world.succeed(&start_from("Small Model", "whole", &[]));
    let again = json_of(&world.path(run).join("result.json"))["validation_loss"].clone();
    assert_eq!(again, whole);

    // Other weights under the same name are another run.
    edit_weights(&tied, |tensors| {
        let norm = tensors.get_mut("model.norm.weight").expect("a norm");
        norm.2[..4].copy_from_slice(&0.5f32.to_le_bytes());
    });
    let ended = world.run(&start_from("Small Model", "whole", &[]));
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("initial_weights"), "{}", ended.stderr);
}

/// A folder that cannot be used: what is done to it, and what must be said.
type Refusal = (&'static str, fn(&Path), &'static [&'static str]);

fn config(key: &str, value: Value) -> impl Fn(&Path) {
    move |directory| edit_config(directory, key, value.clone())
}

const REFUSALS: &[Refusal] = &[
    (
        "grouped-query attention",
        |it| config("num_key_value_heads", 1.into())(it),
        &["num_key_value_heads = 1", "grouped-query", "2"],
    ),
    (
        "scaled positions, as they are described now",
        |it| {
            config(
                "rope_parameters",
                json!({ "rope_type": "linear", "factor": 2.0 }),
            )(it)
        },
        &["rope_parameters", "rotary"],
    ),
    (
        "scaled positions, as they were described",
        |it| config("rope_scaling", json!({ "type": "dynamic", "factor": 2.0 }))(it),
        &["rope_scaling", "rotary"],
    ),
    (
        "another base of the positions",
        |it| config("rope_theta", 500_000.0.into())(it),
        &["rope_theta = 500000", "10000"],
    ),
    (
        "another base of the positions, as it is described now",
        |it| {
            config(
                "rope_parameters",
                json!({ "rope_type": "default", "rope_theta": 5e5 }),
            )(it)
        },
        &["rope_parameters", "10000"],
    ),
    (
        "another activation",
        |it| config("hidden_act", "gelu".into())(it),
        &["hidden_act = \"gelu\"", "silu"],
    ),
    (
        "biases of attention",
        |it| config("attention_bias", true.into())(it),
        &["attention_bias = true"],
    ),
    (
        "biases of the MLP",
        |it| config("mlp_bias", true.into())(it),
        &["mlp_bias = true"],
    ),
    (
        "another epsilon",
        |it| config("rms_norm_eps", 1e-5.into())(it),
        &["rms_norm_eps", "1e-6"],
    ),
    (
        "another width of heads",
        |it| config("head_dim", 32.into())(it),
        &["head_dim = 32", "8"],
    ),
    (
        "another model",
        |it| config("model_type", "mistral".into())(it),
        &["model_type = \"mistral\"", "llama"],
    ),
    (
        "another head",
        |it| config("architectures", json!(["LlamaForSequenceClassification"]))(it),
        &["architectures", "LlamaForCausalLM"],
    ),
    (
        "quantized weights",
        |it| config("quantization_config", json!({ "bits": 4 }))(it),
        &["quantization_config"],
    ),
    (
        "a number that is none",
        |it| config("hidden_size", "wide".into())(it),
        &["hidden_size = \"wide\""],
    ),
    (
        "heads that do not divide the width",
        |it| {
            config("num_attention_heads", 3.into())(it);
            config("num_key_value_heads", 3.into())(it);
        },
        &["config.json", "3 heads"],
    ),
    (
        "no configuration",
        |it| fs::remove_file(it.join("config.json")).expect("removed"),
        &["config.json"],
    ),
    (
        "a configuration that is no JSON",
        |it| fs::write(it.join("config.json"), "vocab_size: 288").expect("written"),
        &["config.json"],
    ),
    (
        "no weights",
        |it| fs::remove_file(it.join("model.safetensors")).expect("removed"),
        &["model.safetensors"],
    ),
    (
        "weights that are cut off",
        |it| {
            let path = it.join("model.safetensors");
            let bytes = fs::read(&path).expect("read");
            fs::write(path, &bytes[..bytes.len() - 100]).expect("written");
        },
        &["model.safetensors", "cut off"],
    ),
    (
        "a tensor that is missing",
        |it| edit_weights(it, |tensors| drop(tensors.remove("model.norm.weight"))),
        &["model.norm.weight is missing"],
    ),
    (
        "an untied head that is missing",
        |it| edit_weights(it, |tensors| drop(tensors.remove("lm_head.weight"))),
        &["lm_head.weight is missing"],
    ),
    (
        "a tensor too many",
        |it| {
            edit_weights(it, |tensors| {
                let bias = (Dtype::F32, vec![1], vec![0; 4]);
                tensors.insert("model.layers.0.self_attn.q_proj.bias".into(), bias);
            });
        },
        &["model.layers.0.self_attn.q_proj.bias"],
    ),
    (
        "a tensor of another shape",
        |it| config("intermediate_size", 32.into())(it),
        &["mlp.gate_proj.weight is of shape [24, 16], must be [32, 16]"],
    ),
    (
        "elements of another type",
        |it| {
            edit_weights(it, |tensors| {
                let norm = (Dtype::I32, vec![16], vec![0; 64]);
                tensors.insert("model.norm.weight".into(), norm);
            });
        },
        &["model.norm.weight is I32"],
    ),
    (
        "an index that leads elsewhere",
        |it| {
            fs::rename(it.join("model.safetensors"), it.join("../elsewhere")).expect("renamed");
            let index = json!({ "weight_map": { "model.norm.weight": "../elsewhere" } });
            fs::write(it.join("model.safetensors.index.json"), index.to_string()).expect("written");
        },
        &["weight_map"],
    ),
    (
        "no tokenizer",
        |it| fs::remove_file(it.join("tokenizer.json")).expect("removed"),
        &["tokenizer.json"],
    ),
    (
        "a tokenizer with more tokens than the model",
        |it| {
            config("vocab_size", 280.into())(it);
            edit_weights(it, |tensors| {
                for name in ["model.embed_tokens.weight", "lm_head.weight"] {
                    let (_, shape, bytes) = tensors.get_mut(name).expect("a tensor");
                    shape[0] = 280;
                    bytes.truncate(280 * 16 * 4);
                }
            });
        },
        &["vocab_size = 280", "288 tokens"],
    ),
];

#[test]
fn what_would_compute_something_else_is_refused_with_the_reason() {
    let mut wrong = Vec::new();
    let world = World::new();
    write_shapeless(&world);
    for (index, (what, spoil, says)) in REFUSALS.iter().enumerate() {
        let name = format!("model-{index}");
        let directory = model(&world, &name);
        spoil(&directory);
        let eval = vec!["eval", &name, "--data", "corpus.jsonl", "--device", "cpu"];
        for arguments in [eval, start_from(&name, "out", &[])] {
            let ended = world.run(&arguments);
            let mut lines = ended
                .stderr
                .lines()
                .filter(|line| !line.starts_with("text: "));
            let line = lines.next().unwrap_or_default();
            let alone = lines.next().is_none_or(str::is_empty);
            let said = line.starts_with("error: ") && says.iter().all(|part| line.contains(part));
            if ended.code != Some(2) || !alone || !said || !ended.stdout.is_empty() {
                wrong.push(format!("{what}: should say {says:?}\n{ended:#?}"));
            }
        }
    }
    assert!(!world.path("out").exists());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The text is tokenized into a temporary folder, which may be as large as the text.
#[test]
fn an_interrupted_evaluation_leaves_nothing_behind() {
    let world = World::new();
    model(&world, "model");
    fs::write(world.path("long.jsonl"), corpus(100_000)).expect("written");
    let temporary = world.path("temporary");
    fs::create_dir(&temporary).expect("created");
    let mut command = world.command(&["eval", "model", "--data", "long.jsonl"]);
    let evaluation = command
        .env("TMPDIR", &temporary)
        .spawn()
        .expect("it starts");
    let entries = |folder: &Path| fs::read_dir(folder).expect("listed").count();
    patiently(|| {
        // Something in the folder of the text: by then it is known what to do with it.
        let folder = fs::read_dir(&temporary).expect("listed").next()?;
        (entries(&folder.ok()?.path()) > 0).then_some(())
    });
    kill(Pid::from_raw(evaluation.id() as i32), Signal::SIGINT).expect("sent");
    let ended = ended(evaluation);
    assert_eq!(ended.code, Some(75), "{ended:#?}");
    assert!(ended.stderr.contains("nothing is kept"), "{ended:#?}");
    assert_eq!(entries(&temporary), 0);
}

#[test]
fn what_cannot_be_exported_or_started_from_is_said_in_a_line() {
    let world = World::new();
    write_shapeless(&world);
    model(&world, "model");
    world.succeed(&World::suite("out", &["--only", "full"]));
    world.succeed(&["export", "out/tiny-full-seed1", "exported"]);
    fs::rename(
        world.path("out/tiny-full-seed1/checkpoints"),
        world.path("checkpoints"),
    )
    .expect("renamed");
    for (arguments, says) in [
        ("export out/tiny-full-seed1 new", "no checkpoint"),
        ("export out/tiny-full-seed2 new", "tiny-full-seed2"),
        ("export out new", "out: not a run of a suite"),
        ("export out/tiny-full-seed1 exported", "is there already"),
        (
            "export out/tiny-full-seed1 corpus.jsonl",
            "is there already",
        ),
        ("eval model --data nowhere.txt", "nowhere.txt"),
        ("eval nowhere --data corpus.jsonl", "nowhere"),
        (
            "eval model --data corpus.jsonl --batch-size 0",
            "--batch-size",
        ),
        (
            "train --init-from model --method control --profile shapeless.toml --data corpus.jsonl",
            "method control trains a network of its own",
        ),
        (
            "train --init-from model --size 9m --method full --profile shapeless.toml --data corpus.jsonl",
            "size 9m is [128, 352, 4, 4]",
        ),
        (
            "train --init-from model --method full --data corpus.jsonl --tokenizer corpus.jsonl",
            "tokenizer corpus.jsonl",
        ),
        ("train --method full", "--size"),
    ] {
        let ended = world.run(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(ended.code, Some(2), "{arguments}: {}", ended.stderr);
        let line = ended.stderr.lines().find(|line| line.contains(says));
        assert!(line.is_some(), "{arguments}: {}", ended.stderr);
    }
    assert!(!world.path("new").exists());
    // Factors that are not there cannot be kept apart.
    fs::rename(
        world.path("checkpoints"),
        world.path("out/tiny-full-seed1/checkpoints"),
    )
    .expect("renamed");
    let ended = world.run(&["export", "out/tiny-full-seed1", "new", "--adapter"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("no factors"), "{}", ended.stderr);
    // An empty folder is as good as a new one, and nothing is left beside it.
    fs::create_dir(world.path("new")).expect("created");
    world.succeed(&["export", "out/tiny-full-seed1", "new"]);
    let partial = fs::read_dir(world.path(""))
        .expect("listed")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .find(|name| name.ends_with(".partial"));
    assert_eq!(partial, None);
    // The tokenizer is that of the prepared text.
    fs::remove_dir_all(world.path("cache/relora/stores")).expect("removed");
    let ended = world.run(&["export", "out/tiny-full-seed1", "newer"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    for part in ["is not there any more", "prepares the text anew"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}
