//! The report of a suite for people: aligned Markdown that reads as well on a terminal as rendered.

mod spectra;

pub use spectra::spectra;

use super::cells::level;
use super::number_of;
use super::sections::{Chapter, chapters, tunings};
use crate::frame::Runs;
use crate::record::Status;
use crate::statistics::SIGNIFICANCE;
use std::fmt::Write;

/// The report of a suite, and the summary on the terminal: how the runs stand, the tables of each size, and at the end how to
/// read them.
#[must_use]
pub fn markdown(runs: &Runs) -> String {
    with_chapters(runs, &chapters(runs))
}

/// The same of chapters that are there already.
pub(super) fn with_chapters(runs: &Runs, chapters: &[Chapter]) -> String {
    let mut text = String::from("# Results\n\n");
    text += &standing(runs);
    if runs.iter().next().is_none() {
        return text;
    }
    for chapter in chapters {
        let _ = write!(text, "\n## {}\n\n{}", chapter.size, chapter.conditions);
        for section in &chapter.sections {
            let _ = write!(
                text,
                "\n### {}\n\n{}\n{}",
                section.title,
                section.table.markdown(),
                section.notes
            );
        }
    }
    text += &reading();
    text
}

/// What `relora tune` prints: for each size what was chosen for each method, and what that cost; nothing of a suite that tunes
/// nothing.
#[must_use]
pub fn tuning(runs: &Runs) -> String {
    let sections = tunings(runs).into_iter().map(|(size, section)| {
        format!(
            "### {} at {size}\n\n{}\n{}",
            section.title,
            section.table.markdown(),
            section.notes
        )
    });
    sections.collect::<Vec<_>>().join("\n")
}

/// How many runs stand where, and what stands nowhere.
pub(super) fn standing(runs: &Runs) -> String {
    let mut text = counted(runs);
    for reason in runs.unplaced() {
        let _ = write!(
            text,
            "\nLeft out, since nobody can tell whose it is: {reason}.\n"
        );
    }
    text
}

/// How many runs stand where, as a line.
pub(super) fn counted(runs: &Runs) -> String {
    let counts = runs.counts();
    let all: usize = counts.iter().map(|(_, count)| count).sum();
    if all == 0 {
        return "No runs.\n".to_owned();
    }
    let complete = counts
        .iter()
        .find(|(status, _)| *status == Status::Complete)
        .map_or(0, |(_, count)| *count);
    let others = counts
        .iter()
        .filter(|(status, _)| *status != Status::Complete);
    let others: Vec<String> = others
        .map(|(status, count)| format!("{count} {}", status.name()))
        .collect();
    let others = if others.is_empty() {
        String::new()
    } else {
        format!("; {}", others.join(", "))
    };
    format!(
        "{complete} of {} complete{others}.\n",
        number_of(all, "run")
    )
}

/// What a careful reader asks before believing a table.
pub(super) fn reading() -> String {
    let level = level();
    format!(
        "\n## How to read this\n\n\
         - Every mean is over the seeds that ran to their end; `±` and brackets are {level} Student-t intervals over\n  \
         seeds (n - 1 degrees of freedom, values taken as normal). `n = 1`: no interval. Perplexity is exp of the mean\n  \
         loss, its interval exp of the loss's.\n\
         - Differences are paired by seed (same data order, same draws): negative is better, and 0.01 nats is 1% of\n  \
         perplexity. What the seed does to all methods alike cancels, so compare by these, not by overlapping brackets.\n\
         - Verdicts: paired t-test, two-sided, p adjusted by Holm's method over all methods of the size; better or\n  \
         worse where the adjusted p < {SIGNIFICANCE}. `better alone`, `worse alone`: the difference's own interval\n  \
         excludes zero, but among so many comparisons one such is no surprise. `unresolved` does not mean equal:\n  \
         these seeds cannot tell. `unresolved: diverged`: the side with the lower loss lost seeds to divergence, and\n  \
         is not judged by those that it survived. `tie`: no difference is found, and one as large\n  \
         as the margin that the profile declares can be excluded (two one-sided t-tests, adjusted likewise).\n\
         - Intervals cover seeds only, not the choice of data, tokens or learning rates.\n"
    )
}
