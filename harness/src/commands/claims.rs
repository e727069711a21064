//! `relora claims`: what is claimed of ReLoRA, held against a suite.

use results::claims::{self, Judgement, Verdict};
use results::render::number_of;

use super::{print, print_json, suite_directory, tables};
use crate::cli::ClaimsOptions;
use crate::exit::Exit;

/// Prints each claim with its verdict, the figures behind it and what would be needed to tell.
///
/// # Errors
/// A suite that is not there or cannot be read.
pub fn run(options: ClaimsOptions) -> anyhow::Result<Exit> {
    let suite = suite_directory(options.read.suite.as_deref())?;
    let judgements = claims::judge(&tables::runs(&suite)?);
    if options.json {
        print_json(&judgements)?;
        return Ok(Exit::Success);
    }
    let mut text: String = judgements.iter().map(told).collect();
    let counts: Vec<String> = [
        Verdict::Reproduced,
        Verdict::Refuted,
        Verdict::Underpowered,
        Verdict::NotTested,
    ]
    .into_iter()
    .map(|verdict| {
        let count = judgements.iter().filter(|it| it.verdict == verdict).count();
        format!("{count} {}", verdict.name())
    })
    .collect();
    text += &format!(
        "{}: {}, {}\n",
        suite.display(),
        number_of(judgements.len(), "claim"),
        counts.join(", ")
    );
    print(&text)?;
    Ok(Exit::Success)
}

fn told(judgement: &Judgement) -> String {
    let Judgement {
        number,
        statement,
        source,
        verdict,
        scope,
        figures,
        needed,
    } = judgement;
    let scope = scope
        .as_ref()
        .map_or_else(String::new, |it| format!(" at {it}"));
    let mut text = format!(
        "{number:>2}. {statement}: {}{scope}\n    {source}\n",
        verdict.name()
    );
    for figures in figures {
        text += &format!("    {figures}\n");
    }
    if let Some(needed) = needed {
        text += &format!("    needed: {needed}\n");
    }
    text.push('\n');
    text
}
