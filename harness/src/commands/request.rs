//! From flags to a plan, in two steps: [`Request::new`] resolves names and numbers and touches neither device nor corpus;
//! [`Request::plan`] looks at the device, prepares the text and fixes the cells.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use datasets::{DataError, DataSpec, SourceSpec, Split, Store, TokenizerSpec, ValidationSpec};
use indicatif::{ProgressBar, ProgressStyle};
use models::{Device, Precision, UnknownName};
use results::record::run_directory;
use results::render::number_of;

use crate::cli::{PlaceOptions, SuiteOptions};
use crate::exit::UserError;
use crate::hugging_face::{self, Folder};
use crate::matrix::{self, Cell, DataKeys, InitialWeights, Surroundings};
use crate::micro_batch::{self, Room};
use crate::plan::{self, Budget, Place, Plan};
use crate::profile::{Assignment, Data, InitFrom, Profile};
use crate::progress::{thousands, warn};
use crate::settings::{Documents, suggestion};
use crate::{calibrate, files, stop, worker};

/// Held while a suite's plan is read, added to and written.
const LOCK: &str = "plan.lock";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The profile with every `--set` laid over it.
    pub profile: Profile,
    /// Directory of the suite.
    pub directory: PathBuf,
    only: Vec<String>,
    budget: Option<(String, Budget)>,
    place: PlaceOptions,
    jobs: Option<u64>,
    tensorboard: bool,
}

/// A plan and what of the directory it belongs to.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The cells asked for.
    pub asked: Plan,
    /// Those and the ones that the suite holds already: what `plan.toml` should say.
    pub whole: Plan,
    /// What a person should know of it before it runs, a line each.
    pub notes: Vec<String>,
}

/// The size and the method of one cell, each in the name of its flag: as lists of one they replace the profile's own.
pub fn one_cell(size_typed: String, size: &str, method: &str) -> [Assignment; 2] {
    let list = |key: &str, name: &str| format!("{key}=[{}]", toml::Value::from(name));
    [
        Assignment::by_flag(size_typed, list("sizes", size)),
        Assignment::by_flag(format!("--method {method}"), list("methods", method)),
    ]
}

/// A flag about low-rank factors, for a method that has none.
pub fn no_factors(flag: &str, method: &str) -> UserError {
    UserError::new(format!(
        "{flag}: method `{method}` trains no low-rank factors; leave it out, or choose another --method"
    ))
}

impl Request {
    /// Resolves the flags.
    ///
    /// # Errors
    /// An unknown name or key, a value that cannot be, a filter that matches no cell.
    pub fn new(options: &SuiteOptions) -> anyhow::Result<Request> {
        Request::of(profile(options)?, options)
    }

    /// The request for a profile that is resolved already; of the flags those that are not the profile's.
    ///
    /// # Errors
    /// A budget that is none, a filter that matches no cell.
    pub fn of(profile: Profile, options: &SuiteOptions) -> anyhow::Result<Request> {
        let budget = options
            .budget
            .as_ref()
            .map(|text| text.parse().map(|budget| (text.clone(), budget)));
        let request = Request {
            directory: options
                .out
                .clone()
                .unwrap_or_else(|| Path::new(super::RUNS).join(&profile.name)),
            only: options.only.clone(),
            budget: budget.transpose().map_err(UserError::new)?,
            place: options.place.clone(),
            jobs: options.jobs,
            tensorboard: false,
            profile,
        };
        request.check_filters()?;
        Ok(request)
    }

    /// The same with the first of its seeds alone.
    ///
    /// # Errors
    /// None that [`Request::new`] has not had already.
    pub fn with_first_seed(mut self) -> anyhow::Result<Request> {
        let first = self.profile.seeds.first().copied();
        self.profile.set_seeds(first.into_iter().collect())?;
        Ok(self)
    }

    /// The same with event files for TensorBoard, if they are wanted.
    #[must_use]
    pub fn with_event_files(mut self, wanted: bool) -> Request {
        self.tensorboard = wanted;
        self
    }

    /// Looks at the device, prepares the text (with its progress on standard error), and fixes the cells. With `only_looking`
    /// it measures the machine even without a budget in time, and makes do where nothing could run: without the text that the
    /// profile names, and over a folder that holds another suite.
    ///
    /// # Errors
    /// A device that is not there, a text that cannot be used, a budget below the least, a directory that holds
    /// something else.
    pub fn plan(&self, only_looking: bool) -> anyhow::Result<Planned> {
        let earlier = self.earlier()?;
        stop::leave_on_signals(
            if only_looking {
                "stopped before the plan was made; the same command makes it"
            } else {
                "stopped before any training; the same command goes on"
            },
            None,
        )?;
        let (device, precision) = place(&self.place)?;
        let folder = (self.profile.init_from.as_ref())
            .map(|init_from| Folder::open(&init_from.directory))
            .transpose()?;
        let mut notes = Vec::new();
        let store = self.text(only_looking)?;
        let store = store.as_ref();

        let surroundings = self.surroundings(device, precision, store, folder.as_ref())?;
        let mut matrix = matrix::cells(&self.profile, &surroundings)?;
        let wanted = matrix.iter().filter(|cell| self.wants(cell)).count();
        let (jobs, threads) = self.jobs(device, wanted as u64);
        // As many workers as the whole matrix may have: a later command takes over what the first has chosen.
        let (most_jobs, _) = self.jobs(device, matrix.len() as u64);
        let room = Room::of(device, precision, most_jobs);
        let planned = earlier.as_ref().map_or(&[][..], |plan| &plan.cells);
        notes.extend(micro_batch::choose(&mut matrix, planned, &room));
        let place = Place {
            jobs,
            threads,
            device: device.to_string(),
            precision: precision.to_string(),
        };
        let mut asked = self.asked(place, store, &matrix)?;
        self.size_to_budget(&mut asked, earlier.as_ref(), &matrix, store, only_looking)?;
        if let Some(store) = store {
            for cell in first_of_each_size(&asked.cells) {
                let data =
                    worker::data(cell, store).with_context(|| format!("size {}", cell.size))?;
                notes.extend(self.few_targets(cell, &data)?);
            }
            notes.extend(passes(&asked.cells, store));
        }
        let whole = match self.laid_over(&mut asked, earlier.as_ref()) {
            Ok(whole) => whole,
            Err(error) if only_looking => {
                notes.push(format!("warning: {error}"));
                asked.clone()
            }
            Err(error) => return Err(error.into()),
        };
        notes.extend(whole.beyond_budget());
        Ok(Planned {
            asked,
            whole,
            notes,
        })
    }

    /// The token store. With `only_looking` none, and a line, where the text that the profile names is not here.
    fn text(&self, only_looking: bool) -> anyhow::Result<Option<Arc<Store>>> {
        match self.missing_text() {
            None => Ok(Some(Arc::new(self.store()?))),
            Some(missing) if only_looking && self.profile.data.tokenizer.is_none() => {
                // At once: what comes next may take a while.
                warn(&format!(
                    "{missing} (priced without it, for a vocabulary of {})",
                    self.profile.data.vocabulary
                ));
                Ok(None)
            }
            Some(missing) => Err(UserError::new(missing).into()),
        }
    }

    /// What all cells share, of the text where it is here and of the folder that they start from.
    fn surroundings(
        &self,
        device: Device,
        precision: Precision,
        store: Option<&Arc<Store>>,
        folder: Option<&Folder>,
    ) -> anyhow::Result<Surroundings> {
        let mut surroundings = Surroundings {
            device: worker::kind(device).to_owned(),
            precision: precision.to_string(),
            ..Surroundings::without_text(&self.profile)
        };
        if let Some(store) = store {
            surroundings.data = DataKeys {
                hash: store.hash().to_owned(),
                vocabulary: store.vocabulary() as u64,
            };
        }
        if let Some(folder) = folder {
            if let Some(store) = store {
                folder.check_vocabulary(store.vocabulary())?;
            }
            surroundings.data.vocabulary = folder.config.network.vocabulary as u64;
            surroundings.initial = Some(initial_weights(folder)?);
        }
        Ok(surroundings)
    }

    /// The plan of the cells that are asked for, in the profile's steps.
    fn asked(
        &self,
        place: Place,
        store: Option<&Arc<Store>>,
        matrix: &[Cell],
    ) -> anyhow::Result<Plan> {
        let mut cells = matrix.to_vec();
        cells.retain(|cell| self.wants(cell));
        let store = store.map(|store| store_path(store)).transpose()?;
        Ok(Plan {
            schema: plan::SCHEMA,
            profile: self.profile.name.clone(),
            store: store.unwrap_or_default(),
            device: place.device,
            precision: place.precision,
            jobs: place.jobs,
            threads: place.threads,
            tensorboard: self.tensorboard,
            budget: self.budget.as_ref().map(|(text, _)| text.clone()),
            scale: None,
            calibration: None,
            margin: self.profile.margin,
            cells,
        })
    }

    /// Shortens the runs to the budget, if there is one: as the suite was sized to it before, or else by what they cost, for
    /// which the machine may have to be measured.
    fn size_to_budget(
        &self,
        asked: &mut Plan,
        earlier: Option<&Plan>,
        matrix: &[Cell],
        store: Option<&Arc<Store>>,
        only_looking: bool,
    ) -> anyhow::Result<()> {
        // A suite sized to this budget before keeps its steps: they must not depend on what is asked for now, nor where.
        let sized =
            earlier.filter(|earlier| asked.budget.is_some() && earlier.budget == asked.budget);
        let in_time = matches!(self.budget, Some((_, Budget::Time(_))));
        if only_looking || (in_time && sized.is_none()) {
            let known = earlier.and_then(|plan| plan.calibration.clone());
            let validation = store.map_or(0, |store| store.validation_tokens());
            asked.calibration = match known {
                Some(known) if known.place.as_ref() == Some(&asked.place()) => Some(known),
                _ => calibrate::calibrate(asked, validation)?,
            };
        }
        if let Some(earlier) = sized {
            let mut taken_over = asked.clone();
            match plan::take_over(&mut taken_over, earlier) {
                Ok(()) => {
                    *asked = taken_over;
                    return Ok(());
                }
                // Over a suite that is another one, a plan is made as if there were none.
                Err(_) if only_looking => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some((_, budget)) = &self.budget {
            plan::fit(asked, *budget, matrix)?;
        }
        Ok(())
    }

    /// The plan with the cells that the suite holds besides, in the order of the profile. Of a cell that it holds already,
    /// what is kept of it is taken over into `asked`.
    fn laid_over(&self, asked: &mut Plan, earlier: Option<&Plan>) -> Result<Plan, UserError> {
        let mut whole = match earlier {
            Some(earlier) => asked.clone().over(earlier, &self.directory)?,
            None => asked.clone(),
        };
        // The order of tables is the profile's, whatever part of it was asked for last.
        whole
            .cells
            .sort_by_key(|cell| (self.profile.place(&cell.size, &cell.method), cell.seed));
        for cell in &mut asked.cells {
            let mut same = whole.cells.iter();
            if let Some(same) = same.find(|other| other.directory() == cell.directory()) {
                *cell = same.clone();
            }
        }
        Ok(whole)
    }

    /// Plans, and writes `plan.toml` into the suite's directory: one process at a time, so that of two that start in one
    /// suite neither loses the other's cells.
    ///
    /// # Errors
    /// Those of [`Request::plan`], and what the disk says.
    pub fn settle(&self) -> anyhow::Result<Planned> {
        let before = self.earlier()?;
        // All that can be wrong is found before the directory is touched.
        let mut planned = self.plan(false)?;
        let path = self.directory.join(LOCK);
        let opened = files::create_directory(&self.directory).and_then(|()| {
            let mut options = fs::OpenOptions::new();
            let opened = options.create(true).append(true).open(&path);
            opened.map_err(files::failed_to("write", &path))
        });
        let lock = opened.map_err(|error| {
            if error.is_forbidden() {
                anyhow!("{error}; give a folder with --out that you may write to")
            } else {
                error.into()
            }
        })?;
        lock.lock().map_err(files::failed_to("lock", &path))?;
        if self.earlier()? != before {
            planned = self.plan(false)?;
        }
        planned.whole.write(&self.directory)?;
        Ok(planned)
    }

    /// The plan that the directory holds already.
    fn earlier(&self) -> anyhow::Result<Option<Plan>> {
        let directory = &self.directory;
        if super::is_suite(directory) {
            return Plan::read(directory).map(Some);
        }
        if directory.exists() && !directory.is_dir() {
            let message = format!(
                "--out {}: is a file; give a folder of a suite, or a new one",
                directory.display()
            );
            return Err(UserError::new(message).into());
        }
        if files::entries(directory)?
            .iter()
            .any(|entry| entry.file_name() != Some(LOCK.as_ref()))
        {
            let message = format!(
                "--out {}: holds something that is no suite; give a new or an empty folder",
                directory.display()
            );
            return Err(UserError::new(message).into());
        }
        Ok(None)
    }

    /// What is missing of the text that the profile itself names, in one line. A path of `--data` is looked at where it is
    /// opened.
    fn missing_text(&self) -> Option<String> {
        let Data { source, paths, .. } = &self.profile.data;
        let origin = self
            .profile
            .origin_of_paths()
            .filter(|_| source == "path")?;
        let missing = paths.iter().find(|path| !path.exists())?;
        Some(format!(
            "{}: no such file or folder; profile `{}` reads it (data.paths, {origin}): give the folder of its shards with --data DIR \
             (docs/data.md says where to get C4), or --profile laptop, which needs no download",
            missing.display(),
            self.profile.name
        ))
    }

    /// A line where the validation set is so small that its loss says little.
    fn few_targets(&self, cell: &Cell, data: &crate::run::Data) -> anyhow::Result<Option<String>> {
        let padded = cell.settings.documents == Documents::Padded;
        let wanted = self.profile.data.validation_tokens;
        let mut targets = 0;
        for batch in data.validation.pass() {
            targets += batch?.targets();
            if targets >= FEW_TARGETS && (!padded || targets >= wanted / 2) {
                return Ok(None);
            }
        }
        let why = match (padded, wanted) {
            (true, 0) => " (a row for each document, truncated or padded)".to_owned(),
            (true, wanted) => format!(
                " of {} tokens asked for (a row for each document, truncated or padded)",
                thousands(wanted)
            ),
            (false, _) => String::new(),
        };
        Ok(Some(format!(
            "warning: {}: validation is over {}{why}: its loss is a rough figure; raise data.validation_tokens or \
             data.validation_share",
            cell.size,
            number_of(thousands(targets), "target")
        )))
    }

    /// Prepares the token store, or finds it prepared.
    fn store(&self) -> anyhow::Result<Store> {
        let spec = data_spec(&self.profile.data)?;
        let cache = cache_directory(&self.directory);
        let mut display = Preparation::default();
        let prepared = datasets::prepare(&spec, &cache, &mut |progress| display.show(&progress));
        let store = prepared.map_err(|error| {
            let unwritable = matches!(error, DataError::Write { .. });
            let error = anyhow::Error::from(error);
            // No flag names this folder: say what does.
            if unwritable {
                error.context("the token store, which is kept below XDG_CACHE_HOME")
            } else {
                error
            }
        })?;
        display.finish(&store);
        Ok(store)
    }

    /// Workers at the same time, and the compute threads of each.
    fn jobs(&self, device: Device, cells: u64) -> (u64, u64) {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let wanted = match (self.jobs, device) {
            (Some(jobs), _) => jobs,
            (None, Device::Cpu) if self.profile.jobs > 0 => self.profile.jobs,
            (None, Device::Cpu) => cores,
            (None, Device::Cuda(_)) => 1,
        };
        let jobs = wanted.min(cells.max(1));
        (jobs, (cores / jobs).max(1))
    }

    fn wants(&self, cell: &Cell) -> bool {
        let named = |filter: &String| selects(filter, &cell.size, &cell.method, cell.seed);
        self.only.is_empty() || self.only.iter().any(named)
    }

    fn check_filters(&self) -> Result<(), UserError> {
        let Profile {
            sizes,
            methods,
            seeds,
            ..
        } = &self.profile;
        let mut names: Vec<String> = sizes.iter().chain(methods).cloned().collect();
        let mut cells: Vec<String> = Vec::new();
        for size in sizes {
            for method in methods {
                names.push(format!("{size}-{method}"));
                let cell = |seed: &u64| run_directory(size, method, *seed);
                cells.extend(seeds.iter().map(cell));
            }
        }
        for filter in &self.only {
            let matches = sizes.iter().any(|size| {
                methods.iter().any(|method| {
                    seeds
                        .iter()
                        .any(|seed| selects(filter, size, method, *seed))
                })
            });
            if !matches {
                let named = if filter.contains("-seed") {
                    &cells
                } else {
                    &names
                };
                let near = suggestion(filter, named);
                return Err(UserError::new(format!(
                    "--only {filter}: matches no cell of profile `{}`; {near}",
                    self.profile.name
                )));
            }
        }
        Ok(())
    }
}

/// The profile that is asked for with everything that flags lay over it.
///
/// # Errors
/// An unknown name or key, a value that cannot be.
pub(super) fn profile(options: &SuiteOptions) -> anyhow::Result<Profile> {
    let name = profile_name(options);
    let mut assignments = options.set.clone();
    if let Some(path) = &options.text.data {
        let paths = toml::Value::Array(vec![shown(path)?]);
        for set in ["data.source=path".to_owned(), format!("data.paths={paths}")] {
            assignments.push(Assignment::by_flag(
                format!("--data {}", path.display()),
                set,
            ));
        }
    }
    if let Some(path) = &options.text.tokenizer {
        assignments.push(Assignment::by_flag(
            format!("--tokenizer {}", path.display()),
            format!("data.tokenizer={}", shown(path)?),
        ));
    }
    if options.place.recompute {
        assignments.push(Assignment::by_flag("--recompute", "recompute=true"));
    }
    let mut profile = Profile::load(&name, &assignments)?;
    if let Some(init_from) = &profile.init_from {
        let given = profile.data.tokenizer.as_deref();
        profile.data.tokenizer = Some(tokenizer_of(init_from, given)?);
    }
    if !options.seeds.is_empty() {
        let seeds = options.seeds.iter().flat_map(|seeds| seeds.0.clone());
        profile.set_seeds(seeds.collect())?;
    }
    if let Some(jobs) = options.jobs {
        profile.jobs = jobs;
    }
    Ok(profile)
}

/// The name or file of the profile that is asked for, or that of the default.
pub(super) fn profile_name(options: &SuiteOptions) -> String {
    match &options.profile {
        Some(name) => name.clone(),
        None => default_profile(options.place.device.as_deref()).to_owned(),
    }
}

/// Whether a filter names the cell: its size, its method, both joined, or its whole name, each with `*` for anything.
fn selects(filter: &str, size: &str, method: &str, seed: u64) -> bool {
    [
        size,
        method,
        &format!("{size}-{method}"),
        &format!("{size}-{method}-seed{seed}"),
    ]
    .iter()
    .any(|name| glob(filter.as_bytes(), name.as_bytes()))
}

/// Whether `name` matches a pattern in which `*` stands for any text, also none.
pub(super) fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| glob(rest, &name[skipped..])),
        Some((letter, rest)) => name
            .split_first()
            .is_some_and(|(first, others)| first == letter && glob(rest, others)),
    }
}

/// Fewer validation targets than these are worth a warning.
const FEW_TARGETS: u64 = 2000;

/// Passes over the training text from which on a person should know of them.
const SEVERAL_PASSES: f64 = 1.5;

/// A line where runs read the training text several times.
fn passes(cells: &[Cell], store: &Store) -> Option<String> {
    let several: Vec<String> = first_of_each_size(cells)
        .filter_map(|cell| {
            let passes = match cell.settings.documents {
                Documents::Packed => cell.planned_tokens() as f64 / store.training_tokens() as f64,
                Documents::Padded => {
                    let rows = cell.settings.steps * cell.settings.global_batch_size;
                    rows as f64 / store.documents(Split::Training) as f64
                }
            };
            (passes > SEVERAL_PASSES).then(|| format!("{} {passes:.1}", cell.size))
        })
        .collect();
    (!several.is_empty()).then(|| {
        format!(
            "note: passes over the training text of {} tokens: {}",
            thousands(store.training_tokens()),
            several.join(", ")
        )
    })
}

/// A cell of every size: what its batches need is the same for all of them.
fn first_of_each_size(cells: &[Cell]) -> impl Iterator<Item = &Cell> {
    cells
        .iter()
        .enumerate()
        .filter(|(index, cell)| cells[..*index].iter().all(|other| other.size != cell.size))
        .map(|(_, cell)| cell)
}

/// The file of a tokenizer that is given as itself or as a folder with one.
fn given_tokenizer(path: &Path) -> Result<PathBuf, UserError> {
    let inside = path.join("tokenizer.json");
    let file = if path.is_dir() {
        inside
    } else {
        path.to_owned()
    };
    if !file.is_file() {
        return Err(UserError::new(format!(
            "tokenizer {}: no such file; give a tokenizer.json",
            file.display()
        )));
    }
    Ok(file)
}

/// The tokenizer of the folder that runs start from: its own, or where it has none the one that is given.
fn tokenizer_of(init_from: &InitFrom, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let own = match (hugging_face::tokenizer_file(&init_from.directory), given) {
        (Err(_), Some(given)) => return Ok(given.to_owned()),
        (own, _) => own?,
    };
    let read = |path: &Path| fs::read(path).map_err(files::failed_to("read", path));
    if let Some(given) = given
        && read(&given_tokenizer(given)?)? != read(&own)?
    {
        let message = format!(
            "tokenizer {}: not that of {}, whose model knows its own tokens alone; leave it out",
            given.display(),
            init_from.directory.display()
        );
        return Err(UserError::new(message).into());
    }
    Ok(own)
}

/// What a plan keeps of the folder that runs start from; its path is absolute, since workers may be started elsewhere.
fn initial_weights(folder: &Folder) -> anyhow::Result<InitialWeights> {
    let directory = folder.directory();
    if folder.config.tied {
        warn(&format!(
            "note: the head of {} is tied to its embedding; it starts as a copy of it and is trained by itself",
            directory.display()
        ));
    }
    Ok(InitialWeights {
        folder: fs::canonicalize(directory).map_err(files::failed_to("resolve", directory))?,
        hash: folder.hash()?,
    })
}

/// The device and the precision that are asked for, or those that are best here.
///
/// # Errors
/// A device that is not there, a precision that it does not compute in.
pub(super) fn place(options: &PlaceOptions) -> anyhow::Result<(Device, Precision)> {
    let device = match options.device.as_deref() {
        None | Some("auto") => automatic_device(),
        Some(named) => named
            .parse()
            .map_err(|error: UnknownName| UserError::new(error.to_string()))?,
    };
    if let Device::Cuda(index) = device
        && let Some(missing) = models::probe().missing(index)
    {
        return Err(UserError::new(format!("--device {device}: {missing}")).into());
    }
    let precision = match &options.precision {
        Some(named) => named
            .parse()
            .map_err(|error: UnknownName| UserError::new(error.to_string()))?,
        None if device == Device::Cpu => Precision::F32,
        None => Precision::Bf16,
    };
    if device == Device::Cpu && precision != Precision::F32 {
        let message = format!(
            "--precision {precision}: the CPU computes in f32; leave it out, or use --device cuda"
        );
        return Err(UserError::new(message).into());
    }
    Ok((device, precision))
}

/// `laptop`, or `paper` where CUDA is asked for or found.
fn default_profile(device: Option<&str>) -> &'static str {
    let cuda = match device {
        None | Some("auto") => automatic_device() != Device::Cpu,
        Some(named) => named != "cpu",
    };
    if cuda { "paper" } else { "laptop" }
}

/// The first CUDA device where everything that it needs is there, else the CPU.
fn automatic_device() -> Device {
    if models::probe().missing(0).is_none() {
        Device::Cuda(0)
    } else {
        Device::Cpu
    }
}

/// A path as a TOML text.
pub(super) fn shown(path: &Path) -> Result<toml::Value, UserError> {
    let text = path
        .to_str()
        .ok_or_else(|| UserError::new(format!("{}: a path must be valid UTF-8", path.display())))?;
    Ok(toml::Value::String(text.to_owned()))
}

/// What the profile says about its text, as the datasets crate takes it.
fn data_spec(data: &Data) -> anyhow::Result<DataSpec> {
    let source = if data.source == "crates" {
        SourceSpec::Crates { limit_bytes: None }
    } else {
        source_of_paths(&data.paths, &data.field)?
    };
    let tokenizer = match &data.tokenizer {
        Some(path) => TokenizerSpec::File {
            path: given_tokenizer(path)?,
        },
        None => TokenizerSpec::Train {
            vocabulary: data.vocabulary as usize,
        },
    };
    let maximum_tokens = (data.validation_tokens > 0).then_some(data.validation_tokens);
    let validation = ValidationSpec {
        share: data.validation_share,
        maximum_tokens,
    };
    Ok(DataSpec {
        source,
        tokenizer,
        validation,
        bad_line_share: data.bad_line_share,
    })
}

/// The source that the paths are of, all of one kind.
fn source_of_paths(paths: &[PathBuf], field: &str) -> anyhow::Result<SourceSpec> {
    let mut merged: Option<SourceSpec> = None;
    for path in paths {
        let next = match SourceSpec::from_path(path)? {
            SourceSpec::Jsonl { paths, .. } => SourceSpec::Jsonl {
                paths,
                field: field.to_owned(),
            },
            other => other,
        };
        merged = Some(match (merged, next) {
            (None, next) => next,
            (Some(SourceSpec::Text { paths: first }), SourceSpec::Text { paths }) => {
                SourceSpec::Text {
                    paths: [first, paths].concat(),
                }
            }
            (
                Some(SourceSpec::Jsonl {
                    paths: first,
                    field,
                }),
                SourceSpec::Jsonl { paths, .. },
            ) => SourceSpec::Jsonl {
                paths: [first, paths].concat(),
                field,
            },
            (Some(SourceSpec::C4 { directory }), SourceSpec::C4 { .. }) => {
                let message = format!(
                    "data.paths: {} and {} are both folders of C4 shards, and one is taken; put the shards into one folder",
                    directory.display(),
                    path.display()
                );
                return Err(UserError::new(message).into());
            }
            _ => {
                let message = format!(
                    "data.paths: {} is of another kind than those before it; give all text, or all JSON lines",
                    path.display()
                );
                return Err(UserError::new(message).into());
            }
        });
    }
    merged.ok_or_else(|| {
        UserError::new("data.paths = []: data.source = \"path\" needs at least one file or folder")
            .into()
    })
}

/// The store's directory, absolute: workers may be started elsewhere.
fn store_path(store: &Store) -> anyhow::Result<PathBuf> {
    let directory = store.directory();
    fs::canonicalize(directory).with_context(|| format!("cannot resolve {}", directory.display()))
}

/// Where token stores are kept: the user's cache, so that every suite on one text shares them; where there is none, the
/// folder of the suites.
fn cache_directory(suite: &Path) -> PathBuf {
    models::user_cache()
        .unwrap_or_else(|| files::parent(suite).join(".relora-cache"))
        .join("stores")
}

/// Shows how far the token store is: a bar on a terminal, a line per stage elsewhere. A store found ready shows nothing.
#[derive(Default)]
struct Preparation {
    stage: Option<&'static str>,
    has_total: Option<bool>,
    bar: Option<ProgressBar>,
}

impl Preparation {
    fn show(&mut self, progress: &datasets::Progress) {
        let total = progress.total.filter(|total| *total > 0);
        let is_new = self.stage.replace(progress.stage) != Some(progress.stage);
        let is_other = self.has_total.replace(total.is_some()) != Some(total.is_some());
        if !io::stderr().is_terminal() {
            if is_new {
                warn(&format!("text: {}", progress.stage));
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::no_length();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if is_new || is_other {
            // A bar of nothing known would be full from the start.
            let template = if total.is_some() {
                "{msg} {wide_bar} {bytes}/{total_bytes} {eta}"
            } else {
                "{spinner} {msg} {elapsed}"
            };
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(progress.stage);
        }
        if let Some(total) = total {
            bar.set_length(total);
            bar.set_position(progress.done);
        }
    }

    fn finish(&self, store: &Store) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let bad = store.bad_lines();
        if self.stage.is_some() && bad.bad > 0 {
            let first = bad
                .first
                .first()
                .map_or_else(String::new, |line| format!("; the first: {line}"));
            warn(&format!(
                "warning: {} of {} could not be used{first}",
                bad.bad,
                number_of(bad.lines, "line")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_a_method_a_size_both_or_a_cell() {
        for filter in [
            "relora",
            "mini",
            "mini-relora",
            "mini-relora-seed2",
            "mini-*",
            "*-seed2",
            "*",
        ] {
            assert!(selects(filter, "mini", "relora", 2), "{filter}");
        }
        for filter in [
            "relora-no-restart",
            "min",
            "mini-relora-seed",
            "mini-relora-seed22",
            "",
        ] {
            assert!(!selects(filter, "mini", "relora", 2), "{filter}");
        }
    }
}
