//! From a profile to its cells: one cell is one size x method x seed, a training run with all that determines it.

use crate::algorithm::{Algorithm, MethodSwitches};
use crate::profile::{Profile, ProfileError, name_fault};
use crate::schedule::ScheduleError;
use crate::settings::{
    LossWeight, NetworkName, ScalingName, ScheduleName, Scope, Setting, Settings,
};
use models::{Network, cost};
use results::record::{RowKeys, Tuning, TuningPoint, run_directory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A network's numbers as files write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Width of the hidden state.
    pub hidden: u64,
    /// Width of the MLP.
    pub intermediate: u64,
    /// Number of blocks.
    pub layers: u64,
    /// Attention heads.
    pub heads: u64,
}

/// The rate and schedule of `full`, which a warm start follows. All else is the same for every method of a size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullRankStage {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of the first warm-up.
    pub warmup_steps: u64,
    /// Learning rate at the end of the schedule, as a share of the peak.
    pub minimum_learning_rate_ratio: f64,
    /// Shape of the schedule.
    pub schedule: ScheduleName,
    /// Steps of a cycle, where the schedule has cycles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle_steps: Option<u64>,
    /// Largest global norm of the gradient.
    pub grad_clip: Option<f64>,
}

impl FullRankStage {
    fn of(settings: &Settings) -> FullRankStage {
        FullRankStage {
            learning_rate: settings.learning_rate,
            warmup_steps: settings.warmup_steps,
            minimum_learning_rate_ratio: settings.minimum_learning_rate_ratio,
            schedule: settings.schedule,
            cycle_steps: (settings.schedule == ScheduleName::CosineCycles)
                .then(|| settings.cycle()),
            grad_clip: settings.grad_clip,
        }
    }
}

/// The text that a run reads, as its store identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKeys {
    /// Hash of the tokens and the tokenizer.
    pub hash: String,
    /// Entries of the vocabulary.
    pub vocabulary: u64,
}

/// The weights of a Hugging Face folder that a run starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialWeights {
    /// The folder. It is no part of what determines the run.
    pub folder: PathBuf,
    /// Hash of the weights.
    pub hash: String,
}

/// What a whole suite shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The text.
    pub data: DataKeys,
    /// `cpu` or `cuda`: the kind, not the number.
    pub device: String,
    /// `f32`, `bf16` or `bf16-master`.
    pub precision: String,
    /// Where the runs start, if not at random weights.
    pub initial: Option<InitialWeights>,
}

impl Surroundings {
    /// Those of cells that are only looked at: what of a cell depends on its profile alone.
    #[must_use]
    pub fn without_text(profile: &Profile) -> Surroundings {
        Surroundings {
            data: DataKeys {
                hash: String::new(),
                vocabulary: profile.data.vocabulary,
            },
            device: "cpu".into(),
            precision: "f32".into(),
            initial: None,
        }
    }
}

/// One training run and all that determines it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Name of the size.
    pub size: String,
    /// Name of the method in the profile.
    pub method: String,
    /// Preset that the method is derived from.
    pub preset: String,
    /// Seed of the initial weights, the order of the data and every other draw.
    pub seed: u64,
    /// Recipe dialect.
    pub dialect: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// `f32`, `bf16` or `bf16-master`.
    pub precision: String,
    /// Whether other cells start from this run's checkpoint at `warm_start_steps`. It says which steps are kept, and is
    /// no part of what determines the run.
    pub hands_over: bool,
    /// The text that it reads.
    pub data: DataKeys,
    /// The network that it trains.
    pub network: Shape,
    /// Its own hyper-parameters.
    pub settings: Settings,
    /// Those of `full` that its warm start follows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warm_start: Option<FullRankStage>,
    /// The weights that it starts from; none for random ones.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub initial: Option<InitialWeights>,
    /// The point of a tuning that it tries. Like `tuning` it is for the tables, and no part of what determines the run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub point: Option<TuningPoint>,
    /// How its method's settings were tuned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tuning: Option<Tuning>,
}

/// All cells of a profile: for each size the methods in the profile's order, each with all seeds, `full` before those that
/// may start from its checkpoints.
///
/// # Errors
/// A value that cannot be, with where it was written.
pub fn cells(profile: &Profile, surroundings: &Surroundings) -> Result<Vec<Cell>, ProfileError> {
    let mut cells = Vec::new();
    for size in &profile.sizes {
        let mut methods: Vec<&String> = profile.methods.iter().collect();
        methods.sort_by_key(|method| method.as_str() != "full");
        for method in methods {
            for seed in &profile.seeds {
                cells.push(cell(profile, size, method, *seed, surroundings)?);
            }
        }
    }
    let warm: Vec<(String, u64)> = cells
        .iter()
        .filter(|cell| cell.warm_start.is_some())
        .map(|cell| (cell.size.clone(), cell.seed))
        .collect();
    for cell in &mut cells {
        cell.hands_over = cell.method == "full" && warm.contains(&(cell.size.clone(), cell.seed));
    }
    Ok(cells)
}

/// The settings of a method at a size, and the network that it trains at a vocabulary.
///
/// # Errors
/// A value that cannot be, with where it was written.
pub fn resolved(
    profile: &Profile,
    size: &str,
    method: &str,
    vocabulary: u64,
) -> Result<(Settings, Network), ProfileError> {
    let (settings, mut network) = profile.settings(size, method)?;
    network.vocabulary = vocabulary as usize;
    network.frozen_embedding_row = frozen_embedding_row(&settings, vocabulary);
    if settings.network == NetworkName::Matched {
        let low_rank = profile.low_rank(size, "relora")?;
        network = network.matched(network.trainable_parameters(low_rank.as_ref()));
    }
    Ok((settings, network))
}

/// The row of the embedding that stays zero, where the settings want one to.
fn frozen_embedding_row(settings: &Settings, vocabulary: u64) -> Option<u32> {
    settings
        .freeze_last_embedding
        .then_some((vocabulary.max(1) - 1) as u32)
}

fn cell(
    profile: &Profile,
    size: &str,
    method: &str,
    seed: u64,
    surroundings: &Surroundings,
) -> Result<Cell, ProfileError> {
    let (settings, network) = resolved(profile, size, method, surroundings.data.vocabulary)?;
    let warm_start = if settings.warm_start {
        Some(FullRankStage::of(&profile.settings(size, "full")?.0))
    } else {
        None
    };
    let mut cell = Cell {
        size: size.into(),
        method: method.into(),
        preset: profile.preset(method)?,
        seed,
        dialect: profile.dialect.clone(),
        device: surroundings.device.clone(),
        precision: surroundings.precision.clone(),
        hands_over: false,
        data: surroundings.data.clone(),
        network: Shape {
            hidden: network.hidden as u64,
            intermediate: network.intermediate as u64,
            layers: network.layers as u64,
            heads: network.heads as u64,
        },
        settings,
        warm_start,
        initial: surroundings.initial.clone(),
        point: None,
        tuning: None,
    };
    cell.algorithm().map_err(|error| {
        profile.wrong(size, method, error.key(&cell.settings), error.to_string())
    })?;
    if let Some(of) = profile.point_of(method) {
        cell.point = Some(TuningPoint {
            values: tuned_values(profile, &cell.settings),
            final_flops: final_flops(profile, size, &of, seed, surroundings)?,
            of,
        });
    }
    if let Some(tuning) = profile.tuning(size, method)? {
        let values = tuned_values(profile, &cell.settings);
        cell.tuning = Some(Tuning { values, ..tuning });
    }
    Ok(cell)
}

/// The settings that a profile tunes, as far as a method uses them.
fn tuned_values(profile: &Profile, settings: &Settings) -> BTreeMap<String, f64> {
    let tuned = profile.tuned_settings();
    let shown = settings.show().into_iter();
    let used = shown.filter(|(key, _)| tuned.contains(key) && settings.uses(key));
    used.filter_map(|(key, value)| Some((key.to_owned(), f64::read(&value)?)))
        .collect()
}

/// FLOPs of one run of a method in the profile that is tuned: at this size or, where the proxy has a size of its own, at every
/// size together. None where the profile of the proxy runs stands by itself.
fn final_flops(
    profile: &Profile,
    size: &str,
    method: &str,
    seed: u64,
    surroundings: &Surroundings,
) -> Result<Option<f64>, ProfileError> {
    let Some(tuned_for) = profile.tuned_for.as_deref() else {
        return Ok(None);
    };
    let has_own_size = profile
        .tune
        .as_ref()
        .is_some_and(|tune| tune.size.is_some());
    let sizes = tuned_for.sizes.iter();
    let flops: Result<Vec<f64>, ProfileError> = sizes
        .filter(|other| has_own_size || *other == size)
        .map(|size| Ok(cell(tuned_for, size, method, seed, surroundings)?.flops()))
        .collect();
    Ok(Some(flops?.iter().sum()))
}

impl ScheduleError {
    /// The setting at fault.
    #[must_use]
    pub fn key(&self, settings: &Settings) -> &'static str {
        match self {
            ScheduleError::MinimumRatio(_) => "minimum_learning_rate_ratio",
            ScheduleError::Cycle { .. } if settings.cycle_steps > 0 => "cycle_steps",
            ScheduleError::Cycle { .. } => "restart_every",
            ScheduleError::Warmup { .. } => "warmup_steps",
        }
    }
}

impl Cell {
    /// Name of the run's directory in its suite.
    #[must_use]
    pub fn directory(&self) -> String {
        run_directory(&self.size, &self.method, self.seed)
    }

    /// Checks what a plan's file says of it as strictly as what a profile says.
    ///
    /// # Errors
    /// One line on the first thing that cannot be, with its value.
    pub fn check(&self) -> Result<(), String> {
        for (key, of_method, name) in [("size", false, &self.size), ("method", true, &self.method)]
        {
            if let Some(why) = name_fault(of_method, name) {
                return Err(format!("{key} = \"{name}\": {why}"));
            }
        }
        // The network of a cell is resolved; the limits of what a profile may ask for hold for it too.
        let resolved = Settings {
            hidden: self.network.hidden,
            intermediate: self.network.intermediate,
            layers: self.network.layers,
            heads: self.network.heads,
            ..self.settings.clone()
        };
        resolved.check().map_err(|wrong| {
            let mut shown = resolved.show().into_iter();
            let value = shown.find(|(key, _)| *key == wrong.key);
            let value = value.map_or_else(String::new, |(_, value)| value.to_string());
            format!("{} = {value}: {}", wrong.key, wrong.why)
        })?;
        if self.settings.micro_batch_size == 0 {
            return Err("micro_batch_size = 0: must be at least 1 in a plan".into());
        }
        let vocabulary = self.data.vocabulary;
        if vocabulary > u64::from(u32::MAX) {
            return Err(format!(
                "data.vocabulary = {vocabulary}: must be at most {}",
                u32::MAX
            ));
        }
        let network = self.network();
        network.check().map_err(|error| error.to_string())?;
        if let Some(low_rank) = MethodSwitches::of(&self.settings).low_rank {
            low_rank
                .check(&network)
                .map_err(|error| error.to_string())?;
        }
        self.algorithm().map_err(|error| error.to_string())?;
        Ok(())
    }

    /// The network that it trains.
    #[must_use]
    pub fn network(&self) -> Network {
        let vocabulary = self.data.vocabulary as usize;
        Network {
            hidden: self.network.hidden as usize,
            intermediate: self.network.intermediate as usize,
            layers: self.network.layers as usize,
            heads: self.network.heads as usize,
            vocabulary,
            frozen_embedding_row: frozen_embedding_row(&self.settings, self.data.vocabulary),
        }
    }

    /// Algorithm 1 of the paper with this cell's numbers.
    ///
    /// # Errors
    /// A schedule that cannot be.
    pub fn algorithm(&self) -> Result<Algorithm, ScheduleError> {
        Algorithm::new(&self.settings, self.warm_start.as_ref(), self.hands_over)
    }

    /// All that determines the run's numbers: names and what only says where or how long things are kept stay out, and
    /// so do keys that its method does not use, so that they may change.
    #[must_use]
    pub fn determines(&self) -> serde_json::Value {
        let used = |key: &str| self.settings.uses(key);
        let settings: serde_json::Map<String, serde_json::Value> =
            match serde_json::to_value(&self.settings) {
                Ok(serde_json::Value::Object(map)) => {
                    map.into_iter().filter(|(key, _)| used(key)).collect()
                }
                _ => serde_json::Map::new(),
            };
        let mut determines = serde_json::json!({
            "seed": self.seed,
            "device": self.device,
            "precision": self.precision,
            "data": self.data,
            "network": self.network,
            "settings": settings,
            "warm_start": self.warm_start,
        });
        // Only where there are any: the manifests of all other runs stay what they are.
        if let Some(initial) = &self.initial {
            determines["initial_weights"] = initial.hash.clone().into();
        }
        determines
    }

    /// What two methods of a size must have in common, so that their figures may be compared: text, precision, kind of device,
    /// where they start from, and of the settings that are the size's those that both use.
    #[must_use]
    pub fn shared_by_size(&self, other: &Cell) -> serde_json::Value {
        let mut shared = self.shared_by_method();
        let of_size = |key: &String| {
            let scope = Settings::KEYS.iter().find(|(known, _)| known == key);
            scope.is_some_and(|(_, scope)| *scope == Scope::Size)
        };
        if let Some(settings) = shared["settings"].as_object_mut() {
            // Recomputed or kept, a loss is the same; time and memory are not.
            settings
                .retain(|key, _| of_size(key) && (other.settings.uses(key) || key == "recompute"));
            // Whatever dropout draws, two methods draw it apart.
            if self.settings.loss_weight == LossWeight::Targets {
                settings.remove("micro_batch_size");
            }
        }
        if let Some(shared) = shared.as_object_mut() {
            shared.remove("network");
            shared.remove("warm_start");
        }
        shared
    }

    /// What all seeds of a method have in common, so that a mean over them is one of equals. How often a run is looked at
    /// trains nothing, and how an update is divided only rounds, but for dropout.
    #[must_use]
    pub fn shared_by_method(&self) -> serde_json::Value {
        let mut shared = self.without_seed();
        if let Some(settings) = shared["settings"].as_object_mut() {
            settings.remove("log_every");
            settings.remove("evaluate_every");
            // Dropout draws by micro-batch.
            let draws = self.settings.low_rank && self.settings.dropout > 0.0;
            if self.settings.loss_weight == LossWeight::Targets && !draws {
                settings.remove("micro_batch_size");
            }
        }
        shared
    }

    /// All that determines the run's numbers but its seed.
    #[must_use]
    pub fn without_seed(&self) -> serde_json::Value {
        let mut determines = self.determines();
        if let Some(determines) = determines.as_object_mut() {
            determines.remove("seed");
        }
        determines
    }

    /// The `full` run whose checkpoint after `warm_start_steps` this one may start from.
    #[must_use]
    pub fn warm_start_cell(&self) -> Option<Cell> {
        let stage = self.warm_start.clone()?;
        let defaults = Settings::default();
        let mut settings = self.settings.clone();
        for (key, value) in defaults.show() {
            if Settings::KEYS
                .iter()
                .any(|(known, scope)| *known == key && *scope == Scope::Method)
            {
                // A key's own default is a value of its kind.
                let _ = settings.set(key, &value);
            }
        }
        settings.learning_rate = stage.learning_rate;
        settings.warmup_steps = stage.warmup_steps;
        settings.minimum_learning_rate_ratio = stage.minimum_learning_rate_ratio;
        settings.schedule = stage.schedule;
        settings.cycle_steps = stage.cycle_steps.unwrap_or(settings.cycle_steps);
        settings.grad_clip = stage.grad_clip;
        Some(Cell {
            method: "full".into(),
            preset: "full".into(),
            hands_over: true,
            settings,
            warm_start: None,
            point: None,
            tuning: None,
            ..self.clone()
        })
    }

    /// Training targets of the run where every row is full of them, the warm start's included.
    #[must_use]
    pub fn planned_tokens(&self) -> u64 {
        self.tokens_per_update() * self.settings.steps
    }

    /// Training targets of one update where every row is full of them.
    #[must_use]
    pub fn tokens_per_update(&self) -> u64 {
        let unused = 1 - self.settings.overlap.min(1);
        self.settings.global_batch_size * self.settings.sequence_length.saturating_sub(unused)
    }

    /// Training FLOPs of the whole run: the warm start at full rank, the rest by what the method trains.
    #[must_use]
    pub fn flops(&self) -> f64 {
        let length = self.settings.sequence_length as usize;
        let network = self.network();
        let low_rank = MethodSwitches::of(&self.settings).low_rank;
        let warm = self.settings.warm_start_length() as f64;
        let rest = self.settings.steps as f64 - warm;
        let full_rank = cost::flops_per_token(&network, None, length);
        let own = cost::flops_per_token(&network, low_rank.as_ref(), length);
        self.tokens_per_update() as f64 * (warm * full_rank + rest * own)
    }

    /// The keys under which the run appears in every table.
    #[must_use]
    pub fn row(&self) -> RowKeys {
        let settings = &self.settings;
        let network = self.network();
        let low_rank = MethodSwitches::of(settings).low_rank;
        RowKeys {
            size: self.size.clone(),
            method: self.method.clone(),
            preset: self.preset.clone(),
            seed: self.seed,
            dialect: self.dialect.clone(),
            low_rank: settings.low_rank,
            rank: settings.low_rank.then_some(settings.rank),
            alpha: (settings.low_rank && settings.scaling == ScalingName::Fixed)
                .then_some(settings.alpha),
            restart_every: settings.restarts.then_some(settings.restart_every),
            warm_start_steps: settings.warm_start.then_some(settings.warm_start_steps),
            global_batch_size: Some(settings.global_batch_size),
            sequence_length: Some(settings.sequence_length),
            data_hash: Some(self.data.hash.clone()),
            base: settings
                .low_rank
                .then(|| settings.base.show().as_str().unwrap_or_default().to_owned()),
            restarts: settings.restarts,
            optimizer_reset: settings.optimizer_reset,
            jagged: settings.jagged,
            rewarmup: settings.jagged && settings.rewarmup,
            warm_start: settings.warm_start,
            learning_rate: settings.learning_rate,
            planned_steps: settings.steps,
            device: self.device.clone(),
            precision: self.precision.clone(),
            total_parameters: network.total_parameters(low_rank.as_ref()),
            trainable_parameters: network.trainable_parameters(low_rank.as_ref()),
            flops: self.flops(),
            point: self.point.clone(),
            tuning: self.tuning.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Assignment;

    /// A key that changes what is trained must change what is compared on resume, for every preset; else a suite could be
    /// continued with other numbers.
    #[test]
    fn what_changes_the_algorithm_changes_what_determines_it() {
        let data = DataKeys {
            hash: "0".into(),
            vocabulary: 1024,
        };
        let surroundings = Surroundings {
            data,
            device: "cpu".into(),
            precision: "f32".into(),
            initial: None,
        };
        let built = |set: &[Assignment]| {
            let profile = Profile::load("smoke", set).expect("loads");
            cells(&profile, &surroundings).expect("cells")
        };
        for switches in [
            &[][..],
            &["restarts=false", "jagged=false"],
            &["optimizer_reset=false", "jagged=false"],
        ] {
            let switches: Vec<Assignment> = switches
                .iter()
                .map(|set| format!("method.relora.{set}").into())
                .collect();
            let before = built(&switches);
            for change in [
                "restart_every=10",
                "rank=4",
                "alpha=4",
                "dropout=0.5",
                "reset_ratio=0.5",
                "reset=zero",
                "prune_mask=separate",
                "rewarmup_steps=2",
                "warmup_steps=2",
                "learning_rate=1e-2",
                "grad_clip=none",
                "minimum_learning_rate_ratio=0.5",
                "schedule=linear",
                "factor_init=both-zero",
                "scaling=tanh-scalar",
                "schedule_span=whole",
                "steps=80",
                "evaluate_every=7",
                "log_every=7",
            ] {
                let after = built(&[switches.clone(), vec![change.into()]].concat());
                for (old, new) in before.iter().zip(&after) {
                    let algorithm = |cell: &Cell| cell.algorithm().expect("a schedule");
                    if algorithm(old) != algorithm(new) && old.determines() == new.determines() {
                        // Numbers that the algorithm carries along but that nothing reads.
                        let unread = !new.settings.optimizer_reset
                            && (change.starts_with("reset") || change.starts_with("prune"));
                        assert!(unread, "{} with {change}", new.directory());
                    }
                }
            }
        }
    }
}
