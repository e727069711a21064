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
    let method = match trained(row)? {
        Trained::FullRank(preset) => preset,
        Trained::LowRank("----") => "lora",
        Trained::LowRank("---W") => "lora-warm-start",
        Trained::LowRank("ROJW") => "relora",
        Trained::LowRank(_) => return None,
    };
    find(&["table 2", "1.3B"], &row.size, method)
}

/// The figure of the paper's ablation (table 6, 130m) for the row's switches.
#[must_use]
pub fn ablation_table(row: &RowKeys) -> Option<&'static Published> {
    let method = match trained(row)? {
        Trained::FullRank("full") => "full",
        Trained::FullRank(_) => return None,
        Trained::LowRank("----") => "ablation ---- (lora)",
        Trained::LowRank("R---") => "ablation R---",
        Trained::LowRank("RO--") => "ablation RO--",
        Trained::LowRank("R-J-") => "ablation R-J-",
        Trained::LowRank("ROJ-") => "ablation ROJ-",
        Trained::LowRank("---W") => "ablation ---W",
        Trained::LowRank("ROJW") => "ablation ROJW (relora)",
        Trained::LowRank(_) => return None,
    };
    find(&["table 6"], &row.size, method)
}

/// What of the paper's a row could be.
enum Trained {
    /// The preset `full` or `control`.
    FullRank(&'static str),
    /// The parts in the letters of the paper's table 6: restarts, optimizer reset, jagged schedule, warm start.
    LowRank(&'static str),
}

/// Reads what a row trains off its switches, and never off its name: a method derived from `relora` may have them off. None
/// where the paper has nothing of the kind:
///
/// - another rank than 128, which all its rows have;
/// - the dialect that stands for another paper's comparison;
/// - a weight beside the factors from the start without a warm start (it had none, or one of zero until the first merge),
///   or a warm start that is thrown away;
/// - a jagged schedule without re-warm-up.
fn trained(row: &RowKeys) -> Option<Trained> {
    if row.dialect == "galore-table" {
        return None;
    }
    if !row.low_rank {
        return match row.preset.as_str() {
            "full" => Some(Trained::FullRank("full")),
            "control" => Some(Trained::FullRank("control")),
            _ => None,
        };
    }
    let without_weight = matches!(row.base.as_deref(), Some("zero" | "none"));
    if row.rank.is_some_and(|rank| rank != 128)
        || row.warm_start == without_weight
        || (row.jagged && !row.rewarmup)
    {
        return None;
    }
    let parts = match (
        row.restarts,
        row.optimizer_reset,
        row.jagged,
        row.warm_start,
    ) {
        (false, false, false, false) => "----",
        (true, false, false, false) => "R---",
        (true, true, false, false) => "RO--",
        (true, false, true, false) => "R-J-",
        (true, true, true, false) => "ROJ-",
        (false, false, false, true) => "---W",
        (true, true, true, true) => "ROJW",
        _ => return None,
    };
    Some(Trained::LowRank(parts))
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
            alpha: None,
            restart_every: None,
            warm_start_steps: None,
            global_batch_size: None,
            sequence_length: None,
            data_hash: None,
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

    #[test]
    fn a_recipe_that_the_paper_did_not_train_has_no_figure() {
        let relora = row("60m", "relora");
        let changed = |change: fn(&mut RowKeys)| {
            let mut row = relora.clone();
            change(&mut row);
            main_table(&row).is_some()
        };
        assert!(changed(|row| row.method = "my-relora".into()));
        assert!(!changed(|row| row.restarts = false));
        assert!(!changed(|row| row.optimizer_reset = false));
        assert!(!changed(|row| row.jagged = false));
        assert!(!changed(|row| row.rewarmup = false));
        assert!(!changed(|row| row.warm_start = false));
        assert!(!changed(|row| row.rank = Some(64)));
        assert!(!changed(|row| row.dialect = "galore-table".into()));
        // By its switches alone, whatever it was derived from: 34.73 is the table's LoRA with a warm start.
        let mut row = relora.clone();
        (row.restarts, row.optimizer_reset, row.jagged) = (false, false, false);
        assert_eq!(
            main_table(&row).map(|published| published.outcome),
            Some(Outcome::Perplexity(34.73))
        );
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
