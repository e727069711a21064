//! A run that is stopped and taken up again ends with the same bits as one that was not, wherever it was stopped; and the
//! shortcuts that cells take from one another change nothing.
//!
//! These tests put the parts together as the worker does, with a learner that asks to stop after a chosen update: a signal
//! could not be aimed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datasets::{DataSpec, SourceSpec, Store, TokenizerSpec, ValidationSpec};
use harness::journal::Journal;
use harness::lease::{Claim, Lease};
use harness::matrix::{self, Cell, DataKeys, Surroundings};
use harness::profile::{Assignment, Profile};
use harness::run::{self, Outcome};
use harness::stop::{Reason, Stop};
use harness::{checkpoint, worker};
use models::{
    Batch, Device, DeviceFault, DeviceMemory, Draws, Learner, LossSum, LowRank, MomentReset,
    Phases, Precision, Reading, ResetReport, Seeded, TensorError, TensorInfo, Update,
};
use results::record::Session;
use serde_json::Value;

use crate::support::World;

/// Resets that come at other steps than restarts, so that there is a boundary between the two. Cycles of 16 divide the 32
/// low-rank steps; restarts come after updates 10 + 9 and 10 + 17 and 10 + 25, resets after 10 + 17.
const APART: &[&str] = &[
    "method.relora.restart_every=8",
    "method.relora.cycle_steps=16",
];

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_at_every_kind_of_boundary() {
    let laboratory = Laboratory::new(APART);
    let cell = laboratory.cell("relora", 1);
    let algorithm = cell.algorithm().expect("a schedule");
    assert!(
        cell.settings.micro_batch_size < cell.settings.global_batch_size,
        "gradients are to be accumulated"
    );
    assert_eq!(
        [19, 27, 35].map(|step| algorithm.restarts.after(step)),
        [true; 3]
    );
    assert_eq!(
        [19, 27, 35].map(|step| algorithm.resets.after(step)),
        [false, true, false]
    );

    let whole = laboratory.train(&cell, "whole", None);
    for (what, step) in [
        ("the first update", 1),
        ("within the warm start", 7),
        ("the last update of the warm start", 10),
        ("the first update with factors", 11),
        ("the last update before a restart", 18),
        ("a restart without a reset", 19),
        ("between a restart and the next reset", 23),
        ("a restart with a reset", 27),
        ("mid-cycle", 30),
        ("the last update but one", 41),
    ] {
        let name = format!("stopped-after-{step}");
        let stopped = laboratory.train(&cell, &name, Some(step));
        assert_eq!(
            stopped.outcome,
            Outcome::Stopped(Reason::Interrupted),
            "{what}"
        );
        assert!(
            !stopped.directory.join("result.json").exists(),
            "{what}: it is not finished"
        );
        let resumed = laboratory.train(&cell, &name, None);
        resumed.assert_equals(&whole, what);
    }
}

/// Between two calls of one update nothing can be asked to stop, but a process can die there. What it would have written
/// afterwards is lost, and the run goes on from its last checkpoint.
#[test]
fn a_run_that_dies_inside_an_update_resumes_from_its_last_checkpoint() {
    let laboratory = Laboratory::new(APART);
    let cell = laboratory.cell("relora", 1);
    let whole = laboratory.train(&cell, "whole", None);
    for (what, moment) in [
        ("inside accumulation", Moment::InAccumulation { step: 23 }),
        ("between merge and reset", Moment::BeforeReset { step: 27 }),
    ] {
        laboratory.train(&cell, what, Some(21));
        let error = laboratory
            .try_train(&cell, what, None, Some(moment))
            .err()
            .expect(what);
        assert!(error.to_string().contains(DEAD), "{what}: {error}");
        laboratory
            .train(&cell, what, None)
            .assert_equals(&whole, what);
    }
}

/// An evaluation may take long, so it gives way; the run that goes on makes it anew. Steps 10 (the end of the warm start) and
/// 30 have no checkpoint of their own, 20 has one, and 42 is the end.
#[test]
fn a_run_stopped_inside_an_evaluation_resumes_with_that_evaluation() {
    let laboratory = Laboratory::new(&[]);
    let cell = laboratory.cell("relora", 1);
    let whole = laboratory.train(&cell, "whole", None);
    for step in [10, 20, 30, 42] {
        let name = format!("evaluating-{step}");
        let stop = Some(Moment::StopInEvaluation { step });
        let stopped = laboratory.try_train(&cell, &name, None, stop);
        let stopped = stopped.expect("a run");
        assert_eq!(
            stopped.outcome,
            Outcome::Stopped(Reason::Interrupted),
            "{step}"
        );
        assert_eq!(
            stopped.evaluated_after_stop, 1,
            "{step}: the micro-batch under way, no more"
        );
        let resumed = laboratory.train(&cell, &name, None);
        assert_eq!(
            resumed.first_update_here,
            (step < 42).then_some(step),
            "nothing is repeated"
        );
        resumed.assert_equals(&whole, &name);
    }
}

#[test]
fn a_run_resumed_again_and_again_equals_an_uninterrupted_one() {
    let laboratory = Laboratory::new(&["dropout=0.1", "reset=random", "reset_ratio=0.9"]);
    let cell = laboratory.cell("relora", 3);
    let whole = laboratory.train(&cell, "whole", None);
    for step in [4, 5, 19, 20, 31] {
        laboratory.train(&cell, "often", Some(step));
    }
    laboratory
        .train(&cell, "often", None)
        .assert_equals(&whole, "stopped five times, with dropout and random resets");
}

#[test]
fn a_method_without_factors_resumes_as_well() {
    let laboratory = Laboratory::new(&[]);
    for method in ["full", "low-rank"] {
        let cell = laboratory.cell(method, 2);
        let whole = laboratory.train(&cell, &format!("{method}-whole"), None);
        laboratory.train(&cell, &format!("{method}-stopped"), Some(21));
        laboratory
            .train(&cell, &format!("{method}-stopped"), None)
            .assert_equals(&whole, method);
    }
}

#[test]
fn a_warm_start_handed_on_equals_one_that_the_run_trains_itself() {
    let laboratory = Laboratory::new(&[]);
    let (full, relora) = (laboratory.cell("full", 1), laboratory.cell("relora", 1));
    assert_eq!(
        relora
            .warm_start_cell()
            .expect("it has a warm start")
            .determines(),
        full.determines()
    );

    // Alone: no sibling to take anything from.
    let alone = laboratory.train(&relora, "alone", None);
    // In a suite, `full` first.
    laboratory.train(&full, "suite/tiny-full-seed1", None);
    let handed_on = laboratory.train(&relora, "suite/tiny-relora-seed1", None);
    assert_eq!(
        handed_on.first_update_here,
        Some(relora.settings.warm_start_steps),
        "it begins where `full` left off"
    );
    assert_eq!(alone.first_update_here, Some(0));
    handed_on.assert_equals(&alone, "handed on");

    // And the state itself: the checkpoint of `full` at the end of the warm start is what `relora` has there.
    laboratory.train(&relora, "until", Some(relora.settings.warm_start_steps));
    let checkpoint = |run: &str| laboratory.path(run).join("checkpoints/step-10");
    for file in ["weights.safetensors", "moments.safetensors"] {
        let read = |run: &str| fs::read(checkpoint(run).join(file)).expect("a checkpoint");
        assert!(
            read("suite/tiny-full-seed1") == read("until"),
            "{file} differs at the end of the warm start"
        );
    }
}

#[test]
fn a_warm_start_of_other_settings_is_not_taken() {
    let laboratory = Laboratory::new(&[]);
    let other = Laboratory::new(&["method.full.learning_rate=1e-4"]);
    other.train_into(
        &other.cell("full", 1),
        &laboratory.path("suite/tiny-full-seed1"),
        None,
    );
    let run = laboratory.train(
        &laboratory.cell("relora", 1),
        "suite/tiny-relora-seed1",
        None,
    );
    assert_eq!(run.first_update_here, Some(0));
}

#[test]
fn all_methods_of_a_seed_read_the_same_data_in_the_same_order_and_seeds_differ() {
    let laboratory = Laboratory::new(&[]);
    let order = |method: &str, seed: u64| -> Vec<Vec<u32>> {
        let data =
            worker::data(&laboratory.cell(method, seed), &laboratory.store).expect("batches");
        let updates = (0..12).flat_map(|step| data.training.update(step).expect("sequences"));
        updates.map(|sequences| sequences.inputs).collect()
    };
    for method in ["lora", "low-rank", "relora"] {
        assert_eq!(order("full", 1), order(method, 1), "{method}");
        assert_ne!(order("full", 1), order(method, 2), "{method}");
    }
}

/// A store and the cells of the tiny profile, with some settings changed.
struct Laboratory {
    world: World,
    store: Arc<Store>,
    cells: Vec<Cell>,
}

/// A run that has come to its end, or to where it was stopped.
struct Trained {
    directory: PathBuf,
    outcome: Outcome,
    /// 0-based number of the first update that this process made.
    first_update_here: Option<u64>,
    /// Micro-batches evaluated from the request to stop on.
    evaluated_after_stop: u64,
}

impl Laboratory {
    fn new(set: &[&str]) -> Laboratory {
        let world = World::new();
        let spec = DataSpec {
            source: SourceSpec::from_path(&world.path("corpus.jsonl")).expect("the corpus"),
            tokenizer: TokenizerSpec::Train { vocabulary: 320 },
            validation: ValidationSpec {
                share: 0.1,
                maximum_tokens: None,
            },
            bad_line_share: 0.0,
        };
        let store = datasets::prepare(&spec, &world.path("stores"), &mut |_| {}).expect("a store");
        let profile = world.path("tiny.toml");
        let set: Vec<Assignment> = set
            .iter()
            .map(|assignment| (*assignment).into())
            .chain(["seeds=[1,2,3]".into()])
            .collect();
        let profile =
            Profile::load(profile.to_str().expect("a UTF-8 path"), &set).expect("a profile");
        let surroundings = Surroundings {
            data: DataKeys {
                hash: store.hash().into(),
                vocabulary: store.vocabulary() as u64,
            },
            device: "cpu".into(),
            precision: "f32".into(),
            initial: None,
        };
        let cells = matrix::cells(&profile, &surroundings).expect("cells");
        Laboratory {
            world,
            store: Arc::new(store),
            cells,
        }
    }

    fn cell(&self, method: &str, seed: u64) -> Cell {
        let wanted = |cell: &&Cell| cell.method == method && cell.seed == seed;
        self.cells
            .iter()
            .find(wanted)
            .expect("a cell of the profile")
            .clone()
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.world.path("runs").join(inside)
    }

    fn train(&self, cell: &Cell, inside: &str, stop_after: Option<u64>) -> Trained {
        self.train_into(cell, &self.path(inside), stop_after)
    }

    fn train_into(&self, cell: &Cell, directory: &Path, stop_after: Option<u64>) -> Trained {
        self.attempt(cell, directory, stop_after, None)
            .expect("a run")
    }

    fn try_train(
        &self,
        cell: &Cell,
        inside: &str,
        stop_after: Option<u64>,
        moment: Option<Moment>,
    ) -> anyhow::Result<Trained> {
        self.attempt(cell, &self.path(inside), stop_after, moment)
    }

    /// What a worker does, with `stop_after` updates done at most.
    fn attempt(
        &self,
        cell: &Cell,
        directory: &Path,
        stop_after: Option<u64>,
        moment: Option<Moment>,
    ) -> anyhow::Result<Trained> {
        fs::create_dir_all(directory).expect("a run directory");
        let stop = Stop::new(None);
        let Claim::Taken(lease) = Lease::claim(directory, &stop).expect("a claim") else {
            panic!("nobody else is here")
        };
        let session = Session {
            version: "test".into(),
            started_unix_seconds: 0,
            from_step: 0,
            device_name: "test".into(),
            threads: 1,
            kernels: None,
            cuda: None,
        };
        let mut journal = Journal::open(directory, cell, lease, session).expect("a journal");
        let data = worker::data(cell, &self.store).expect("batches");
        let algorithm = cell.algorithm().expect("a schedule");
        let draws = Seeded { seed: cell.seed };
        let inner = models::learner(
            &cell.network(),
            &algorithm.adamw,
            Device::Cpu,
            Precision::F32,
            &draws,
        )
        .expect("a learner");
        let mut learner = Stopping {
            inner,
            stop: stop.clone(),
            stop_after,
            first_update: None,
            moment,
            micro_batches: 0,
            updates: 0,
            dead: false,
            evaluated_after_stop: 0,
        };
        let outcome = run::run(&algorithm, &mut learner, &draws, &data, &mut journal, &stop)?;
        Ok(Trained {
            directory: directory.to_owned(),
            outcome,
            first_update_here: learner.first_update,
            evaluated_after_stop: learner.evaluated_after_stop,
        })
    }
}

impl Trained {
    /// Same weights and moments bit for bit, same records and same result but for time and memory.
    fn assert_equals(&self, other: &Trained, what: &str) {
        assert_eq!(
            [self.outcome, other.outcome],
            [Outcome::Complete; 2],
            "{what}"
        );
        for file in ["weights.safetensors", "moments.safetensors"] {
            assert!(
                self.last_checkpoint(file) == other.last_checkpoint(file),
                "{what}: {file} differs"
            );
        }
        assert_eq!(self.records(), other.records(), "{what}");
        assert_eq!(self.result(), other.result(), "{what}");
    }

    fn last_checkpoint(&self, file: &str) -> Vec<u8> {
        let folder = checkpoint::folder(&self.directory);
        let last = *checkpoint::steps(&folder)
            .expect("checkpoints")
            .last()
            .expect("at least one");
        assert_eq!(last, 42, "the end of the run has a checkpoint");
        fs::read(checkpoint::at_step(&folder, last).join(file)).expect("a file of the checkpoint")
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join("metrics.jsonl")).expect("records");
        text.lines()
            .map(|line| timeless(serde_json::from_str(line).expect("a record")))
            .collect()
    }

    fn result(&self) -> Value {
        let text = fs::read_to_string(self.directory.join("result.json")).expect("a result");
        timeless(serde_json::from_str(&text).expect("a result"))
    }
}

/// A record without its fields of time and memory.
fn timeless(mut record: Value) -> Value {
    let fields = record.as_object_mut().expect("an object");
    fields.retain(|name, _| {
        let memory = ["peak_memory_bytes", "planned_memory"];
        !name.ends_with("seconds")
            && name != "tokens_per_second"
            && !memory.contains(&name.as_str())
    });
    record
}

/// A learner that asks to stop once so many updates are done.
struct Stopping {
    inner: Box<dyn Learner>,
    stop: Stop,
    stop_after: Option<u64>,
    first_update: Option<u64>,
    moment: Option<Moment>,
    /// Micro-batches since the last update.
    micro_batches: u64,
    /// Updates done, those of earlier processes included.
    updates: u64,
    /// Nothing leaves the learner any more, so nothing reaches the disk.
    dead: bool,
    evaluated_after_stop: u64,
}

/// A moment between two boundaries at which a process dies or is told to stop, `step` updates done.
#[derive(Clone, Copy)]
enum Moment {
    /// After the first of an update's micro-batches.
    InAccumulation { step: u64 },
    /// After the restart of that step, before its reset.
    BeforeReset { step: u64 },
    /// In the first micro-batch of that step's evaluation; not a death, only a request.
    StopInEvaluation { step: u64 },
}

const DEAD: &str = "the process is dead";

impl Stopping {
    fn alive(&self) -> Result<(), DeviceFault> {
        if self.dead {
            Err(DeviceFault {
                reason: DEAD.into(),
            })
        } else {
            Ok(())
        }
    }
}

impl Learner for Stopping {
    fn update(&mut self, update: Update) {
        self.updates = update.step + 1;
        self.micro_batches = 0;
        self.first_update.get_or_insert(update.step);
        if self.stop_after == Some(update.step + 1) {
            self.stop.set(Reason::Interrupted);
        }
        self.inner.update(update);
    }

    fn attach(&mut self, step: u64, low_rank: &LowRank, draws: &dyn Draws) {
        self.inner.attach(step, low_rank, draws);
    }

    fn accumulate(&mut self, batch: Batch<'_>, weight: f64) {
        self.micro_batches += 1;
        self.dead |= matches!(self.moment, Some(Moment::InAccumulation { step }) if step == self.updates)
            && self.micro_batches == 2;
        self.inner.accumulate(batch, weight);
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
        self.dead |=
            matches!(self.moment, Some(Moment::BeforeReset { step: fatal }) if fatal == step);
        self.inner.reset_moments(step, reset, draws)
    }

    fn drain(&mut self) -> Result<Vec<Reading>, DeviceFault> {
        self.alive()?;
        self.inner.drain()
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<LossSum, DeviceFault> {
        if matches!(self.moment, Some(Moment::StopInEvaluation { step }) if step == self.updates) {
            self.stop.set(Reason::Interrupted);
        }
        self.evaluated_after_stop += u64::from(self.stop.reason().is_some());
        self.inner.evaluate(batch)
    }

    fn tensors(&self) -> Vec<TensorInfo> {
        self.inner.tensors()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DeviceFault> {
        self.alive()?;
        self.inner.read(name)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), TensorError> {
        self.inner.write(name, bytes)
    }

    fn memory(&self) -> DeviceMemory {
        self.inner.memory()
    }
}
