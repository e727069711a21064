//! Published perplexities on C4, kept apart from ours and each with its source and how surely it is known.
//!
//! They come from `published.csv`, which is compiled in. A figure stands beside one of ours only where the paper trained the
//! same thing: what the paper's table calls "LoRA" had no frozen weight in the code of the time, so it is our `low-rank`, and
//! our `lora` (a frozen random weight) has no counterpart there.

use crate::record::RowKeys;
use serde::Deserialize;
use std::sync::LazyLock;

/// How the sources of the ReLoRA paper begin in `published.csv`.
const PAPER: &str = "ReLoRA (arXiv 2307.05695)";

/// One published figure.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Published {
    /// Paper and table.
    pub source: String,
    /// Name of the LLaMA shape.
    pub size: String,
    /// Method, in the words of the source.
    pub method: String,
    /// Training tokens, as the source states them.
    pub tokens: String,
    /// Perplexity, or that the run diverged.
    #[serde(rename = "perplexity")]
    pub outcome: Outcome,
    /// How the figure is known: read in the text, seen in a transcription, recalled.
    pub certainty: String,
}

/// What a source reports for a run.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum Outcome {
    /// Validation perplexity.
    Perplexity(f64),
    /// The source reports a divergence.
    Diverged,
}

impl TryFrom<String> for Outcome {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "diverged" => Ok(Outcome::Diverged),
            number => match number.parse() {
                Ok(perplexity) => Ok(Outcome::Perplexity(perplexity)),
                Err(_) => Err(format!("'{number}' is neither a perplexity nor 'diverged'")),
            },
        }
    }
}

impl Outcome {
    /// The perplexity, if there is one.
    #[must_use]
    pub fn perplexity(self) -> Option<f64> {
        match self {
            Outcome::Perplexity(perplexity) => Some(perplexity),
            Outcome::Diverged => None,
        }
    }

    /// The status in the words of the tables.
    #[must_use]
    pub fn status(self) -> &'static str {
        match self {
            Outcome::Perplexity(_) => "complete",
            Outcome::Diverged => "diverged",
        }
    }
}

/// All published figures, in the order of `published.csv`.
#[must_use]
pub fn all() -> &'static [Published] {
    static ALL: LazyLock<Vec<Published>> = LazyLock::new(|| {
        csv::Reader::from_reader(include_str!("published.csv").as_bytes())
            .deserialize()
            .collect::<Result<_, _>>()
            .expect("the compiled-in table is valid: a test reads it")
    });
    &ALL
}

/// The figure of the paper's main table (table 2; at `1b` that of its 1.3B section) for what the row trains.
#[must_use]
pub fn main_table(row: &RowKeys) -> Option<&'static Published> {
    if !has_the_papers_rank(row) {
        return None;
    }
    let method = match row.preset.as_str() {
        "low-rank" => "lora",
        preset @ ("full" | "control" | "lora-warm-start" | "relora") => preset,
        _ => return None,
    };
    find(&["table 2", "1.3B"], &row.size, method)
}

/// The paper's low-rank rows all have rank 128.
fn has_the_papers_rank(row: &RowKeys) -> bool {
    row.rank.is_none_or(|rank| rank == 128)
}

/// The figure of the paper's ablation (table 6, 130m) for the row's switches.
///
/// The paper's rows without a warm start had no weight, or one of zero until the first merge, and only such rows of ours
/// stand beside them. A method without re-warm-up has no
/// counterpart, nor has one with a warm start and only some of the other parts.
#[must_use]
pub fn ablation_table(row: &RowKeys) -> Option<&'static Published> {
    if !row.low_rank {
        return if row.preset == "full" {
            find(&["table 6"], &row.size, "full")
        } else {
            None
        };
    }
    let without_weight = matches!(row.base.as_deref(), Some("zero" | "none"));
    if !has_the_papers_rank(row)
        || row.warm_start == without_weight
        || (row.jagged && !row.rewarmup)
    {
        return None;
    }
    let method = match (
        row.restarts,
        row.optimizer_reset,
        row.jagged,
        row.warm_start,
    ) {
        (false, false, false, false) => "ablation ---- (lora)",
        (true, false, false, false) => "ablation R---",
        (true, true, false, false) => "ablation RO--",
        (true, false, true, false) => "ablation R-J-",
        (true, true, true, false) => "ablation ROJ-",
        (false, false, false, true) => "ablation ---W",
        (true, true, true, true) => "ablation ROJW (relora)",
        _ => return None,
    };
    find(&["table 6"], &row.size, method)
}

fn find(places: &[&str], size: &str, method: &str) -> Option<&'static Published> {
    all().iter().find(|published| {
        published.size == size
            && published.method == method
            && published
                .source
                .strip_prefix(PAPER)
                .is_some_and(|place| places.contains(&place.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(size: &str, preset: &str) -> RowKeys {
        RowKeys {
            size: size.into(),
            method: preset.into(),
            preset: preset.into(),
            seed: 0,
            dialect: "default".into(),
            low_rank: !matches!(preset, "full" | "control"),
            rank: None,
            base: (preset == "low-rank").then(|| "none".into()),
            restarts: preset == "relora",
            optimizer_reset: preset == "relora",
            jagged: preset == "relora",
            rewarmup: preset == "relora",
            warm_start: matches!(preset, "relora" | "lora-warm-start"),
            learning_rate: 1e-3,
            planned_steps: 1,
            device: "cpu".into(),
            precision: "f32".into(),
            total_parameters: 1,
            trainable_parameters: 1,
            flops: 1.0,
        }
    }

    /// Figures from table 2 of the paper.
    #[test]
    fn the_main_table_finds_the_paper_s_figures() {
        let perplexity = |size, preset| {
            main_table(&row(size, preset)).and_then(|published| published.outcome.perplexity())
        };
        assert_eq!(perplexity("60m", "full"), Some(33.81));
        assert_eq!(perplexity("130m", "relora"), Some(25.04));
        assert_eq!(perplexity("1b", "relora"), Some(17.27));
        assert_eq!(perplexity("nano", "full"), None);
    }

    #[test]
    fn the_paper_s_lora_stands_beside_low_rank_and_not_beside_lora() {
        assert_eq!(
            main_table(&row("60m", "low-rank")).map(|published| published.outcome),
            Some(Outcome::Perplexity(47.44))
        );
        assert_eq!(main_table(&row("60m", "lora")), None);
        assert_eq!(ablation_table(&row("130m", "lora")), None);
    }

    /// Figures from table 6 of the paper.
    #[test]
    fn the_ablation_is_found_by_switches() {
        let mut row = row("130m", "relora");
        let outcome = |row: &RowKeys| ablation_table(row).map(|published| published.outcome);
        assert_eq!(outcome(&row), Some(Outcome::Perplexity(25.04)));
        row.rank = Some(8);
        assert_eq!(outcome(&row), None, "the paper's rank is 128");
        row.rank = Some(128);
        row.warm_start = false;
        assert_eq!(
            outcome(&row),
            None,
            "without a warm start the paper merged into a weight of zero"
        );
        row.base = Some("zero".into());
        assert_eq!(outcome(&row), Some(Outcome::Perplexity(29.77)));
        row.jagged = false;
        assert_eq!(outcome(&row), Some(Outcome::Diverged));
        row.size = "60m".into();
        assert_eq!(outcome(&row), None);
    }

    #[test]
    fn every_published_row_is_readable() {
        assert_eq!(
            all().len(),
            include_str!("published.csv").lines().count() - 1
        );
        assert!(
            all()
                .iter()
                .all(|published| !published.source.is_empty() && !published.certainty.is_empty())
        );
    }
}
