//! The network: parameter counts of official configs, and loss, logits and gradients of a small one.

use half::bf16;
use models::{
    AdamW, Base, Batch, Dtype, FactorInit, IGNORE, Learner, LowRank, Network, Scaling, Seeded,
    TensorInfo, Update,
};
use serde_json::Value;

use super::place::Place;
use super::{Case, Deviations, Folder, Replayed, count};

/// An f64 and an f32 rewrite of the official code agree with its losses to 1e-6.
const LOSS_TOLERANCE: f64 = 3e-6;

/// The same in bf16, which keeps eight bits of a logit: an estimate that no GPU has been held against yet.
const LOSS_TOLERANCE_IN_BF16: f64 = 3e-2;

/// Sums over up to 128 tokens in another order.
const GRADIENT_TOLERANCE: f64 = 2e-5;

/// Where a whole folder of trajectories keeps its network and tokens.
pub const COMMON: &str = "trajectory_common";

/// The network of a config as the official code reads it: its padding index of -1 freezes the last row of the embedding.
pub fn network(config: &Value) -> Result<Network, String> {
    let size = |key: &str| {
        config[key]
            .as_u64()
            .map(|size| size as usize)
            .ok_or(format!("the config has no {key}"))
    };
    let vocabulary = size("vocab_size")?;
    Ok(Network {
        hidden: size("hidden_size")?,
        intermediate: size("intermediate_size")?,
        layers: size("num_hidden_layers")?,
        heads: size("num_attention_heads")?,
        vocabulary,
        frozen_embedding_row: (config["pad_token_id"] == -1)
            .then_some(vocabulary.saturating_sub(1) as u32),
    })
}

/// A learner whose weights are those given.
pub fn learner(
    place: Place,
    network: &Network,
    adamw: &AdamW,
    tensors: impl Iterator<Item = (String, Vec<f32>)>,
) -> Result<Box<dyn Learner>, String> {
    let mut learner = place.learner(network, adamw, &Seeded { seed: 0 })?;
    let mut given = 0;
    for (name, values) in tensors {
        write(&mut *learner, &name, &values)?;
        given += 1;
    }
    let weights = learner
        .tensors()
        .iter()
        .filter(|info| harness::checkpoint::is_weight(info.role))
        .count();
    if given == weights {
        Ok(learner)
    } else {
        Err(format!("{given} of {weights} tensors given"))
    }
}

/// Gives a learner a tensor, and its master copy where it has one.
pub fn write(learner: &mut dyn Learner, name: &str, values: &[f32]) -> Result<(), String> {
    let mut written = false;
    for info in learner.tensors() {
        if info.name != name && info.name.strip_suffix(".master") != Some(name) {
            continue;
        }
        let bytes: Vec<u8> = match info.dtype {
            Dtype::F32 => values.iter().flat_map(|it| it.to_le_bytes()).collect(),
            Dtype::Bf16 => {
                let rounded = values.iter().map(|it| bf16::from_f32(*it));
                rounded.flat_map(bf16::to_le_bytes).collect()
            }
        };
        learner
            .write(&info.name, &bytes)
            .map_err(|error| format!("{}: {error}", info.name))?;
        written = true;
    }
    if written {
        Ok(())
    } else {
        Err(format!("there is no tensor {name}"))
    }
}

/// A tensor of a learner.
pub fn read(learner: &dyn Learner, name: &str) -> Result<Vec<f32>, String> {
    let is_named = |info: &TensorInfo| info.name == name;
    let info = learner.tensors().into_iter().find(is_named);
    let info = info.ok_or_else(|| format!("there is no tensor {name}"))?;
    let bytes = learner.read(name).map_err(|error| error.to_string())?;
    Ok(match info.dtype {
        Dtype::F32 => {
            let words = bytes.as_chunks().0.iter();
            words.map(|word| f32::from_le_bytes(*word)).collect()
        }
        Dtype::Bf16 => {
            let words = bytes.as_chunks().0.iter();
            words
                .map(|word| bf16::from_le_bytes(*word).to_f32())
                .collect()
        }
    })
}

/// A case for each config.
pub fn parameter_counts(stem: &str, recording: &Value) -> Vec<Case> {
    let configs = recording["configs"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let replay = |file: String, case: Value| {
        move || {
            let mut deviations = Deviations::default();
            let network = network(&case["config"])?;
            let mut same = |what: &str, ours: u64, recorded: &Value| {
                deviations.same(what, &Some(ours), &recorded.as_u64());
            };
            same("full", network.parameters(), &case["full"]["total"]);
            same(
                "linear layers",
                network.linear_parameters(),
                &case["full"]["transformer_linear"],
            );
            let rank = count(&case, "r", 0) as usize;
            for (kind, scaling) in [
                ("relora", Scaling::Fixed(1.0)),
                ("relora_train_scaling", Scaling::TanhScalar),
            ] {
                let low_rank = LowRank {
                    rank,
                    scaling,
                    base: Base::Keep,
                    factor_init: FactorInit::KaimingZero,
                    dropout: 0.0,
                };
                let recorded = &case[kind];
                same(
                    &format!("{kind} added"),
                    network.low_rank_parameters(&low_rank),
                    &recorded["added"],
                );
                same(
                    &format!("{kind} trainable"),
                    network.trainable_parameters(Some(&low_rank)),
                    &recorded["trainable"],
                );
                same(
                    &format!("{kind} total"),
                    network.total_parameters(Some(&low_rank)),
                    &recorded["total"],
                );
            }
            let name = file.trim_start_matches("llama_").trim_end_matches(".json");
            if let Some(named) = Network::named(name, network.vocabulary) {
                let recorded = Network {
                    frozen_embedding_row: named.frozen_embedding_row,
                    ..network
                };
                deviations.same("shape by its name", &named, &recorded);
            }
            Ok(deviations)
        }
    };
    configs
        .into_iter()
        .map(|(file, case)| Case::new(format!("{stem} {file}"), replay(file, case)))
        .collect()
}

/// One pass forward and backward from each state whose loss was recorded, over the first padded batch.
pub fn forward_backward(folder: &Folder, stem: &str) -> Case {
    let (folder, file) = (folder.clone(), format!("{stem}.safetensors"));
    Case::new(stem.into(), move || replay_forward_backward(&folder, &file))
}

fn replay_forward_backward(folder: &Folder, file: &str) -> Replayed {
    let mut deviations = Deviations::default();
    let loss_tolerance = folder
        .place()
        .tolerance(LOSS_TOLERANCE, LOSS_TOLERANCE_IN_BF16);
    let expected = folder.tensors(file)?;
    let common = folder.tensors(&format!("{COMMON}.safetensors"))?;
    let network = network(&folder.json(&format!("{COMMON}.json"))?["config"])?;
    let &[_, rows, length] = common.shape("tokens_pad")? else {
        return Err("tokens_pad is no list of batches".into());
    };
    let inputs = common
        .tokens("tokens_pad")?
        .into_iter()
        .take(rows * length)
        .collect::<Vec<_>>();
    // The official code predicts from all but the last token of a row, padding included.
    let targets: Vec<u32> = inputs
        .chunks(length)
        .flat_map(|row| row.iter().skip(1).copied().chain([IGNORE]))
        .collect();
    let batch = Batch {
        inputs: &inputs,
        targets: &targets,
        rows,
        length,
        index: 0,
    };
    let mean = 1.0 / batch.target_count() as f64;
    // With beta1 = 0 the first moment after an update is the gradient itself.
    let bare = AdamW {
        beta1: 0.0,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
    };

    let states: Vec<&str> = expected
        .names()
        .filter_map(|name| name.strip_suffix(".loss"))
        .collect();
    for state in states {
        let prefix = format!("{state}.");
        let given = common
            .under(&prefix)
            .map(|(name, values)| (name.to_owned(), values));
        let mut learner = learner(folder.place(), &network, &bare, given)?;
        let loss = expected
            .floats(&format!("{state}.loss"))?
            .first()
            .map_or(f64::NAN, |loss| f64::from(*loss));
        let evaluated = learner.evaluate(batch).map_err(|error| error.to_string())?;
        deviations.compare(
            "loss, evaluated",
            evaluated.sum * mean,
            loss,
            loss_tolerance,
            state,
        );

        if expected.has(&format!("{state}.logits_row0")) {
            let logits = expected.floats(&format!("{state}.logits_row0"))?;
            for (position, logits) in logits.chunks(network.vocabulary).enumerate() {
                // A learner tells no logits, but the loss of any one target.
                let target = (position * 37) % network.vocabulary;
                let mut only = vec![IGNORE; rows * length];
                only[position] = target as u32;
                let ours = learner
                    .evaluate(Batch {
                        targets: &only,
                        ..batch
                    })
                    .map_err(|error| error.to_string())?;
                let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
                let theirs = total.ln() - f64::from(logits[target]);
                deviations.compare(
                    "-ln p of one token",
                    ours.sum,
                    theirs,
                    loss_tolerance,
                    position,
                );
            }
        }

        learner.accumulate(batch, mean);
        learner.update(Update {
            step: 0,
            learning_rate: 0.0,
            grad_clip: None,
        });
        let readings = learner.drain().map_err(|error| error.to_string())?;
        let reading = readings.first().ok_or("no reading")?;
        deviations.compare("loss, trained", reading.loss, loss, loss_tolerance, state);
        let mut squares = 0.0;
        for (name, _) in common.under(&prefix) {
            let gradient = read(&*learner, &format!("{name}.exp_avg"))?;
            squares += gradient
                .iter()
                .map(|value| f64::from(*value).powi(2))
                .sum::<f64>();
            let recorded = format!("{state}.grad.{name}");
            if folder.place().is_f32() && expected.has(&recorded) {
                deviations.tensor(
                    "gradient",
                    &gradient,
                    &expected.floats(&recorded)?,
                    GRADIENT_TOLERANCE,
                    recorded,
                );
            }
        }
        deviations.compare(
            "norm, against its own gradient",
            reading.grad_norm / squares.sqrt(),
            1.0,
            folder.place().tolerance(1e-6, 1e-2),
            state,
        );
    }
    Ok(deviations)
}
