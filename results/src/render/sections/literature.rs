//! The section with the published figures: ours beside each, and by recipe and certainty what they are.

use super::Section;
use crate::published;
use crate::render::cells::{Cells, with_interval};
use crate::render::table::Table;
use std::fmt::Write;

/// A line for a size of which nothing is published; else nothing.
pub(in crate::render) fn none_of(rows: &[Cells<'_>], size: &str) -> String {
    if !rows.is_empty() {
        return String::new();
    }
    let is_known = published::all().iter().any(|it| it.size == size);
    let why = if is_known {
        "none is known for what was trained here at this size"
    } else {
        "none, since none of the papers has a network of this size"
    };
    format!("- Published figures: {why}.\n")
}

/// A source, and which methods have figures of it by how surely they are known.
struct Source {
    name: String,
    dialect: Option<String>,
    certainties: Vec<(String, Vec<String>)>,
    evaluation: String,
}

impl Source {
    fn of(row: &Cells<'_>) -> Source {
        let text = |column| row.text(column).unwrap_or_default();
        let tokens = match text("published_tokens").as_str() {
            "unknown" => "tokens not said".to_owned(),
            tokens => format!("{tokens} tokens"),
        };
        Source {
            name: format!("{}, {tokens}", text("published_source")),
            dialect: row.text("published_dialect"),
            certainties: Vec::new(),
            evaluation: text("published_evaluation"),
        }
    }

    fn add(&mut self, method: String, certainty: String) {
        let known = self.certainties.iter_mut().find(|(it, _)| *it == certainty);
        match known {
            Some((_, methods)) if methods.contains(&method) => {}
            Some((_, methods)) => methods.push(method),
            None => self.certainties.push((certainty, vec![method])),
        }
    }

    fn note(&self, number: usize) -> String {
        let recipe = match &self.dialect {
            Some(dialect) => format!("recipe `{dialect}`"),
            None => "no dialect stands for its recipe".to_owned(),
        };
        let mut text = format!("- [{number}] {}; {recipe}.\n", self.name);
        for (certainty, methods) in &self.certainties {
            let _ = writeln!(text, "  {}: {certainty}.", methods.join(", "));
        }
        text
    }
}

/// Ours beside each published figure.
pub(in crate::render) fn section(rows: &[Cells<'_>]) -> Option<Section> {
    let first = rows.first()?;
    let own = first.text("dialect").unwrap_or_default();
    let mut table = Table::new(
        &["method"],
        &[&with_interval("ours", rows), "published", "corrected"],
    );
    table.left("recipe");
    table.left("source");
    let mut sources: Vec<Source> = Vec::new();
    for row in rows {
        let source = Source::of(row);
        let number = match sources.iter().position(|it| it.name == source.name) {
            Some(at) => at,
            None => {
                sources.push(source);
                sources.len() - 1
            }
        };
        let certainty = row.text("published_certainty").unwrap_or_default();
        sources[number].add(row.name(), certainty);
        let recipe = match row.text("published_dialect") {
            Some(dialect) if row.is("dialect", &dialect) => "ours",
            Some(_) => "another",
            None => "?",
        };
        table.rows.push(vec![
            row.name(),
            row.headline("perplexity"),
            row.published(),
            corrected(row),
            recipe.into(),
            format!("[{}]", number + 1),
        ]);
    }
    let mut notes = format!(
        "- Perplexities on C4, one seed each: comparable only where data, tokens, tokenizer and recipe are the same. Ours is dialect\n  \
         `{own}` (`relora explain` says in what two differ).\n"
    );
    for (index, source) in sources.iter().enumerate() {
        notes += &source.note(index + 1);
    }
    notes += &evaluations(&sources);
    if rows.iter().any(|row| !corrected(row).is_empty()) {
        notes += "- Corrected: that undone, by the number of batches that are thought to have been evaluated, which is known roughly and\n  \
                  of `full` alone. The published figure is too good by so much.\n";
    }
    Some(Section {
        title: "Published figures".into(),
        from: "published",
        table,
        notes,
    })
}

/// `35.1`, or `24.1 to 24.6` where the number of batches is known less well.
fn corrected(row: &Cells<'_>) -> String {
    let end = |part| row.number(&format!("published_corrected_{part}"));
    match (end("low"), end("high")) {
        (Some(low), Some(high)) if low == high => format!("{low:.1}"),
        (Some(low), Some(high)) => format!("{low:.1} to {high:.1}"),
        _ => String::new(),
    }
}

/// How the sources averaged their losses: what each statement says, and of which it is said.
fn evaluations(sources: &[Source]) -> String {
    let mut said: Vec<(&str, Vec<String>)> = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let number = format!("[{}]", index + 1);
        match said.iter_mut().find(|(it, _)| *it == source.evaluation) {
            Some((_, numbers)) => numbers.push(number),
            None => said.push((&source.evaluation, vec![number])),
        }
    }
    let mut text = String::new();
    for (statement, numbers) in said {
        let _ = writeln!(
            text,
            "- How the loss was averaged, {}:\n  {statement}.",
            numbers.join(", ")
        );
    }
    text
}
