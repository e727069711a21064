//! Published perplexities on C4, kept apart from ours and each with its source, its recipe and how surely it is known.
//!
//! They come from `published.csv`, which is compiled in. A figure stands beside one of ours only where its source trained the
//! same thing: what the paper's table calls "LoRA" had no frozen weight in the code of the time, so it is our `low-rank`, while
//! the LoRA of the GaLore paper, over a frozen random weight, is our `lora`. The column `trains` says that of each figure.

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
    /// The dialect that stands for its recipe; empty where none of ours does.
    pub dialect: String,
    /// What of ours it trains, as [`trained`] has it; empty where nothing of ours is that.
    pub trains: String,
    /// Rank of the factors; none at full rank.
    pub rank: Option<u64>,
    /// What is known of how its loss was averaged.
    pub evaluation: Evaluation,
    /// Perplexity with the average corrected, from the batches that are thought to have been evaluated: the least and the most.
    pub corrected_low: Option<f64>,
    /// The most.
    pub corrected_high: Option<f64>,
}

/// How a source averaged its validation loss: that of the code at the paper's submission, from which many others descend, began
/// to count its batches at one (corrected on 16 July 2023).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Evaluation {
    /// The sum over N batches was divided by N + 1, so that the true loss is the published one times (N + 1) / N.
    #[serde(rename = "n-plus-one")]
    NPlusOne,
    /// The code had been corrected.
    #[serde(rename = "corrected")]
    Corrected,
    /// Nobody has looked.
    #[serde(rename = "")]
    Unknown,
}

impl Evaluation {
    /// In words.
    #[must_use]
    pub fn statement(self) -> &'static str {
        match self {
            Evaluation::NPlusOne => {
                "its code divides the sum over N batches by N + 1: the true loss is the published one times (N + 1) / N"
            }
            Evaluation::Corrected => {
                "made after the divisor of its code was corrected (16 July 2023)"
            }
            Evaluation::Unknown => "not known",
        }
    }
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

/// Every figure for what the row trains, at its size and with its rank, whatever the recipe.
pub fn figures(row: &RowKeys) -> impl Iterator<Item = &'static Published> + use<> {
    let (size, trained, rank) = (row.size.clone(), trained(row), row.rank);
    all().iter().filter(move |published| {
        let is_other_rank = rank.zip(published.rank).is_some_and(|(own, it)| own != it);
        published.size == size && trained == Some(published.trains.as_str()) && !is_other_rank
    })
}

/// The figure of the paper's main table (table 2; at `1b` that of its 1.3B section) for what the row trains.
#[must_use]
pub fn main_table(row: &RowKeys) -> Option<&'static Published> {
    of_the_paper(row, &["table 2", "1.3B"])
}

/// The figure of the paper's ablation (table 6, 130m) for the row's switches.
#[must_use]
pub fn ablation_table(row: &RowKeys) -> Option<&'static Published> {
    of_the_paper(row, &["table 6"])
}

/// None for the dialect that stands for another paper's comparison.
fn of_the_paper(row: &RowKeys, places: &[&str]) -> Option<&'static Published> {
    let is_there = |published: &&Published| {
        let place = published.source.strip_prefix(PAPER);
        place.is_some_and(|place| places.contains(&place.trim()))
    };
    figures(row).find(|published| row.dialect != "galore-table" && is_there(published))
}

/// What a row trains, in the words of the column `trains`, read off its switches and never off its name: a method derived from
/// `relora` may have them off. The letters are those of the paper's table 6: restarts, optimizer reset, jagged schedule, warm
/// start. None where no source has anything of the kind.
#[must_use]
pub fn trained(row: &RowKeys) -> Option<&'static str> {
    if !row.low_rank {
        return match row.preset.as_str() {
            "full" => Some("full"),
            "control" => Some("control"),
            _ => None,
        };
    }
    if row.jagged && !row.rewarmup {
        return None;
    }
    let without_weight = matches!(row.base.as_deref(), Some("zero" | "none"));
    let RowKeys {
        restarts,
        optimizer_reset,
        jagged,
        warm_start,
        ..
    } = *row;
    Some(
        match (
            restarts,
            optimizer_reset,
            jagged,
            warm_start,
            without_weight,
        ) {
            (false, false, false, true, false) => "---W",
            (true, true, true, true, false) => "ROJW",
            // No weight beside the factors, or one of zero until the first merge.
            (false, false, false, false, true) => "W=BA",
            (true, false, false, false, true) => "R--- on zero",
            (true, true, false, false, true) => "RO-- on zero",
            (true, false, true, false, true) => "R-J- on zero",
            (true, true, true, false, true) => "ROJ- on zero",
            // A frozen random one.
            (false, false, false, false, false) => "W0+BA",
            (true, true, true, false, false) => "W0+ROJ-",
            _ => return None,
        },
    )
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
            point: None,
            tuning: None,
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

    /// Table 2 of the GaLore paper at 130M: its low-rank methods have rank 256.
    #[test]
    fn figures_of_other_papers_are_found_by_what_they_train() {
        let found = |row: &RowKeys, source: &str| -> Vec<f64> {
            figures(row)
                .filter(|it| it.source.starts_with(source))
                .filter_map(|it| it.outcome.perplexity())
                .collect()
        };
        let mut row = row("130m", "lora");
        row.base = Some("keep".into());
        row.rank = Some(256);
        assert_eq!(found(&row, "GaLore"), [33.92]);
        row.rank = Some(128);
        assert!(found(&row, "GaLore").is_empty());
        let full = self::row("130m", "full");
        // the paper's tables 2 and 6, and what others report of the same network
        assert_eq!(found(&full, "ReLoRA"), [23.65, 23.65]);
        assert_eq!(found(&full, "GaLore"), [25.08]);
        assert_eq!(found(&full, "RACS"), [25.03]);
        let mut without_warm_start = self::row("130m", "relora");
        without_warm_start.warm_start = false;
        without_warm_start.rank = Some(256);
        assert_eq!(found(&without_warm_start, ""), [29.37]);
    }

    /// Batches of 10 million tokens by how many sequences are thought to have been evaluated at once, of 256 or 512 tokens of
    /// which 0.85 or 0.58 are no padding: 94 at 60M, 153 to 77 at 130M, 175 at 250M, 263 at 350M.
    #[test]
    fn corrected_perplexities_follow_from_the_number_of_batches() {
        for (size, batches) in [
            ("60m", [94.0, 94.0]),
            ("130m", [153.0, 77.0]),
            ("250m", [175.0, 175.0]),
            ("350m", [263.0, 263.0]),
        ] {
            let figure = main_table(&row(size, "full")).expect("a figure");
            assert_eq!(figure.evaluation, Evaluation::NPlusOne);
            let published = figure.outcome.perplexity().expect("a perplexity");
            let ends = [figure.corrected_low, figure.corrected_high];
            for (n, corrected) in batches.into_iter().zip(ends) {
                let expected = published.powf((n + 1.0) / n);
                assert!(
                    (corrected.expect("known") - expected).abs() < 0.06,
                    "{size}"
                );
            }
        }
        let later = main_table(&row("1b", "full")).expect("a figure");
        assert_eq!(later.evaluation, Evaluation::Corrected);
        assert_eq!(later.corrected_low, None);
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
