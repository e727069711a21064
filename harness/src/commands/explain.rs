//! `relora explain`: in which choices two dialects differ, with the source of each.

use serde::Serialize;

use super::{print, print_json};
use crate::cli::ExplainOptions;
use crate::exit::{Exit, UserError};
use crate::recipe::{self, DEFAULTS, Dialect};
use crate::settings::Settings;

/// Prints the keys whose values differ.
///
/// # Errors
/// An unknown dialect or preset.
pub fn run(options: ExplainOptions) -> anyhow::Result<Exit> {
    let (one, other) = (dialect(&options.dialect)?, dialect(&options.versus)?);
    let presets = match &options.method {
        None => recipe::preset_names(),
        Some(name) => {
            let unknown = || UserError::unknown("method", name, recipe::preset_names());
            vec![recipe::preset(name).ok_or_else(unknown)?.name]
        }
    };
    let differences = differences(one, other, &presets);
    if options.json {
        print_json(&differences)?;
    } else {
        print(&text(one, other, &differences, presets.len()))?;
    }
    Ok(Exit::Success)
}

fn dialect(name: &str) -> Result<&'static Dialect, UserError> {
    recipe::dialect(name)
        .ok_or_else(|| UserError::unknown("dialect", name, recipe::dialect_names()))
}

/// A key that has one value in one dialect and another in the other.
#[derive(Debug, PartialEq, Serialize)]
struct Difference {
    key: &'static str,
    /// The methods whose runs it changes.
    presets: Vec<&'static str>,
    one: Side,
    other: Side,
}

/// What one dialect says of a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Side {
    value: String,
    source: &'static str,
}

impl Side {
    fn of(dialect: &Dialect, preset: &str, key: &str) -> Side {
        let departures = dialect
            .departures(preset)
            .filter(|departure| departure.key == key);
        if let Some(departure) = departures.last() {
            let value = departure.choice.value().to_string();
            return Side {
                value,
                source: departure.source,
            };
        }
        let shown = settings(dialect, preset).show();
        let shown = shown.into_iter().find(|(known, _)| *known == key);
        let reason = DEFAULTS.iter().find(|(known, _)| *known == key);
        Side {
            value: shown.map_or_else(String::new, |(_, value)| value.to_string()),
            source: reason.map_or("", |(_, reason)| *reason),
        }
    }
}

/// What a dialect makes of a preset, over the defaults.
fn settings(dialect: &Dialect, preset: &str) -> Settings {
    let mut settings = Settings::default();
    let layer = recipe::preset(preset).map_or_else(Vec::new, |known| (known.layer)());
    for (key, value) in layer.into_iter().chain(dialect.layer(preset)) {
        // Presets and dialects are tables of ours: a test reads every one of them.
        let _ = settings.set(key, &value);
    }
    settings
}

/// The differences between two dialects, in the order of the keys' declaration; presets that agree in both values share one.
fn differences(one: &Dialect, other: &Dialect, presets: &[&'static str]) -> Vec<Difference> {
    let mut differences: Vec<Difference> = Vec::new();
    for (key, _) in Settings::KEYS {
        for preset in presets {
            let (left, right) = (Side::of(one, preset, key), Side::of(other, preset, key));
            // What a method never looks at is no difference of its.
            let used = [one, other].map(|dialect| settings(dialect, preset).uses(key));
            if left.value == right.value || used == [false, false] {
                continue;
            }
            let same = differences
                .iter_mut()
                .find(|known| known.key == *key && known.one == left && known.other == right);
            match same {
                Some(known) => known.presets.push(preset),
                None => differences.push(Difference {
                    key,
                    presets: vec![preset],
                    one: left,
                    other: right,
                }),
            }
        }
    }
    differences
}

fn text(one: &Dialect, other: &Dialect, differences: &[Difference], presets: usize) -> String {
    let mut text = format!(
        "{}: {}\n{}: {}\n",
        one.name, one.source, other.name, other.source
    );
    if differences.is_empty() {
        return text + "\nno difference\n";
    }
    let width = one.name.len().max(other.name.len());
    for difference in differences {
        text += &format!("\n{}", difference.key);
        if difference.presets.len() < presets {
            text += &format!("  ({})", difference.presets.join(", "));
        }
        text.push('\n');
        for (dialect, side) in [(one, &difference.one), (other, &difference.other)] {
            text += &format!(
                "  {:<width$}  {}\n  {:<width$}  {}\n",
                dialect.name, side.value, "", side.source
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::DIALECTS;

    /// Whatever a dialect departs in has a reason on our side too, and a source on its own.
    #[test]
    fn every_difference_names_its_two_sources() {
        for one in DIALECTS {
            for other in DIALECTS {
                let found = differences(one, other, &recipe::preset_names());
                assert_eq!(
                    found.is_empty(),
                    one.name == other.name,
                    "{} {}",
                    one.name,
                    other.name
                );
                for Difference {
                    key, one, other, ..
                } in found
                {
                    assert!(!one.source.is_empty() && !other.source.is_empty(), "{key}");
                }
            }
        }
    }

    /// By the submission's code: its "LoRA" has no weight, its ReLoRA without a warm start a weight of zero.
    #[test]
    fn what_concerns_some_methods_only_says_which() {
        let (one, other) = (dialect("paper-2023-05"), dialect("default"));
        let found = differences(
            one.expect("known"),
            other.expect("known"),
            &recipe::preset_names(),
        );
        let base: Vec<_> = found
            .iter()
            .filter(|difference| difference.key == "base")
            .collect();
        let said: Vec<_> = base
            .iter()
            .map(|found| (found.presets.clone(), found.one.value.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                (vec!["lora"], "\"none\""),
                (vec!["relora-no-warm-start"], "\"zero\"")
            ]
        );
    }
}
