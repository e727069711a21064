//! Profiles: TOML files that declare a matrix with its data, tokens and hyper-parameters.
//!
//! A profile is read as a list of [`Entry`]s, each a key path with its value and where it was written. The profile that it
//! extends comes before it, what the command line sets after it, so that one mechanism carries every layer and a message can name file, line
//! and key whoever finds the fault. From least to most specific a key of a run is set by: the defaults, `[settings]`,
//! `[size.S]`, the method's preset, the dialect, `[method.M]` and `[size.S.method.M]` (those of the preset's name before those
//! of the method's own), and a bare `--set KEY=VALUE`. How methods are tuned is read in `profile/tuning.rs`.

use crate::algorithm::MethodSwitches;
use crate::hugging_face::Config;
use crate::recipe::{self, PRESETS};
use crate::settings::{BaseName, NetworkName, Scope, Setting, Settings, suggestion};
use models::{LowRank, Network};
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use toml::Value;
use toml::de::{DeTable, DeValue};

mod tuning;

use tuning::{COSTS, Declared, POINT_OF, TUNED_FROM};
pub use tuning::{Choice, Dimension, Scale, Tune, tuned_name};

/// The profiles that ship inside the binary.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("smoke", include_str!("profiles/smoke.toml")),
    ("laptop", include_str!("profiles/laptop.toml")),
    ("laptop-rates", include_str!("profiles/laptop-rates.toml")),
    (
        "ablations-laptop",
        include_str!("profiles/ablations-laptop.toml"),
    ),
    ("paper", include_str!("profiles/paper.toml")),
    ("ablations", include_str!("profiles/ablations.toml")),
    ("gpu-check", include_str!("profiles/gpu-check.toml")),
];

/// Names of the profiles that ship inside the binary.
#[must_use]
pub fn built_in_names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

/// Something in a profile that cannot be; one line that names where, what and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such profile.
    #[error("profile `{name}`: there is no such profile or file; {suggestion}")]
    Unknown {
        /// As typed.
        name: String,
        /// The nearest name and all names.
        suggestion: String,
    },
    /// The file cannot be read.
    #[error("profile {}: cannot be read: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}: not valid TOML: {message}")]
    Malformed {
        /// File, line and column.
        origin: String,
        /// The parser's words.
        message: String,
    },
    /// A key that does not exist, or not there.
    #[error("{origin}: unknown key `{key}`: {suggestion}")]
    UnknownKey {
        /// File, line and column.
        origin: String,
        /// The whole key path.
        key: String,
        /// What would be right.
        suggestion: String,
    },
    /// A value that cannot be.
    #[error("{value}: {why}")]
    Value {
        /// Where it was written, its key and the value: `own.toml:3:1: settings.rank = 0`, `--rank 0`.
        value: String,
        /// What would be right.
        why: String,
    },
    /// A name that no list knows.
    #[error("unknown {kind} `{name}`: {suggestion}")]
    UnknownName {
        /// `size`, `method` or `dialect`.
        kind: &'static str,
        /// As typed.
        name: String,
        /// The nearest name and all names.
        suggestion: String,
    },
    /// A list that must be there and hold something.
    #[error("profile `{profile}`: `{key}` names nothing: {why}")]
    Missing {
        /// The profile.
        profile: String,
        /// The key.
        key: &'static str,
        /// What would be right.
        why: &'static str,
    },
}

/// One value of a profile.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    path: Vec<String>,
    value: Value,
    origin: Origin,
}

impl Entry {
    fn path_parts(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq)]
enum Origin {
    /// A file, or line and column of one: `laptop.toml:12:3`.
    File(String),
    /// The command line: `--set`, or another flag with what was typed, `--rank 0`.
    Flag(String),
}

impl Origin {
    fn is_flag(&self) -> bool {
        matches!(self, Origin::Flag(_))
    }

    /// The value of a key as the one who wrote it knows it. A flag that is named like the key says it all.
    fn value(&self, key: &str, value: &str) -> String {
        if let Origin::Flag(typed) = self
            && let Some((flag, _)) = typed.split_once(' ')
            && flag.trim_start_matches('-').replace('-', "_")
                == key.rsplit('.').next().unwrap_or(key)
        {
            return typed.clone();
        }
        format!("{self}: {key} = {value}")
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Origin::File(text) | Origin::Flag(text)) = self;
        formatter.write_str(text)
    }
}

/// A value that the command line lays over the profile, by `--set` or by a flag that stands for a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// `KEY=VALUE`.
    pub text: String,
    origin: Origin,
}

impl Assignment {
    /// What a flag sets; `typed` is that flag with its value, which an error about it is to name.
    #[must_use]
    pub fn by_flag(typed: impl Into<String>, text: impl Into<String>) -> Assignment {
        Assignment {
            text: text.into(),
            origin: Origin::Flag(typed.into()),
        }
    }
}

/// As `--set` takes it.
impl<T: Into<String>> From<T> for Assignment {
    fn from(text: T) -> Assignment {
        Assignment::by_flag(SET, text)
    }
}

impl Entry {
    fn key(&self) -> String {
        self.path.join(".")
    }

    fn wrong(&self, why: impl Into<String>) -> ProfileError {
        ProfileError::Value {
            value: self.origin.value(&self.key(), &self.value.to_string()),
            why: why.into(),
        }
    }

    fn read<T: Setting>(&self) -> Result<T, ProfileError> {
        T::read(&self.value).ok_or_else(|| self.wrong(format!("must be {}", T::expected())))
    }

    /// A list of texts or numbers, or a single one.
    fn read_list<T: Setting>(&self) -> Result<Vec<T>, ProfileError> {
        let single = std::slice::from_ref(&self.value);
        let values = self.value.as_array().map_or(single, Vec::as_slice);
        let read: Option<Vec<T>> = values.iter().map(T::read).collect();
        read.ok_or_else(|| self.wrong(format!("must be a list, each {}", T::expected())))
    }
}

/// Where a suite's text comes from (section `[data]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// `crates`, or `path` for files.
    pub source: String,
    /// Files or folders, for `source = "path"`.
    pub paths: Vec<PathBuf>,
    /// Field of a JSON line that holds the text.
    pub field: String,
    /// Vocabulary of the tokenizer to train.
    pub vocabulary: u64,
    /// A `tokenizer.json` to use instead.
    pub tokenizer: Option<PathBuf>,
    /// Share of the documents held out for validation.
    pub validation_share: f64,
    /// Most validation tokens used; 0: all.
    pub validation_tokens: u64,
    /// Share of unreadable lines above which the corpus is refused.
    pub bad_line_share: f64,
}

impl Default for Data {
    fn default() -> Data {
        Data {
            source: "crates".into(),
            paths: Vec::new(),
            field: "text".into(),
            vocabulary: 32_000,
            tokenizer: None,
            validation_share: 0.01,
            validation_tokens: 0,
            bad_line_share: 0.001,
        }
    }
}

/// The Hugging Face folder that every run of a profile starts from (key `init_from`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitFrom {
    /// The folder.
    pub directory: PathBuf,
    /// Its configuration.
    pub config: Config,
}

const DATA_KEYS: &[&str] = &[
    "source",
    "paths",
    "field",
    "vocabulary",
    "tokenizer",
    "validation_share",
    "validation_tokens",
    "bad_line_share",
];
const TOP_KEYS: &[&str] = &[
    "description",
    "extends",
    "seeds",
    "sizes",
    "methods",
    "dialect",
    "jobs",
    "margin",
    "init_from",
    "data",
    "settings",
    "size",
    "method",
    "tune",
];

/// A checked profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name: of a built-in, or the file's stem.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Paired seeds.
    pub seeds: Vec<u64>,
    /// Sizes of the matrix.
    pub sizes: Vec<String>,
    /// Methods of the matrix.
    pub methods: Vec<String>,
    /// Recipe dialect.
    pub dialect: String,
    /// Workers at the same time on a CPU; 0: one per core.
    pub jobs: u64,
    /// Nats of validation loss within which two methods count as equal.
    pub margin: Option<f64>,
    /// Where the text comes from.
    pub data: Data,
    /// Where the runs start, if not at random weights.
    pub init_from: Option<InitFrom>,
    /// How its methods are tuned, where it says so.
    pub tune: Option<Tune>,
    /// The profile that is tuned, of the profile of its proxy runs.
    pub tuned_for: Option<Box<Profile>>,
    entries: Vec<Entry>,
}

impl Profile {
    /// Loads a built-in profile by name or a file by path, and lays what the command line sets over it.
    ///
    /// # Errors
    /// An unknown name, an unreadable or malformed file, an unknown key, a value that cannot be.
    pub fn load(name: &str, assignments: &[Assignment]) -> Result<Profile, ProfileError> {
        let mut entries = Vec::new();
        let stem = read_layer(name, Path::new(""), &mut entries, &mut Vec::new())?;
        for assignment in assignments {
            entries.extend(parse_assignment(assignment)?);
        }
        Profile::from_entries(stem, entries, None)
    }

    fn from_entries(
        name: String,
        entries: Vec<Entry>,
        tuned_for: Option<Profile>,
    ) -> Result<Profile, ProfileError> {
        let mut profile = Profile {
            name,
            description: String::new(),
            seeds: Vec::new(),
            sizes: Vec::new(),
            methods: Vec::new(),
            dialect: "default".into(),
            jobs: 0,
            margin: None,
            data: Data::default(),
            init_from: None,
            tune: None,
            tuned_for: tuned_for.map(Box::new),
            entries: Vec::new(),
        };
        let mut init_from = None;
        let mut tune = Declared::default();
        for entry in &entries {
            match entry.path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["description"] => profile.description = entry.read()?,
                ["extends"] => {}
                ["seeds"] => profile.seeds = entry.read_list()?,
                ["sizes"] => profile.sizes = entry.read_list()?,
                ["methods"] => profile.methods = entry.read_list()?,
                ["dialect"] => profile.dialect = entry.read()?,
                ["jobs"] => profile.jobs = entry.read()?,
                ["margin"] => {
                    let margin: f64 = entry.read()?;
                    if !(margin > 0.0 && margin.is_finite()) {
                        return Err(entry.wrong("must be more than 0: nats per token"));
                    }
                    profile.margin = Some(margin);
                }
                ["init_from"] => init_from = Some((PathBuf::from(entry.read::<String>()?), entry)),
                ["data", key] => profile.set_data(key, entry)?,
                ["tune", ref path @ ..] if !path.is_empty() => tune.set(path, entry)?,
                ["settings", key]
                | ["size", _, key]
                | ["method", _, key]
                | ["size", _, "method", _, key] => {
                    check_key(key, entry)?;
                }
                [key]
                    if Settings::KEYS.iter().any(|(known, _)| *known == key)
                        && entry.origin.is_flag() => {}
                [key, ..] => {
                    return Err(ProfileError::UnknownKey {
                        origin: entry.origin.to_string(),
                        key: entry.key(),
                        suggestion: if TOP_KEYS.contains(&key) {
                            "must be data.KEY, tune.KEY, settings.KEY, size.SIZE.KEY, method.METHOD.KEY or size.SIZE.method.METHOD.KEY"
                                .into()
                        } else if Settings::KEYS.iter().any(|(known, _)| *known == key) {
                            format!(
                                "it belongs under [settings] (or [size.SIZE], [method.METHOD]): settings.{key}"
                            )
                        } else if let Some(ours) = of_other_programs(key) {
                            format!("did you mean `{ours}`?")
                        } else if entry.origin.is_flag() {
                            let keys = [
                                TOP_KEYS.to_vec(),
                                Settings::KEYS.iter().map(|(key, _)| *key).collect(),
                            ]
                            .concat();
                            suggestion(key, &keys)
                        } else {
                            suggestion(key, TOP_KEYS)
                        },
                    });
                }
                [] => {}
            }
        }
        // Only of the folder that counts: one that another overrides may be gone.
        if let Some((directory, entry)) = init_from {
            let config =
                Config::read(&directory).map_err(|error| entry.wrong(error.to_string()))?;
            profile.init_from = Some(InitFrom { directory, config });
        }
        profile.tune = tune.read()?;
        profile.entries = entries;
        profile.check()?;
        Ok(profile)
    }

    fn set_data(&mut self, key: &str, entry: &Entry) -> Result<(), ProfileError> {
        match key {
            "source" => {
                self.data.source = entry.read()?;
                if !["crates", "path"].contains(&self.data.source.as_str()) {
                    return Err(entry.wrong("must be \"crates\" or \"path\""));
                }
            }
            "paths" => {
                self.data.paths = entry
                    .read_list::<String>()?
                    .into_iter()
                    .map(PathBuf::from)
                    .collect()
            }
            "field" => self.data.field = entry.read()?,
            "vocabulary" => {
                self.data.vocabulary = entry.read()?;
                if !(257..=1 << 20).contains(&self.data.vocabulary) {
                    return Err(entry
                        .wrong("must be between 257 (256 bytes and the end of text) and 1048576"));
                }
            }
            "tokenizer" => self.data.tokenizer = Some(PathBuf::from(entry.read::<String>()?)),
            "validation_share" => {
                self.data.validation_share = entry.read()?;
                if !(self.data.validation_share > 0.0 && self.data.validation_share < 1.0) {
                    return Err(entry.wrong("must be more than 0 and below 1"));
                }
            }
            "validation_tokens" => self.data.validation_tokens = entry.read()?,
            "bad_line_share" => {
                self.data.bad_line_share = entry.read()?;
                if !(0.0..=1.0).contains(&self.data.bad_line_share) {
                    return Err(entry.wrong("must be between 0 and 1"));
                }
            }
            _ => {
                return Err(ProfileError::UnknownKey {
                    origin: entry.origin.to_string(),
                    key: entry.key(),
                    suggestion: suggestion(key, DATA_KEYS),
                });
            }
        }
        Ok(())
    }

    /// Replaces the seeds, as `--seeds` does.
    ///
    /// # Errors
    /// No seed, or one twice.
    pub fn set_seeds(&mut self, seeds: Vec<u64>) -> Result<(), ProfileError> {
        if let Some(seed) = repeated(&seeds) {
            let list = Value::Array(seeds.iter().map(Setting::show).collect());
            return Err(ProfileError::Value {
                value: format!("--seeds: seeds = {list}"),
                why: format!("{seed} is there twice"),
            });
        }
        // What speaks against them names the flag.
        let typed: Vec<String> = seeds.iter().map(u64::to_string).collect();
        self.entries.push(Entry {
            path: vec!["seeds".into()],
            value: Value::Array(seeds.iter().map(Setting::show).collect()),
            origin: Origin::Flag(format!("--seeds {}", typed.join(","))),
        });
        self.seeds = seeds;
        self.check()
    }

    /// A section must name a size or a method that there is; and what the command line sets must be for one that runs.
    fn check_sections(&self) -> Result<(), ProfileError> {
        for entry in &self.entries {
            let path: Vec<&str> = entry.path.iter().map(String::as_str).collect();
            let (size, method) = match path[..] {
                ["size", size, "method", method, _] => (Some(size), Some(method)),
                ["size", size, _] => (Some(size), None),
                ["method", method, _] => (None, Some(method)),
                _ => continue,
            };
            let set = entry.origin.is_flag();
            for (of_method, name) in [(false, size), (true, method)] {
                if let Some(why) = name.and_then(|name| name_fault(of_method, name)) {
                    return Err(entry.wrong(why));
                }
            }
            if let Some(size) = size {
                let mut names = self.sizes.iter().map(String::as_str).collect::<Vec<_>>();
                let shaped = ["hidden", "intermediate", "layers", "heads"]
                    .iter()
                    .all(|key| {
                        self.entries
                            .iter()
                            .any(|entry| entry.path == ["size", size, key])
                    });
                if !set {
                    names.extend(Network::names());
                    names.extend(shaped.then_some(size));
                }
                // What was set for the profile that is tuned was judged there.
                let tuned_for = self.tuned_for.iter().flat_map(|profile| &profile.sizes);
                names.extend(tuned_for.map(String::as_str));
                self.check_section("size", size, &names, entry)?;
            }
            if let Some(method) = method {
                let mut names = self.methods.iter().map(String::as_str).collect::<Vec<_>>();
                if set {
                    for method in &self.methods {
                        names.extend(
                            PRESETS.iter().map(|preset| preset.name).find(|name| {
                                self.preset(method).is_ok_and(|preset| preset == *name)
                            }),
                        );
                    }
                    names.extend(self.followed());
                    let tuned_for = self.tuned_for.iter().flat_map(|profile| &profile.methods);
                    names.extend(tuned_for.map(String::as_str));
                    let mut seen = BTreeSet::new();
                    names.retain(|name| seen.insert(*name));
                } else {
                    names.extend(recipe::preset_names());
                    names.extend(self.own_methods());
                }
                self.check_section("method", method, &names, entry)?;
            }
        }
        Ok(())
    }

    /// Methods that are not trained but whose settings are read: `full`, whose rate a warm start follows, and `relora`, whose
    /// size a matched network has.
    fn followed(&self) -> Vec<&'static str> {
        let any = |reads: &dyn Fn(&Settings) -> bool| {
            let cells = self.sizes.iter().flat_map(|size| {
                let methods = self.methods.iter();
                methods.map(move |method| (size, method))
            });
            cells
                .filter_map(|(size, method)| self.layered(size, method).ok())
                .any(|(settings, _)| reads(&settings))
        };
        let full = any(&|settings| settings.warm_start).then_some("full");
        let relora = any(&|settings| settings.network == NetworkName::Matched).then_some("relora");
        let followed = full.into_iter().chain(relora);
        followed
            .filter(|name| self.methods.iter().all(|method| method != name))
            .collect()
    }

    fn check_section(
        &self,
        kind: &str,
        name: &str,
        names: &[&str],
        entry: &Entry,
    ) -> Result<(), ProfileError> {
        if names.contains(&name) {
            return Ok(());
        }
        let near = suggestion(name, names);
        let suggestion = if entry.origin.is_flag() {
            format!("profile `{}` runs no {kind} `{name}`; {near}", self.name)
        } else {
            format!("there is no {kind} `{name}`; {near}")
        };
        Err(ProfileError::UnknownKey {
            origin: entry.origin.to_string(),
            key: entry.key(),
            suggestion,
        })
    }

    fn check(&self) -> Result<(), ProfileError> {
        let missing = |key, why| {
            Err(ProfileError::Missing {
                profile: self.name.clone(),
                key,
                why,
            })
        };
        if self.seeds.is_empty() {
            return missing(
                "seeds",
                "must be a list of whole numbers, for instance [1, 2, 3]",
            );
        }
        if self.sizes.is_empty() {
            return missing("sizes", "must be a list of sizes, for instance [\"60m\"]");
        }
        if self.methods.is_empty() {
            return missing(
                "methods",
                "must be a list of methods, for instance [\"full\", \"relora\"]",
            );
        }
        for (key, names) in [("sizes", &self.sizes), ("methods", &self.methods)] {
            if let Some(name) = repeated(names) {
                return Err(self.wrong_list(key, format!("`{name}` is there twice")));
            }
        }
        self.check_directories()?;
        if let Some(seed) = repeated(&self.seeds) {
            return Err(self.wrong_list("seeds", format!("{seed} is there twice")));
        }
        if !recipe::dialect_names().contains(&self.dialect.as_str()) {
            return Err(unknown("dialect", &self.dialect, &recipe::dialect_names()));
        }
        for size in &self.sizes {
            for method in &self.methods {
                self.settings(size, method)?;
            }
        }
        self.check_tuned()?;
        self.check_sections()
    }

    /// The names of sizes and methods become names of directories: those of two cells must differ, and none may lead
    /// elsewhere or be hidden.
    fn check_directories(&self) -> Result<(), ProfileError> {
        for (key, names) in [("sizes", &self.sizes), ("methods", &self.methods)] {
            if let Some((name, why)) = names
                .iter()
                .find_map(|name| Some((name, name_fault(key == "methods", name)?)))
            {
                return Err(self.wrong_list(key, format!("`{name}`: {why}")));
            }
        }
        let cells: Vec<(String, &str, &str)> = self
            .sizes
            .iter()
            .flat_map(|size| self.methods.iter().map(move |method| (size, method)))
            .map(|(size, method)| (format!("{size}-{method}"), size.as_str(), method.as_str()))
            .collect();
        for (index, (directory, size, method)) in cells.iter().enumerate() {
            if let Some((_, other_size, other_method)) =
                cells[..index].iter().find(|(other, ..)| other == directory)
            {
                return Err(self.wrong_list(
                    "methods",
                    format!(
                        "size `{other_size}` with method `{other_method}` and size `{size}` with method `{method}` \
                         would share the directory {directory}-seed...; give one of them another name"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn wrong_list(&self, key: &str, why: String) -> ProfileError {
        let entry = self.entries.iter().rev().find(|entry| entry.path == [key]);
        match entry {
            Some(entry) => entry.wrong(why),
            None => ProfileError::Value {
                value: format!("--{key}"),
                why,
            },
        }
    }

    /// The preset that a method is, or is derived from.
    ///
    /// # Errors
    /// A method that is neither a preset nor says in its section what it is derived from.
    pub fn preset(&self, method: &str) -> Result<String, ProfileError> {
        if let Some((from, _)) = self.derived_from(method)? {
            return self.preset(&from);
        }
        let entry = self
            .entries
            .iter()
            .rev()
            .find(|entry| entry.path == ["method", method, "preset"]);
        let name = entry.map_or(Ok(method.to_owned()), Entry::read)?;
        if recipe::preset_names().contains(&name.as_str()) {
            return Ok(name);
        }
        let names = recipe::preset_names();
        Err(match entry {
            Some(entry) => entry.wrong(suggestion(&name, &names)),
            None => {
                let known = [names, self.own_methods()].concat();
                let lists = self.entries.iter().rev();
                let mut lists = lists.filter(|entry| entry.path == ["methods"]);
                match lists.next() {
                    // Where a file lists it, the file and line are what its author looks for.
                    Some(list) if !list.origin.is_flag() && self.methods.iter().any(|it| it == method) => {
                        list.wrong(format!(
                            "unknown method `{method}` (one of your own needs `preset` in [method.{method}]): {}",
                            suggestion(method, &known)
                        ))
                    }
                    _ => unknown("method", method, &known),
                }
            }
        })
    }

    /// Methods that the profile itself defines.
    fn own_methods(&self) -> Vec<&str> {
        let presets = self
            .entries
            .iter()
            .filter(|entry| entry.path.len() == 3 && DERIVATIONS.contains(&entry.path[2].as_str()));
        presets.map(|entry| entry.path[1].as_str()).collect()
    }

    /// The checked settings and the network of one size and method.
    ///
    /// # Errors
    /// An unknown size or method, or a value that cannot be, with where it was written.
    pub fn settings(&self, size: &str, method: &str) -> Result<(Settings, Network), ProfileError> {
        let (settings, origins) = self.layered(size, method)?;
        let wrong = |key: &str, why| wrong(size, method, &settings, &origins, key, why);
        settings
            .check()
            .map_err(|found| wrong(found.key, found.why))?;
        let network = self.network(size, &settings)?;
        network
            .check()
            .map_err(|error| wrong("hidden", error.to_string()))?;
        if let Some(InitFrom { directory, config }) = &self.init_from {
            let folder = directory.display();
            if settings.network == NetworkName::Matched {
                let why = format!(
                    "method {method} trains a network of its own, which cannot start from {folder}; leave it out"
                );
                return Err(wrong("network", why));
            }
            if settings.low_rank && !settings.warm_start && settings.base != BaseName::Keep {
                let why = format!(
                    "method {method} would begin without the weights of {folder}: must be \"keep\", or leave the method out"
                );
                return Err(wrong("base", why));
            }
            let shape = |network: &Network| {
                [
                    network.hidden,
                    network.intermediate,
                    network.layers,
                    network.heads,
                ]
            };
            if shape(&network) != shape(&config.network) {
                let why = format!(
                    "size {size} is {:?} (hidden, intermediate, layers, heads), {folder} is {:?}; a size of another name, with no shape of its own, takes the folder's",
                    shape(&network),
                    shape(&config.network)
                );
                return Err(wrong("hidden", why));
            }
        }
        if let Some(low_rank) = MethodSwitches::of(&settings).low_rank {
            low_rank
                .check(&network)
                .map_err(|error| wrong("rank", format!("size {size}: {error}")))?;
        }
        Ok((settings, network))
    }

    /// The factors that a method trains at a size, whatever its lengths.
    ///
    /// # Errors
    /// An unknown method, or factors that cannot be, with where they were written.
    pub fn low_rank(&self, size: &str, method: &str) -> Result<Option<LowRank>, ProfileError> {
        let (settings, origins) = self.layered(size, method)?;
        let network = self.network(size, &settings)?;
        let low_rank = MethodSwitches::of(&settings).low_rank;
        if let Some(low_rank) = &low_rank {
            low_rank.check(&network).map_err(|error| {
                let why = format!("size {size}: {error}");
                wrong(size, method, &settings, &origins, "rank", why)
            })?;
        }
        Ok(low_rank)
    }

    /// The settings of one size and method as they would be, unchecked, without the last bare `--set` of a key.
    ///
    /// # Errors
    /// An unknown method.
    pub fn settings_before_set(
        &self,
        key: &str,
        size: &str,
        method: &str,
    ) -> Result<Settings, ProfileError> {
        let mut before = self.clone();
        let last = before.entries.iter().rposition(|entry| entry.path == [key]);
        if let Some(last) = last {
            before.entries.remove(last);
        }
        Ok(before.layered(size, method)?.0)
    }

    /// Where the paths of the text were written; none where `--data` or `--set` says them.
    #[must_use]
    pub fn origin_of_paths(&self) -> Option<&str> {
        let mut entries = self.entries.iter().rev();
        match &entries
            .find(|entry| entry.path == ["data", "paths"])?
            .origin
        {
            Origin::File(place) => Some(place),
            Origin::Flag(_) => None,
        }
    }

    /// Place of a size and a method in the order of tables: that of the profile's own lists, whatever a command asks for of
    /// them, with `full` first; those that it does not list come last.
    #[must_use]
    pub fn place(&self, size: &str, method: &str) -> (usize, bool, usize) {
        let position = |key: &str, name: &str| {
            let lists = self
                .entries
                .iter()
                .rev()
                .filter(|entry| entry.path == [key]);
            let (set, written): (Vec<&Entry>, Vec<&Entry>) =
                lists.partition(|entry| entry.origin.is_flag());
            let names = written.into_iter().chain(set);
            let names = names.flat_map(|entry| entry.value.as_array().into_iter().flatten());
            let mut names = names.filter_map(Value::as_str);
            names.position(|known| known == name).unwrap_or(usize::MAX)
        };
        (
            position("sizes", size),
            method != "full",
            position("methods", method),
        )
    }

    /// A value of a size and method that cannot be, with where it was written.
    #[must_use]
    pub fn wrong(&self, size: &str, method: &str, key: &str, why: String) -> ProfileError {
        match self.layered(size, method) {
            Ok((settings, origins)) => wrong(size, method, &settings, &origins, key, why),
            Err(error) => error,
        }
    }

    /// The settings of one size and method, unchecked, and the entries that they are from, the least specific first.
    fn layered(&self, size: &str, method: &str) -> Result<(Settings, Origins<'_>), ProfileError> {
        let mut settings = Settings::default();
        let mut origins = Origins::new();
        let mut lay = |settings: &mut Settings, path: &[&str]| -> Result<(), ProfileError> {
            for entry in &self.entries {
                let Some((key, prefix)) = entry.path.split_last() else {
                    continue;
                };
                if prefix != path
                    || DERIVATIONS.contains(&key.as_str())
                    || COSTS.contains(&key.as_str())
                {
                    continue;
                }
                if let Some(Err(expected)) = settings.set(key, &entry.value) {
                    return Err(entry.wrong(format!("must be {expected}")));
                }
                origins.push((key.clone(), entry));
            }
            Ok(())
        };
        let lay_data = |settings: &mut Settings, layer: Vec<(&'static str, Value)>| {
            for (key, value) in layer {
                // Presets and dialects are tables of ours: a test reads every one of them.
                let _ = settings.set(key, &value);
            }
        };
        lay(&mut settings, &["settings"])?;
        lay(&mut settings, &["size", size])?;
        let preset = self.preset(method)?;
        let layer = recipe::preset(&preset).map_or_else(Vec::new, |known| (known.layer)());
        lay_data(&mut settings, layer);
        let dialect = recipe::dialect(&self.dialect);
        lay_data(
            &mut settings,
            dialect.map_or_else(Vec::new, |dialect| dialect.layer(&preset)),
        );
        // A method derived from another takes over what the profile says of that one.
        let from = self.derived_from(method)?.map(|(from, _)| from);
        let mut names = vec![preset.as_str()];
        names.extend(from.as_deref());
        names.push(method);
        names.dedup();
        for name in &names {
            lay(&mut settings, &["method", name])?;
        }
        for name in &names {
            lay(&mut settings, &["size", size, "method", name])?;
        }
        // A bare `--set KEY=VALUE` has no path before the key and is the most specific of all.
        lay(&mut settings, &[])?;
        Ok((settings, origins))
    }

    /// The size's own network, by name, by the four numbers in its section, or that of the folder that the runs start from.
    fn network(&self, size: &str, settings: &Settings) -> Result<Network, ProfileError> {
        let vocabulary = self.data.vocabulary as usize;
        let own = [
            settings.hidden,
            settings.intermediate,
            settings.layers,
            settings.heads,
        ]
        .map(|value| value as usize);
        let mut network = match Network::named(size, vocabulary) {
            Some(network) => network,
            None if own.iter().all(|value| *value > 0) => Network {
                hidden: own[0],
                intermediate: own[1],
                layers: own[2],
                heads: own[3],
                vocabulary,
                frozen_embedding_row: None,
            },
            None => match &self.init_from {
                Some(InitFrom { config, .. }) => Network {
                    vocabulary,
                    ..config.network.clone()
                },
                None if own.iter().any(|value| *value > 0) => {
                    let lacks: Vec<&str> = ["hidden", "intermediate", "layers", "heads"]
                        .into_iter()
                        .zip(own)
                        .filter_map(|(key, value)| (value == 0).then_some(key))
                        .collect();
                    return Err(ProfileError::UnknownName {
                        kind: "size",
                        name: size.to_owned(),
                        suggestion: format!("a shape of its own lacks {}", lacks.join(", ")),
                    });
                }
                None => return Err(unknown("size", size, Network::names())),
            },
        };
        for (given, value) in own.into_iter().zip([
            &mut network.hidden,
            &mut network.intermediate,
            &mut network.layers,
            &mut network.heads,
        ]) {
            if given > 0 {
                *value = given;
            }
        }
        Ok(network)
    }

    /// The whole profile as TOML that can be copied out, edited and passed by path: every key with its value, and below, as
    /// comments, what presets and dialect make of them for each size and method. A tokenizer file is left out where none is
    /// given.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut root = toml::Table::new();
        let bare =
            |entry: &&Entry| entry.path.len() == 1 && !TOP_KEYS.contains(&entry.path[0].as_str());
        for (key, value) in Settings::default().show() {
            insert(&mut root, &["settings".into(), key.into()], value);
        }
        insert(&mut root, &["dialect".into()], self.dialect.show());
        for (key, value) in [
            ("source", self.data.source.show()),
            ("paths", Value::Array(Vec::new())),
            ("field", self.data.field.show()),
            ("vocabulary", self.data.vocabulary.show()),
            ("validation_share", self.data.validation_share.show()),
            ("validation_tokens", self.data.validation_tokens.show()),
            ("bad_line_share", self.data.bad_line_share.show()),
        ] {
            insert(&mut root, &["data".into(), key.into()], value);
        }
        // Proxy runs may be of another size than those of the profile that is tuned, which are no sizes of this one.
        let of_other_size = |entry: &&Entry| match entry.path_parts()[..] {
            ["size", size, ..] => {
                let is_own = self.sizes.iter().any(|own| own == size);
                self.tuned_for.is_some() && !is_own
            }
            _ => false,
        };
        let layered = self
            .entries
            .iter()
            .filter(|entry| !bare(entry) && entry.path != ["extends"] && !of_other_size(entry));
        for entry in layered {
            insert(&mut root, &entry.path, entry.value.clone());
        }
        let list =
            |names: &[String]| Value::Array(names.iter().cloned().map(Value::String).collect());
        // These a flag may have changed.
        insert(&mut root, &["jobs".into()], self.jobs.show());
        insert(&mut root, &["sizes".into()], list(&self.sizes));
        insert(&mut root, &["methods".into()], list(&self.methods));
        insert(
            &mut root,
            &["seeds".into()],
            Value::Array(self.seeds.iter().map(Setting::show).collect()),
        );
        for entry in self.entries.iter().filter(bare) {
            for path in self.sections_of(entry) {
                insert(&mut root, &path, entry.value.clone());
            }
        }
        toml::to_string(&root).unwrap_or_default() + &self.resolved()
    }

    /// Where a value stands in a file that means the same: of a bare `--set` in the most specific section that the key may stand
    /// in, for each size and method.
    fn sections_of(&self, entry: &Entry) -> Vec<Vec<String>> {
        let [key] = entry.path.as_slice() else {
            return vec![entry.path.clone()];
        };
        let key = key.as_str();
        if TOP_KEYS.contains(&key) {
            return vec![entry.path.clone()];
        }
        let shared = Self::size_keys().contains(&key);
        let mut sections = Vec::new();
        for size in &self.sizes {
            let methods = self.methods.iter().map(String::as_str);
            let of_methods = methods
                .chain(self.followed())
                .filter(|_| !shared)
                .map(|method| vec!["size", size, "method", method, key]);
            let of_size = shared.then(|| vec!["size", size, key]);
            let paths = of_methods.chain(of_size);
            sections.extend(paths.map(|path| path.into_iter().map(str::to_owned).collect()));
        }
        sections
    }

    /// What each size and method comes to, as comments: the keys whose value is another than in `[settings]`.
    fn resolved(&self) -> String {
        let mut general = Settings::default();
        for entry in &self.entries {
            if let [section, key] = entry.path.as_slice()
                && section == "settings"
            {
                // Checked when the profile was loaded.
                let _ = general.set(key, &entry.value);
            }
        }
        let general = general.show();
        let dialect = recipe::dialect(&self.dialect);
        let mut text = format!(
            "\n# What results for each size and method, where it is another value than in [settings] above. Dialect {}: {}.\n",
            self.dialect,
            dialect.map_or("", |dialect| dialect.source)
        );
        for size in &self.sizes {
            for method in &self.methods {
                let (Ok((settings, network)), Ok(name)) =
                    (self.settings(size, method), self.preset(method))
                else {
                    // A profile that was loaded has them all.
                    continue;
                };
                let of = if *method == name {
                    String::new()
                } else {
                    format!(", of {name}")
                };
                let meaning = recipe::preset(&name).map_or("", |preset| preset.meaning);
                let _ = writeln!(text, "#\n# {size} {method}{of}: {meaning}");
                let shape = [
                    ("hidden", network.hidden),
                    ("intermediate", network.intermediate),
                    ("layers", network.layers),
                    ("heads", network.heads),
                ];
                for ((key, value), (_, general)) in settings.show().into_iter().zip(&general) {
                    match shape.iter().find(|(known, _)| *known == key) {
                        // Found when the vocabulary of the text is known.
                        Some(_) if settings.network == NetworkName::Matched => {}
                        Some((_, width)) => {
                            let _ = writeln!(text, "#   {key} = {width}");
                        }
                        None if value != *general => {
                            let _ = writeln!(text, "#   {key} = {value}");
                        }
                        None => {}
                    }
                }
            }
        }
        text
    }

    /// The keys of `settings.rs` that every method of a size must share.
    #[must_use]
    pub fn size_keys() -> Vec<&'static str> {
        Settings::KEYS
            .iter()
            .filter(|(_, scope)| *scope == Scope::Size)
            .map(|(key, _)| *key)
            .collect()
    }
}

/// The flag that sets any key.
const SET: &str = "--set";

/// Keys of a method's section that say what it is derived from.
const DERIVATIONS: [&str; 3] = ["preset", POINT_OF, TUNED_FROM];

/// Keys of the settings with the entries that set them, the last of a key deciding.
type Origins<'a> = Vec<(String, &'a Entry)>;

/// The error about a key, with where its value was written; and where it would fit the profile's own number of steps but not
/// the one that `--set` asks for, the way out.
fn wrong(
    size: &str,
    method: &str,
    settings: &Settings,
    origins: &Origins<'_>,
    key: &str,
    why: String,
) -> ProfileError {
    let written = |key: &str| origins.iter().rev().find(|(known, _)| known == key);
    let from_set =
        |key: &str| written(key).is_some_and(|(_, entry)| entry.origin == Origin::Flag(SET.into()));
    let shown = settings.show().into_iter().find(|(known, _)| *known == key);
    let in_steps = key.ends_with("_steps") || key == "restart_every";
    let way_out = if in_steps && from_set("steps") && !from_set(key) {
        format!(
            "; --set steps = {} changes no other key: set {key} with it, or let `relora train --steps` or --budget shorten all in proportion",
            settings.steps
        )
    } else {
        String::new()
    };
    let shown = shown.map_or_else(String::new, |(_, value)| value.to_string());
    ProfileError::Value {
        value: match written(key) {
            Some((_, entry)) => entry.origin.value(&entry.key(), &shown),
            None => format!("{size} {method}: {key} = {shown}"),
        },
        why: format!("{why}{way_out}"),
    }
}

fn unknown(kind: &'static str, name: &str, names: &[&str]) -> ProfileError {
    ProfileError::UnknownName {
        kind,
        name: name.into(),
        suggestion: suggestion(name, names),
    }
}

/// What keeps a name of a size or a method from being part of a directory's name. A method may begin with a dash, since the
/// size stands before it (`----` and `R---` are rows of the paper's ablation table).
#[must_use]
pub fn name_fault(of_method: bool, name: &str) -> Option<&'static str> {
    let inside = |letter: char| letter.is_ascii_alphanumeric() || "._+-".contains(letter);
    let first = |letter: char| letter.is_ascii_alphanumeric() || (of_method && letter == '-');
    let good = name.starts_with(first) && name.chars().all(inside) && name.len() <= 100;
    (!good).then_some(if of_method {
        "a method's name must be letters, digits and . _ + -, begin with a letter, digit or - and have at most 100 of them"
    } else {
        "a size's name must be letters, digits and . _ + -, begin with a letter or digit and have at most 100 of them"
    })
}

fn repeated<T: PartialEq>(values: &[T]) -> Option<&T> {
    values
        .iter()
        .enumerate()
        .find(|(index, value)| values[..*index].contains(value))
        .map(|(_, value)| value)
}

/// Our key for a name by which `transformers`, `peft` and the paper's code know the same.
fn of_other_programs(key: &str) -> Option<&'static str> {
    Some(match key {
        "lr" | "max_lr" => "learning_rate",
        "batch_size" | "total_batch_size" => "global_batch_size",
        "per_device_train_batch_size" => "micro_batch_size",
        "seq_len" | "seq_length" | "max_length" | "max_seq_length" => "sequence_length",
        "r" | "lora_r" => "rank",
        "lora_alpha" => "alpha",
        "lora_dropout" => "dropout",
        "relora" | "cycle_length" => "restart_every",
        "max_steps" | "num_training_steps" => "steps",
        "warmup" => "warmup_steps",
        "max_grad_norm" | "clip_grad_norm" => "grad_clip",
        "adam_beta1" => "beta1",
        "adam_beta2" => "beta2",
        "adam_epsilon" | "eps" => "epsilon",
        "eval_every" | "eval_steps" => "evaluate_every",
        "save_every" | "save_steps" => "checkpoint_every",
        _ => return None,
    })
}

/// A key of a settings section must exist, and one that methods must share may not be set for a method.
fn check_key(key: &str, entry: &Entry) -> Result<(), ProfileError> {
    let for_method = entry
        .path
        .iter()
        .rev()
        .nth(2)
        .is_some_and(|section| section == "method");
    if for_method && DERIVATIONS.contains(&key) && entry.path.len() == 3 {
        return Ok(());
    }
    if for_method && COSTS.contains(&key) && entry.path.len() == 5 {
        return Ok(());
    }
    match Settings::KEYS.iter().find(|(known, _)| *known == key) {
        None => {
            let names: Vec<&str> = Settings::KEYS.iter().map(|(known, _)| *known).collect();
            let near = of_other_programs(key)
                .or_else(|| crate::settings::nearest(key, names.iter().copied()))
                .map_or_else(String::new, |near| format!("did you mean `{near}`? "));
            Err(ProfileError::UnknownKey {
                origin: entry.origin.to_string(),
                key: entry.key(),
                suggestion: format!("{near}`relora bench-all --print-config` lists all keys"),
            })
        }
        // `--set` may still give one to a bare key: it then holds for every method alike.
        Some((_, Scope::Size)) if for_method => Err(entry.wrong(
            "must be the same for all methods of a size: set it in [settings] or [size.SIZE]",
        )),
        Some(_) => {
            let value = Settings::default().set(key, &entry.value);
            if let Some(Err(expected)) = value {
                return Err(entry.wrong(format!("must be {expected}")));
            }
            Ok(())
        }
    }
}

/// Reads a profile after the one that it extends; returns its name. A file is looked for from `folder`, that of the profile
/// which extends it; `chain` holds the files that have led here.
fn read_layer(
    name: &str,
    folder: &Path,
    entries: &mut Vec<Entry>,
    chain: &mut Vec<PathBuf>,
) -> Result<String, ProfileError> {
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
    let path = folder.join(name);
    let (file, stem, text) = match built_in {
        Some((known, text)) => (
            format!("{known}.toml"),
            (*known).to_owned(),
            (*text).to_owned(),
        ),
        None if path
            .extension()
            .is_some_and(|extension| extension == "toml")
            || path.is_file() =>
        {
            let stem = path.file_stem().map_or_else(
                || "profile".into(),
                |stem| stem.to_string_lossy().into_owned(),
            );
            let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
                ErrorKind::NotFound => ProfileError::Unknown {
                    name: path.display().to_string(),
                    suggestion: suggestion(&stem, &built_in_names()),
                },
                _ => ProfileError::Unreadable {
                    path: path.clone(),
                    error,
                },
            })?;
            chain.push(path.canonicalize().unwrap_or_else(|_| path.clone()));
            (path.display().to_string(), stem, text)
        }
        None => {
            let file = format!("{}.toml", path.display());
            return Err(ProfileError::Unknown {
                name: name.into(),
                suggestion: if Path::new(&file).is_file() {
                    format!("did you mean the file `{file}`?")
                } else {
                    suggestion(name, &built_in_names())
                },
            });
        }
    };
    let own = parse(&text, &Origin::File(file))?;
    if let Some(extends) = own.iter().find(|entry| entry.path == ["extends"]) {
        let base: String = extends.read()?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let next = folder.join(&base);
        if chain.contains(&next.canonicalize().unwrap_or(next)) {
            return Err(extends.wrong("profiles extend one another in a circle"));
        }
        read_layer(&base, folder, entries, chain)?;
    }
    entries.extend(own);
    Ok(stem)
}

/// `KEY=VALUE`; a value that is not TOML is taken as text, so that names need no quotes.
fn parse_assignment(assignment: &Assignment) -> Result<Vec<Entry>, ProfileError> {
    let Assignment { text, origin } = assignment;
    let Some((key, value)) = text.split_once('=') else {
        return Err(ProfileError::Malformed {
            origin: origin.to_string(),
            message: format!(
                "`{text}` must be KEY=VALUE, for instance size.130m.learning_rate=1e-3"
            ),
        });
    };
    let quoted = format!("{key} = {}", Value::String(value.trim().into()));
    parse(&format!("{key} = {value}"), origin).or_else(|_| parse(&quoted, origin))
}

fn parse(text: &str, source: &Origin) -> Result<Vec<Entry>, ProfileError> {
    let origin = |offset: usize| {
        let Origin::File(file) = source else {
            return source.clone();
        };
        let before = &text[..text.floor_char_boundary(offset)];
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |tail| tail.chars().count())
            + 1;
        Origin::File(format!("{file}:{line}:{column}"))
    };
    let table = DeTable::parse(text).map_err(|error| ProfileError::Malformed {
        origin: origin(error.span().map_or(0, |span| span.start)).to_string(),
        message: error.message().replace('\n', ", "),
    })?;
    let mut entries = Vec::new();
    flatten(table.get_ref(), &mut Vec::new(), &origin, &mut entries)?;
    Ok(entries)
}

fn flatten(
    table: &DeTable<'_>,
    path: &mut Vec<String>,
    origin: &dyn Fn(usize) -> Origin,
    entries: &mut Vec<Entry>,
) -> Result<(), ProfileError> {
    // In the order of the file, which is the order in which a reader meets the faults.
    let mut items: Vec<_> = table.iter().collect();
    items.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in items {
        path.push(key.get_ref().to_string());
        if let DeValue::Table(inner) = value.get_ref() {
            flatten(inner, path, origin, entries)?;
        } else {
            let origin = origin(key.span().start);
            let read = plain(value.get_ref()).ok_or_else(|| ProfileError::Value {
                value: origin.value(&path.join("."), "..."),
                why: "must be a text, a number, true, false or a list of these, within 64 bits"
                    .into(),
            })?;
            entries.push(Entry {
                path: path.clone(),
                value: read,
                origin,
            });
        }
        path.pop();
    }
    Ok(())
}

/// A leaf of the document as a value; none for dates and for numbers beyond 64 bits.
fn plain(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Integer(integer) => {
            Value::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok()?)
        }
        DeValue::Float(float) => Value::Float(float.as_str().parse().ok()?),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| plain(item.get_ref()))
                .collect::<Option<Vec<Value>>>()?,
        ),
        DeValue::Table(_) | DeValue::Datetime(_) => return None,
    })
}

fn insert(table: &mut toml::Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [section, rest @ ..] => {
            let entry = table
                .entry(section.clone())
                .or_insert_with(|| Value::Table(toml::Table::new()));
            if let Value::Table(inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("own.toml");
        std::fs::write(&path, text).expect("write");
        let name = path.to_string_lossy().into_owned();
        (directory, name)
    }

    fn error(text: &str, assignments: &[&str]) -> String {
        let (_directory, name) = file(text);
        let assignments: Vec<Assignment> = assignments.iter().map(|text| (*text).into()).collect();
        let message = Profile::load(&name, &assignments)
            .expect_err("must be refused")
            .to_string();
        assert!(!message.contains('\n'), "one line: {message}");
        message.replace(&name, "own.toml")
    }

    #[test]
    fn every_built_in_profile_loads() {
        for (name, _) in BUILT_IN {
            Profile::load(name, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn every_preset_and_dialect_sets_only_keys_that_exist() {
        let presets = recipe::PRESETS.iter().flat_map(|preset| (preset.layer)());
        let dialects = recipe::DIALECTS.iter().flat_map(|dialect| {
            recipe::PRESETS
                .iter()
                .flat_map(|preset| dialect.layer(preset.name))
        });
        for (key, value) in presets.chain(dialects) {
            assert_eq!(Settings::default().set(key, &value), Some(Ok(())), "{key}");
        }
    }

    #[test]
    fn every_dialect_loads_with_every_preset_and_changes_something() {
        let methods = format!("methods={:?}", recipe::preset_names());
        let load = |dialect: &str| {
            Profile::load(
                "laptop",
                &[methods.clone().into(), format!("dialect={dialect}").into()],
            )
            .expect(dialect)
        };
        let default = load("default");
        for dialect in recipe::dialect_names() {
            let profile = load(dialect);
            for preset in recipe::preset_names() {
                let (ours, theirs) = (
                    default.settings("nano", preset),
                    profile.settings("nano", preset),
                );
                let same = ours.expect(preset) == theirs.expect(preset);
                assert_eq!(same, dialect == "default", "{dialect} {preset}");
            }
        }
    }

    #[test]
    fn a_profile_extends_files_of_its_own_folder_however_deep() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let folder = directory.path().join("profiles");
        std::fs::create_dir_all(folder.join("deeper")).expect("folders");
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect(name);
        write("0.toml", "extends = \"smoke\"\n[settings]\nrank = 4\n");
        for level in 1..=12 {
            let base = format!("extends = \"{}.toml\"\n", level - 1);
            write(&format!("{level}.toml"), &base);
        }
        write("deeper/top.toml", "extends = \"../12.toml\"\n");
        let name = folder.join("deeper/top.toml").display().to_string();
        let profile = Profile::load(&name, &[]).expect("thirteen files and a built-in profile");
        let settings = profile.settings("nano", "relora").expect("settings").0;
        assert_eq!((profile.name.as_str(), settings.rank), ("top", 4));

        write("0.toml", "extends = \"deeper/../3.toml\"\n");
        let message = Profile::load(&name, &[]).expect_err("a circle").to_string();
        assert!(
            message.contains("0.toml:1:1") && message.contains("in a circle"),
            "{message}"
        );
    }

    #[test]
    fn the_most_specific_layer_wins() {
        let text = r#"
            extends = "smoke"
            [settings]
            learning_rate = 1.0
            [size.nano]
            learning_rate = 2.0
            [method.lora]
            learning_rate = 3.0
            [size.nano.method.lora]
            learning_rate = 4.0
        "#;
        let (_directory, name) = file(text);
        let rate = |assignments: &[&str], method: &str| {
            let assignments: Vec<Assignment> =
                assignments.iter().map(|text| (*text).into()).collect();
            let profile = Profile::load(&name, &assignments).expect("loads");
            profile
                .settings("nano", method)
                .expect("settings")
                .0
                .learning_rate
        };
        assert_eq!(rate(&[], "full"), 2.0);
        assert_eq!(rate(&[], "lora"), 4.0);
        assert_eq!(
            rate(&["size.nano.method.lora.learning_rate=5"], "lora"),
            5.0
        );
        assert_eq!(
            rate(
                &["learning_rate=6e0", "method.lora.learning_rate=5"],
                "lora"
            ),
            6.0
        );
    }

    #[test]
    fn faults_name_place_key_value_and_what_would_be_right() {
        let smoke = "extends = \"smoke\"\n";
        for (text, assignments, parts) in [
            (
                "seeds = [1\n",
                &[][..],
                &["own.toml:", "not valid TOML"][..],
            ),
            (
                "extends = \"smoke\"\n[settings]\nlerning_rate = 1\n",
                &[],
                &["own.toml:3:1", "settings.lerning_rate", "`learning_rate`"],
            ),
            (
                "extends = \"smoke\"\n[settings]\nsteps = \"many\"\n",
                &[],
                &["own.toml:3:1", "settings.steps", "\"many\"", "whole number"],
            ),
            (
                "extends = \"smoke\"\n[settings]\nrank = 999\n",
                &[],
                &["own.toml:3:1", "settings.rank", "999", "64"],
            ),
            (
                "extends = \"smoke\"\n[method.lora]\nsteps = 3\n",
                &[],
                &["own.toml:3:1", "method.lora.steps", "same for all methods"],
            ),
            (
                "extends = \"smoke\"\nsizes = [\"nanoo\"]\n",
                &[],
                &["unknown size `nanoo`", "`nano`"],
            ),
            (
                "extends = \"smoke\"\nmethods = [\"reloar\"]\n",
                &[],
                &["unknown method `reloar`", "`relora`"],
            ),
            (
                "extends = \"smokey\"\n",
                &[],
                &["profile `smokey`", "`smoke`"],
            ),
            (
                "extends = \"own.toml\"\n",
                &[],
                &["own.toml:1:1", "in a circle"],
            ),
            (smoke, &["stepps=3"], &["--set", "`stepps`", "`steps`"]),
            (smoke, &["steps"], &["--set", "KEY=VALUE"]),
            (
                "extends = \"smoke\"\n[method.relroa]\nrank = 4\n",
                &[],
                &["own.toml:3:1", "method.relroa.rank", "`relora`"],
            ),
            (
                smoke,
                &["method.relroa.rank=4"],
                &["--set", "method.relroa.rank", "`relora`"],
            ),
            (
                smoke,
                &["size.mini.rank=4"],
                &[
                    "--set",
                    "size.mini.rank",
                    "runs no size `mini`",
                    "there are: nano",
                ],
            ),
            (
                smoke,
                &["rewarmup_steps=20"],
                &["rewarmup_steps", "20", "below the 20 steps of a cycle"],
            ),
            (
                smoke,
                &["size.nano.learning_rate=-1"],
                &["--set", "size.nano.learning_rate", "-1", "more than 0"],
            ),
            (
                smoke,
                &["warm_start_steps=60"],
                &["warm_start_steps", "60", "below steps"],
            ),
            (
                smoke,
                &["micro_batch_size=3"],
                &["micro_batch_size", "3", "must divide global_batch_size = 8"],
            ),
            (smoke, &["steps=99999999999999999999"], &["steps"]),
            (
                "extends = \"smoke\"\nmethods = [\"relora/r4\"]\n[method.\"relora/r4\"]\npreset = \"relora\"\n",
                &[],
                &["own.toml:2:1", "methods", "`relora/r4`", "letters, digits"],
            ),
            (
                "extends = \"smoke\"\n[method.\"relora/r4\"]\npreset = \"relora\"\n",
                &[],
                &["own.toml:3:1", "method.relora/r4.preset", "letters, digits"],
            ),
            (
                "extends = \"smoke\"\nsizes = [\".a\"]\n[size.\".a\"]\nhidden = 8\n",
                &[],
                &["own.toml:2:1", "sizes", "`.a`", "begin with a letter"],
            ),
            (
                r#"
                extends = "smoke"
                sizes = ["a", "a-b"]
                methods = ["b-c", "c"]
                [settings]
                hidden = 32
                intermediate = 48
                layers = 1
                heads = 2
                [method.b-c]
                preset = "full"
                [method.c]
                preset = "full"
                "#,
                &[],
                &[
                    "own.toml:4:17",
                    "methods",
                    "size `a` with method `b-c`",
                    "size `a-b`",
                    "a-b-c",
                ],
            ),
        ] {
            let message = error(text, assignments);
            for part in parts {
                assert!(message.contains(part), "{message:?} should name {part:?}");
            }
        }
    }

    #[test]
    fn the_printed_profile_has_every_key_and_what_preset_and_dialect_come_to() {
        // A profile that says no more than it must.
        let text = r#"
            sizes = ["nano"]
            methods = ["relora"]
            seeds = [1]
            dialect = "official-head"
            [settings]
            steps = 15_000
            micro_batch_size = 30
            rank = 8
        "#;
        let (_directory, name) = file(text);
        let printed = Profile::load(&name, &[]).expect("loads").to_toml();
        let table: toml::Table = printed.parse().expect("TOML");
        for key in DATA_KEYS.iter().filter(|key| **key != "tokenizer") {
            assert!(table["data"].get(key).is_some(), "data.{key}");
        }
        for (key, _) in Settings::KEYS {
            assert!(table["settings"].get(key).is_some(), "settings.{key}");
        }
        // From the preset, the dialect and the size.
        for line in [
            "#   restarts = true",
            "#   factor_init = \"both-zero\"",
            "#   reset_ratio = 0.999",
            "#   hidden = 64",
        ] {
            assert!(printed.contains(line), "{line} in {printed}");
        }
        assert!(!printed.contains("#   rank"), "as in [settings]: {printed}");
    }

    #[test]
    fn the_printed_profile_gives_the_same_settings() {
        let profile = Profile::load("ablations-laptop", &["rank=4".into(), "seeds=[5]".into()])
            .expect("loads");
        let (_directory, name) = file(&profile.to_toml());
        let again = Profile::load(&name, &[]).expect("loads what it printed");
        assert_eq!(
            (&again.seeds, &again.sizes, &again.methods),
            (&profile.seeds, &profile.sizes, &profile.methods)
        );
        assert_eq!(again.data, profile.data);
        assert_eq!(again.to_toml(), profile.to_toml());
        for method in &profile.methods {
            assert_eq!(
                again.settings("nano", method).expect(method),
                profile.settings("nano", method).expect(method)
            );
        }
    }
}
