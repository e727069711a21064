//! The tables of a suite as LaTeX, to put into a paper.

use super::sections::{Chapter, chapters};
use super::table::escaped;
use crate::frame::Runs;
use std::fmt::Write;

/// One `table` for each table of the report, with its conditions as the caption; they need the package booktabs.
#[must_use]
pub fn latex(runs: &Runs) -> String {
    with_chapters(&chapters(runs))
}

/// The same of chapters that are there already.
pub(super) fn with_chapters(chapters: &[Chapter]) -> String {
    let mut text = String::from("% \\usepackage{booktabs}\n");
    for chapter in chapters {
        let conditions = chapter.conditions.split_whitespace().collect::<Vec<_>>();
        let conditions = conditions.join(" ").replace("**", "");
        for section in &chapter.sections {
            // The title without what it is compared with.
            let label = section.title.split(',').next().unwrap_or_default();
            let label = label.to_lowercase().replace(' ', "-");
            let notes: Vec<&str> = section.notes.split_whitespace().collect();
            let notes = notes.join(" ");
            let notes =
                escaped(notes.strip_prefix("- ").unwrap_or(&notes)).replace(". - ", ".\\\\ ");
            let _ = write!(
                text,
                "\n\\begin{{table}}\n\\centering\n{}\\par\\smallskip\\parbox{{\\linewidth}}{{\\footnotesize {notes}}}\n\\caption{{{} at {}. {}}}\n\\label{{tab:{}-{label}}}\n\\end{{table}}\n",
                section.table.latex(),
                escaped(&section.title),
                escaped(&chapter.size),
                escaped(&conditions),
                chapter.size,
            );
        }
    }
    text
}
