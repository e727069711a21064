//! A checkpoint: `checkpoints/step-N/` with the weights, the optimizer's state (both safetensors) and a small
//! `state.json` with their hashes. Schedule, order of the data and random draws are functions of the step, so nothing of
//! them is in it.
//!
//! It is written beside, synced and renamed, so it is there whole or not at all; what happens to it afterwards (a bad
//! sector, a careless copy) shows in its hashes. Tensors go to and from the disk one at a time: a large model needs no
//! second copy of itself in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use models::{Dtype, Learner, TensorInfo, TensorRole};
use serde::{Deserialize, Serialize};

use crate::exit::UserError;
use crate::files::{self, failed_to};
use crate::nvml::Used;
use crate::run::Progress;
use crate::tensor_file::{self, Entry, TensorFile};

/// Version of `state.json` and of what stands beside it.
const SCHEMA: u64 = 1;

const STATE: &str = "state.json";
const STEP: &str = "step-";
const DAMAGED: &str = ".damaged";

/// Bytes read at a time while hashing.
const CHUNK_BYTES: usize = 1 << 20;

/// Whether a tensor of this role belongs somewhere.
type Belongs = fn(TensorRole) -> bool;

/// The tensor files and what they hold. Master weights are the optimizer's: the model is whole without them.
const FILES: [(&str, Belongs); 2] = [
    ("weights.safetensors", is_weight),
    ("moments.safetensors", is_optimizer_state),
];

/// Whether a tensor belongs to the model, as opposed to the optimizer.
#[must_use]
pub fn is_weight(role: TensorRole) -> bool {
    matches!(role, TensorRole::Frozen | TensorRole::Trainable)
}

/// Whether a tensor belongs to the optimizer.
#[must_use]
pub fn is_optimizer_state(role: TensorRole) -> bool {
    !is_weight(role)
}

/// Seconds that a run has taken so far, over all its processes, and what it did not train itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Seconds of training.
    pub training_seconds: f64,
    /// Seconds of evaluation.
    pub evaluation_seconds: f64,
    /// Seconds of everything else: starting up and writing.
    pub other_seconds: f64,
    /// Training targets of the warm start.
    pub warm_start_tokens: u64,
    /// Seconds of training, part of the above, of the warm start.
    pub warm_start_seconds: f64,
    /// Largest memory of a process of the run or of its device, bytes.
    pub peak_memory_bytes: Option<u64>,
    /// What its GPU's driver says that it used; none on a CPU, where the driver does not say, and once a process of the run
    /// could not ask it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Used>,
}

/// `state.json`, but for the hash of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    schema: u64,
    /// How far the run was.
    pub progress: Progress,
    /// Length of `metrics.jsonl` then: what follows is of steps that a resumed run repeats.
    pub metrics_bytes: u64,
    /// Hash of those bytes (BLAKE3).
    pub metrics_hash: String,
    /// Whether it must stay when newer ones come: others start from it.
    pub keep: bool,
    /// Time and memory so far.
    pub clock: Clock,
    /// Hashes of the tensor files by name (BLAKE3).
    files: BTreeMap<String, String>,
}

impl State {
    /// A state whose files are yet to be written.
    #[must_use]
    pub fn new(
        progress: Progress,
        metrics_bytes: u64,
        metrics_hash: String,
        keep: bool,
        clock: Clock,
    ) -> State {
        State {
            schema: SCHEMA,
            progress,
            metrics_bytes,
            metrics_hash,
            keep,
            clock,
            files: BTreeMap::new(),
        }
    }
}

/// The file `state.json`.
#[derive(Serialize, Deserialize)]
struct Sealed {
    state: State,
    /// Hash of `state` as it stands there, without the white space (BLAKE3).
    hash: String,
}

impl Sealed {
    fn seal(state: &impl Serialize) -> Result<String> {
        Ok(blake3::hash(&serde_json::to_vec(state)?)
            .to_hex()
            .to_string())
    }
}

/// A checkpoint whose hashes held when it was opened. Its files stay open, so that nobody can remove them before they are
/// loaded.
#[derive(Debug)]
pub struct Checkpoint {
    /// How far the run was, for the loop that goes on from here.
    pub progress: Progress,
    /// The rest of `state.json`.
    pub state: State,
    directory: PathBuf,
    tensors: Vec<File>,
}

impl Checkpoint {
    /// Opens `step-N` and compares all hashes.
    ///
    /// # Errors
    /// A file that is missing, unreadable or not what was written, with its path; [`UserError`] for another schema.
    pub fn open(directory: &Path) -> Result<Checkpoint> {
        let path = directory.join(STATE);
        let state = read_state(directory)?;
        ensure!(
            step_of(directory) == Some(state.progress.step),
            "{} is of step {}, not of the step in its directory's name",
            path.display(),
            state.progress.step
        );
        let mut tensors = Vec::new();
        for (name, _) in FILES {
            let path = directory.join(name);
            let expected = state.files.get(name).with_context(|| {
                format!("{} has no hash of {name}", directory.join(STATE).display())
            })?;
            let mut file = File::open(&path).map_err(failed_to("read", &path))?;
            let found = hash_bytes(&mut file, u64::MAX).map_err(failed_to("read", &path))?;
            ensure!(
                found.to_hex().as_str() == expected,
                "{} is not what was written: its hash differs",
                path.display()
            );
            tensors.push(file);
        }
        Ok(Checkpoint {
            progress: state.progress,
            state,
            directory: directory.to_owned(),
            tensors,
        })
    }

    /// Gives the learner all its tensors.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or type, or that the learner does not have, with its name.
    pub fn load_into(&self, learner: &mut dyn Learner) -> Result<()> {
        let inventory = learner.tensors();
        for (place, (_, belongs)) in FILES.iter().enumerate() {
            let file = self.tensor_file(place)?;
            let path = file.path();
            let expected: Vec<&TensorInfo> =
                inventory.iter().filter(|info| belongs(info.role)).collect();
            let extra = file
                .names()
                .into_iter()
                .find(|key| !expected.iter().any(|info| info.name == *key));
            if let Some(extra) = extra {
                bail!(
                    "{} holds {extra}, which this run's network does not have",
                    path.display()
                );
            }
            for info in expected {
                let there = file.info(&info.name)?;
                let dtype = dtype_name(info.dtype);
                let same = there.shape == info.shape && there.dtype.to_string() == dtype;
                ensure!(
                    same,
                    "{} holds {} as {} {:?}, this run's network as {dtype} {:?}",
                    path.display(),
                    info.name,
                    there.dtype,
                    there.shape,
                    info.shape
                );
                learner.write(&info.name, &file.bytes(&info.name)?)?;
            }
        }
        Ok(())
    }

    /// The model's own tensors.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn weights(&self) -> Result<TensorFile> {
        self.tensor_file(0)
    }

    /// The tensor file in this place of [`FILES`].
    fn tensor_file(&self, place: usize) -> Result<TensorFile> {
        let path = self.directory.join(FILES[place].0);
        let file = self.tensors[place]
            .try_clone()
            .map_err(failed_to("read", &path))?;
        TensorFile::of(&path, file)
    }

    /// The run directory that it belongs to.
    #[must_use]
    pub fn run_directory(&self) -> &Path {
        files::parent(files::parent(&self.directory))
    }
}

/// The folder of the factors that a run has merged.
#[must_use]
pub fn factors_folder(run_directory: &Path) -> PathBuf {
    run_directory.join("factors")
}

fn factors_file(step: u64) -> String {
    format!("{STEP}{step}.safetensors")
}

/// Writes the factors as they are, those of one restart: after `step` updates, before they are merged.
///
/// # Errors
/// What the disk or the device says.
pub fn write_factors(
    run_directory: &Path,
    step: u64,
    learner: &dyn Learner,
    token: &str,
) -> Result<()> {
    let folder = factors_folder(run_directory);
    files::create_directory(&folder)?;
    let inventory = learner.tensors();
    let factors: Vec<&TensorInfo> = inventory
        .iter()
        .filter(|info| is_weight(info.role) && is_factor(&info.name))
        .collect();
    let partial = folder.join(files::partial_name(&factors_file(step), token));
    let place = folder.join(factors_file(step));
    let written = write_tensors(&partial, &factors, learner)
        .and_then(|_| Ok(fs::rename(&partial, &place).map_err(failed_to("write", &place))?));
    if written.is_err() {
        // A full disk is a little less full then.
        let _ = files::remove(&partial);
    }
    written?;
    Ok(files::sync_directory(&folder)?)
}

fn is_factor(name: &str) -> bool {
    [".lora_A.weight", ".lora_B.weight", ".scaling"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The factors of one restart, as they were before they were merged.
#[derive(Debug)]
pub struct MergedFactors {
    /// Update steps done then.
    pub step: u64,
    /// Their tensors.
    pub tensors: TensorFile,
}

/// All factors that a run has kept, in the order of their restarts.
///
/// # Errors
/// A folder or a file that cannot be read.
pub fn merged_factors(run_directory: &Path) -> Result<Vec<MergedFactors>> {
    let mut factors = Vec::new();
    for path in files::entries(&factors_folder(run_directory))? {
        let step = path.file_name().and_then(|name| {
            name.to_str()?
                .strip_prefix(STEP)?
                .strip_suffix(".safetensors")?
                .parse()
                .ok()
        });
        if let Some(step) = step {
            let tensors = TensorFile::open(&path)?;
            factors.push(MergedFactors { step, tensors });
        }
    }
    factors.sort_by_key(|factors| factors.step);
    Ok(factors)
}

/// The folder of a run's checkpoints.
#[must_use]
pub fn folder(run_directory: &Path) -> PathBuf {
    run_directory.join("checkpoints")
}

/// Where the checkpoint of a step is.
#[must_use]
pub fn at_step(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("{STEP}{step}"))
}

/// Steps of which a folder holds checkpoints, damaged or not, ascending.
///
/// # Errors
/// A folder that cannot be listed.
pub fn steps(folder: &Path) -> Result<Vec<u64>> {
    let mut steps: Vec<u64> = files::entries(folder)?
        .iter()
        .filter_map(|path| step_of(path))
        .collect();
    steps.sort_unstable();
    Ok(steps)
}

fn step_of(directory: &Path) -> Option<u64> {
    directory
        .file_name()?
        .to_str()?
        .strip_prefix(STEP)?
        .parse()
        .ok()
}

/// Writes a checkpoint beside its place, under the name `partial`, and syncs it. Renaming is the caller's.
///
/// # Errors
/// What the disk or the device says.
pub fn write(partial: &Path, learner: &dyn Learner, mut state: State) -> Result<()> {
    files::create_directory(partial)?;
    let inventory = learner.tensors();
    for (name, belongs) in FILES {
        let tensors: Vec<&TensorInfo> =
            inventory.iter().filter(|info| belongs(info.role)).collect();
        let hash = write_tensors(&partial.join(name), &tensors, learner)?;
        state.files.insert(name.into(), hash);
    }
    let hash = Sealed::seal(&state)?;
    files::write_json(&partial.join(STATE), &Sealed { state, hash })?;
    Ok(files::sync_directory(partial)?)
}

/// Puts a checkpoint written by [`write`] in its place. One that is there already was written by this run at the same
/// step, where everything but time is the same, and stays.
///
/// # Errors
/// What the disk says.
pub fn publish(partial: &Path, folder: &Path, step: u64) -> Result<()> {
    let place = at_step(folder, step);
    if place.exists() {
        return Ok(files::remove(partial)?);
    }
    fs::rename(partial, &place).map_err(failed_to("write", &place))?;
    Ok(files::sync_directory(folder)?)
}

/// Removes all but the newest checkpoints of a run and those that must stay.
///
/// # Errors
/// What the disk says.
pub fn prune(folder: &Path, newest: usize) -> Result<()> {
    let steps = steps(folder)?;
    for step in steps.iter().rev().skip(newest) {
        let directory = at_step(folder, *step);
        // One that cannot be read may be one that must stay: it is removed by nobody but a person.
        if read_state(&directory).map_or(true, |state| state.keep) {
            continue;
        }
        // Renamed first: a directory half removed must not look like a damaged checkpoint.
        let gone = folder.join(files::partial_name(&format!("{STEP}{step}"), "removed"));
        fs::rename(&directory, &gone).map_err(failed_to("remove", &directory))?;
        files::remove(&gone)?;
    }
    Ok(())
}

/// Renames a damaged checkpoint so that nobody takes it for a good one; a person may want to look at it.
///
/// # Errors
/// What the disk says.
pub fn set_aside(directory: &Path) -> Result<()> {
    let free = damaged_name(directory);
    fs::rename(directory, &free).map_err(failed_to("rename", directory))?;
    Ok(files::sync_directory(files::parent(directory))?)
}

/// A name that is free, under which to keep what is damaged.
#[must_use]
pub fn damaged_name(path: &Path) -> PathBuf {
    let named = |number: u32| {
        let number = if number == 0 {
            String::new()
        } else {
            format!("-{number}")
        };
        let mut name = path.as_os_str().to_owned();
        name.push(format!("{DAMAGED}{number}"));
        PathBuf::from(name)
    };
    (0..)
        .map(named)
        .find(|path| !path.exists())
        .unwrap_or_else(|| named(0))
}

/// Hash of at most `bytes` bytes of a file from where it stands.
///
/// # Errors
/// What the disk says.
pub fn hash_bytes(file: &mut File, bytes: u64) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut rest = file.take(bytes);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match rest.read(&mut chunk)? {
            0 => return Ok(hasher.finalize()),
            read => {
                hasher.update(&chunk[..read]);
            }
        }
    }
}

fn read_state(directory: &Path) -> Result<State> {
    let path = directory.join(STATE);
    // The schema first: another one may have other fields.
    let value: serde_json::Value = files::read_json(&path, "a checkpoint's state")?;
    if let Some(schema) = value["state"]["schema"]
        .as_u64()
        .filter(|schema| *schema != SCHEMA)
    {
        let message = format!(
            "{} has schema {schema}, this program reads {SCHEMA}",
            path.display()
        );
        return Err(UserError::new(message)
            .hint("finish the suite with the program that began it")
            .into());
    }
    let sealed: Sealed = files::read_json(&path, "a checkpoint's state")?;
    // What is hashed is what stands there, fields that this program does not know included, not what it understands of it.
    // The whole text is compared too: not every change of it changes a value (the last digit of a number).
    let unchanged = files::to_json(&value)? == fs::read(&path).map_err(failed_to("read", &path))?;
    ensure!(
        unchanged && Sealed::seal(&value["state"])? == sealed.hash,
        "{} is not what was written: its hash differs",
        path.display()
    );
    Ok(sealed.state)
}

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::Bf16 => "BF16",
    }
}

/// A file that is hashed while it is written.
struct Hashing<'a> {
    file: &'a File,
    hasher: blake3::Hasher,
}

impl Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        let mut file = self.file;
        file.write_all(bytes)
    }
}

/// Writes tensors in the safetensors format, one at a time, and returns the hash of the file.
fn write_tensors(path: &Path, tensors: &[&TensorInfo], learner: &dyn Learner) -> Result<String> {
    let file = File::create(path).map_err(failed_to("write", path))?;
    let mut out = Hashing {
        file: &file,
        hasher: blake3::Hasher::new(),
    };
    let entries: Vec<Entry<'_>> = tensors
        .iter()
        .map(|info| Entry {
            name: &info.name,
            dtype: dtype_name(info.dtype),
            shape: &info.shape,
            size_bytes: info.size_bytes(),
        })
        .collect();
    out.write(&tensor_file::header(&entries, None)?)
        .map_err(failed_to("write", path))?;
    for info in tensors {
        let bytes = learner.read(&info.name)?;
        let (found, expected) = (bytes.len(), info.size_bytes());
        ensure!(
            found == expected,
            "{} came as {found} bytes, its shape has {expected}",
            info.name
        );
        out.write(&bytes).map_err(failed_to("write", path))?;
    }
    let hash = out.hasher.finalize().to_hex().to_string();
    file.sync_all().map_err(failed_to("write", path))?;
    Ok(hash)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use models::{
        Batch, DeviceFault, DeviceMemory, Draws, LossSum, LowRank, MomentReset, Phases, Reading,
        ResetReport, TensorError, Update,
    };

    /// A learner that holds tensors and does nothing.
    #[derive(Clone, Debug, PartialEq)]
    pub(crate) struct Pretend(pub(crate) Vec<(TensorInfo, Vec<u8>)>);

    impl Pretend {
        /// A weight under factors, in bf16, with moments in f32, filled from `seed`.
        pub(crate) fn new(seed: u8) -> Pretend {
            let tensors = [
                ("w.weight", vec![2, 3], Dtype::Bf16, TensorRole::Frozen),
                (
                    "w.lora_A.weight",
                    vec![1, 3],
                    Dtype::F32,
                    TensorRole::Trainable,
                ),
                (
                    "w.lora_A.weight.exp_avg",
                    vec![1, 3],
                    Dtype::F32,
                    TensorRole::FirstMoment,
                ),
                (
                    "w.lora_A.weight.exp_avg_sq",
                    vec![1, 3],
                    Dtype::F32,
                    TensorRole::SecondMoment,
                ),
                ("norm.weight", vec![3], Dtype::F32, TensorRole::Trainable),
            ];
            let fill = |(name, shape, dtype, role): (&str, Vec<usize>, Dtype, TensorRole)| {
                let info = TensorInfo {
                    name: name.into(),
                    shape,
                    dtype,
                    role,
                };
                let bytes = (0..info.size_bytes())
                    .map(|index| seed.wrapping_add(7 * index as u8))
                    .collect();
                (info, bytes)
            };
            Pretend(tensors.into_iter().map(fill).collect())
        }
    }

    impl Learner for Pretend {
        fn attach(&mut self, _: u64, _: &LowRank, _: &dyn Draws) {}
        fn accumulate(&mut self, _: Batch<'_>, _: f64) {}
        fn recompute_blocks(&mut self, _: bool) {}
        fn update(&mut self, _: Update) {}
        fn timed_update(&mut self, _: Batch<'_>, _: f64, _: Update) -> Result<Phases, DeviceFault> {
            Ok(Phases::default())
        }
        fn restart(&mut self, _: u64, _: &dyn Draws) {}
        fn reset_moments(&mut self, _: u64, _: &MomentReset, _: &dyn Draws) -> ResetReport {
            ResetReport {
                total: 6,
                zeroed: 5,
            }
        }
        fn drain(&mut self) -> Result<Vec<Reading>, DeviceFault> {
            Ok(Vec::new())
        }
        fn evaluate(&mut self, _: Batch<'_>) -> Result<LossSum, DeviceFault> {
            Ok(LossSum {
                sum: 30.0,
                targets: 10,
            })
        }
        fn tensors(&self) -> Vec<TensorInfo> {
            self.0.iter().map(|(info, _)| info.clone()).collect()
        }
        fn read(&self, name: &str) -> Result<Vec<u8>, DeviceFault> {
            Ok(self
                .0
                .iter()
                .find(|(info, _)| info.name == name)
                .map(|(_, bytes)| bytes.clone())
                .unwrap_or_default())
        }
        fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), TensorError> {
            let tensor = self.0.iter_mut().find(|(info, _)| info.name == name);
            let (_, held) = tensor.ok_or_else(|| TensorError::UnknownName { name: name.into() })?;
            *held = bytes.to_vec();
            Ok(())
        }
        fn memory(&self) -> DeviceMemory {
            DeviceMemory {
                peak_bytes: Some(4096),
            }
        }
    }

    fn state(step: u64) -> State {
        let progress = Progress {
            step,
            tokens_seen: 100 * step,
        };
        State::new(
            progress,
            17,
            "hash of records".into(),
            false,
            Clock {
                training_seconds: 0.1 + 0.2,
                ..Clock::default()
            },
        )
    }

    /// A folder with one checkpoint, of step 5.
    fn written(learner: &Pretend) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("temporary directory");
        let partial = folder.path().join(files::partial_name("step-5", "token"));
        write(&partial, learner, state(5)).expect("written");
        publish(&partial, folder.path(), 5).expect("published");
        let place = at_step(folder.path(), 5);
        (folder, place)
    }

    #[test]
    fn a_learner_gets_back_every_bit() {
        let learner = Pretend::new(3);
        let (folder, place) = written(&learner);
        assert_eq!(
            files::entries(folder.path()).expect("listed"),
            std::slice::from_ref(&place)
        );
        let checkpoint = Checkpoint::open(&place).expect("whole");
        assert_eq!(
            checkpoint.progress,
            Progress {
                step: 5,
                tokens_seen: 500
            }
        );
        assert_eq!(
            checkpoint.state.clock.training_seconds.to_bits(),
            (0.1_f64 + 0.2).to_bits()
        );
        let mut other = Pretend::new(90);
        checkpoint.load_into(&mut other).expect("loaded");
        assert_eq!(other, learner);
    }

    /// The format is not ours: the `safetensors` crate must read it.
    #[test]
    fn the_files_are_safetensors() {
        let learner = Pretend::new(3);
        let (_folder, place) = written(&learner);
        let bytes = fs::read(place.join("weights.safetensors")).expect("read");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("the format");
        let weight = tensors.tensor("w.weight").expect("there");
        assert_eq!(
            (weight.dtype(), weight.shape()),
            (safetensors::Dtype::BF16, [2, 3].as_slice())
        );
        assert_eq!(weight.data(), learner.read("w.weight").expect("read"));
        assert_eq!(
            tensors.len(),
            3,
            "weights only: moments are in the other file"
        );
    }

    #[test]
    fn damage_at_any_byte_of_any_file_is_noticed() {
        let (_folder, place) = written(&Pretend::new(3));
        for name in ["weights.safetensors", "moments.safetensors", STATE] {
            let path = place.join(name);
            let whole = fs::read(&path).expect("read");
            for index in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[index] ^= 1;
                fs::write(&path, &damaged).expect("written");
                assert!(Checkpoint::open(&place).is_err(), "{name}, byte {index}");
            }
            fs::write(&path, &whole[..whole.len() / 2]).expect("written");
            assert!(Checkpoint::open(&place).is_err(), "half of {name}");
            fs::remove_file(&path).expect("removed");
            assert!(Checkpoint::open(&place).is_err(), "no {name}");
            fs::write(&path, &whole).expect("written");
        }
        Checkpoint::open(&place).expect("as it was");
    }

    /// As a program of the same schema may write it that has one field more.
    #[test]
    fn a_field_more_in_a_state_that_is_sealed_with_it_does_no_harm() {
        let (_folder, place) = written(&Pretend::new(3));
        let path = place.join(STATE);
        let mut sealed: serde_json::Value = files::read_json(&path, "a state").expect("read");
        sealed["state"]["novelty"] = 7.into();
        files::write_json(&path, &sealed).expect("written");
        assert!(Checkpoint::open(&place).is_err(), "not yet sealed");
        sealed["hash"] = Sealed::seal(&sealed["state"]).expect("sealed").into();
        files::write_json(&path, &sealed).expect("written");
        assert_eq!(Checkpoint::open(&place).expect("whole").progress.step, 5);
    }

    #[test]
    fn a_tensor_that_does_not_fit_is_named() {
        let (_folder, place) = written(&Pretend::new(3));
        let checkpoint = Checkpoint::open(&place).expect("whole");
        let complaint = |change: fn(&mut Vec<(TensorInfo, Vec<u8>)>)| {
            let mut learner = Pretend::new(0);
            change(&mut learner.0);
            checkpoint
                .load_into(&mut learner)
                .expect_err("does not fit")
                .to_string()
        };
        let reshaped = complaint(|tensors| tensors[0].0.shape = vec![3, 2]);
        assert!(
            reshaped.ends_with("holds w.weight as BF16 [2, 3], this run's network as BF16 [3, 2]"),
            "{reshaped}"
        );
        let retyped = complaint(|tensors| tensors[4].0.dtype = Dtype::Bf16);
        assert!(retyped.contains("norm.weight as F32"), "{retyped}");
        let missing = complaint(|tensors| tensors[1].0.name = "w.lora_C.weight".into());
        assert!(missing.contains("w.lora_A.weight"), "{missing}");
        let lacking = complaint(|tensors| {
            let mut another = tensors[4].clone();
            another.0.name = "head.weight".into();
            tensors.push(another);
        });
        assert!(
            lacking.ends_with("weights.safetensors lacks head.weight"),
            "{lacking}"
        );
    }

    #[test]
    fn another_schema_is_the_users_to_settle() {
        let (_folder, place) = written(&Pretend::new(3));
        let path = place.join(STATE);
        let text = fs::read_to_string(&path)
            .expect("read")
            .replace("\"schema\": 1", "\"schema\": 2");
        fs::write(&path, text).expect("written");
        let error = Checkpoint::open(&place).expect_err("refused");
        assert!(
            error.is::<UserError>()
                && error
                    .to_string()
                    .ends_with("has schema 2, this program reads 1"),
            "{error}"
        );
    }

    #[test]
    fn pruning_leaves_the_newest_those_to_keep_and_those_that_cannot_be_read() {
        let folder = tempfile::tempdir().expect("temporary directory");
        for step in [1, 2, 3, 10] {
            let partial = folder.path().join(files::partial_name("step", "token"));
            write(
                &partial,
                &Pretend::new(0),
                State {
                    keep: step == 1,
                    ..state(step)
                },
            )
            .expect("written");
            publish(&partial, folder.path(), step).expect("published");
        }
        prune(folder.path(), 2).expect("pruned");
        assert_eq!(steps(folder.path()).expect("listed"), [1, 3, 10]);
        fs::remove_file(at_step(folder.path(), 3).join(STATE)).expect("removed");
        prune(folder.path(), 1).expect("pruned");
        assert_eq!(steps(folder.path()).expect("listed"), [1, 3, 10]);
        set_aside(&at_step(folder.path(), 3)).expect("set aside");
        assert_eq!(steps(folder.path()).expect("listed"), [1, 10]);
        assert!(folder.path().join("step-3.damaged").is_dir());
    }
}
