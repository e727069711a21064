//! `relora eval`: the loss of a Hugging Face folder over a whole text, by the definition that runs are evaluated with: all
//! documents as one stream, each followed by its end of text, every token but the first a target once.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use datasets::source::Item;
use datasets::store::Writer;
use datasets::tokenizer::Tokenizer;
use datasets::{BadLines, Batches, DataError, Layout, Order, SourceSpec, Split, Store};
use models::{AdamW, Draw, Draws};
use rayon::prelude::*;
use results::render::number_of;
use serde::Serialize;

use super::request::place;
use super::{print, print_json};
use crate::cli::{EvalOptions, PlaceOptions};
use crate::exit::{Exit, UserError};
use crate::hugging_face::Folder;
use crate::kernels::Kernels;
use crate::micro_batch;
use crate::progress::warn;
use crate::run::view;
use crate::stop;

/// Longest sequences where none are asked for: a model made for more is rarely meant to be fed so much on a small machine.
const LONGEST_BY_DEFAULT: usize = 1024;

/// Text is tokenized in parallel in portions of so many documents.
const PORTION: usize = 4096;

/// What an evaluation found.
#[derive(Clone, Debug, Serialize)]
struct Evaluation {
    /// Mean loss over all targets, nats per token; none where it is not finite.
    loss: Option<f64>,
    perplexity: Option<f64>,
    bits_per_byte: Option<f64>,
    targets: u64,
    documents: u64,
    text_bytes: u64,
    sequence_length: usize,
    parameters: u64,
    device: String,
    precision: String,
}

/// Evaluates the folder and prints what it found.
///
/// # Errors
/// Those of [`Folder::open`]; a text that cannot be used; a device that is not there, or fails.
pub fn run(options: EvalOptions) -> Result<Exit> {
    let folder = Folder::open(&options.directory)?;
    let tokenizer = folder.tokenizer()?;
    let (device, precision) = place(&PlaceOptions {
        device: options.device,
        precision: Some(options.precision),
        ..PlaceOptions::default()
    })?;
    let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
    stop::leave_on_signals(
        "stopped before the whole text was read; nothing is kept",
        Some(directory.path().to_owned()),
    )?;
    let store = Arc::new(tokenize(&options.data, &tokenizer, directory.path())?);
    let targets = store.validation_tokens().saturating_sub(1);
    if targets == 0 {
        let message = format!("{}: no text to predict in it", options.data.display());
        return Err(UserError::new(message).into());
    }
    let longest = folder.config.longest_sequence.min(LONGEST_BY_DEFAULT);
    let sequence_length = options
        .sequence_length
        .unwrap_or(longest)
        .min(usize::try_from(targets).unwrap_or(usize::MAX));
    if sequence_length > folder.config.longest_sequence {
        warn(&format!(
            "note: sequences of {}; {} was made for at most {} (max_position_embeddings)",
            number_of(sequence_length, "token"),
            options.directory.display(),
            folder.config.longest_sequence
        ));
    }
    let batches = Batches::new(
        Arc::clone(&store),
        Split::Validation,
        Order::Sequential,
        Layout::Packed,
        sequence_length,
        1,
        options.batch_size,
        options.batch_size,
    )?;
    let network = &folder.config.network;
    // Nothing is trained: any optimizer will do.
    let adamw = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
    };
    let _kept_to_the_end = Kernels::open(device);
    let sum = stop::without_panic(|| {
        let mut learner = models::learner(network, &adamw, device, precision, &Nothing)?;
        folder.load_into(learner.as_mut())?;
        let mut sum = 0.0;
        for sequences in batches.pass() {
            sum += learner.evaluate(view(&sequences?))?.sum;
        }
        Ok(sum)
    });
    let sum = sum.map_err(|error| {
        if !micro_batch::is_out_of_memory(&error) {
            return error;
        }
        anyhow!(
            "device {device} ran out of memory with --batch-size {}; a smaller one takes less",
            options.batch_size
        )
    })?;
    let loss = Some(sum / targets as f64).filter(|loss| loss.is_finite());
    let bytes = store.validation_text_bytes();
    let evaluation = Evaluation {
        loss,
        perplexity: loss.map(f64::exp),
        bits_per_byte: loss
            .map(|loss| loss / std::f64::consts::LN_2 * targets as f64 / bytes as f64)
            .filter(|bits| bits.is_finite()),
        targets,
        documents: store.documents(Split::Validation),
        text_bytes: bytes,
        sequence_length,
        parameters: network.parameters(),
        device: device.to_string(),
        precision: precision.to_string(),
    };
    if options.json {
        print_json(&evaluation)?;
    } else {
        print(&shown(&evaluation))?;
    }
    Ok(Exit::Success)
}

fn shown(evaluation: &Evaluation) -> String {
    let number = |value: Option<f64>| {
        value.map_or_else(|| "not finite".into(), |value| format!("{value:.6}"))
    };
    format!(
        "loss           {} nats per token\nperplexity     {}\nbits per byte  {}\n\n{} in {} of {}, sequences of {}\n",
        number(evaluation.loss),
        number(evaluation.perplexity),
        number(evaluation.bits_per_byte),
        number_of(evaluation.targets, "target"),
        number_of(evaluation.documents, "document"),
        number_of(evaluation.text_bytes, "byte"),
        number_of(evaluation.sequence_length, "token"),
    )
}

/// All documents of a text as a token store in `directory`, none of them held out.
fn tokenize(path: &Path, tokenizer: &Tokenizer, directory: &Path) -> Result<Store> {
    let source = SourceSpec::from_path(path)?.open()?;
    let mut writer = Writer::create(
        directory,
        tokenizer.as_bytes(),
        tokenizer.vocabulary(),
        tokenizer.end_of_text(),
    )?;
    let mut portion: Vec<String> = Vec::new();
    let mut flush = |portion: &mut Vec<String>| -> Result<(), DataError> {
        // Collected in order, so the threads decide nothing.
        let tokens: Vec<Vec<u32>> = portion
            .par_iter()
            .map(|text| tokenizer.encode(text))
            .collect::<Result<_, DataError>>()?;
        for (text, mut tokens) in portion.drain(..).zip(tokens) {
            if tokens.is_empty() {
                continue;
            }
            tokens.push(tokenizer.end_of_text());
            writer.push(Split::Validation, &tokens, text.len() as u64)?;
        }
        Ok(())
    };
    let mut unusable: Option<String> = None;
    source.visit(&mut |item| {
        match item {
            Item::Document { text, .. } => portion.push(text),
            Item::Bad(line) => {
                unusable.get_or_insert_with(|| line.to_string());
                return Ok(ControlFlow::Break(()));
            }
        }
        if portion.len() >= PORTION {
            flush(&mut portion)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some(line) = unusable {
        // A loss over what happened to be readable would be that of another text.
        return Err(UserError::new(line).into());
    }
    flush(&mut portion)?;
    writer.finish(None, None, BadLines::default())?;
    Ok(Store::open(directory)?)
}

/// Weights to be replaced at once.
struct Nothing;

impl Draws for Nothing {
    fn values(&self, what: &Draw<'_>) -> Vec<f32> {
        vec![0.0; what.shape[0] * what.shape[1]]
    }
}
