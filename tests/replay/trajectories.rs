//! Whole trainings of the official code, replayed by the trainer of this project: [`harness::run::run`] with its journal,
//! its checkpoints and its schedule; only the random draws and the batches are the recorded ones.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datasets::store::Writer;
use datasets::{BadLines, Batches, Layout, Order, Split, Store};
use harness::algorithm::MethodSwitches;
use harness::checkpoint::{self, Clock, State};
use harness::journal::Journal;
use harness::lease::{Claim, Lease};
use harness::matrix::{Cell, DataKeys, FullRankStage, Shape};
use harness::run::{Data, Outcome, Progress};
use harness::settings::{
    BaseName, FactorInitName, LossWeight, PruneMaskName, ResetName, ScalingName, ScheduleName,
    Settings,
};
use harness::stop::Stop;
use models::{
    Batch, DeviceFault, DeviceMemory, Draw, DrawRole, Draws, Learner, LossSum, LowRank,
    MomentReset, Network, Phases, Precision, Reading, ResetReport, Scaling, TensorError,
    TensorInfo, TensorRole, Update,
};
use results::record::{Record, Session};
use serde_json::Value;

use super::network::{COMMON, learner, network, read};
use super::place::Place;
use super::schedules::RATE_TOLERANCE;
use super::{Case, Deviations, Folder, Replayed, Tensors, count, counts, floats, real};

/// How near a faithful trainer comes. Measured with rewrites of the official code in f64 and f32 and with a second run of
/// itself; one rule broken at a time shifts some loss by 5e-4 or more.
struct Tolerances {
    loss: f64,
    evaluation: f64,
    /// Relative.
    grad_norm: f64,
    /// Of the largest element.
    weights: f64,
    factors: f64,
}

const WELL_CONDITIONED: Tolerances = Tolerances {
    loss: 1e-5,
    evaluation: 1e-6,
    grad_norm: 1e-3,
    weights: 3e-5,
    factors: 3e-3,
};

/// A moment near the threshold is pruned or not by its last bit, and what follows depends on it: the official code in f64
/// differs from itself in f32 by 4.4e-3 in the weights.
const PRUNED_BY_MAGNITUDE: Tolerances = Tolerances {
    loss: 1e-5,
    evaluation: 1e-6,
    grad_norm: 3e-3,
    weights: 1e-2,
    factors: 3e-2,
};

/// In bf16 weights and factors are not compared. PyTorch's `LlamaForCausalLM`, trained in bf16 as the recording with a linear
/// schedule says, comes within 0.030 of its losses and 11% of its norms (AdamW's state in bf16 too).
const IN_BF16: Tolerances = Tolerances {
    loss: 1e-1,
    evaluation: 1e-1,
    grad_norm: 4e-1,
    weights: f64::INFINITY,
    factors: f64::INFINITY,
};

/// The same with weights and moments in f32: within 0.0016 and 7%.
const IN_BF16_WITH_MASTERS: Tolerances = Tolerances {
    loss: 1e-2,
    evaluation: 1e-2,
    grad_norm: 2e-1,
    ..IN_BF16
};

/// What the recorded command line can say. Anything else would be ignored in silence.
const KNOWN_SETTINGS: &[&str] = &[
    "lr",
    "scheduler",
    "warmup_steps",
    "restart_warmup_steps",
    "cycle_length",
    "adjust_step",
    "min_lr_ratio",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "clip_grad_norm",
    "use_peft",
    "force_keep_original",
    "lora_r",
    "lora_alpha",
    "relora",
    "train_scaling",
    "reset_optimizer_on_relora",
    "optimizer_random_pruning",
    "optimizer_magnitude_pruning",
    "warm_start_from_update",
    "micro_batch",
    "grad_accum",
    "save_every",
];

/// The case of one recorded run.
pub fn case(folder: &Folder, stem: &str, recording: Value) -> Case {
    let (folder, file) = (folder.clone(), format!("{stem}.safetensors"));
    Case::new(stem.into(), move || {
        let recording = Recording::open(&folder, &file, recording)?;
        let replayed = Replay::run(&recording).map_err(|error| format!("{error:#}"))?;
        recording.compare(&replayed)
    })
}

/// The recorded way of resetting moments in the names of this project.
pub fn reset_of(theirs: &Value) -> (ResetName, f64) {
    let random = real(theirs, "optimizer_random_pruning", 0.0);
    let magnitude = real(theirs, "optimizer_magnitude_pruning", 0.0);
    if magnitude > 0.0 {
        (ResetName::Magnitude, magnitude)
    } else if random > 0.0 {
        (ResetName::Random, random)
    } else {
        // The official "zero" mode is random pruning that keeps one element in a thousand.
        (ResetName::Random, 0.999)
    }
}

/// The weights with which our replay of a recorded run ends, product merged, by name.
pub fn replayed_weights(folder: &Folder, stem: &str) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let run = folder.json(&format!("{stem}.json"))?;
    let recording = Recording::open(folder, &format!("{stem}.safetensors"), run)?;
    Ok(Replay::run(&recording)
        .map_err(|error| format!("{error:#}"))?
        .merged)
}

struct Recording {
    /// Where it is replayed.
    place: Place,
    /// What happened, update by update.
    run: Value,
    tensors: Tensors,
    common: Tensors,
    network: Network,
    /// Updates done before the recording begins.
    start: u64,
    /// Update up to which another implementation can follow.
    comparable_until: u64,
    length: usize,
    epsilon: f64,
    betas: [f64; 2],
    grad_clip: f64,
}

impl Recording {
    fn open(folder: &Folder, file: &str, run: Value) -> Result<Recording, String> {
        let shared = folder.json(&format!("{COMMON}.json"))?;
        let settings = run["settings"].as_object().ok_or("no settings")?;
        if let Some(unknown) = settings
            .keys()
            .find(|key| !KNOWN_SETTINGS.contains(&key.as_str()))
        {
            return Err(format!("the setting {unknown} is not known here"));
        }
        if real(&run, "lora_dropout_patched_to", 0.0) != 0.0 {
            return Err("recorded with dropout, whose masks are not".into());
        }
        let last = counts(&run["update_step"])
            .last()
            .copied()
            .ok_or("no updates")?;
        let beta =
            |index: usize, default: f64| shared["betas_default"][index].as_f64().unwrap_or(default);
        Ok(Recording {
            place: folder.place(),
            tensors: folder.tensors(file)?,
            common: folder.tensors(&format!("{COMMON}.safetensors"))?,
            network: network(&shared["config"])?,
            start: count(&run, "scheduler_start_step", 0),
            comparable_until: count(&run, "comparable_until_update", last),
            length: count(&shared, "seq", 0) as usize,
            epsilon: real(&shared, "eps", 1e-8),
            betas: [beta(0, 0.9), beta(1, 0.999)],
            grad_clip: real(&shared, "clip_grad_norm", 1.0),
            run,
        })
    }

    fn settings(&self) -> &Value {
        &self.run["settings"]
    }

    fn by_magnitude(&self) -> bool {
        real(self.settings(), "optimizer_magnitude_pruning", 0.0) > 0.0
    }

    /// The recorded settings in the names of this project.
    fn our_settings(&self) -> Result<Settings, String> {
        let theirs = self.settings();
        let given = |key: &str| theirs[key].as_u64();
        let warm_start = given("warm_start_from_update");
        if warm_start.unwrap_or(0) != self.start {
            return Err("the schedule does not start where the warm start ends".into());
        }
        let micro_batch = count(theirs, "micro_batch", 1);
        let (reset, reset_ratio) = reset_of(theirs);
        let schedule = match (theirs["scheduler"].as_str(), given("cycle_length")) {
            (Some("linear"), _) => ScheduleName::Linear,
            (_, Some(_)) => ScheduleName::CosineCycles,
            (_, None) => ScheduleName::Cosine,
        };
        let clip = real(theirs, "clip_grad_norm", self.grad_clip);
        let restarts = given("relora").is_some();
        let is_zero = |factor: &str| {
            let factors: Vec<_> = self
                .tensors
                .under("lora_init.")
                .filter(|(name, _)| name.ends_with(factor))
                .collect();
            factors
                .iter()
                .all(|(_, values)| values.iter().all(|value| *value == 0.0))
        };
        Ok(Settings {
            freeze_last_embedding: self.network.frozen_embedding_row.is_some(),
            steps: self.start + count(&self.run, "scheduler_total_steps", 0),
            sequence_length: self.length as u64,
            global_batch_size: micro_batch * count(theirs, "grad_accum", 1),
            micro_batch_size: micro_batch,
            overlap: 0,
            loss_weight: LossWeight::MicroBatches,
            beta1: real(theirs, "adam_beta1", self.betas[0]),
            beta2: real(theirs, "adam_beta2", self.betas[1]),
            epsilon: self.epsilon,
            weight_decay: real(theirs, "weight_decay", 0.0),
            evaluate_every: 0,
            log_every: 1,
            warm_start_steps: self.start,
            learning_rate: real(theirs, "lr", 1e-4),
            warmup_steps: count(theirs, "warmup_steps", 1000),
            minimum_learning_rate_ratio: real(theirs, "min_lr_ratio", 0.1),
            schedule,
            grad_clip: (clip > 0.0).then_some(clip),
            low_rank: theirs["use_peft"] == true,
            warm_start: warm_start.is_some(),
            restarts,
            optimizer_reset: restarts && given("cycle_length").is_some(),
            jagged: theirs["scheduler"] == "cosine_restarts",
            rewarmup: true,
            rank: count(theirs, "lora_r", 128),
            alpha: real(theirs, "lora_alpha", 32.0),
            scaling: if theirs["train_scaling"] == true {
                ScalingName::TanhScalar
            } else {
                ScalingName::Fixed
            },
            base: BaseName::Keep,
            factor_init: match (is_zero(".A"), is_zero(".B")) {
                (true, true) => FactorInitName::BothZero,
                (false, true) => FactorInitName::KaimingZero,
                _ => FactorInitName::BothKaiming,
            },
            restart_every: count(theirs, "relora", 2000),
            cycle_steps: count(theirs, "cycle_length", 0),
            rewarmup_steps: count(theirs, "restart_warmup_steps", 0),
            adjust_steps: count(theirs, "adjust_step", 0),
            reset,
            reset_ratio,
            prune_mask: PruneMaskName::Separate,
            ..Settings::default()
        })
    }

    fn cell(&self) -> Result<Cell, String> {
        let settings = self.our_settings()?;
        // Nothing of the warm start is replayed: the recording hands it on.
        let warm_start = settings.warm_start.then_some(FullRankStage {
            learning_rate: settings.learning_rate,
            warmup_steps: 0,
            minimum_learning_rate_ratio: settings.minimum_learning_rate_ratio,
            schedule: ScheduleName::Linear,
            cycle_steps: None,
            grad_clip: settings.grad_clip,
        });
        let Network {
            hidden,
            intermediate,
            layers,
            heads,
            vocabulary,
            ..
        } = self.network;
        Ok(Cell {
            size: "recorded".into(),
            method: "replay".into(),
            preset: "relora".into(),
            seed: 0,
            dialect: "official-head".into(),
            device: harness::worker::kind(self.place.device).into(),
            precision: self.place.precision.to_string(),
            hands_over: false,
            data: DataKeys {
                hash: String::new(),
                vocabulary: vocabulary as u64,
            },
            network: Shape {
                hidden: hidden as u64,
                intermediate: intermediate as u64,
                layers: layers as u64,
                heads: heads as u64,
            },
            settings,
            warm_start,
            initial: None,
            point: None,
            tuning: None,
        })
    }

    /// The batches at the places where the trainer looks for them, and the text to evaluate on.
    fn data(&self, settings: &Settings, directory: &std::path::Path) -> anyhow::Result<Data> {
        let wrong = anyhow::Error::msg;
        let key = self.run["tokens_key"].as_str().unwrap_or("tokens");
        let recorded = self.common.tokens(key).map_err(wrong)?;
        let size = settings.global_batch_size as usize * self.length;
        let batches: Vec<&[u32]> = recorded.chunks(size).collect();
        let steps = counts(&self.run["update_step"]).into_iter();
        let indices: BTreeMap<u64, u64> =
            steps.zip(counts(&self.run["token_batch_index"])).collect();
        let mut tokens = Vec::new();
        for step in 1..=settings.steps {
            // What stands before the recording begins is never looked at.
            let index = indices.get(&step).copied().unwrap_or(0) as usize;
            let batch = batches
                .get(index)
                .ok_or_else(|| wrong(format!("{key} has no batch {index}")))?;
            tokens.extend_from_slice(batch);
        }
        std::fs::create_dir(directory)?;
        let vocabulary = self.network.vocabulary as u32;
        let mut writer = Writer::create(directory, b"{}", vocabulary, vocabulary - 1)?;
        writer.push(Split::Training, &tokens, 0)?;
        writer.push(
            Split::Validation,
            &self.common.tokens("eval_tokens").map_err(wrong)?,
            0,
        )?;
        writer.finish(None, None, BadLines::default())?;
        let store = Arc::new(Store::open(directory)?);
        let batches = |split, global_batch: u64| {
            let micro_batch = settings.micro_batch_size as usize;
            let store = Arc::clone(&store);
            let (length, global_batch) = (self.length, global_batch as usize);
            Batches::new(
                store,
                split,
                Order::Sequential,
                Layout::Packed,
                length,
                0,
                global_batch,
                micro_batch,
            )
        };
        Ok(Data {
            training: batches(Split::Training, settings.global_batch_size)?,
            validation: batches(Split::Validation, settings.micro_batch_size)?,
        })
    }

    fn tolerances(&self) -> &'static Tolerances {
        match self.place.precision {
            Precision::Bf16 => &IN_BF16,
            Precision::Bf16Master => &IN_BF16_WITH_MASTERS,
            Precision::F32 if self.by_magnitude() => &PRUNED_BY_MAGNITUDE,
            Precision::F32 => &WELL_CONDITIONED,
        }
    }

    fn compare(&self, replayed: &Replay) -> Replayed {
        let mut deviations = Deviations::default();
        self.compare_updates(replayed, &mut deviations)?;
        self.compare_events(replayed, &mut deviations);
        if self.place.is_f32() {
            self.compare_moments(replayed, &mut deviations)?;
            self.compare_scales(replayed, &mut deviations);
        }
        self.compare_end(replayed, &mut deviations)?;
        for (key, ours) in [
            ("n_total_params", replayed.total_parameters),
            ("n_trainable_params", replayed.trainable_parameters),
            ("n_equivalent_params", self.network.parameters()),
        ] {
            deviations.same(key, &Some(ours), &self.run[key].as_u64());
        }
        deviations.note(
            "draws that were not recorded",
            replayed.unrecorded.len() as f64,
            0.0,
            format!("{:?}", replayed.unrecorded),
        );
        Ok(deviations)
    }

    /// Learning rate, loss and norm of the gradient of each update.
    fn compare_updates(
        &self,
        replayed: &Replay,
        deviations: &mut Deviations,
    ) -> Result<(), String> {
        let steps = counts(&self.run["update_step"]);
        deviations.same("updates", &replayed.steps.len(), &steps.len());
        let recorded = |key: &str, index: usize| self.run[key][index].as_f64();
        for (index, step) in replayed.steps.iter().enumerate() {
            let rate = recorded("lr_used", index).ok_or("no rate")?;
            deviations.compare(
                "learning rate",
                step.learning_rate,
                rate,
                RATE_TOLERANCE,
                step.step,
            );
            if steps
                .get(index)
                .is_none_or(|step| *step > self.comparable_until)
            {
                continue;
            }
            let loss = recorded("loss", index).ok_or("no loss")?;
            deviations.compare(
                "loss",
                step.loss.unwrap_or(f64::NAN),
                loss,
                self.tolerances().loss,
                step.step,
            );
            // Where nothing is clipped, the official code computes no norm.
            if let Some(norm) = recorded("grad_norm", index) {
                let ours = step.grad_norm.unwrap_or(f64::NAN);
                deviations.note(
                    "norm of the gradient",
                    (ours / norm - 1.0).abs(),
                    self.tolerances().grad_norm,
                    step.step,
                );
            }
        }
        Ok(())
    }

    /// After which updates there are restarts and resets.
    fn compare_events(&self, replayed: &Replay, deviations: &mut Deviations) {
        deviations.same(
            "restarts",
            &replayed.restarts,
            &counts(&self.run["merge_after_update"]),
        );
        let resets: Vec<u64> = replayed
            .resets
            .iter()
            .map(|reset| reset.after_update)
            .collect();
        deviations.same(
            "resets",
            &resets,
            &counts(&self.run["optimizer_reset_after_update"]),
        );
    }

    /// The moments of the factors around each reset.
    fn compare_moments(
        &self,
        replayed: &Replay,
        deviations: &mut Deviations,
    ) -> Result<(), String> {
        let recorded = self.run["resets"].as_array().cloned().unwrap_or_default();
        for (number, (ours, theirs)) in replayed.resets.iter().zip(&recorded).enumerate() {
            if ours.after_update > self.comparable_until {
                break;
            }
            for (quantity, ours, key) in [
                ("moments of the factors", ours.total, "n_total"),
                ("zero before a reset", ours.zero_before, "n_zero_before"),
                ("zero after a reset", ours.zero_after, "n_zero_after"),
            ] {
                deviations.same(quantity, &ours, &count(theirs, key, 0));
            }
            for (name, values) in self.tensors.under(&format!("reset{number}.after.")) {
                let moment = ours
                    .moments
                    .get(name)
                    .ok_or_else(|| format!("no moment {name}"))?;
                deviations.tensor(
                    "moments after a reset",
                    moment,
                    &values,
                    self.tolerances().factors,
                    name,
                );
            }
        }
        Ok(())
    }

    /// The trained scales after each update, all layers' as one tensor.
    fn compare_scales(&self, replayed: &Replay, deviations: &mut Deviations) {
        let Some(recorded) = self.run["lora_scaling_after_update"].as_array() else {
            return;
        };
        deviations.same(
            "updates with trained scales",
            &replayed.scalars.len(),
            &recorded.len(),
        );
        let modules: Vec<&str> = self.run["relora_modules_in_order"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let steps = counts(&self.run["update_step"]);
        for ((ours, theirs), step) in replayed.scalars.iter().zip(recorded).zip(steps) {
            if step > self.comparable_until {
                break;
            }
            let ours: Vec<f32> = modules
                .iter()
                .map(|module| ours.get(*module).copied().unwrap_or(f32::NAN))
                .collect();
            deviations.tensor(
                "trained scales, before tanh",
                &ours,
                &floats(theirs),
                self.tolerances().factors,
                format!("after {step}"),
            );
        }
    }

    /// Loss, weights and factors at the end, where another implementation can follow so far.
    fn compare_end(&self, replayed: &Replay, deviations: &mut Deviations) -> Result<(), String> {
        let last = counts(&self.run["update_step"]).last().copied();
        if last.is_none_or(|last| last > self.comparable_until) {
            return Ok(());
        }
        let tolerances = self.tolerances();
        deviations.compare(
            "loss, evaluated at the end",
            replayed.evaluation,
            real(&self.run, "final_eval_loss", f64::NAN),
            tolerances.evaluation,
            "",
        );
        if !self.place.is_f32() {
            return Ok(());
        }
        for (prefix, quantity, ours, tolerance) in [
            (
                "final.",
                "weights at the end, merged",
                &replayed.merged,
                tolerances.weights,
            ),
            (
                "final_lora.",
                "factors at the end",
                &replayed.factors,
                tolerances.factors,
            ),
        ] {
            for (name, values) in self.tensors.under(prefix) {
                let ours = ours.get(name).ok_or_else(|| format!("no tensor {name}"))?;
                deviations.tensor(quantity, ours, &values, tolerance, name);
            }
        }
        Ok(())
    }
}

/// The recorded draws, by what they are for.
struct RecordedDraws<'a> {
    recording: &'a Recording,
    /// What was asked for and is not there.
    unrecorded: RefCell<BTreeSet<String>>,
}

impl RecordedDraws<'_> {
    fn find(&self, what: &Draw<'_>) -> Option<Vec<f32>> {
        let Recording {
            tensors,
            run,
            start,
            ..
        } = self.recording;
        let factor = |prefix: &str| {
            let module = what
                .name
                .strip_suffix(".lora_A.weight")
                .map(|module| format!("{module}.A"));
            let module = module.or_else(|| {
                what.name
                    .strip_suffix(".lora_B.weight")
                    .map(|module| format!("{module}.B"))
            });
            tensors.floats(&format!("{prefix}.{}", module?)).ok()
        };
        let values = match what.role {
            DrawRole::FactorA | DrawRole::FactorB if what.step == *start => factor("lora_init"),
            DrawRole::FactorA => {
                let restarts = counts(&run["merge_after_update"]);
                let number = restarts.iter().position(|step| *step == what.step)?;
                factor(&format!("reinit{number}"))
            }
            DrawRole::KeepFirst | DrawRole::KeepSecond => {
                let resets = run["resets"].as_array()?;
                let reset = resets
                    .iter()
                    .find(|reset| reset["after_update"].as_u64() == Some(what.step))?;
                let moment = if what.role == DrawRole::KeepFirst {
                    "exp_avg"
                } else {
                    "exp_avg_sq"
                };
                let mut values = vec![0.0; what.shape[0] * what.shape[1]];
                for index in counts(&reset["kept_flat_indices"][format!("{}.{moment}", what.name)])
                {
                    *values.get_mut(index as usize)? = 1.0;
                }
                Some(values)
            }
            // No dropout, and the weights are written.
            DrawRole::Dropout | DrawRole::Weight => Some(vec![0.0; what.shape[0] * what.shape[1]]),
            DrawRole::FactorB => None,
        };
        values.filter(|values| values.len() == what.shape[0] * what.shape[1])
    }
}

impl Draws for RecordedDraws<'_> {
    fn values(&self, what: &Draw<'_>) -> Vec<f32> {
        self.find(what).unwrap_or_else(|| {
            self.unrecorded
                .borrow_mut()
                .insert(format!("{:?} {} at {}", what.role, what.name, what.step));
            vec![f32::NAN; what.shape[0] * what.shape[1]]
        })
    }
}

/// The moments around one reset.
struct ObservedReset {
    after_update: u64,
    total: u64,
    zero_before: u64,
    zero_after: u64,
    moments: BTreeMap<String, Vec<f32>>,
}

/// A learner that is looked at between the steps.
struct Observed {
    inner: Box<dyn Learner>,
    updates: usize,
    /// Trained scales by module after each update, as they are when the next one begins.
    scalars: Vec<BTreeMap<String, f32>>,
    resets: Vec<ObservedReset>,
}

impl Observed {
    fn factor_moments(&self) -> BTreeMap<String, Vec<f32>> {
        let moments = self.inner.tensors().into_iter().filter(|info| {
            info.name.contains(".lora_")
                && matches!(
                    info.role,
                    TensorRole::FirstMoment | TensorRole::SecondMoment
                )
        });
        moments
            .filter_map(|info| {
                read(&*self.inner, &info.name)
                    .ok()
                    .map(|values| (info.name, values))
            })
            .collect()
    }

    /// Once for each update, before anything that follows it.
    fn look_at_scalars(&mut self) {
        if self.scalars.len() < self.updates {
            let scalars = self.inner.tensors().into_iter().filter_map(|info| {
                let module = info.name.strip_suffix(".scaling")?;
                let value = read(&*self.inner, &info.name).ok()?;
                Some((module.to_owned(), *value.first()?))
            });
            let scalars = scalars.collect();
            self.scalars.push(scalars);
        }
    }
}

fn zeros(moments: &BTreeMap<String, Vec<f32>>) -> u64 {
    moments
        .values()
        .flatten()
        .filter(|value| **value == 0.0)
        .count() as u64
}

impl Learner for Observed {
    fn attach(&mut self, step: u64, low_rank: &LowRank, draws: &dyn Draws) {
        self.inner.attach(step, low_rank, draws);
    }

    fn accumulate(&mut self, batch: Batch<'_>, weight: f64) {
        self.look_at_scalars();
        self.inner.accumulate(batch, weight);
    }

    fn update(&mut self, update: Update) {
        self.inner.update(update);
        self.updates += 1;
    }

    fn recompute_blocks(&mut self, recompute: bool) {
        self.inner.recompute_blocks(recompute);
    }

    fn timed_update(
        &mut self,
        batch: Batch<'_>,
        weight: f64,
        update: Update,
    ) -> Result<Phases, DeviceFault> {
        self.inner.timed_update(batch, weight, update)
    }

    fn restart(&mut self, step: u64, draws: &dyn Draws) {
        self.inner.restart(step, draws);
    }

    fn reset_moments(&mut self, step: u64, reset: &MomentReset, draws: &dyn Draws) -> ResetReport {
        let before = self.factor_moments();
        let report = self.inner.reset_moments(step, reset, draws);
        let moments = self.factor_moments();
        self.resets.push(ObservedReset {
            after_update: step,
            total: report.total,
            zero_before: zeros(&before),
            zero_after: zeros(&moments),
            moments,
        });
        report
    }

    fn drain(&mut self) -> Result<Vec<Reading>, DeviceFault> {
        self.inner.drain()
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<LossSum, DeviceFault> {
        self.look_at_scalars();
        self.inner.evaluate(batch)
    }

    fn tensors(&self) -> Vec<TensorInfo> {
        self.inner.tensors()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DeviceFault> {
        self.inner.read(name)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), TensorError> {
        self.inner.write(name, bytes)
    }

    fn memory(&self) -> DeviceMemory {
        self.inner.memory()
    }
}

/// What the replay left: in its run directory, and in the learner.
struct Replay {
    steps: Vec<results::record::StepRecord>,
    restarts: Vec<u64>,
    resets: Vec<ObservedReset>,
    scalars: Vec<BTreeMap<String, f32>>,
    evaluation: f64,
    /// Weights by name, the product merged into them.
    merged: BTreeMap<String, Vec<f32>>,
    /// `<module>.A`, `.B` and `.scaling`.
    factors: BTreeMap<String, Vec<f32>>,
    total_parameters: u64,
    trainable_parameters: u64,
    unrecorded: BTreeSet<String>,
}

impl Replay {
    fn run(recording: &Recording) -> anyhow::Result<Replay> {
        let wrong = anyhow::Error::msg;
        let cell = recording.cell().map_err(wrong)?;
        cell.settings
            .check()
            .map_err(|wrong| anyhow::anyhow!("{} {}", wrong.key, wrong.why))?;
        let algorithm = cell.algorithm()?;
        let low_rank = MethodSwitches::of(&cell.settings).low_rank;
        let state = recording.run["initial_state_key"]
            .as_str()
            .unwrap_or("init.");
        let given = recording
            .common
            .under(state)
            .map(|(name, values)| (name.to_owned(), values));
        let inner =
            learner(recording.place, &cell.network(), &algorithm.adamw, given).map_err(wrong)?;
        let mut observed = Observed {
            inner,
            updates: 0,
            scalars: Vec::new(),
            resets: Vec::new(),
        };

        let suite = tempfile::tempdir()?;
        let directory = suite.path().join(cell.directory());
        std::fs::create_dir(&directory)?;
        let data = recording.data(&cell.settings, &suite.path().join("tokens"))?;
        let stop = Stop::new(None);
        let Claim::Taken(lease) = Lease::claim(&directory, &stop)? else {
            anyhow::bail!("the run is somebody else's");
        };
        let session = Session {
            version: String::new(),
            started_unix_seconds: 0,
            from_step: 0,
            device_name: String::new(),
            threads: 1,
            kernels: None,
            cuda: None,
        };
        let mut journal = Journal::open(&directory, &cell, lease, session)?;
        if recording.start > 0 {
            // The warm start was recorded too; it is handed on as a run hands it on to itself, by a checkpoint.
            let targets = cell.tokens_per_update() * recording.start;
            let progress = Progress {
                step: recording.start,
                tokens_seen: targets,
            };
            let state = State::new(
                progress,
                0,
                blake3::hash(b"").to_hex().to_string(),
                false,
                Clock::default(),
            );
            let (partial, folder) = (directory.join("handed-on"), checkpoint::folder(&directory));
            std::fs::create_dir(&folder)?;
            checkpoint::write(&partial, &observed, state)?;
            checkpoint::publish(&partial, &folder, recording.start)?;
        }
        let draws = RecordedDraws {
            recording,
            unrecorded: RefCell::default(),
        };
        let outcome = harness::run::run(
            &algorithm,
            &mut observed,
            &draws,
            &data,
            &mut journal,
            &stop,
        )?;
        anyhow::ensure!(outcome == Outcome::Complete, "the run ended {outcome:?}");

        let mut replay = Replay {
            steps: Vec::new(),
            restarts: Vec::new(),
            resets: observed.resets,
            scalars: observed.scalars,
            evaluation: f64::NAN,
            merged: BTreeMap::new(),
            factors: BTreeMap::new(),
            total_parameters: recording.network.total_parameters(low_rank.as_ref()),
            trainable_parameters: recording.network.trainable_parameters(low_rank.as_ref()),
            unrecorded: draws.unrecorded.into_inner(),
        };
        for line in std::fs::read_to_string(directory.join("metrics.jsonl"))?.lines() {
            match serde_json::from_str(line)? {
                Record::Step(step) => replay.steps.push(step),
                Record::Restart(restart) => replay.restarts.push(restart.step),
                Record::Evaluation(evaluation) => {
                    replay.evaluation = evaluation.validation_loss.unwrap_or(f64::NAN);
                }
                Record::Reset(_) | Record::Stop(_) => {}
            }
        }
        replay
            .read_tensors(&*observed.inner, low_rank.as_ref())
            .map_err(wrong)?;
        Ok(replay)
    }

    fn read_tensors(
        &mut self,
        learner: &dyn Learner,
        low_rank: Option<&LowRank>,
    ) -> Result<(), String> {
        let weights = learner
            .tensors()
            .into_iter()
            .filter(|info| checkpoint::is_weight(info.role));
        let shapes: BTreeMap<String, Vec<usize>> =
            weights.map(|info| (info.name, info.shape)).collect();
        for name in shapes.keys() {
            let values = read(learner, name)?;
            let factor = [
                (".lora_A.weight", ".A"),
                (".lora_B.weight", ".B"),
                (".scaling", ".scaling"),
            ];
            let factor = factor
                .iter()
                .find_map(|(ours, theirs)| Some(name.strip_suffix(ours)?.to_owned() + theirs));
            match factor {
                Some(factor) => self.factors.insert(factor, values),
                None => self.merged.insert(name.clone(), values),
            };
        }
        let Some(low_rank) = low_rank else {
            return Ok(());
        };
        for (name, weight) in &mut self.merged {
            let part = |part: &str| {
                self.factors
                    .get(&format!("{}.{part}", name.strip_suffix(".weight")?))
            };
            let (Some(a), Some(b)) = (part("A"), part("B")) else {
                continue;
            };
            let scale = match low_rank.scaling {
                Scaling::Fixed(scale) => scale,
                Scaling::TanhScalar => part("scaling")
                    .and_then(|scalar| scalar.first())
                    .map_or(f64::NAN, |scalar| f64::from(*scalar).tanh()),
            };
            let inputs = a.len() / low_rank.rank;
            for (index, weight) in weight.iter_mut().enumerate() {
                let (row, column) = (index / inputs, index % inputs);
                let product: f64 = (0..low_rank.rank)
                    .map(|k| {
                        f64::from(b[row * low_rank.rank + k]) * f64::from(a[k * inputs + column])
                    })
                    .sum();
                #[expect(clippy::cast_possible_truncation, reason = "a weight is f32")]
                {
                    *weight = (f64::from(*weight) + scale * product) as f32;
                }
            }
        }
        Ok(())
    }
}
