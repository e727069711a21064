//! Text to a token store, once: under a lock, built beside its place and renamed into it, found again by the hash of
//! everything that determines it.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::source::{Item, Side, Source};
use crate::store::{self, SCHEMA, Split, Store};
use crate::tokenizer::{SAMPLE_BYTES, Tokenizer};
use crate::{BadLines, DataError, SourceSpec, TokenizerSpec};

/// Everything that determines a token store, except the contents of the files that it names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    pub source: SourceSpec,
    pub tokenizer: TokenizerSpec,
    pub validation: ValidationSpec,
    /// The share of a corpus's lines that may be unusable before the build stops, from 0 to 1.
    pub bad_line_share: f64,
}

/// Which documents are held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationSpec {
    /// The share of the documents that is held out, between 0 and 1. A hash of a document's text decides, so a document keeps
    /// its side when others are added, and equal documents are on one side. Sources with validation files of their own
    /// use those instead.
    pub share: f64,
    /// Validation ends before the document that would make it larger than this. Documents held out beyond it are not used.
    pub maximum_tokens: Option<u64>,
}

/// How far [`prepare`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: &'static str,
    /// Bytes of the inputs.
    pub done: u64,
    pub total: Option<u64>,
}

/// Text is tokenized in parallel in portions of this many bytes, and written in order.
const PORTION_BYTES: usize = 8 << 20;

/// Opens the store of `spec` under `cache_directory`, building it first if it is not there.
///
/// The folder's name is the hash of `spec` and of the contents of its inputs. Several processes may call this at once: one
/// builds, the others wait. A build that was killed leaves a folder that no one takes for a store and the next build removes.
///
/// # Errors
/// The text or the tokenizer cannot be used, or the store cannot be written.
pub fn prepare(
    spec: &DataSpec,
    cache_directory: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Store, DataError> {
    spec.check()?;
    let mut looking = |done, total| {
        progress(Progress {
            stage: "looking at the text",
            done,
            total,
        });
    };
    looking(0, None);
    let tokenizer = match &spec.tokenizer {
        TokenizerSpec::File { path } => Some(Tokenizer::load(path)?),
        TokenizerSpec::Train { .. } => None,
    };
    let source = spec.source.open()?;
    // Size and date of a file do not pin its contents, so they are read anew each time.
    let mut read = 0;
    let fingerprint = source.fingerprint(&mut |bytes| {
        read += bytes;
        looking(read, Some(source.size_bytes()));
    })?;
    let fingerprint = fingerprint.to_hex().to_string();
    let key = spec.key(&fingerprint, tokenizer.as_ref());
    let directory = cache_directory.join(&key);
    if let Ok(store) = Store::open(&directory) {
        return Ok(store);
    }
    fs::create_dir_all(cache_directory).map_err(|e| DataError::write(cache_directory, e))?;
    let lock_path = cache_directory.join(format!("{key}.lock"));
    let lock = File::create(&lock_path).map_err(|e| DataError::write(&lock_path, e))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress(Progress {
                stage: "waiting for another process that prepares this text",
                done: 0,
                total: None,
            });
            lock.lock().map_err(|e| DataError::write(&lock_path, e))?;
        }
        Err(TryLockError::Error(e)) => return Err(DataError::write(&lock_path, e)),
    }
    if let Ok(store) = Store::open(&directory) {
        return Ok(store);
    }
    // Under the lock, whatever lies there was left by a killed build, or was damaged later.
    let building = cache_directory.join(format!(".{key}.building"));
    for left in [&building, &directory] {
        if left.exists() {
            fs::remove_dir_all(left).map_err(|e| DataError::write(left, e))?;
        }
    }
    fs::create_dir(&building).map_err(|e| DataError::write(&building, e))?;
    let built = build(
        spec,
        source.as_ref(),
        tokenizer,
        fingerprint,
        &building,
        progress,
    )
    .and_then(|()| {
        fs::rename(&building, &directory).map_err(|e| DataError::write(&directory, e))?;
        store::sync_directory(cache_directory)
    });
    if let Err(error) = built {
        // The error that stopped the build is the one to tell; what cannot be removed now is removed by the next build.
        let _ = fs::remove_dir_all(&building);
        return Err(error);
    }
    Store::open(&directory)
}

impl DataSpec {
    fn check(&self) -> Result<(), DataError> {
        if !(0.0..=1.0).contains(&self.bad_line_share) {
            return Err(DataError::Share {
                name: "bad_line_share",
                value: self.bad_line_share,
                right: "between 0 and 1",
            });
        }
        let share = self.validation.share;
        if !(share > 0.0 && share < 1.0) {
            return Err(DataError::Share {
                name: "validation share",
                value: share,
                right: "above 0 and below 1",
            });
        }
        Ok(())
    }

    /// The name of the store's folder.
    fn key(&self, fingerprint: &str, tokenizer: Option<&Tokenizer>) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("relora token store, key, 1");
        let spec = serde_json::to_string(self)
            .expect("a specification is made of strings and finite numbers");
        let tokenizer = tokenizer.map(|t| t.hash().to_hex().to_string());
        let parts = [
            &SCHEMA.to_string(),
            &spec,
            fingerprint,
            tokenizer.as_deref().unwrap_or_default(),
        ];
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

fn build(
    spec: &DataSpec,
    source: &dyn Source,
    tokenizer: Option<Tokenizer>,
    fingerprint: String,
    directory: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), DataError> {
    let total = Some(source.size_bytes());
    let tokenizer = match (tokenizer, &spec.tokenizer) {
        (None, TokenizerSpec::Train { vocabulary }) => {
            train(spec, source, *vocabulary, &mut |done| {
                progress(Progress {
                    stage: "training the tokenizer",
                    done,
                    total: None,
                });
            })?
        }
        (Some(tokenizer), _) => tokenizer,
        (None, TokenizerSpec::File { path }) => Tokenizer::load(path)?,
    };
    let mut writer = store::Writer::create(
        directory,
        tokenizer.as_bytes(),
        tokenizer.vocabulary(),
        tokenizer.end_of_text(),
    )?;
    let mut validation_full = false;
    let mut portion: Vec<(Split, String)> = Vec::new();
    let mut portion_bytes = 0;
    let mut documents = 0;
    let mut flush = |portion: &mut Vec<(Split, String)>| -> Result<(), DataError> {
        // Collected in order, so the threads decide nothing.
        let tokens: Vec<Vec<u32>> = portion
            .par_iter()
            .map(|(_, text)| tokenizer.encode(text))
            .collect::<Result<_, DataError>>()?;
        for ((split, text), mut tokens) in portion.drain(..).zip(tokens) {
            // A tokenizer may drop all of a text (control characters); a document of an end alone has nothing to learn.
            if tokens.is_empty() {
                continue;
            }
            tokens.push(tokenizer.end_of_text());
            if split == Split::Validation
                && let Some(maximum) = spec.validation.maximum_tokens
            {
                let (held, new) = (writer.tokens(split), tokens.len() as u64);
                if held == 0 && new > maximum {
                    return Err(DataError::ValidationMaximum {
                        tokens: new,
                        maximum,
                    });
                }
                validation_full |= held + new > maximum;
                if validation_full {
                    continue;
                }
            }
            writer.push(split, &tokens, text.len() as u64)?;
        }
        Ok(())
    };
    let bad_lines = documents_of(spec, source, &mut |split, text, position| {
        documents += 1;
        portion_bytes += text.len();
        portion.push((split, text));
        if portion_bytes >= PORTION_BYTES {
            flush(&mut portion)?;
            portion_bytes = 0;
            progress(Progress {
                stage: "tokenizing",
                done: position,
                total,
            });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    flush(&mut portion)?;
    progress(Progress {
        stage: "tokenizing",
        done: source.size_bytes(),
        total,
    });
    for split in [Split::Training, Split::Validation] {
        if writer.tokens(split) == 0 {
            return Err(DataError::EmptySplit {
                text: spec.source.name(),
                split,
                documents,
                share: spec.validation.share,
            });
        }
    }
    writer.finish(Some(spec.clone()), Some(fingerprint), bad_lines)?;
    Ok(())
}

/// Trains the tokenizer on the first documents of the training split.
fn train(
    spec: &DataSpec,
    source: &dyn Source,
    vocabulary: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Tokenizer, DataError> {
    let mut sample = Vec::new();
    let mut sample_bytes = 0;
    progress(0);
    documents_of(spec, source, &mut |split, text, _| {
        if split == Split::Training {
            sample_bytes += text.len();
            sample.push(text);
        }
        Ok(if sample_bytes < SAMPLE_BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    progress(sample_bytes as u64);
    Tokenizer::train(&sample, vocabulary)
}

/// Calls `visitor` with every document, its split and the bytes of the inputs read so far; counts bad lines, and fails at
/// the end when they are too many.
fn documents_of(
    spec: &DataSpec,
    source: &dyn Source,
    visitor: &mut dyn FnMut(Split, String, u64) -> Result<ControlFlow<()>, DataError>,
) -> Result<BadLines, DataError> {
    let mut bad_lines = BadLines::default();
    let mut held_out: HashSet<blake3::Hash> = HashSet::new();
    let mut broke = false;
    source.visit(&mut |item| {
        let (text, side, position) = match item {
            Item::Document {
                text,
                side,
                position,
            } => (text, side, position),
            Item::Bad(line) => {
                bad_lines.bad(line);
                if bad_lines.is_hopeless() {
                    bad_lines.check(spec.bad_line_share)?;
                }
                return Ok(ControlFlow::Continue(()));
            }
        };
        bad_lines.good();
        let split = match side {
            Side::ByContent if is_held_out(&text, spec.validation.share) => Split::Validation,
            Side::ByContent => Split::Training,
            // The source divides the documents; ones that it has on both sides would be seen in training.
            Side::Validation => {
                held_out.insert(blake3::hash(text.as_bytes()));
                Split::Validation
            }
            Side::Training if held_out.contains(&blake3::hash(text.as_bytes())) => {
                return Ok(ControlFlow::Continue(()));
            }
            Side::Training => Split::Training,
        };
        let flow = visitor(split, text, position)?;
        broke = flow.is_break();
        Ok(flow)
    })?;
    if !broke {
        bad_lines.check(spec.bad_line_share)?;
    }
    Ok(bad_lines)
}

/// Whether a document belongs to validation: its hash, as a number in [0, 1), lies below the share.
fn is_held_out(text: &str, share: f64) -> bool {
    let hash = blake3::hash(text.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    // 53 bits, which f64 holds exactly.
    let fraction = (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64;
    fraction < share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_documents_held_out_is_the_one_asked_for() {
        // 10,000 draws at 0.05: standard deviation sqrt(10000 * 0.05 * 0.95) = 21.8, so 5 of them are 109.
        let held = (0..10_000)
            .filter(|n| is_held_out(&format!("document {n}"), 0.05))
            .count();
        assert!((391..=609).contains(&held), "{held}");
    }

    #[test]
    fn a_larger_share_keeps_what_a_smaller_one_held_out() {
        for n in 0..1_000 {
            let text = format!("document {n}");
            assert!(!is_held_out(&text, 0.1) || is_held_out(&text, 0.2));
        }
    }
}
