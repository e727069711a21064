//! Tuning as a profile declares it (section `[tune]`), and what comes of a declaration: the profile of the proxy runs, in which
//! every method tries the same quasi-random points of one space, and the profile that holds what was chosen.

use super::{Entry, Origin, Profile, ProfileError, insert, repeated};
use crate::settings::{Scope, Setting, Settings, suggestion};
use results::record::Tuning;
use std::collections::BTreeMap;
use std::fmt;
use toml::Value;

/// What `[tune]` declares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tune {
    /// Points that are tried of every method.
    pub points: u64,
    /// Seeds of the proxy runs.
    pub seeds: Vec<u64>,
    /// Size of the proxy runs; none where each size of the profile is tuned by itself.
    pub size: Option<String>,
    /// Settings of the proxy runs in place of the profile's.
    pub proxy: Vec<(String, Value)>,
    /// The space: the learning rate first, then the settings in the order in which they are declared in `settings.rs`.
    pub space: Vec<Dimension>,
}

/// A setting that is tuned, and between which values.
#[derive(Clone, Debug, PartialEq)]
pub struct Dimension {
    /// Its key.
    pub setting: &'static str,
    /// The least value.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// How the points spread between them.
    pub scale: Scale,
    /// Whether its values are whole numbers.
    whole: bool,
}

/// How points spread over an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly by their logarithm.
    Log,
    /// Evenly.
    Linear,
}

/// Bases of Halton's sequence, one for each dimension. With larger ones a handful of points lies along a line.
const BASES: [u64; 6] = [2, 3, 5, 7, 11, 13];

/// More points at once are a slip of the keyboard.
const MOST_POINTS: u64 = 200;

const KEYS: &[&str] = &["points", "seeds", "size", "proxy", "space"];

/// Keys by which a method names the one that it is derived from, beside `preset`.
pub(super) const POINT_OF: &str = "point_of";
pub(super) const TUNED_FROM: &str = "tuned_from";

/// What a method's tuning cost, for each size: keys of `[size.S.method.M]`.
pub(super) const COSTS: &[&str] = &[
    "tuning_points",
    "tuning_seeds",
    "tuning_tokens",
    "tuning_flops",
    "tuning_seconds",
];

/// The number whose digits in the base are those of the index, mirrored at the point (Halton 1960): in base 2 the points 1, 2, 3
/// lie at 1/2, 1/4, 3/4. Each point lies in a gap that those before it have left, so that any number of them is spread evenly.
fn radical_inverse(base: u64, mut index: u64) -> f64 {
    let (mut mirrored, mut scale) = (0_u64, 1_u64);
    while index > 0 {
        mirrored = mirrored * base + index % base;
        scale *= base;
        index /= base;
    }
    mirrored as f64 / scale as f64
}

impl fmt::Display for Dimension {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dimension {
            setting, low, high, ..
        } = self;
        let scale = match self.scale {
            Scale::Log => "log",
            Scale::Linear => "linear",
        };
        write!(formatter, "{setting} from {low} to {high} ({scale})")
    }
}

impl Dimension {
    /// The value of a point, counted from 1, in the dimension of this number: to three significant digits, so that what a table
    /// shows is what was trained.
    fn value(&self, number: usize, point: u64) -> Value {
        let share = radical_inverse(BASES[number.min(BASES.len() - 1)], point);
        let between = |low: f64, high: f64| low + share * (high - low);
        let value = match self.scale {
            Scale::Linear => between(self.low, self.high),
            Scale::Log => libm::exp(between(libm::log(self.low), libm::log(self.high))),
        };
        if self.whole {
            return Value::Integer(value.round() as i64);
        }
        let rounded = format!("{value:.2e}").parse().unwrap_or(value);
        Value::Float(rounded.clamp(self.low, self.high))
    }
}

/// A declaration as it is read, entry by entry.
#[derive(Default)]
pub(super) struct Declared<'a> {
    tune: Tune,
    /// Of each setting where its `low`, `high` and `scale` stand.
    bounds: BTreeMap<&'static str, [Option<&'a Entry>; 3]>,
}

impl<'a> Declared<'a> {
    /// Takes what stands at a path behind `tune`.
    pub(super) fn set(&mut self, path: &[&str], entry: &'a Entry) -> Result<(), ProfileError> {
        match *path {
            ["points"] => {
                self.tune.points = entry.read()?;
                if !(1..=MOST_POINTS).contains(&self.tune.points) {
                    return Err(entry.wrong(format!("must be between 1 and {MOST_POINTS}")));
                }
            }
            ["seeds"] => {
                self.tune.seeds = entry.read_list()?;
                if let Some(seed) = repeated(&self.tune.seeds) {
                    return Err(entry.wrong(format!("{seed} is there twice")));
                }
            }
            ["size"] => self.tune.size = Some(entry.read()?),
            ["proxy", key] => {
                setting(key, entry)?;
                if let Some(Err(expected)) = Settings::default().set(key, &entry.value) {
                    return Err(entry.wrong(format!("must be {expected}")));
                }
                self.tune.proxy.retain(|(known, _)| known != key);
                self.tune.proxy.push((key.to_owned(), entry.value.clone()));
            }
            ["space", key, part @ ("low" | "high" | "scale")] => {
                let key = tunable(key, entry)?;
                let parts = self.bounds.entry(key).or_default();
                let place = ["low", "high", "scale"].iter().position(|it| *it == part);
                parts[place.unwrap_or(0)] = Some(entry);
            }
            ["space", ..] => {
                return Err(entry.wrong(
                    "must be { low = L, high = H, scale = \"log\" } for each setting, or \"linear\"",
                ));
            }
            _ => {
                return Err(ProfileError::UnknownKey {
                    origin: entry.origin.to_string(),
                    key: entry.key(),
                    suggestion: suggestion(path.first().unwrap_or(&""), KEYS),
                });
            }
        }
        Ok(())
    }

    /// The whole declaration; none where there is no key of it.
    pub(super) fn read(self) -> Result<Option<Tune>, ProfileError> {
        let mut tune = self.tune;
        let order = |key: &str| {
            let keys = Settings::KEYS.iter();
            keys.map(|(known, _)| *known).position(|known| known == key)
        };
        let mut bounds: Vec<_> = self.bounds.into_iter().collect();
        bounds.sort_by_key(|(key, _)| (*key != "learning_rate", order(key)));
        for (key, parts) in bounds {
            let found = dimension(key, parts)?;
            if let Some(entry) = parts[0].filter(|_| tune.space.len() == BASES.len()) {
                return Err(entry.wrong(format!(
                    "is one setting too many: must be at most {} in [tune.space], which a handful of points can search",
                    BASES.len()
                )));
            }
            tune.space.push(found);
        }
        Ok((tune != Tune::default()).then_some(tune))
    }
}

/// A dimension from the entries of its `low`, `high` and `scale`.
fn dimension(
    setting: &'static str,
    [low, high, scale]: [Option<&Entry>; 3],
) -> Result<Dimension, ProfileError> {
    let (Some(low_entry), Some(high_entry)) = (low, high) else {
        let value = format!("tune.space.{setting}");
        let lacks = if low.is_none() { "low" } else { "high" };
        let why = format!("{value} needs `{lacks}` as well");
        return Err(match low.or(high).or(scale) {
            Some(entry) => entry.wrong(why),
            None => ProfileError::Value { value, why },
        });
    };
    let (low, high): (f64, f64) = (low_entry.read()?, high_entry.read()?);
    let scale_name: String = scale.map_or_else(|| Ok("log".to_owned()), Entry::read)?;
    let scale = match (scale_name.as_str(), scale) {
        ("log", _) => Scale::Log,
        ("linear", _) => Scale::Linear,
        (_, entry) => {
            let entry = entry.unwrap_or(low_entry);
            return Err(entry.wrong("must be \"log\" or \"linear\""));
        }
    };
    if scale == Scale::Log && low <= 0.0 {
        return Err(low_entry.wrong("must be more than 0 where scale = \"log\""));
    }
    if low >= high {
        return Err(low_entry.wrong(format!("must be below high = {high}")));
    }
    let whole = is_whole(setting);
    Ok(Dimension {
        setting,
        low,
        high,
        scale,
        whole,
    })
}

/// Whether a setting's values are whole numbers.
fn is_whole(setting: &str) -> bool {
    let shown = Settings::default().show();
    let mut shown = shown.iter();
    shown.any(|(key, value)| *key == setting && value.is_integer())
}

/// The declaration of a setting's key.
fn setting(key: &str, entry: &Entry) -> Result<(&'static str, Scope), ProfileError> {
    let known = Settings::KEYS.iter().find(|(known, _)| *known == key);
    known.copied().ok_or_else(|| {
        let keys: Vec<&str> = Settings::KEYS.iter().map(|(known, _)| *known).collect();
        ProfileError::UnknownKey {
            origin: entry.origin.to_string(),
            key: entry.key(),
            suggestion: suggestion(key, &keys),
        }
    })
}

/// The key of a setting that can be tuned: a number, and one that methods may differ in.
fn tunable(key: &str, entry: &Entry) -> Result<&'static str, ProfileError> {
    let (key, scope) = setting(key, entry)?;
    if scope == Scope::Size {
        return Err(entry.wrong(format!(
            "{key} must be the same for all methods of a size, so it cannot be tuned for each"
        )));
    }
    let shown = Settings::default().show();
    let is_number = |value: &Value| value.is_integer() || value.is_float();
    if shown
        .iter()
        .any(|(known, value)| *known == key && is_number(value))
    {
        Ok(key)
    } else {
        Err(entry.wrong(format!(
            "{key} is no number, so there is nothing between two values of it"
        )))
    }
}

/// What `relora tune` has chosen for a method at a size, for [`Profile::tuned_toml`].
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Size that the choice is for.
    pub size: String,
    /// Method that was tuned.
    pub method: String,
    /// Value of each setting that was tuned.
    pub values: BTreeMap<String, f64>,
    /// Points that were tried.
    pub points: u64,
    /// Seeds of the proxy runs.
    pub seeds: Vec<u64>,
    /// Training targets of all of them.
    pub tokens: u64,
    /// Their training FLOPs.
    pub flops: f64,
    /// Seconds of their workers.
    pub seconds: f64,
}

impl Profile {
    /// The profile of the proxy runs: every method that is not tuned already at the same points, of which a larger number holds
    /// those of a smaller one, and `full` beside them where warm starts are to be handed on.
    ///
    /// # Errors
    /// No space to tune in, seeds that the profile itself uses, values that cannot be, with where they were written.
    pub fn proxy(&self, points: Option<u64>) -> Result<Profile, ProfileError> {
        let tune = self.declared_tune()?;
        let points = self.points(tune, points)?;
        self.check_proxy(tune)?;
        let methods = self.tuned_methods()?;
        let sizes = tune
            .size
            .as_ref()
            .map_or_else(|| self.sizes.clone(), |size| vec![size.clone()]);
        let origin = self.origin_of_tune();
        let mut entries = self.entries.clone();
        let mut add = |path: &[&str], value: Value, origin: &Origin| {
            entries.push(Entry {
                path: path.iter().map(|part| (*part).to_owned()).collect(),
                value,
                origin: origin.clone(),
            });
        };
        let list = |names: &[String]| Value::Array(names.iter().map(Setting::show).collect());
        let mut trained = Vec::new();
        if self.hands_on(&methods) {
            trained.push("full".to_owned());
        }
        for method in &methods {
            for point in 1..=points {
                let name = format!("{method}-point{point}");
                add(&["method", name.as_str(), POINT_OF], method.show(), &origin);
                for size in &sizes {
                    for (number, dimension) in tune.space.iter().enumerate() {
                        let method = name.as_str();
                        let path = ["size", size.as_str(), "method", method, dimension.setting];
                        add(&path, dimension.value(number, point), &origin);
                    }
                }
                trained.push(name);
            }
        }
        // Like a bare `--set` the most specific of all.
        let bare = Origin::Flag(format!("{origin}: [tune.proxy]"));
        for (key, value) in &tune.proxy {
            add(&[key.as_str()], value.clone(), &bare);
        }
        add(&["sizes"], list(&sizes), &origin);
        add(&["methods"], list(&trained), &origin);
        let seeds = tune.seeds.iter().map(Setting::show);
        add(&["seeds"], Value::Array(seeds.collect()), &origin);
        let description = format!(
            "the tuning of profile `{}`: {}",
            self.name, self.description
        );
        add(&["description"], Value::String(description), &origin);
        let name = format!("{}-tune", self.name);
        let mut proxy = Profile::from_entries(name, entries, Some(self.clone()))?;
        // These a flag may have changed.
        proxy.data = self.data.clone();
        proxy.jobs = self.jobs;
        Ok(proxy)
    }

    /// The profile's own methods that are tuned: all but those that are what an earlier tuning chose.
    ///
    /// # Errors
    /// A method whose tuned form has a name that the profile gives to another one.
    pub fn tuned_methods(&self) -> Result<Vec<String>, ProfileError> {
        let mut methods = Vec::new();
        for method in &self.methods {
            if self.derived_from(method)?.is_some() {
                continue;
            }
            let tuned = tuned_name(method);
            let own = self.own_methods().contains(&tuned.as_str());
            let is_other = || {
                let from = self.derived_from(&tuned)?;
                Ok::<bool, ProfileError>(from.is_none_or(|(from, _)| from != *method))
            };
            if own && is_other()? {
                return Err(self.wrong_list(
                    "methods",
                    format!("`{tuned}` would be the name of `{method}` as tuned; give that method another name"),
                ));
            }
            methods.push(method.clone());
        }
        if methods.is_empty() {
            return Err(ProfileError::Missing {
                profile: self.name.clone(),
                key: "methods",
                why: "must have a method that is not tuned already",
            });
        }
        Ok(methods)
    }

    fn declared_tune(&self) -> Result<&Tune, ProfileError> {
        let missing = |key, why| ProfileError::Missing {
            profile: self.name.clone(),
            key,
            why,
        };
        let tune = self.tune.as_ref();
        let has_rate = |tune: &&Tune| {
            let first = tune.space.first();
            first.is_some_and(|dimension| dimension.setting == "learning_rate")
        };
        let tune = tune.filter(has_rate).ok_or_else(|| {
            missing(
                "tune.space",
                "must say between which values the rate is tuned, for instance learning_rate = { low = 1e-4, high = 1e-2 }",
            )
        })?;
        if tune.seeds.is_empty() {
            return Err(missing(
                "tune.seeds",
                "must be a list of seeds that the profile does not use, for instance [101]",
            ));
        }
        Ok(tune)
    }

    /// How many points are tried of each method: what is asked for, or what the profile says.
    fn points(&self, tune: &Tune, asked: Option<u64>) -> Result<u64, ProfileError> {
        match asked.unwrap_or(tune.points) {
            points @ 1..=MOST_POINTS => Ok(points),
            0 if asked.is_none() => Err(ProfileError::Missing {
                profile: self.name.clone(),
                key: "tune.points",
                why: "must be the number of points that are tried of each method; or give --points",
            }),
            points => Err(ProfileError::Value {
                value: format!("--points {points}"),
                why: format!("must be between 1 and {MOST_POINTS}"),
            }),
        }
    }

    /// What speaks against a tuning though each of its keys can be: seeds that later runs use, and keys that are set twice.
    fn check_proxy(&self, tune: &Tune) -> Result<(), ProfileError> {
        if let Some(seed) = tune.seeds.iter().find(|seed| self.seeds.contains(seed)) {
            let why = format!(
                "seed {seed} is one of the profile's own, {:?}: must be one that it does not use, or a method would be judged \
                 by the seed that it was chosen by",
                self.seeds
            );
            return Err(self.wrong_tune("seeds", why));
        }
        for entry in &self.entries {
            let [key] = entry.path.as_slice() else {
                continue;
            };
            if tune.space.iter().any(|it| it.setting == key) {
                return Err(entry.wrong(format!(
                    "is what is tuned: leave it out, or set tune.space.{key}.low and tune.space.{key}.high"
                )));
            }
            if let Some((_, value)) = tune.proxy.iter().find(|(known, _)| known == key) {
                return Err(entry.wrong(format!(
                    "the proxy runs have {key} = {value}: set tune.proxy.{key}, or for the runs after them settings.{key}"
                )));
            }
        }
        let both = |it: &&Dimension| tune.proxy.iter().any(|(key, _)| key == it.setting);
        if let Some(dimension) = tune.space.iter().find(both) {
            let why = format!(
                "{} is in [tune.space] as well: must be in one of them",
                dimension.setting
            );
            return Err(self.wrong_tune("proxy", why));
        }
        for entry in &self.entries {
            let (["method", _, key] | ["size", _, "method", _, key]) = entry.path_parts()[..]
            else {
                continue;
            };
            if let Some((_, value)) = tune.proxy.iter().find(|(known, _)| known == key) {
                return Err(entry.wrong(format!(
                    "the proxy runs have {key} = {value} for every method, so that this one would be tuned as another: must not be \
                     in [tune.proxy] and in a method's section"
                )));
            }
        }
        Ok(())
    }

    /// An error about a part of the declaration, at the last entry of it.
    fn wrong_tune(&self, part: &str, why: String) -> ProfileError {
        let of_part = |entry: &&Entry| {
            let mut path = entry.path.iter();
            path.next().is_some_and(|it| it == "tune") && path.next().is_some_and(|it| it == part)
        };
        match self.entries.iter().rev().find(of_part) {
            Some(entry) => entry.wrong(why),
            None => ProfileError::Value {
                value: format!("tune.{part}"),
                why,
            },
        }
    }

    /// Where the space is declared, by which what comes of it is named.
    fn origin_of_tune(&self) -> Origin {
        let of_tune = |entry: &&Entry| entry.path.first().is_some_and(|it| it == "tune");
        let found = self.entries.iter().rev().find(of_tune);
        // A flag's origin would make of what is generated something that was typed.
        Origin::File(found.map_or_else(|| "[tune]".to_owned(), |entry| entry.origin.to_string()))
    }

    /// Whether one of the methods begins with a warm start, which a run of `full` can hand on to all its points.
    #[must_use]
    pub fn hands_on(&self, methods: &[String]) -> bool {
        let mut cells = self
            .sizes
            .iter()
            .flat_map(|size| methods.iter().map(move |method| (size, method)));
        cells.any(|(size, method)| {
            let layered = self.layered(size, method);
            layered.is_ok_and(|(settings, _)| settings.warm_start)
        })
    }

    /// The method that another one names as the one that it tries or is tuned from, and which of the two it is.
    ///
    /// # Errors
    /// A value that is no text, a method that is itself derived so, a preset beside it.
    pub(super) fn derived_from(
        &self,
        method: &str,
    ) -> Result<Option<(String, &'static str)>, ProfileError> {
        let Some((entry, kind)) = self.derivation(method) else {
            return Ok(None);
        };
        let from: String = entry.read()?;
        if from == method || self.derivation(&from).is_some() {
            return Err(entry.wrong("must be a method of the recipe, which is not tuned itself"));
        }
        let own_preset = ["method", method, "preset"];
        if self.entries.iter().any(|other| other.path == own_preset) {
            return Err(entry.wrong(format!(
                "says whose preset `{method}` has: leave `preset` out"
            )));
        }
        Ok(Some((from, kind)))
    }

    fn derivation(&self, method: &str) -> Option<(&Entry, &'static str)> {
        self.entries.iter().rev().find_map(|entry| {
            let kind = [POINT_OF, TUNED_FROM]
                .into_iter()
                .find(|kind| entry.path == ["method", method, *kind])?;
            Some((entry, kind))
        })
    }

    /// The method that a point of a tuning tries; none for every other method.
    #[must_use]
    pub fn point_of(&self, method: &str) -> Option<String> {
        let (from, kind) = self.derived_from(method).ok()??;
        (kind == POINT_OF).then_some(from)
    }

    /// The settings that are tuned; the learning rate where the profile does not say.
    #[must_use]
    pub fn tuned_settings(&self) -> Vec<&'static str> {
        let space = self.tune.iter().flat_map(|tune| &tune.space);
        let settings: Vec<&str> = space.map(|dimension| dimension.setting).collect();
        if settings.is_empty() {
            vec!["learning_rate"]
        } else {
            settings
        }
    }

    /// How a tuned method came to its settings at a size, but for these; none for every other method.
    ///
    /// # Errors
    /// A value of another kind, with where it was written.
    pub fn tuning(&self, size: &str, method: &str) -> Result<Option<Tuning>, ProfileError> {
        let Some((from, _)) = self
            .derived_from(method)?
            .filter(|(_, kind)| *kind == TUNED_FROM)
        else {
            return Ok(None);
        };
        let entry = |key: &str| {
            let mut entries = self.entries.iter().rev();
            entries.find(|entry| entry.path == ["size", size, "method", method, key])
        };
        let seeds = entry("tuning_seeds").map(Entry::read_list).transpose()?;
        Ok(Some(Tuning {
            from,
            values: BTreeMap::new(),
            points: entry("tuning_points").map(Entry::read).transpose()?,
            seeds: seeds.unwrap_or_default(),
            tokens: entry("tuning_tokens").map(Entry::read).transpose()?,
            flops: entry("tuning_flops").map(Entry::read).transpose()?,
            seconds: entry("tuning_seconds").map(Entry::read).transpose()?,
        }))
    }

    /// Whether a method has a setting of its own at a size.
    fn has_tuned_values(&self, size: &str, method: &str) -> bool {
        let is_setting = |key: &str| key != TUNED_FROM && !COSTS.contains(&key);
        self.entries
            .iter()
            .any(|entry| match entry.path_parts()[..] {
                ["method", of, key] => of == method && is_setting(key),
                ["size", at, "method", of, key] => at == size && of == method && is_setting(key),
                _ => false,
            })
    }

    /// A tuned method must have what was chosen for it, and no seed by which it was chosen may judge it.
    pub(super) fn check_tuned(&self) -> Result<(), ProfileError> {
        for size in &self.sizes {
            for method in &self.methods {
                let Some(tuning) = self.tuning(size, method)? else {
                    continue;
                };
                if let Some(seed) = tuning.seeds.iter().find(|seed| self.seeds.contains(seed)) {
                    return Err(self.wrong_list(
                        "seeds",
                        format!(
                            "`{method}` was chosen by seed {seed}, which would judge it too: must be seeds other than {:?}",
                            tuning.seeds
                        ),
                    ));
                }
                if !self.has_tuned_values(size, method) {
                    return Err(self.wrong_list(
                        "sizes",
                        format!(
                            "`{method}` has no tuned value at {size}, so it would be `{}` under another name: must be sizes that it \
                             was tuned for",
                            tuning.from
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// The profile that holds what was chosen beside this one's own methods, to be passed by path: it extends this one, `base` by
    /// name or path, and repeats what the command line set.
    #[must_use]
    pub fn tuned_toml(&self, base: &str, methods: &[String], choices: &[Choice]) -> String {
        let mut root = self.set_by_flags();
        let mut put = |path: &[&str], value: Value| {
            let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
            insert(&mut root, &path, value);
        };
        put(&["extends"], Value::String(base.to_owned()));
        let description = format!("{}; as the recipe has them, and tuned", self.description);
        put(&["description"], Value::String(description));
        let tuned: Vec<&String> = methods
            .iter()
            .filter(|method| choices.iter().any(|choice| choice.method == **method))
            .collect();
        let listed = methods.iter().flat_map(|method| {
            let as_tuned = tuned.contains(&method).then(|| tuned_name(method));
            std::iter::once(method.clone()).chain(as_tuned)
        });
        put(
            &["methods"],
            Value::Array(listed.map(Value::String).collect()),
        );
        for method in tuned {
            let name = tuned_name(method);
            put(&["method", name.as_str(), TUNED_FROM], method.show());
        }
        for choice in choices {
            let method = tuned_name(&choice.method);
            let mut say = |key: &str, value: Value| {
                let size = choice.size.as_str();
                put(&["size", size, "method", method.as_str(), key], value);
            };
            for (setting, value) in &choice.values {
                let whole = is_whole(setting);
                say(
                    setting,
                    if whole {
                        Value::Integer(*value as i64)
                    } else {
                        Value::Float(*value)
                    },
                );
            }
            let seeds = choice.seeds.iter().map(Setting::show);
            say("tuning_points", choice.points.show());
            say("tuning_seeds", Value::Array(seeds.collect()));
            say("tuning_tokens", choice.tokens.show());
            say("tuning_flops", choice.flops.show());
            say("tuning_seconds", choice.seconds.show());
        }
        toml::to_string(&root).unwrap_or_default()
    }

    /// What the command line set, as a profile of its own would.
    fn set_by_flags(&self) -> toml::Table {
        let mut root = toml::Table::new();
        for entry in self.entries.iter().filter(|entry| entry.origin.is_flag()) {
            if entry.path.first().is_some_and(|it| it == "tune") {
                continue;
            }
            for path in self.sections_of(entry) {
                insert(&mut root, &path, entry.value.clone());
            }
        }
        root
    }
}

/// The name of a method as tuned.
#[must_use]
pub fn tuned_name(method: &str) -> String {
    format!("{method}-tuned")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Assignment;

    fn load(set: &[&str]) -> Result<Profile, ProfileError> {
        let set: Vec<Assignment> = set.iter().map(|text| (*text).into()).collect();
        Profile::load("laptop", &set)
    }

    fn refused(set: &[&str], points: Option<u64>) -> String {
        let refused = load(set).and_then(|profile| profile.proxy(points));
        let message = refused.expect_err("must be refused").to_string();
        assert!(!message.contains('\n'), "one line: {message}");
        message
    }

    /// From the definition: 6 is 110 in base 2, mirrored 0.011 = 3/8; 5 is 12 in base 3, mirrored 0.21 = 7/9.
    #[test]
    fn the_radical_inverse_mirrors_the_digits_at_the_point() {
        let of = |base| (1..=8).map(move |index| radical_inverse(base, index));
        let in_two = [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875, 0.0625];
        assert!(of(2).eq(in_two));
        let ninths = [3.0, 6.0, 1.0, 4.0, 7.0, 2.0, 5.0, 8.0];
        assert!(of(3).eq(ninths.map(|it| it / 9.0)));
    }

    /// The middle of 1e-3 to 3.2e-2 by logarithm is their geometric mean, 1e-3 times the root of 32; a quarter is the fourth root.
    #[test]
    fn every_method_tries_the_same_points_and_more_points_hold_those_of_fewer() {
        let set = [
            "tune.space.learning_rate.low=1e-3",
            "tune.space.learning_rate.high=3.2e-2",
        ];
        let profile = load(&set).expect("loads");
        let rates = |points: u64, method: &str| -> Vec<f64> {
            let proxy = profile.proxy(Some(points)).expect("a proxy");
            let rate = |point| {
                let settings = proxy.settings("nano", &format!("{method}-point{point}"));
                settings.expect("settings").0.learning_rate
            };
            (1..=points).map(rate).collect()
        };
        let three = rates(3, "full");
        assert_eq!(three, [5.66e-3, 2.38e-3, 1.35e-2]);
        for method in &profile.methods {
            assert_eq!(rates(5, method)[..3], three, "{method}");
        }
    }

    #[test]
    fn proxy_runs_have_the_proxy_s_settings_and_seeds_and_all_else_is_the_profile_s() {
        let set = [
            "tune.proxy.steps=250",
            "tune.proxy.warm_start_steps=50",
            "method.relora.rank=4",
        ];
        let profile = load(&set).expect("loads");
        let proxy = profile.proxy(Some(2)).expect("a proxy");
        assert_eq!(
            (proxy.name.as_str(), &proxy.seeds[..]),
            ("laptop-tune", &[101][..])
        );
        // Both points of each method, and `full` to hand on its warm start.
        assert_eq!(proxy.methods.len(), 2 * profile.methods.len() + 1);
        let of = |method: &str| proxy.settings("nano", method).expect(method).0;
        assert_eq!(
            (of("relora-point2").steps, of("relora-point2").rank),
            (250, 4)
        );
        // A warm start follows the rate that `full` has in the profile, not one of those that are tried.
        let own = profile.settings("nano", "full").expect("full").0;
        assert_eq!(of("full").learning_rate, own.learning_rate);
        assert_eq!(proxy.point_of("relora-point2").as_deref(), Some("relora"));
        assert_eq!(
            proxy.preset("relora-no-jagged-point1").expect("known"),
            "relora-no-jagged"
        );
    }

    /// 2/9 of the way from 4 to 13 is 6, and 1/3 of the way 7.
    #[test]
    fn a_second_setting_goes_by_the_next_base_and_whole_numbers_stay_whole() {
        let set = [
            "tune.space.rank.low=4",
            "tune.space.rank.high=13",
            "tune.space.rank.scale=linear",
        ];
        let proxy = load(&set)
            .and_then(|it| it.proxy(Some(6)))
            .expect("a proxy");
        let rank = |point: u64| {
            let settings = proxy.settings("nano", &format!("lora-point{point}"));
            settings.expect("settings").0.rank
        };
        assert_eq!((rank(1), rank(6)), (7, 6));
        assert_eq!(proxy.tuned_settings(), ["learning_rate", "rank"]);
    }

    #[test]
    fn what_cannot_be_tuned_is_refused_with_what_would_be_right() {
        for (set, points, parts) in [
            (
                &["tune.seeds=[101, 2]"][..],
                None,
                &["tune.seeds", "seed 2", "[1, 2, 3]"][..],
            ),
            (
                &["tune.points=0"],
                None,
                &["tune.points = 0", "between 1 and 200"],
            ),
            (&[], Some(0), &["--points 0", "between 1 and 200"]),
            (
                &["tune.space.steps.low=5"],
                None,
                &["tune.space.steps.low", "same for all methods"],
            ),
            (&["tune.space.reset.low=5"], None, &["reset is no number"]),
            (
                &["tune.space.rnk.low=5"],
                None,
                &["tune.space.rnk.low", "`rank`"],
            ),
            (
                &["tune.space.rank.low=5"],
                None,
                &["tune.space.rank", "needs `high`"],
            ),
            (&["tune.space.rank=5"], None, &["{ low = L, high = H"]),
            (
                &["tune.space.dropout.low=0", "tune.space.dropout.high=0.2"],
                None,
                &["tune.space.dropout.low = 0", "more than 0"],
            ),
            (&["tune.space.learning_rate.low=1"], None, &["below high"]),
            (
                &["tune.space.learning_rate.scale=cubic"],
                None,
                &["\"cubic\"", "\"linear\""],
            ),
            (&["tune.point=3"], None, &["tune.point", "`points`"]),
            (
                &["tune.proxy.stepps=3"],
                None,
                &["tune.proxy.stepps", "`steps`"],
            ),
            (
                &["tune.proxy.steps=few"],
                None,
                &["tune.proxy.steps", "whole number"],
            ),
            (
                &["tune.proxy.learning_rate=1"],
                None,
                &["tune.proxy.learning_rate", "[tune.space] as well"],
            ),
            (
                &["learning_rate=1"],
                None,
                &["--set", "learning_rate", "is what is tuned"],
            ),
            (
                &["steps=1000"],
                None,
                &["--set", "steps", "set tune.proxy.steps"],
            ),
            (
                &["tune.size=nanoo"],
                None,
                &["unknown size `nanoo`", "`nano`"],
            ),
            (
                &["tune.proxy.warm_start_steps=900"],
                None,
                &["[tune.proxy]", "warm_start_steps = 900", "below steps"],
            ),
        ] {
            let message = refused(set, points);
            for part in parts {
                assert!(
                    message.contains(part),
                    "{set:?}: {message:?} should name {part:?}"
                );
            }
        }
        let paper = Profile::load("paper", &[]).expect("loads").proxy(None);
        let message = paper.expect_err("declares nothing").to_string();
        assert!(
            message.contains("profile `paper`") && message.contains("tune.space"),
            "{message}"
        );
    }

    #[test]
    fn what_was_chosen_stands_beside_the_recipe_and_keeps_what_flags_set() {
        let profile = load(&["rank=4", "method.lora.alpha=2"]).expect("loads");
        let choice = Choice {
            size: "nano".into(),
            method: "lora".into(),
            values: BTreeMap::from([("learning_rate".to_owned(), 5.66e-3)]),
            points: 3,
            seeds: vec![101],
            tokens: 12,
            flops: 3e9,
            seconds: 1.5,
        };
        let methods = ["full", "lora"].map(str::to_owned);
        let text = profile.tuned_toml("laptop", &methods, &[choice]);
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("tuned.toml");
        std::fs::write(&path, &text).expect("written");
        let name = path.to_string_lossy().into_owned();
        let tuned = Profile::load(&name, &[]).unwrap_or_else(|error| panic!("{error} in\n{text}"));
        assert_eq!(tuned.methods, ["full", "lora", "lora-tuned"]);
        assert_eq!(tuned.seeds, profile.seeds);
        let of = |method: &str| tuned.settings("nano", method).expect(method).0;
        // The laptop profile's own rate.
        assert_eq!(
            (of("lora").learning_rate, of("lora-tuned").learning_rate),
            (8e-3, 5.66e-3)
        );
        assert_eq!((of("lora-tuned").rank, of("lora-tuned").alpha), (4, 2.0));
        let tuning = tuned
            .tuning("nano", "lora-tuned")
            .expect("read")
            .expect("tuned");
        assert_eq!(
            (tuning.from.as_str(), tuning.points, tuning.tokens),
            ("lora", Some(3), Some(12))
        );
        // The seed that chose must not judge.
        let message = Profile::load(&name, &["seeds=[1, 101]".into()])
            .expect_err("judged")
            .to_string();
        assert!(
            message.contains("`lora-tuned` was chosen by seed 101"),
            "{message}"
        );
        // What is tuned already is not tuned again.
        let proxy = tuned.proxy(Some(1)).expect("a proxy");
        assert_eq!(proxy.methods, ["full-point1", "lora-point1"]);
    }
}
