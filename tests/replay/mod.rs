//! A folder of recordings: what each file in it is, and the cases that it holds.

mod layers;
mod network;
mod place;
mod schedules;
mod spectra;
mod trajectories;
#[path = "../../models/tests/common/vulkan.rs"]
mod vulkan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use place::Place;
use safetensors::SafeTensors;
use serde_json::Value;

/// What a replay comes to: how far ours is from what was recorded, or why it could not be replayed.
pub type Replayed = Result<Deviations, String>;

/// One recording, ready to be replayed.
pub struct Case {
    /// File and case.
    pub name: String,
    /// The replay.
    pub replay: Box<dyn FnOnce() -> Replayed>,
}

impl Case {
    fn new(name: String, replay: impl FnOnce() -> Replayed + 'static) -> Case {
        Case {
            name,
            replay: Box::new(replay),
        }
    }
}

/// Largest difference from a recording, in one quantity.
pub struct Deviation {
    /// What was compared.
    pub quantity: String,
    /// The largest difference found; not a number if anything compared was not.
    pub largest: f64,
    /// The largest that is allowed.
    pub tolerance: f64,
    /// Where it is.
    pub place: Option<String>,
}

impl Deviation {
    /// Whether it is small enough; what is not a number never is.
    pub fn within_tolerance(&self) -> bool {
        self.largest <= self.tolerance
    }
}

/// All quantities of a case.
#[derive(Default)]
pub struct Deviations(Vec<Deviation>);

impl Deviations {
    /// Each quantity once.
    pub fn iter(&self) -> impl Iterator<Item = &Deviation> {
        self.0.iter()
    }

    /// Whether all of them are small enough. A case in which nothing was compared is not.
    pub fn within_tolerance(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(Deviation::within_tolerance)
    }

    /// Takes note of a difference; the largest of a quantity is kept.
    fn note(&mut self, quantity: &str, difference: f64, tolerance: f64, place: impl ToString) {
        let known = self.0.iter_mut().find(|known| known.quantity == quantity);
        match known {
            Some(known) => {
                if difference > known.largest || difference.is_nan() {
                    known.largest = difference;
                    known.place = Some(place.to_string());
                }
            }
            None => self.0.push(Deviation {
                quantity: quantity.into(),
                largest: difference,
                tolerance,
                place: (difference != 0.0).then(|| place.to_string()),
            }),
        }
    }

    /// Compares numbers one by one, by their absolute difference.
    fn compare(
        &mut self,
        quantity: &str,
        ours: f64,
        theirs: f64,
        tolerance: f64,
        place: impl ToString,
    ) {
        self.note(quantity, (ours - theirs).abs(), tolerance, place);
    }

    /// Compares things that are the same or not: 0 or 1.
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, quantity: &str, ours: &T, theirs: &T) {
        let place = format!("{ours:?}, recorded {theirs:?}");
        self.note(quantity, f64::from(u8::from(ours != theirs)), 0.0, place);
    }

    /// Compares tensors by the largest difference of two elements over the largest element recorded.
    fn tensor(
        &mut self,
        quantity: &str,
        ours: &[f32],
        theirs: &[f32],
        tolerance: f64,
        place: impl ToString,
    ) {
        let difference = if ours.len() == theirs.len() {
            relative_difference(ours, theirs)
        } else {
            f64::NAN
        };
        self.note(quantity, difference, tolerance, place);
    }
}

fn relative_difference(ours: &[f32], theirs: &[f32]) -> f64 {
    let largest = theirs.iter().fold(0.0_f64, |largest, value| {
        largest.max(f64::from(value.abs()))
    });
    let mut difference = 0.0_f64;
    for (ours, theirs) in ours.iter().zip(theirs) {
        let apart = f64::from((ours - theirs).abs());
        if apart.is_nan() {
            return f64::NAN;
        }
        difference = difference.max(apart);
    }
    // What was recorded as zero throughout has no scale of its own: anything else is infinitely far from it.
    if difference > 0.0 {
        difference / largest
    } else {
        0.0
    }
}

/// A folder of recordings, and where they are replayed.
#[derive(Clone)]
pub struct Folder {
    path: PathBuf,
    place: Place,
}

impl Folder {
    /// The one in `RELORA_GOLDEN_DIR`, else the repository's; and what [`Place::named_by_environment`] gives.
    ///
    /// # Errors
    /// A device or a precision that is none.
    pub fn named_by_environment() -> Result<Folder, String> {
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let path = std::env::var_os("RELORA_GOLDEN_DIR").map_or_else(own, PathBuf::from);
        Ok(Folder {
            path: path.canonicalize().unwrap_or(path),
            place: Place::named_by_environment()?,
        })
    }

    /// The same recordings, replayed elsewhere.
    pub fn on(&self, place: Place) -> Folder {
        Folder {
            path: self.path.clone(),
            place,
        }
    }

    /// On what they are replayed.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn json(&self, file: &str) -> Result<Value, String> {
        let path = self.path.join(file);
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn tensors(&self, file: &str) -> Result<Tensors, String> {
        let path = self.path.join(file);
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let read = SafeTensors::deserialize(&bytes)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let tensors = read.iter().map(|(name, view)| {
            let words = view.data().as_chunks().0.to_vec();
            (
                name.to_owned(),
                Words {
                    shape: view.shape().to_vec(),
                    words,
                },
            )
        });
        Ok(Tensors {
            path,
            tensors: tensors.collect(),
        })
    }

    fn files(&self) -> Result<Vec<String>, String> {
        let entries = std::fs::read_dir(&self.path).map_err(|error| error.to_string())?;
        let mut files: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        files.sort();
        Ok(files)
    }
}

/// Tensors of a file, each of four-byte elements.
pub struct Tensors {
    path: PathBuf,
    tensors: BTreeMap<String, Words>,
}

struct Words {
    shape: Vec<usize>,
    words: Vec<[u8; 4]>,
}

impl Tensors {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn get(&self, name: &str) -> Result<&Words, String> {
        self.tensors
            .get(name)
            .ok_or_else(|| format!("{} has no {name}", self.path.display()))
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn shape(&self, name: &str) -> Result<&[usize], String> {
        Ok(&self.get(name)?.shape)
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>, String> {
        Ok(self
            .get(name)?
            .words
            .iter()
            .map(|word| f32::from_le_bytes(*word))
            .collect())
    }

    fn tokens(&self, name: &str) -> Result<Vec<u32>, String> {
        Ok(self
            .get(name)?
            .words
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect())
    }

    /// The tensors whose name begins with `prefix`, by the rest of their name.
    fn under(&self, prefix: &str) -> impl Iterator<Item = (&str, Vec<f32>)> {
        self.tensors.iter().filter_map(move |(name, words)| {
            let rest = name.strip_prefix(prefix)?;
            Some((
                rest,
                words
                    .words
                    .iter()
                    .map(|word| f32::from_le_bytes(*word))
                    .collect(),
            ))
        })
    }
}

/// The cases of all files of a folder, in the order of the files' names; of those that need f32 none where it is not computed
/// in.
///
/// # Errors
/// A file that cannot be read, or of which nobody knows what it is.
pub fn cases(folder: &Folder) -> Result<Vec<Case>, String> {
    let files = folder.files()?;
    let mut cases = Vec::new();
    for file in &files {
        let Some(stem) = file.strip_suffix(".json") else {
            continue;
        };
        let recording = folder.json(file)?;
        let first = &recording["cases"][0];
        let known = |keys: &[&str]| keys.iter().all(|key| recording.get(key).is_some());
        if known(&["update_step", "loss", "settings"]) {
            cases.push(trajectories::case(folder, stem, recording));
        } else if known(&["config", "betas_default"]) {
            // What the trajectories of the folder share; its tensors are read with them.
        } else if first.get("lr_at_step").is_some() {
            cases.extend(schedules::shapes(stem, &recording));
        } else if first.get("merge_after_update").is_some() {
            cases.extend(schedules::events(stem, &recording));
        } else if first.get("merges").is_some() {
            if folder.place.is_f32() {
                cases.extend(layers::merges(folder, stem, &recording));
            }
        } else if known(&["tensor_cases"]) {
            if folder.place.is_f32() {
                cases.extend(layers::resets(folder, stem, &recording));
            }
        } else if known(&["configs"]) {
            cases.extend(network::parameter_counts(stem, &recording));
        } else if known(&["small", "deltas"]) {
            if folder.place.is_f32() {
                cases.extend(spectra::cases(folder, stem, &recording));
            }
        } else {
            return Err(format!("{file} is of a kind that nobody knows"));
        }
    }
    for file in &files {
        let Some(stem) = file.strip_suffix(".safetensors") else {
            continue;
        };
        if !files.contains(&format!("{stem}.json")) {
            cases.push(network::forward_backward(folder, stem));
        }
    }
    Ok(cases)
}

/// The number under a key, or what the official command line has where it is not given.
fn count(settings: &Value, key: &str, default: u64) -> u64 {
    settings[key].as_u64().unwrap_or(default)
}

/// The same for a number that need not be whole.
fn real(settings: &Value, key: &str, default: f64) -> f64 {
    settings[key].as_f64().unwrap_or(default)
}

fn floats(value: &Value) -> Vec<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "recorded from f32")]
    let narrow = |number: &Value| number.as_f64().map_or(f32::NAN, |number| number as f32);
    value
        .as_array()
        .map(|numbers| numbers.iter().map(narrow).collect())
        .unwrap_or_default()
}

fn counts(value: &Value) -> Vec<u64> {
    value
        .as_array()
        .map(|numbers| numbers.iter().filter_map(Value::as_u64).collect())
        .unwrap_or_default()
}
