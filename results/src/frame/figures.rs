//! Single figures of a method at a size, seed by seed: what a claim is judged by.

use super::recovery::{Around, around_restarts, mean};
use super::{Run, Runs};
use crate::record::{RowKeys, RunResult, SpectrumOf, Status};
use crate::spectra::Spectrum;
use crate::statistics::{Difference, paired};

impl Runs {
    /// Names of the sizes, in the order of the tables.
    #[must_use]
    pub fn sizes(&self) -> Vec<String> {
        let mut sizes: Vec<String> = Vec::new();
        for run in self.iter() {
            if !sizes.contains(&run.row.size) {
                sizes.push(run.row.size.clone());
            }
        }
        sizes
    }

    /// Validation loss of a method minus that of another one, by the seeds that both completed.
    pub(crate) fn difference(&self, size: &str, method: &str, other: &str) -> Option<Difference> {
        let gaps = self.gaps(size, method, other);
        let gaps: Vec<f64> = gaps.into_iter().map(|(_, gap)| gap).collect();
        paired(&gaps, &vec![0.0; gaps.len()])
    }

    /// The same seed by seed.
    pub(crate) fn gaps(&self, size: &str, method: &str, other: &str) -> Vec<(u64, f64)> {
        let losses = |method: &str| self.of(size, method, |run| run.complete()?.validation_loss);
        let others = losses(other);
        let gaps = losses(method).into_iter().filter_map(|(seed, loss)| {
            let (_, other) = others.iter().find(|(it, _)| *it == seed)?;
            Some((seed, loss - other))
        });
        gaps.collect()
    }

    /// Mean rise of the loss behind the steps at which some method of the size restarts (`recovery`).
    pub(crate) fn spikes(&self, size: &str, method: &str) -> Vec<(u64, f64)> {
        let runs: Vec<&Run> = self.iter().filter(|run| run.row.size == size).collect();
        let around = around_restarts(&runs);
        self.of(size, method, |run| {
            let own = around.iter().filter(|around| *around.row == run.row);
            mean(own.map(Around::spike))
        })
    }

    /// Mean angle in degrees between what successive products write to, over layers and matrices.
    pub(crate) fn mean_angles(&self, size: &str, method: &str) -> Vec<(u64, f64)> {
        self.of(size, method, |run| {
            let products = run.spectra.iter().filter_map(|record| record.output_angles);
            mean(products.map(|angles| angles.mean))
        })
    }

    /// Number of singular values of the update below 0.1, over all layers and matrices; of updates since the end of the warm
    /// start, where some were measured from there, so that all are of the same length.
    pub(crate) fn small_values(&self, size: &str, method: &str) -> Vec<(u64, f64)> {
        let of_size = self.iter().filter(|run| run.row.size == size);
        let from = of_size.filter_map(Run::measured_from).max();
        self.of(size, method, |run| {
            let updates: Vec<f64> = spectra(run, SpectrumOf::Update)
                .filter(|_| run.measured_from() == from)
                .map(|update| update.below_small() as f64)
                .collect();
            (!updates.is_empty()).then(|| updates.iter().sum())
        })
    }

    /// Mean effective rank of the updates minus that of the run's products.
    pub(crate) fn rank_beyond_its_products(&self, size: &str, method: &str) -> Vec<(u64, f64)> {
        self.of(size, method, |run| {
            let rank = |of| mean(spectra(run, of).map(|it| it.effective_rank()));
            Some(rank(SpectrumOf::Update)? - rank(SpectrumOf::Product)?)
        })
    }

    /// How many seeds of a method have diverged, and how many there are.
    pub(crate) fn diverged(&self, size: &str, method: &str) -> (usize, usize) {
        let diverged = self.of(size, method, |run| {
            Some(f64::from(u8::from(run.status == Status::Diverged)))
        });
        let count = diverged
            .iter()
            .filter(|(_, diverged)| *diverged > 0.0)
            .count();
        (count, diverged.len())
    }

    /// Peak memory, MB.
    pub(crate) fn peaks(&self, size: &str, method: &str) -> Vec<(u64, f64)> {
        self.of(size, method, |run| {
            Some(run.complete()?.peak_memory_bytes? as f64 / 1e6)
        })
    }

    /// Bytes of the optimizer's state over those of the weights.
    pub(crate) fn state_to_weights(&self, size: &str, method: &str) -> Option<f64> {
        let ratio = |result: &RunResult| {
            result.optimizer_state_bytes as f64 / result.weight_bytes.max(1) as f64
        };
        let ratios = self.of(size, method, |run| run.complete().map(ratio));
        ratios.first().map(|(_, ratio)| *ratio)
    }

    /// Number of parameters.
    pub(crate) fn parameters(&self, size: &str, method: &str) -> Option<f64> {
        let of_method = self.of(size, method, |run| Some(run.row.total_parameters as f64));
        of_method.first().map(|(_, parameters)| *parameters)
    }

    fn of(
        &self,
        size: &str,
        method: &str,
        figure: impl Fn(&Run) -> Option<f64>,
    ) -> Vec<(u64, f64)> {
        let method = self.named(size, method);
        self.iter()
            .filter(|run| run.row.size == size && Some(&run.row.method) == method)
            .filter_map(|run| Some((run.row.seed, figure(run)?)))
            .collect()
    }

    /// The method of that name at a size or, where there is none, the only one with the parts of that preset.
    fn named(&self, size: &str, name: &str) -> Option<&String> {
        let of_size = || self.iter().filter(|run| run.row.size == size);
        let named = of_size().find(|run| run.row.method == name);
        if let Some(run) = named {
            return Some(&run.row.method);
        }
        let parts = parts_of(name)?;
        let mut alike: Vec<&String> = of_size()
            .filter(|run| parts_in(&run.row) == Some(parts))
            .map(|run| &run.row.method)
            .collect();
        alike.dedup();
        match alike[..] {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// Restarts, optimizer reset, jagged schedule, re-warm-up, warm start.
type Parts = [bool; 5];

fn parts_of(preset: &str) -> Option<Parts> {
    Some(match preset {
        "lora" => [false; 5],
        "lora-warm-start" => [false, false, false, false, true],
        "relora" => [true; 5],
        "relora-no-restart" => [false, true, true, true, true],
        "relora-no-optimizer-reset" => [true, false, true, true, true],
        "relora-no-jagged" => [true, true, false, false, true],
        "relora-no-warm-start" => [true, true, true, true, false],
        "relora-no-rewarmup" => [true, true, true, false, true],
        _ => return None,
    })
}

/// None of a method that is not LoRA on a weight.
fn parts_in(row: &RowKeys) -> Option<Parts> {
    let is_lora = row.low_rank && row.base.as_deref() == Some("keep");
    is_lora.then_some([
        row.restarts,
        row.optimizer_reset,
        row.jagged,
        row.rewarmup,
        row.warm_start,
    ])
}

fn spectra(run: &Run, of: SpectrumOf) -> impl Iterator<Item = Spectrum> {
    let records = run
        .spectra
        .iter()
        .filter(move |record| record.quantity == of);
    records.map(|record| {
        let singular_values = record.singular_values.clone();
        Spectrum { singular_values }
    })
}
