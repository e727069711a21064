//! Folders of Hugging Face's `transformers`: a LLaMA as `config.json`, `model.safetensors` and a tokenizer, read to start
//! from or to evaluate, and written from a run's checkpoint, merged or with its factors apart in the layout of `peft`.
//!
//! Our networks are one kind of LLaMA: no biases, as many key heads as query heads, rotary positions of base 10000, SiLU,
//! a norm with 1e-6 in its root, an untied head. A folder of any other kind would load and compute something else, so it
//! is refused with the entry of its `config.json` that says so. Names of tensors are the same on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use datasets::tokenizer::Tokenizer;
use half::bf16;
use models::ops::cpu::product::{Matrix, Threads, add_product};
use models::{Base, Dtype, Learner, LowRank, Network, Scaling, TensorRole};
use serde_json::{Value, json};

use crate::exit::{UserError, one_line};
use crate::files::{self, failed_to};
use crate::tensor_file::{self, TensorFile};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Base of the rotary positions.
const ROPE_THETA: f64 = 10_000.0;
/// Added to the mean square in a norm.
const NORM_EPSILON: f64 = 1e-6;

/// The linear layers of a block that low-rank factors are attached to, by their paths in it.
pub const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// What a folder's `config.json` comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network, its vocabulary included.
    pub network: Network,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// `max_position_embeddings`: the longest sequences that the model was made for.
    pub longest_sequence: usize,
}

impl Config {
    /// Reads the `config.json` of a folder.
    ///
    /// # Errors
    /// A file that is missing or no JSON; a network of another kind, with the entry that makes it so.
    pub fn read(directory: &Path) -> Result<Config, UserError> {
        let path = directory.join(CONFIG);
        if !path.is_file() {
            let lacks = if directory.is_dir() {
                format!("has no {CONFIG}")
            } else {
                "no such folder".to_owned()
            };
            return Err(UserError::new(format!(
                "{}: {lacks}; give a folder with {CONFIG}, {WEIGHTS} (or shards) and {TOKENIZER}, as `relora export` makes of a run",
                directory.display()
            )));
        }
        let value: Value = files::read_json(&path, "the configuration of a model")
            .map_err(|error| bad_input(&error))?;
        let entries = Entries {
            path: &path,
            value: &value,
        };
        entries.check_kind()?;
        let heads = entries.count("num_attention_heads", 1 << 10)?;
        let hidden = entries.count("hidden_size", 1 << 16)?;
        let network = Network {
            hidden,
            intermediate: entries.count("intermediate_size", 1 << 18)?,
            layers: entries.count("num_hidden_layers", 1 << 10)?,
            heads,
            vocabulary: entries.count("vocab_size", 1 << 24)?,
            frozen_embedding_row: None,
        };
        entries.insist(
            "num_key_value_heads",
            heads.into(),
            &format!("grouped-query attention: must be num_attention_heads = {heads}"),
        )?;
        network
            .check()
            .map_err(|error| UserError::new(format!("{}: {error}", path.display())))?;
        entries.insist(
            "head_dim",
            (hidden / heads).into(),
            &format!(
                "must be hidden_size / num_attention_heads = {}",
                hidden / heads
            ),
        )?;
        let longest_sequence = match entries.get("max_position_embeddings") {
            Value::Null => 2048,
            _ => entries.count("max_position_embeddings", 1 << 20)?,
        };
        Ok(Config {
            network,
            tied: entries.get("tie_word_embeddings") == &Value::Bool(true),
            longest_sequence,
        })
    }
}

/// The entries of a `config.json`.
struct Entries<'a> {
    path: &'a Path,
    value: &'a Value,
}

impl Entries<'_> {
    fn get(&self, key: &str) -> &Value {
        &self.value[key]
    }

    fn wrong(&self, key: &str, found: &Value, why: &str) -> UserError {
        UserError::new(format!("{}: {key} = {found}: {why}", self.path.display()))
    }

    /// A number that must be there.
    fn count(&self, key: &str, most: usize) -> Result<usize, UserError> {
        let found = self.get(key);
        found
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| (1..=most).contains(number))
            .ok_or_else(|| self.wrong(key, found, &format!("must be between 1 and {most}")))
    }

    /// An entry that, where it is there, must be this.
    fn insist(&self, key: &str, expected: Value, why: &str) -> Result<(), UserError> {
        let found = self.get(key);
        // 10000 and 10000.0 are the same number.
        let same = match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => found == expected,
            _ => *found == expected,
        };
        if found.is_null() || same {
            Ok(())
        } else {
            Err(self.wrong(key, found, why))
        }
    }

    /// Whether it is a LLaMA of our kind, its numbers aside.
    fn check_kind(&self) -> Result<(), UserError> {
        let kind = self.get("model_type");
        if kind != "llama" {
            return Err(self.wrong("model_type", kind, "must be \"llama\""));
        }
        let architectures = self.get("architectures");
        let names = architectures.as_array().map_or(&[][..], Vec::as_slice);
        if !(architectures.is_null() || names.iter().any(|name| name == "LlamaForCausalLM")) {
            let why = "must be [\"LlamaForCausalLM\"]";
            return Err(self.wrong("architectures", architectures, why));
        }
        let quantization = self.get("quantization_config");
        if !quantization.is_null() {
            let why = "quantized weights: must be saved as float32, bfloat16 or float16";
            return Err(self.wrong("quantization_config", quantization, why));
        }
        self.insist("hidden_act", "silu".into(), "must be \"silu\"")?;
        self.insist("attention_bias", false.into(), "biases: must be false")?;
        self.insist("mlp_bias", false.into(), "biases: must be false")?;
        self.insist("rms_norm_eps", NORM_EPSILON.into(), "must be 1e-6")?;
        self.insist("rope_theta", ROPE_THETA.into(), "must be 10000")?;
        // Where positions are described has changed from `rope_scaling` to `rope_parameters`.
        for key in ["rope_scaling", "rope_parameters"] {
            let rope = self.get(key);
            if rope.is_null() {
                continue;
            }
            let plain = [&rope["rope_type"], &rope["type"]]
                .iter()
                .all(|name| name.is_null() || **name == "default");
            let theta = rope["rope_theta"].as_f64().unwrap_or(ROPE_THETA);
            let whole = rope["partial_rotary_factor"].as_f64().unwrap_or(1.0);
            if !(rope.is_object() && plain && theta == ROPE_THETA && whole == 1.0) {
                let why = "scaled or other rotary positions: must be of type \"default\" with rope_theta 10000";
                return Err(self.wrong(key, rope, why));
            }
        }
        Ok(())
    }
}

/// A folder whose weights have the names, shapes and types that its configuration promises.
#[derive(Debug)]
pub struct Folder {
    /// What its `config.json` says.
    pub config: Config,
    directory: PathBuf,
    files: Vec<TensorFile>,
    /// In which of the files a tensor is.
    places: BTreeMap<String, usize>,
}

impl Folder {
    /// Opens a folder, sharded or not, and looks at all tensors but not at their elements.
    ///
    /// # Errors
    /// [`UserError`] for a folder that cannot be used: those of [`Config::read`]; weights that are missing, not
    /// safetensors, or of other names, shapes or types.
    pub fn open(directory: &Path) -> Result<Folder> {
        let config = Config::read(directory)?;
        let mut files = Vec::new();
        let mut places = BTreeMap::new();
        for path in weight_files(directory)? {
            let file = TensorFile::open(&path).map_err(|error| bad_input(&error))?;
            for name in file.names() {
                if places.insert(name.clone(), files.len()).is_some() {
                    let message = format!("{}: {name} is in two of its files", directory.display());
                    return Err(UserError::new(message).into());
                }
            }
            files.push(file);
        }
        let folder = Folder {
            config,
            directory: directory.to_owned(),
            files,
            places,
        };
        folder.check()?;
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn check(&self) -> Result<(), UserError> {
        let wrong = |text: String| {
            Err(UserError::new(format!(
                "{}: {text}",
                self.directory.display()
            )))
        };
        let expected = tensors(&self.config.network);
        for (name, shape) in &expected {
            let Ok(info) = self.file_of(name).and_then(|(file, name)| file.info(name)) else {
                return wrong(format!("{name} is missing from its weights"));
            };
            if info.shape != *shape {
                let found = &info.shape;
                return wrong(format!("{name} is of shape {found:?}, must be {shape:?}"));
            }
            let dtype = info.dtype.to_string();
            if !["F32", "BF16", "F16"].contains(&dtype.as_str()) {
                return wrong(format!("{name} is {dtype}, must be F32, BF16 or F16"));
            }
        }
        let unknown = self.places.keys().find(|name| {
            // Older versions of `transformers` saved the frequencies of the rotary positions as well.
            let derived = name.ends_with(".rotary_emb.inv_freq");
            !derived && !expected.iter().any(|(expected, _)| expected == *name)
        });
        match unknown {
            Some(name) => wrong(format!(
                "its weights hold {name}, which a LLaMA of its configuration does not have"
            )),
            None => Ok(()),
        }
    }

    /// The file that holds a tensor, and its name there: a tied head is the embedding.
    fn file_of<'a>(&self, name: &'a str) -> Result<(&TensorFile, &'a str)> {
        let name = if self.config.tied && name == HEAD {
            EMBEDDING
        } else {
            name
        };
        let place = self
            .places
            .get(name)
            .with_context(|| format!("{} lacks {name}", self.directory.display()))?;
        Ok((&self.files[*place], name))
    }

    /// The elements of a tensor.
    ///
    /// # Errors
    /// A name that the model does not have; what the disk says.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let (file, there) = self.file_of(name)?;
        file.values(there)
    }

    /// The hash of all weights in hexadecimal (BLAKE3): equal for equal weights, however they are spread over files.
    ///
    /// # Errors
    /// What the disk says.
    pub fn hash(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new_derive_key("relora initial weights, 1");
        for (name, _) in tensors(&self.config.network) {
            let (file, there) = self.file_of(&name)?;
            let bytes = file.bytes(there)?;
            let dtype = file.info(there)?.dtype.to_string();
            for part in [name.as_bytes(), dtype.as_bytes(), bytes.as_slice()] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Gives a full-rank learner of the same network all its weights, in the learner's own precision.
    ///
    /// # Errors
    /// What the disk or the device says.
    pub fn load_into(&self, learner: &mut dyn Learner) -> Result<()> {
        for info in learner.tensors() {
            let name = match info.role {
                TensorRole::Frozen | TensorRole::Trainable => info.name.as_str(),
                TensorRole::Master => info.name.trim_end_matches(".master"),
                TensorRole::FirstMoment | TensorRole::SecondMoment => continue,
            };
            let (file, there) = self.file_of(name)?;
            learner.write(&info.name, &to_bytes(file.values(there)?, info.dtype))?;
        }
        Ok(())
    }

    /// Its tokenizer, every token of which must have a row in the embedding.
    ///
    /// # Errors
    /// Those of [`tokenizer_file`]; a tokenizer that cannot be used, or of a larger vocabulary.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = tokenizer_file(&self.directory)?;
        let tokenizer = Tokenizer::load(&path)?;
        self.check_vocabulary(tokenizer.vocabulary() as usize)?;
        Ok(tokenizer)
    }

    /// Whether a tokenizer of so many tokens fits. Models are often padded to a rounder number of rows, which is fine.
    ///
    /// # Errors
    /// A vocabulary above the model's.
    pub fn check_vocabulary(&self, tokens: usize) -> Result<(), UserError> {
        let rows = self.config.network.vocabulary;
        if tokens <= rows {
            return Ok(());
        }
        Err(UserError::new(format!(
            "{}: vocab_size = {rows}, but its tokenizer has {tokens} tokens: not of one model",
            self.directory.display()
        )))
    }
}

/// The `tokenizer.json` of a folder.
///
/// # Errors
/// A folder without one.
pub fn tokenizer_file(directory: &Path) -> Result<PathBuf, UserError> {
    let path = directory.join(TOKENIZER);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!(
        "{}: has no {TOKENIZER}, and its model is of no use with another one",
        directory.display()
    );
    Err(UserError::new(message).hint(
        "`AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)` of Python's transformers writes it",
    ))
}

/// The files that hold a folder's weights: the one, or those that its index names.
fn weight_files(directory: &Path) -> Result<Vec<PathBuf>, UserError> {
    let single = directory.join(WEIGHTS);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let path = directory.join(INDEX);
    let index: Option<Value> = files::read_json_if_present(&path, "an index of weights")
        .map_err(|error| bad_input(&error))?;
    let Some(index) = index else {
        let message = format!(
            "{}: has neither {WEIGHTS} nor {INDEX}; `transformers` writes them with save_pretrained",
            directory.display()
        );
        return Err(UserError::new(message));
    };
    let names: BTreeSet<&str> = index["weight_map"]
        .as_object()
        .into_iter()
        .flat_map(|map| map.values().filter_map(Value::as_str))
        .collect();
    // Beside the index and nowhere else.
    let plain = |name: &&str| Path::new(name).file_name() == Some(name.as_ref());
    if names.is_empty() || !names.iter().all(plain) {
        let message = format!("{}: weight_map must name files beside it", path.display());
        return Err(UserError::new(message));
    }
    Ok(names.iter().map(|name| directory.join(name)).collect())
}

/// Every tensor of a network with its shape, in the order of use.
fn tensors(network: &Network) -> Vec<(String, Vec<usize>)> {
    let Network {
        hidden,
        intermediate,
        vocabulary,
        ..
    } = *network;
    let mut tensors = vec![(EMBEDDING.to_owned(), vec![vocabulary, hidden])];
    for layer in 0..network.layers {
        let norm = |name: &str| (format!("model.layers.{layer}.{name}.weight"), vec![hidden]);
        tensors.push(norm("input_layernorm"));
        for linear in LINEARS {
            if linear == "mlp.gate_proj" {
                tensors.push(norm("post_attention_layernorm"));
            }
            let shape = match linear {
                "mlp.gate_proj" | "mlp.up_proj" => vec![intermediate, hidden],
                "mlp.down_proj" => vec![hidden, intermediate],
                _ => vec![hidden, hidden],
            };
            tensors.push((format!("model.layers.{layer}.{linear}.weight"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors.push((HEAD.to_owned(), vec![vocabulary, hidden]));
    tensors
}

/// Values as a learner takes them.
fn to_bytes(values: Vec<f32>, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.into_iter().flat_map(f32::to_le_bytes).collect(),
        Dtype::Bf16 => values
            .into_iter()
            .flat_map(|value| bf16::from_f32(value).to_le_bytes())
            .collect(),
    }
}

fn bad_input(error: &anyhow::Error) -> UserError {
    UserError::new(one_line(error))
}

/// In which form a model is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One model: `W + s·BA` where there are factors.
    Merged,
    /// The weights under the factors as the model, and the factors in the folder `adapter` in it.
    Adapter,
}

/// A run's model, to be written as a folder.
pub struct Model<'a> {
    /// The network.
    pub network: Network,
    /// The factors, where the weights have them.
    pub low_rank: Option<LowRank>,
    /// Tokens of a sequence in training.
    pub sequence_length: u64,
    /// What made the tokens.
    pub tokenizer: &'a Tokenizer,
    /// The weights of a checkpoint.
    pub weights: &'a TensorFile,
}

impl Model<'_> {
    /// Writes the files of the model into a folder that is there and empty. All elements are `f32`, whatever the run
    /// computed in.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self, directory: &Path, form: Form) -> Result<()> {
        files::write_json(&directory.join(CONFIG), &self.config())?;
        files::write_json(
            &directory.join("generation_config.json"),
            &self.generation(),
        )?;
        files::write_json(
            &directory.join("tokenizer_config.json"),
            &self.tokenizer_config(),
        )?;
        files::write_atomically(&directory.join(TOKENIZER), self.tokenizer.as_bytes())?;
        let shapes = tensors(&self.network);
        tensor_file::write_f32(&directory.join(WEIGHTS), &shapes, |name, shape| {
            self.weight(name, shape, form)
        })?;
        if let (Form::Adapter, Some(low_rank)) = (form, &self.low_rank) {
            let adapter = directory.join("adapter");
            fs::create_dir(&adapter).map_err(failed_to("create", &adapter))?;
            self.write_adapter(&adapter, low_rank)?;
        }
        Ok(files::sync_directory(directory)?)
    }

    fn config(&self) -> Value {
        let Network {
            hidden,
            intermediate,
            layers,
            heads,
            vocabulary,
            ..
        } = self.network;
        let end_of_text = self.tokenizer.end_of_text();
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": hidden / heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.sequence_length,
            "initializer_range": 0.02,
            "rms_norm_eps": NORM_EPSILON,
            "rope_theta": ROPE_THETA,
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": false,
            // A document begins behind the end of the one before it.
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            // A padding token of its own would be a row of the embedding that is not trained.
            "pad_token_id": null,
            "torch_dtype": "float32",
            "use_cache": true,
        })
    }

    fn generation(&self) -> Value {
        let end_of_text = self.tokenizer.end_of_text();
        json!({
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text,
        })
    }

    fn tokenizer_config(&self) -> Value {
        let end_of_text = self.tokenizer.end_of_text_name();
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": end_of_text,
            "eos_token": end_of_text,
            "pad_token": end_of_text,
            "model_max_length": self.sequence_length,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": false,
        })
    }

    /// A tensor of the model; a weight that the method has done away with is zero.
    fn weight(&self, name: &str, shape: &[usize], form: Form) -> Result<Vec<f32>> {
        let module = name.trim_end_matches(".weight");
        let wraps = LINEARS.iter().any(|linear| module.ends_with(linear));
        let (Some(low_rank), &[outputs, inputs]) =
            (self.low_rank.as_ref().filter(|_| wraps), shape)
        else {
            return self.weights.values(name);
        };
        let mut weight = match low_rank.base {
            Base::Keep | Base::Zero => self.matrix(name, outputs, inputs)?,
            Base::None => vec![0.0; outputs * inputs],
        };
        if form == Form::Merged {
            let rank = low_rank.rank;
            let (a, b) = (
                self.matrix(&factor_a(module), rank, inputs)?,
                self.matrix(&factor_b(module), outputs, rank)?,
            );
            add_product(
                &mut weight,
                self.scale(module, low_rank)?,
                Matrix::new(&b, outputs, rank),
                Matrix::new(&a, rank, inputs),
                Threads::Pool,
            ); // W += s·BA
        }
        Ok(weight)
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>> {
        let found = &self.weights.info(name)?.shape;
        ensure!(
            *found == [rows, columns],
            "{name} of the checkpoint is of shape {found:?}; expected {:?}",
            [rows, columns]
        );
        self.weights.values(name)
    }

    /// `s` of a layer.
    fn scale(&self, module: &str, low_rank: &LowRank) -> Result<f32> {
        Ok(match low_rank.scaling {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "layers compute in f32 or less"
            )]
            Scaling::Fixed(scale) => scale as f32,
            Scaling::TanhScalar => {
                let values = self.weights.values(&format!("{module}.scaling"))?;
                values.first().copied().unwrap_or_default().tanh()
            }
        })
    }

    /// Writes the factors as `peft` names them. A learned scale differs from layer to layer, which `peft` has no place
    /// for: it is multiplied into B.
    fn write_adapter(&self, directory: &Path, low_rank: &LowRank) -> Result<()> {
        let rank = low_rank.rank;
        let scale = match low_rank.scaling {
            Scaling::Fixed(scale) => scale,
            Scaling::TanhScalar => 1.0,
        };
        let targets = LINEARS.map(|linear| linear.rsplit('.').next().unwrap_or(linear));
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": null,
            "r": rank,
            "lora_alpha": scale * rank as f64,
            "lora_dropout": low_rank.dropout,
            "target_modules": targets,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "inference_mode": true,
            "use_rslora": false,
            "use_dora": false,
        });
        files::write_json(&directory.join("adapter_config.json"), &config)?;
        const PREFIX: &str = "base_model.model.";
        let mut factors = Vec::new();
        for (name, shape) in tensors(&self.network) {
            let module = name.trim_end_matches(".weight");
            if LINEARS.iter().any(|linear| module.ends_with(linear)) {
                factors.push((
                    format!("{PREFIX}{}", factor_a(module)),
                    vec![rank, shape[1]],
                ));
                factors.push((
                    format!("{PREFIX}{}", factor_b(module)),
                    vec![shape[0], rank],
                ));
            }
        }
        let path = directory.join("adapter_model.safetensors");
        tensor_file::write_f32(&path, &factors, |name, _| {
            let name = name.trim_start_matches(PREFIX);
            let mut values = self.weights.values(name)?;
            if let (Scaling::TanhScalar, Some(module)) =
                (low_rank.scaling, name.strip_suffix(".lora_B.weight"))
            {
                let scale = self.scale(module, low_rank)?;
                values.iter_mut().for_each(|value| *value *= scale);
            }
            Ok(values)
        })?;
        Ok(files::sync_directory(directory)?)
    }
}

fn factor_a(module: &str) -> String {
    format!("{module}.lora_A.weight")
}

fn factor_b(module: &str) -> String {
    format!("{module}.lora_B.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tensors_are_those_that_a_learner_of_the_network_has() {
        let network = Network {
            layers: 2,
            ..Network::named("nano", 300).expect("a size")
        };
        let adamw = models::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        };
        let learner = models::learner(
            &network,
            &adamw,
            models::Device::Cpu,
            models::Precision::F32,
            &models::Seeded { seed: 0 },
        )
        .expect("a learner");
        let of_learner: Vec<(String, Vec<usize>)> = learner
            .tensors()
            .into_iter()
            .filter(|info| crate::checkpoint::is_weight(info.role))
            .map(|info| (info.name, info.shape))
            .collect();
        assert_eq!(tensors(&network), of_learner);
    }
}
