//! The runs of a suite, and one function for each table that is made of them.
//!
//! [`read`] reads a suite's directory, [`Runs::with_planned`] adds the runs that have not begun, and the functions of [`Runs`]
//! return polars frames whose rows and columns have a stable order: sizes by parameters, methods as planned, seeds ascending.
//! A run is never left out: one that diverged, failed, stopped or waits is a row, and a mean says how many seeds it lacks.

mod between;
mod build;
mod columns;
mod compare;
mod curve;
mod effects;
mod equal;
mod figures;
mod literature;
mod prices;
mod read;
mod recovery;
mod tables;
mod tuning;

pub use between::{Between, Side, between, only_in};
pub use columns::{Description, VOLATILE_COLUMNS, VOLATILE_ROWS, describe};
pub use compare::SeedsNeeded;
pub(crate) use compare::{BETTER_ALONE, TIE, UNRESOLVED_DIVERGED, WORSE_ALONE, pair};
pub use read::{FrameError, read};
pub use tuning::{Chosen, Cost, Tuned};

use crate::record::{
    Record, RowKeys, RunResult, Session, SpectrumOf, SpectrumRecord, Status, StepRecord,
};
use std::collections::BTreeMap;

/// One run as its directory tells it, or as it is planned.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The keys under which it appears.
    pub row: RowKeys,
    /// How it stands.
    pub status: Status,
    /// Why it failed or cannot be read; present exactly where the status is [`Status::Failed`] and the worker could say so, and
    /// where it is [`Status::Unreadable`].
    pub error: Option<String>,
    /// The processes that worked on it.
    pub sessions: Vec<Session>,
    /// Its records, in their order in the file; none of a run that cannot be read as a whole.
    pub records: Vec<Record>,
    /// Its final figures, once it has ended.
    pub result: Option<RunResult>,
    /// The spectra of what it trained, where they have been taken.
    pub spectra: Vec<SpectrumRecord>,
}

/// All runs of a suite, in the order of the tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runs {
    runs: Vec<Run>,
    /// Order of the methods; a method that is not named comes after those that are.
    methods: Vec<String>,
    /// Directories, by name, of runs that were claimed or failed before they had a manifest, or whose manifest cannot be read.
    unopened: BTreeMap<String, Unopened>,
    /// Nats within which two losses count as equal.
    margin: Option<f64>,
}

/// Runs of one method at one size whose updates are measured from the same step; never empty.
pub(crate) struct MeasuredAlike<'a> {
    /// Update steps done at the weights that they are measured from.
    pub(crate) from_step: u64,
    /// Seeds ascending.
    pub(crate) runs: Vec<&'a Run>,
}

impl MeasuredAlike<'_> {
    /// Keys of the first seed: all but the seed are the same in the others.
    pub(crate) fn row(&self) -> &RowKeys {
        &self.runs[0].row
    }
}

/// A run of which only the name of its directory is known.
#[derive(Clone, Debug, PartialEq)]
struct Unopened {
    status: Status,
    error: Option<String>,
}

impl Run {
    /// A run that has not begun.
    fn planned(row: RowKeys) -> Run {
        Run {
            row,
            status: Status::Pending,
            error: None,
            sessions: Vec::new(),
            records: Vec::new(),
            result: None,
            spectra: Vec::new(),
        }
    }

    /// The final figures of a run that ran to its end: what means over seeds are made of.
    #[must_use]
    pub fn complete(&self) -> Option<&RunResult> {
        self.result
            .as_ref()
            .filter(|result| result.status == Status::Complete)
    }

    /// The newest evaluation: update steps done then, and the mean loss where it was finite.
    #[must_use]
    pub fn newest_evaluation(&self) -> Option<(u64, Option<f64>)> {
        self.records.iter().rev().find_map(|record| match record {
            Record::Evaluation(evaluation) => Some((evaluation.step, evaluation.validation_loss)),
            _ => None,
        })
    }

    /// Mean validation loss, nats per target: the final one, or the last evaluation of a run that has not ended. None for a
    /// run that diverged: an evaluation from before says nothing about it.
    #[must_use]
    pub fn validation_loss(&self) -> Option<f64> {
        match &self.result {
            Some(result) => result
                .validation_loss
                .filter(|_| result.status == Status::Complete),
            None => self.newest_evaluation()?.1,
        }
    }

    /// A count by the result, or by the records of a run that has none; none for a run that cannot be read.
    pub(crate) fn count(
        &self,
        of_result: impl Fn(&RunResult) -> u64,
        of_records: impl Fn(&[Record]) -> u64,
    ) -> Option<u64> {
        match (&self.result, self.status) {
            (_, Status::Unreadable) => None,
            (Some(result), _) => Some(of_result(result)),
            (None, _) => Some(of_records(&self.records)),
        }
    }

    /// Update steps done; none for a run that cannot be read.
    #[must_use]
    pub fn update_steps(&self) -> Option<u64> {
        self.count(
            |result| result.update_steps,
            |records| records.iter().map(step_of).max().unwrap_or(0),
        )
    }

    /// Targets trained on so far; none for a run that cannot be read.
    #[must_use]
    pub fn tokens_seen(&self) -> Option<u64> {
        let seen = |record: &Record| match record {
            Record::Step(step) => step.tokens_seen,
            Record::Evaluation(evaluation) => evaluation.tokens_seen,
            Record::Restart(_) | Record::Reset(_) | Record::Stop(_) => 0,
        };
        self.count(
            |result| result.tokens_seen,
            |records| records.iter().map(seen).max().unwrap_or(0),
        )
    }

    /// The matrices whose updates have been taken apart, in the order of the records; none before that.
    #[must_use]
    pub fn matrices(&self) -> Vec<&str> {
        let mut matrices: Vec<&str> = Vec::new();
        for record in self.updates() {
            if !matrices.contains(&record.matrix.as_str()) {
                matrices.push(&record.matrix);
            }
        }
        matrices
    }

    /// The updates of one matrix, one record for each layer.
    pub fn updates_of<'a>(&'a self, matrix: &str) -> impl Iterator<Item = &'a SpectrumRecord> {
        self.updates().filter(move |record| record.matrix == matrix)
    }

    /// Update steps done at the weights that its updates are measured from; none where they have not been taken apart.
    #[must_use]
    pub fn measured_from(&self) -> Option<u64> {
        self.updates().next().map(|record| record.from_step)
    }

    fn updates(&self) -> impl Iterator<Item = &SpectrumRecord> {
        self.spectra
            .iter()
            .filter(|record| record.quantity == SpectrumOf::Update)
    }

    /// The last logged training step.
    fn last_step(&self) -> Option<&StepRecord> {
        self.records.iter().rev().find_map(|record| match record {
            Record::Step(step) => Some(step),
            _ => None,
        })
    }
}

fn step_of(record: &Record) -> u64 {
    match record {
        Record::Step(record) => record.step,
        Record::Evaluation(record) => record.step,
        Record::Restart(record) => record.step,
        Record::Reset(record) => record.step,
        Record::Stop(record) => record.step,
    }
}

impl Runs {
    fn new(runs: Vec<Run>, unopened: BTreeMap<String, Unopened>) -> Runs {
        let mut methods: Vec<String> = Vec::new();
        for run in &runs {
            if !methods.contains(&run.row.method) {
                methods.push(run.row.method.clone());
            }
        }
        let mut runs = Runs {
            runs,
            methods,
            unopened,
            margin: None,
        };
        runs.sort();
        runs
    }

    /// The same with the margin that the suite declares: nats within which two losses count as equal.
    #[must_use]
    pub fn with_margin(mut self, margin: Option<f64>) -> Runs {
        self.margin = margin;
        self
    }

    /// Adds the planned runs that have no directory yet, as `pending` (or as failed, running or unreadable, where
    /// there is no manifest to go by), and takes the order of the methods from the plan. Runs that are not in the plan stay.
    #[must_use]
    pub fn with_planned(mut self, rows: Vec<RowKeys>) -> Runs {
        let mut methods: Vec<String> = Vec::new();
        for method in rows.iter().map(|row| &row.method).chain(&self.methods) {
            if !methods.contains(method) {
                methods.push(method.clone());
            }
        }
        self.methods = methods;
        for row in rows {
            let same = |run: &Run| {
                run.row.size == row.size && run.row.method == row.method && run.row.seed == row.seed
            };
            if let Some(run) = self.runs.iter_mut().find(|run| same(run)) {
                // What is known of a tuning may have grown since the run began.
                run.row.point = row.point;
                run.row.tuning = row.tuning;
                continue;
            }
            let directory = row.directory();
            let mut run = Run::planned(row);
            if let Some(unopened) = self.unopened.get(&directory) {
                run.status = unopened.status;
                run.error.clone_from(&unopened.error);
            }
            self.runs.push(run);
        }
        self.sort();
        self
    }

    /// Every run, in the order of the tables.
    pub fn iter(&self) -> std::slice::Iter<'_, Run> {
        self.runs.iter()
    }

    /// Runs whose updates may be averaged or pooled: seeds of one method at one size that are measured from the same step.
    /// Sizes and methods in the order of the tables, the earliest step first.
    pub(crate) fn measured_alike(&self) -> Vec<MeasuredAlike<'_>> {
        let mut groups: Vec<MeasuredAlike<'_>> = Vec::new();
        let same_method = |left: &&Run, right: &&Run| {
            left.row.size == right.row.size && left.row.method == right.row.method
        };
        for method in self.iter().collect::<Vec<_>>().chunk_by(same_method) {
            let mut steps: BTreeMap<u64, Vec<&Run>> = BTreeMap::new();
            for run in method {
                if let Some(from_step) = run.measured_from() {
                    steps.entry(from_step).or_default().push(*run);
                }
            }
            groups.extend(
                steps
                    .into_iter()
                    .map(|(from_step, runs)| MeasuredAlike { from_step, runs }),
            );
        }
        groups
    }

    /// What of the suite cannot be read, and why: of runs that are rows, and of directories that are none because nobody can tell
    /// whose they are.
    #[must_use]
    pub fn unreadable(&self) -> Vec<&str> {
        let of_runs = self
            .iter()
            .filter(|run| run.status == Status::Unreadable)
            .filter_map(|run| run.error.as_deref());
        of_runs.chain(self.unplaced()).collect()
    }

    /// Why directories cannot be read that no row stands for: nobody can tell whose they are, or another directory holds the run
    /// that they are named after.
    pub(crate) fn unplaced(&self) -> impl Iterator<Item = &str> {
        let is_row = |name: &str| {
            self.iter()
                .any(|run| run.status == Status::Unreadable && run.row.directory() == name)
        };
        self.unopened
            .iter()
            .filter(move |(name, unopened)| {
                unopened.status == Status::Unreadable && !is_row(name.as_str())
            })
            .filter_map(|(_, unopened)| unopened.error.as_deref())
    }

    /// How many runs stand at each status, in the order in which a reader wants them; statuses without runs are left out.
    #[must_use]
    pub fn counts(&self) -> Vec<(Status, usize)> {
        const ORDER: [Status; 8] = [
            Status::Complete,
            Status::Diverged,
            Status::Failed,
            Status::Unreadable,
            Status::StoppedBudget,
            Status::StoppedInterrupted,
            Status::Running,
            Status::Pending,
        ];
        let count = |status| self.runs.iter().filter(|run| run.status == status).count();
        ORDER
            .into_iter()
            .map(|status| (status, count(status)))
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    /// Sizes by the parameters of their smallest method, then by name; methods as planned; seeds ascending.
    fn sort(&mut self) {
        let mut smallest: BTreeMap<String, u64> = BTreeMap::new();
        for run in &self.runs {
            let parameters = smallest.entry(run.row.size.clone()).or_insert(u64::MAX);
            *parameters = (*parameters).min(run.row.total_parameters);
        }
        let rank: BTreeMap<&str, usize> = self
            .methods
            .iter()
            .enumerate()
            .map(|(rank, method)| (method.as_str(), rank))
            .collect();
        self.runs.sort_by_cached_key(|run| {
            let row = &run.row;
            (
                smallest.get(&row.size).copied(),
                row.size.clone(),
                rank.get(row.method.as_str()).copied(),
                row.seed,
            )
        });
    }
}

impl<'a> IntoIterator for &'a Runs {
    type Item = &'a Run;
    type IntoIter = std::slice::Iter<'a, Run>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
