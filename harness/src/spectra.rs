//! The spectra of one run, from what it has left on disk: the weights it ended with, those of its warm start, and the
//! factors of every restart. The arithmetic is [`results::spectra`]'s.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use half::bf16;
use models::{Draw, DrawRole, Draws, Scaling, Seeded};
use rayon::prelude::*;
use results::record::{AnglesRecord, SpectrumOf, SpectrumRecord};
use results::spectra::{Angles, Matrix, Product, product, spectrum};

use crate::algorithm::MethodSwitches;
use crate::checkpoint::{self, Checkpoint, MergedFactors};
use crate::files;
use crate::hugging_face::{Folder, LINEARS};
use crate::matrix::Cell;
use crate::settings::BaseName;
use crate::tensor_file::TensorFile;
use safetensors::Dtype;

/// What an update is measured from.
enum Start {
    /// The weights at the end of a warm start.
    Checkpoint(TensorFile),
    /// The weights of the Hugging Face folder that the run started from.
    Folder(Folder),
    /// The weights as they were drawn.
    Drawn(Seeded),
    /// Nothing: the base has been zero from the first step.
    Zero,
}

impl Start {
    /// The weights of the same `full` run from which the methods with a warm start begin, for all that share its network:
    /// so that full rank and low rank are compared over the same steps. Else the run's own beginning.
    fn of(cell: &Cell, cells: &[Cell], suite: &Path) -> Result<(u64, Start)> {
        let settings = &cell.settings;
        let warm_start_steps = settings.warm_start_steps;
        let own = cell.hands_over || settings.warm_start;
        // One of that name may be in the suite that was made otherwise: its weights are not those of this warm start.
        let full = cell.warm_start_cell().filter(|full| {
            let same = |other: &&Cell| other.directory() == full.directory();
            let planned = cells.iter().find(same);
            planned.is_some_and(|planned| planned.determines() == full.determines())
        });
        let full = full.map(|full| full.directory());
        // A `full` run that has handed nothing on has gone the way of those that trained the same steps themselves.
        let begins_alike = |other: &&Cell| {
            let full = other.warm_start_cell();
            full.is_some_and(|full| full.determines() == cell.determines())
        };
        let alike = cells.iter().filter(begins_alike).map(Cell::directory);
        let candidates = own
            .then(|| cell.directory())
            .into_iter()
            .chain(full)
            .chain(alike);
        for directory in candidates {
            let folder = checkpoint::folder(&suite.join(directory));
            let place = checkpoint::at_step(&folder, warm_start_steps);
            if place.is_dir() {
                let weights = Checkpoint::open(&place)?.weights()?;
                return Ok((warm_start_steps, Start::Checkpoint(weights)));
            }
        }
        ensure!(
            !settings.warm_start,
            "{} has kept no checkpoint of its warm start: set keep_factors = true before it trains",
            cell.directory()
        );
        if let Some(initial) = &cell.initial
            && (settings.base == BaseName::Keep || !settings.low_rank)
        {
            let folder = Folder::open(&initial.folder)?;
            ensure!(
                folder.hash()? == initial.hash,
                "{} holds other weights than {} started from",
                initial.folder.display(),
                cell.directory()
            );
            return Ok((0, Start::Folder(folder)));
        }
        let start = match settings.base {
            BaseName::Keep => Start::Drawn(Seeded { seed: cell.seed }),
            BaseName::Zero | BaseName::None if settings.low_rank => Start::Zero,
            BaseName::Zero | BaseName::None => Start::Drawn(Seeded { seed: cell.seed }),
        };
        Ok((0, start))
    }

    /// The weight of one layer then; none where it was zero.
    /// Drawn weights are rounded as the run's own type rounded them.
    fn weight(&self, module: &str, shape: [usize; 2], dtype: Dtype) -> Result<Option<Vec<f32>>> {
        let rounded = |values: Vec<f32>| match dtype {
            Dtype::BF16 => {
                let round = |value| bf16::from_f32(value).to_f32();
                values.into_iter().map(round).collect()
            }
            _ => values,
        };
        let name = format!("{module}.weight");
        Ok(match self {
            Start::Checkpoint(weights) => Some(weights.values(&name)?),
            Start::Folder(folder) => Some(rounded(folder.values(&name)?)),
            Start::Drawn(draws) => Some(rounded(draws.values(&Draw {
                name: &name,
                role: DrawRole::Weight,
                step: 0,
                shape,
            }))),
            Start::Zero => None,
        })
    }
}

/// The spectra of a run that is complete: for each linear layer that of its whole update, and those of all products that
/// were merged into it. `cells`: those of the suite.
///
/// # Errors
/// A checkpoint that is missing or damaged, weights that are not finite.
pub fn of_run(cell: &Cell, cells: &[Cell], suite: &Path) -> Result<Vec<SpectrumRecord>> {
    let directory = suite.join(cell.directory());
    let end = checkpoint::at_step(&checkpoint::folder(&directory), cell.settings.steps);
    let end = Checkpoint::open(&end)
        .with_context(|| format!("{} has no checkpoint of its end", cell.directory()))?
        .weights()?;
    let (from_step, start) = Start::of(cell, cells, suite)?;
    let algorithm = cell.algorithm()?;
    let merges = (1..=algorithm.steps)
        .filter(|done| algorithm.restarts.after(*done))
        .collect();
    let restarts = checkpoint::merged_factors(&directory)?;
    let layers = cell.network().layers;
    let modules: Vec<(usize, &str)> = (0..layers)
        .flat_map(|layer| LINEARS.map(|name| (layer, name)))
        .collect();
    let run = RunOnDisk {
        cell,
        start,
        from_step,
        merges,
        restarts,
        end,
    };
    let records: Result<Vec<Vec<SpectrumRecord>>> = modules
        .par_iter()
        .map(|(layer, name)| run.layer(*layer, name))
        .collect();
    Ok(records?.into_iter().flatten().collect())
}

struct RunOnDisk<'a> {
    cell: &'a Cell,
    start: Start,
    from_step: u64,
    /// Update steps after which the factors were merged.
    merges: Vec<u64>,
    /// The factors of those merges that the run has kept.
    restarts: Vec<MergedFactors>,
    end: TensorFile,
}

impl RunOnDisk<'_> {
    fn layer(&self, layer: usize, name: &str) -> Result<Vec<SpectrumRecord>> {
        let module = format!("model.layers.{layer}.{name}");
        let record = |quantity, step, singular_values| SpectrumRecord {
            quantity,
            from_step: self.from_step,
            step,
            layer: layer as u64,
            matrix: name.rsplit('.').next().unwrap_or(name).to_owned(),
            singular_values,
            rank_bound: None,
            output_angles: None,
            input_angles: None,
        };
        let mut records = Vec::new();
        // Restart and product of the factors before.
        let mut before: Option<(u64, Product)> = None;
        let steps = self.cell.settings.steps;
        let kept = self.restarts.iter().map(|kept| (kept.step, &kept.tensors));
        for (step, tensors) in kept.chain([(steps, &self.end)]) {
            let Some(product) = self.product(&module, tensors)? else {
                continue;
            };
            let begun = self
                .merges
                .iter()
                .rev()
                .find(|merge| **merge < step)
                .copied();
            let from_step = begun.unwrap_or(self.cell.settings.warm_start_length());
            // Angles are between neighbours only.
            let neighbour = before.as_ref().filter(|(merge, _)| Some(*merge) == begun);
            records.push(self.record_of_product(
                record(SpectrumOf::Product, step, Vec::new()),
                from_step,
                &product,
                neighbour.map(|(_, product)| product),
            )?);
            before = Some((step, product));
        }
        let update = self.update(&module)?;
        let mut whole = record(
            SpectrumOf::Update,
            steps,
            spectrum(&update)?.singular_values,
        );
        let settings = &self.cell.settings;
        // From the weights under the factors on, an update is a sum of products, and no more.
        let begins_at_the_factors = self.from_step == settings.warm_start_length();
        let keeps_the_weight = settings.base == BaseName::Keep || !settings.warm_start;
        if settings.low_rank && begins_at_the_factors && keeps_the_weight {
            let most = whole.singular_values.len() as u64;
            let products = self.merges.len() as u64 + 1;
            whole.rank_bound = Some((settings.rank * products).min(most));
        }
        records.insert(0, whole);
        Ok(records)
    }

    fn record_of_product(
        &self,
        record: SpectrumRecord,
        from_step: u64,
        product: &Product,
        before: Option<&Product>,
    ) -> Result<SpectrumRecord> {
        let angles = |angles: Option<Angles>| {
            angles.map(|Angles { smallest, mean }| AnglesRecord { smallest, mean })
        };
        let (output, input) = match before {
            Some(before) => (
                product.output_angles(before)?,
                product.input_angles(before)?,
            ),
            None => (None, None),
        };
        Ok(SpectrumRecord {
            from_step,
            singular_values: product.spectrum.singular_values.clone(),
            rank_bound: Some(self.cell.settings.rank),
            output_angles: angles(output),
            input_angles: angles(input),
            ..record
        })
    }

    /// s·BA of the factors in a file; none where the layer has no factors.
    fn product(&self, module: &str, file: &TensorFile) -> Result<Option<Product>> {
        let Some((b, a, scale)) = self.factors(module, file)? else {
            return Ok(None);
        };
        Ok(Some(product(&b, &a, scale)?))
    }

    fn factors(&self, module: &str, file: &TensorFile) -> Result<Option<(Matrix, Matrix, f64)>> {
        let low_rank = MethodSwitches::of(&self.cell.settings).low_rank;
        let names = ["lora_B", "lora_A"].map(|factor| format!("{module}.{factor}.weight"));
        let (Some(low_rank), true) = (low_rank, names.iter().all(|name| file.has(name))) else {
            return Ok(None);
        };
        let [b, a] = names.map(|name| matrix(file, &name));
        let scale = match low_rank.scaling {
            Scaling::Fixed(scale) => scale,
            Scaling::TanhScalar => {
                let scalar = file.values(&format!("{module}.scaling"))?;
                scalar
                    .first()
                    .map_or(0.0, |scalar| f64::from(*scalar).tanh())
            }
        };
        Ok(Some((b?, a?, scale)))
    }

    /// The final weight, product included, minus the one at the start.
    fn update(&self, module: &str) -> Result<Matrix> {
        let name = format!("{module}.weight");
        let weight = self
            .end
            .has(&name)
            .then(|| self.end.values(&name))
            .transpose()?;
        let factors = self.factors(module, &self.end)?;
        let shape = match (&weight, &factors) {
            (Some(_), _) => sides(&self.end.info(&name)?.shape)?,
            (None, Some((b, a, _))) => [b.rows(), a.columns()],
            (None, None) => anyhow::bail!("the last checkpoint lacks {module}"),
        };
        let [rows, columns] = shape;
        let dtype = weight.as_ref().map_or(Ok(Dtype::F32), |_| {
            self.end.info(&name).map(|info| info.dtype)
        })?;
        let start = self.start.weight(module, shape, dtype)?;
        let mut update: Vec<f64> = weight.map_or_else(
            || vec![0.0; rows * columns],
            |weight| weight.into_iter().map(f64::from).collect(),
        );
        if let Some(start) = start {
            ensure!(
                start.len() == update.len(),
                "{module} had another shape at its start"
            );
            update
                .iter_mut()
                .zip(start)
                .for_each(|(update, start)| *update -= f64::from(start));
        }
        if let Some((b, a, scale)) = factors {
            b.add_product(&a, scale, &mut update)?;
        }
        #[expect(clippy::cast_possible_truncation, reason = "as weights are")]
        let update = update.into_iter().map(|value| value as f32).collect();
        Ok(Matrix::new(rows, columns, update)?)
    }
}

fn sides(shape: &[usize]) -> Result<[usize; 2]> {
    <[usize; 2]>::try_from(shape)
        .with_context(|| format!("a tensor of shape {shape:?} is no matrix"))
}

fn matrix(file: &TensorFile, name: &str) -> Result<Matrix> {
    let [rows, columns] = sides(&file.info(name)?.shape)?;
    Ok(Matrix::new(rows, columns, file.values(name)?)?)
}

/// Where a run keeps its spectra.
const FILE: &str = "spectra.jsonl";

/// Whether the spectra of a run have been taken.
#[must_use]
pub fn taken(run_directory: &Path) -> bool {
    run_directory.join(FILE).is_file()
}

/// Leaves the spectra of a run in its directory, one record a line.
///
/// # Errors
/// What the disk says.
pub fn write(run_directory: &Path, records: &[SpectrumRecord]) -> Result<()> {
    let mut text = Vec::new();
    for record in records {
        serde_json::to_writer(&mut text, record)?;
        text.push(b'\n');
    }
    files::write_atomically(&run_directory.join(FILE), &text)
}
