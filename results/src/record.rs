//! What a run leaves on disk, as types: the harness writes them, the tables read them, nothing else crosses.
//!
//! A run directory holds `manifest.json` ([`Manifest`]), `metrics.jsonl` (one [`Record`] a line) and, once the run has
//! ended for good, `result.json` ([`RunResult`]); where somebody asked for them, `spectra.jsonl` ([`SpectrumRecord`]). Field names are column names; units stand at the end of a name.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the record schema. A reader refuses another one and names both.
pub const SCHEMA: u32 = 1;

/// `manifest.json`: what the run is, what determines it, and the processes that worked on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`] of the program that created the run.
    pub schema: u32,
    /// The keys under which the run appears in every table.
    pub row: RowKeys,
    /// All that determines the run's numbers: resolved cell, data and tokenizer hashes, precision, device kind. Opaque
    /// here; a run whose `determines` differs from what would be run now is refused with the fields that differ.
    pub determines: serde_json::Value,
    /// One entry per process that worked on the run, oldest first.
    pub sessions: Vec<Session>,
}

/// Name of a run's directory in its suite, by which people call the run too.
#[must_use]
pub fn run_directory(size: &str, method: &str, seed: u64) -> String {
    format!("{size}-{method}-seed{seed}")
}

impl RowKeys {
    /// Name of the run's directory in its suite.
    #[must_use]
    pub fn directory(&self) -> String {
        run_directory(&self.size, &self.method, self.seed)
    }
}

/// Identity and switches of a run: the ablation table reads the switches from here and never parses a method's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowKeys {
    /// Name of the LLaMA shape, e.g. `60m`.
    pub size: String,
    /// Name of the method in the profile, e.g. `lora` or `lora-lr3e-3`.
    pub method: String,
    /// Preset that the method was derived from, e.g. `lora`.
    pub preset: String,
    /// Seed of the initial weights, the order of the data and every other draw.
    pub seed: u64,
    /// Named set of recipe switches, e.g. `default` or `paper-2023-05`.
    pub dialect: String,
    /// Whether low-rank factors are trained.
    pub low_rank: bool,
    /// Rank r of the factors; none for full-rank methods.
    pub rank: Option<u64>,
    /// Numerator of the scale alpha / r of the product; none for full-rank methods, for a trained scale, and in runs of an
    /// older program.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// What stands beside the low-rank product: `keep`, `zero` or `none`; none for full-rank methods.
    #[serde(default)]
    pub base: Option<String>,
    /// Whether the factors are merged and drawn anew.
    pub restarts: bool,
    /// Whether the factors' Adam moments are reset.
    pub optimizer_reset: bool,
    /// Whether the learning rate drops to zero at each restart.
    pub jagged: bool,
    /// Whether the rate climbs back over several steps after a restart (otherwise at once).
    pub rewarmup: bool,
    /// Whether full-rank steps come first.
    pub warm_start: bool,
    /// Update steps from one restart to the next; none for methods without, and in runs of an older program.
    #[serde(default)]
    pub restart_every: Option<u64>,
    /// Full-rank update steps at the beginning; none for methods without, and in runs of an older program.
    #[serde(default)]
    pub warm_start_steps: Option<u64>,
    /// Sequences of an update; none in runs of an older program.
    #[serde(default)]
    pub global_batch_size: Option<u64>,
    /// Tokens of a sequence; none in runs of an older program.
    #[serde(default)]
    pub sequence_length: Option<u64>,
    /// Hash of the tokens and the tokenizer; none in runs of an older program.
    #[serde(default)]
    pub data_hash: Option<String>,
    /// Peak learning rate of the method's own stage (after the warm start, if it has one).
    pub learning_rate: f64,
    /// Update steps planned in all, warm start included.
    pub planned_steps: u64,
    /// `cpu` or `cuda`.
    pub device: String,
    /// `f32`, `bf16` or `bf16-master`.
    pub precision: String,
    /// Parameters held in memory, frozen ones included.
    pub total_parameters: u64,
    /// Parameters that the optimizer updates (in the low-rank stage, if there is one).
    pub trainable_parameters: u64,
    /// Training FLOPs of the whole planned run, warm start included.
    pub flops: f64,
    /// The point of a tuning that the run tries; none for all other runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<TuningPoint>,
    /// How the method's settings were tuned; none where they are the recipe's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
}

/// A point in the space that methods are tuned in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuningPoint {
    /// The method that is tuned.
    pub of: String,
    /// Value of each setting that is tuned, as far as the method uses it.
    pub values: BTreeMap<String, f64>,
    /// Training FLOPs of one run of the method as it is tuned for: at this size or, where the proxy has a size of its own, at
    /// every size of the profile together; none where nobody knows what it is tuned for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_flops: Option<f64>,
}

/// How a method's settings were tuned, and what that cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// The method of the recipe that was tuned.
    pub from: String,
    /// Value of each setting that was tuned, as far as the method uses it.
    pub values: BTreeMap<String, f64>,
    /// Points that were tried; none, as below, where the profile does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<u64>,
    /// Seeds of the proxy runs.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Training targets of all proxy runs of the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Training FLOPs of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// Seconds that their workers took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// One process that worked on the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Version of the program.
    pub version: String,
    /// Seconds since the Unix epoch at which the process took the run up.
    pub started_unix_seconds: u64,
    /// First update step of this process.
    pub from_step: u64,
    /// Name of the device as its driver gives it, or the processor's.
    pub device_name: String,
    /// Compute threads of the process.
    pub threads: u64,
    /// Which kernels it ran on a GPU; absent on a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<KernelRecord>,
    /// What of CUDA computed; none on a CPU, and in runs of an older program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<CudaSession>,
}

/// How a process came by the kernels that it ran on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// How much kernels are chosen by timing them, which can change the bits of a run: `none` is not at all.
    pub autotune: String,
    /// What compiled kernels are kept under: compute capability, driver, compiler and the hash of the program. Absent where
    /// they were not kept.
    pub cache: Option<String>,
}

impl Session {
    /// The device by name, with all that is known of what computes on it.
    #[must_use]
    pub fn machine(&self) -> String {
        match &self.cuda {
            Some(cuda) => format!("{}{}", self.device_name, cuda.details()),
            None => self.device_name.clone(),
        }
    }
}

/// What of CUDA a process computed with; none of what does not say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CudaSession {
    /// Compute capability of the GPU, e.g. `9.0`.
    pub compute_capability: Option<String>,
    /// Version of the driver, e.g. `570.86.15`.
    pub driver: Option<String>,
    /// Newest CUDA that the driver supports, e.g. `12.8`.
    pub driver_cuda: Option<String>,
    /// Version of the run-time compiler, e.g. `12.8`.
    pub nvrtc: Option<String>,
    /// The most that the GPU may draw, watts.
    pub power_limit_watts: Option<f64>,
}

impl CudaSession {
    fn details(&self) -> String {
        let parts = [
            ("compute capability", &self.compute_capability),
            ("driver", &self.driver),
            ("CUDA", &self.driver_cuda),
            ("NVRTC", &self.nvrtc),
        ];
        let known = parts
            .iter()
            .filter_map(|(name, version)| Some(format!("{name} {}", version.as_ref()?)));
        let known: Vec<String> = known.collect();
        if known.is_empty() {
            String::new()
        } else {
            format!(" ({})", known.join(", "))
        }
    }
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// A training step that is logged.
    Step(StepRecord),
    /// An evaluation on the validation split.
    Evaluation(EvaluationRecord),
    /// A restart: merge, factors drawn anew.
    Restart(RestartRecord),
    /// A reset of the factors' moments.
    Reset(ResetRecord),
    /// The run stopped before its end and can be continued.
    Stop(StopRecord),
}

/// A logged training step. Non-finite numbers are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Update steps done, this one included (1-based).
    pub step: u64,
    /// Training targets that carried a loss so far, warm start included.
    pub tokens_seen: u64,
    /// Mean training loss over the targets of this step, nats per token.
    pub loss: Option<f64>,
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Targets per second of training since the last logged step (evaluation and writing excluded).
    pub tokens_per_second: f64,
    /// Seconds of training so far, over all processes (evaluation and writing excluded).
    pub training_seconds: f64,
    /// Joules of the same, as [`GpuUse::training_joules`]; absent like them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_joules: Option<f64>,
}

/// An evaluation: the mean over all validation targets, each once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// Update steps done.
    pub step: u64,
    /// Training targets seen so far.
    pub tokens_seen: u64,
    /// Mean loss over the validation targets, nats per token; absent when not finite.
    pub validation_loss: Option<f64>,
    /// Number of validation targets.
    pub targets: u64,
    /// Seconds that the evaluation took.
    pub seconds: f64,
}

/// A restart after the given update step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestartRecord {
    /// Update steps done.
    pub step: u64,
}

/// A moment reset after the given update step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResetRecord {
    /// Update steps done.
    pub step: u64,
    /// Moment elements of the factors.
    pub moments_total: u64,
    /// Moment elements that the reset has set to zero, those that were zero before included.
    pub moments_zeroed: u64,
}

/// The run stopped at a step boundary and can be continued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopRecord {
    /// Update steps done.
    pub step: u64,
    /// Why, in the words of a status: `budget` or `interrupted`.
    pub reason: String,
}

/// One line of `spectra.jsonl`: the singular values of one matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpectrumRecord {
    /// What was taken apart.
    pub quantity: SpectrumOf,
    /// Update steps done when it began: those of the warm start, or 0.
    pub from_step: u64,
    /// Update steps done when it was complete.
    pub step: u64,
    /// Block, from 0.
    pub layer: u64,
    /// The linear layer: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj` or `down_proj`.
    pub matrix: String,
    /// Descending.
    pub singular_values: Vec<f64>,
    /// The most that its rank can be: r times the products in it; absent at full rank.
    pub rank_bound: Option<u64>,
    /// Angles in degrees between what this product and the one before it write to; absent for the first, and for an update.
    pub output_angles: Option<AnglesRecord>,
    /// The same for what they read.
    pub input_angles: Option<AnglesRecord>,
}

/// What a [`SpectrumRecord`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpectrumOf {
    /// The final weight, product included, minus the weight at `from_step`.
    Update,
    /// One low-rank product s·BA, merged or about to be.
    Product,
}

/// Principal angles between two subspaces, degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnglesRecord {
    /// The smallest.
    pub smallest: f64,
    /// The mean over all of them.
    pub mean: f64,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Ran all its planned steps.
    #[serde(rename = "complete")]
    Complete,
    /// Its loss or gradient was no longer finite.
    #[serde(rename = "diverged")]
    Diverged,
    /// Its worker ended with an error.
    #[serde(rename = "failed")]
    Failed,
    /// Its directory holds something that cannot be read, so that nobody can tell how it stands.
    #[serde(rename = "unreadable")]
    Unreadable,
    /// Met the budget's wall-clock guard; can be continued.
    #[serde(rename = "stopped: budget")]
    StoppedBudget,
    /// Was interrupted; can be continued.
    #[serde(rename = "stopped: interrupted")]
    StoppedInterrupted,
    /// A worker holds its lease.
    #[serde(rename = "running")]
    Running,
    /// Not begun.
    #[serde(rename = "pending")]
    Pending,
}

impl Status {
    /// The status as it appears in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Complete => "complete",
            Status::Diverged => "diverged",
            Status::Failed => "failed",
            Status::Unreadable => "unreadable",
            Status::StoppedBudget => "stopped: budget",
            Status::StoppedInterrupted => "stopped: interrupted",
            Status::Running => "running",
            Status::Pending => "pending",
        }
    }
}

/// `failed.json`: what a run leaves when its worker ends with an error. The next worker removes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, on one line.
    pub error: String,
}

/// Bytes at the peak of a run, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMemory {
    /// Of the process without a network: its program, its libraries, the text. Not planned but read.
    pub process: u64,
    /// Of all parameters.
    pub weights: u64,
    /// Of the gradients that exist at that moment.
    pub gradients: u64,
    /// Of Adam's moments.
    pub moments: u64,
    /// Of what the backward pass needs of the forward pass.
    pub activations: u64,
    /// Of the part of the logits that exists at a time.
    pub logits: u64,
    /// Of gradients of activations within one block, or of what the head sums up those of its input in.
    pub workspace: u64,
}

impl PlannedMemory {
    /// All classes together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.classes().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Every class by name.
    #[must_use]
    pub fn classes(&self) -> [(&'static str, u64); 7] {
        let PlannedMemory {
            process,
            weights,
            gradients,
            moments,
            activations,
            logits,
            workspace,
        } = *self;
        [
            ("process", process),
            ("weights", weights),
            ("gradients", gradients),
            ("moments", moments),
            ("activations", activations),
            ("logits", logits),
            ("workspace", workspace),
        ]
    }
}

/// What a GPU's driver says that a run used; absent where it does not tell. All of it is of the whole card, whatever else
/// computes on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuUse {
    /// Joules of training, the warm start's included even where it was handed on.
    pub training_joules: Option<f64>,
    /// Joules of evaluation.
    pub evaluation_joules: Option<f64>,
    /// Joules of the whole run, those of [`RunResult::wall_seconds`]: training, evaluation, starting up and writing.
    pub joules: Option<f64>,
    /// Joules of training per target; of a method with a warm start those of its own stage after it.
    pub joules_per_token: Option<f64>,
    /// Share of the seconds of training in which a kernel ran.
    pub utilization: Option<f64>,
    /// Largest memory in use, bytes: that of the driver, of CUDA's own and of what libraries keep in reserve included.
    pub peak_memory_bytes: Option<u64>,
}

/// `result.json`: written last; its presence means that the run has ended for good (`complete` or `diverged`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// [`Status::Complete`] or [`Status::Diverged`].
    pub status: Status,
    /// Update step at which a diverged run was last finite plus one; absent otherwise.
    pub diverged_at_step: Option<u64>,
    /// Update steps done, warm start included.
    pub update_steps: u64,
    /// Training targets that carried a loss, warm start included.
    pub tokens_seen: u64,
    /// Mean loss over the validation targets at the end, nats per token; absent for a diverged run.
    pub validation_loss: Option<f64>,
    /// Number of validation targets.
    pub validation_targets: u64,
    /// UTF-8 bytes of the validation text per token of it, to turn nats per token into bits per byte: exact where every token
    /// but the first is a target (`documents = "packed"`, `overlap = 1`), else an estimate from the average token.
    pub bytes_per_target: f64,
    /// Mean training loss of the last logged step.
    pub training_loss: Option<f64>,
    /// Targets per second of training; of a method with a warm start those of its own stage after it, whether the warm start
    /// was handed on or not.
    pub tokens_per_second: f64,
    /// Seconds of training, the warm start's included even where it was handed on.
    pub training_seconds: f64,
    /// Seconds of evaluation.
    pub evaluation_seconds: f64,
    /// Seconds of the whole run over all its processes, the warm start's training included even where it was handed on.
    pub wall_seconds: f64,
    /// Largest memory of the process (CPU) or the device (CUDA), bytes; absent where it cannot be read, as on CUDA for now.
    pub peak_memory_bytes: Option<u64>,
    /// What the GPU's driver says that the run used; absent on a CPU, in runs of an older program, and where not every process
    /// of the run could ask it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuUse>,
    /// What the memory plan says of that peak; absent in runs of an older program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_memory: Option<PlannedMemory>,
    /// Bytes of the weights held by the learner at the end.
    pub weight_bytes: u64,
    /// Bytes of the optimizer's state at the end.
    pub optimizer_state_bytes: u64,
    /// Restarts done.
    pub restarts: u64,
    /// Moment resets done.
    pub resets: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_on_cuda_is_named_with_all_that_is_known_of_it_and_older_sessions_are_read() {
        let older = r#"{"version":"0","started_unix_seconds":1,"from_step":0,"device_name":"a GPU","threads":2}"#;
        let mut session: Session = serde_json::from_str(older).expect("read");
        assert_eq!(session.machine(), "a GPU");
        assert_eq!(serde_json::to_string(&session).expect("written"), older);
        session.cuda = Some(CudaSession::default());
        assert_eq!(session.machine(), "a GPU");
        session.cuda = Some(CudaSession {
            compute_capability: Some("9.0".into()),
            driver: Some("570.86.15".into()),
            driver_cuda: None,
            nvrtc: Some("12.8".into()),
            power_limit_watts: Some(700.0),
        });
        assert_eq!(
            session.machine(),
            "a GPU (compute capability 9.0, driver 570.86.15, NVRTC 12.8)"
        );
    }
}
