//! Single figures of a method at a size, seed by seed: what a claim is judged by.

use super::recovery::{Around, around_restarts};
use super::{Run, Runs};
use crate::record::{RunResult, SpectrumOf};
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

    /// Number of singular values of the update below 0.1, over all layers and matrices.
    pub(crate) fn small_values(&self, size: &str, method: &str) -> Vec<(u64, f64)> {
        self.of(size, method, |run| {
            let updates: Vec<f64> = updates(run)
                .map(|update| update.below_small() as f64)
                .collect();
            (!updates.is_empty()).then(|| updates.iter().sum())
        })
    }

    /// Mean effective rank of the updates minus the rank of one product.
    pub(crate) fn rank_beyond_one_product(&self, size: &str, method: &str) -> Vec<(u64, f64)> {
        self.of(size, method, |run| {
            let rank = run.row.rank? as f64;
            mean(updates(run).map(|update| update.effective_rank() - rank))
        })
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
        let mut of_method = self
            .iter()
            .filter(|run| run.row.size == size && run.row.method == method);
        of_method.next().map(|run| run.row.total_parameters as f64)
    }

    fn of(
        &self,
        size: &str,
        method: &str,
        figure: impl Fn(&Run) -> Option<f64>,
    ) -> Vec<(u64, f64)> {
        self.iter()
            .filter(|run| run.row.size == size && run.row.method == method)
            .filter_map(|run| Some((run.row.seed, figure(run)?)))
            .collect()
    }
}

fn updates(run: &Run) -> impl Iterator<Item = Spectrum> {
    run.spectra
        .iter()
        .filter(|record| record.quantity == SpectrumOf::Update)
        .map(|record| {
            let singular_values = record.singular_values.clone();
            Spectrum { singular_values }
        })
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
