//! Figures say what their tables say: the values that a reader sees at a point of a drawing.

use super::suite::{Suite, evaluation, row, step};
use super::{ordinary, ordinary_plan};
use results::frame::Runs;
use results::render::{About, html, markdown, write_all};
use serde_json::Value;
use std::fs;

/// What can be read in a figure, in the order of its drawing.
fn said(runs: &Runs, suite: &Suite, name: &str) -> Vec<String> {
    let tables = suite.path().join("tables");
    write_all(runs, &About::default(), &tables).expect("written");
    let text = fs::read_to_string(tables.join(format!("figures/{name}.svg"))).expect("a figure");
    assert!(
        fs::read(tables.join(format!("figures/{name}.png")))
            .expect("a bitmap")
            .starts_with(b"\x89PNG")
    );
    let titles = text.split("<title>").skip(1);
    titles
        .map(|rest| rest.split("</title>").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn differences_are_drawn_as_the_table_of_the_report_has_them() {
    let suite = ordinary();
    let runs = suite.read().with_planned(ordinary_plan());
    let said = said(&runs, &suite, "differences-micro");
    assert_eq!(said.len(), 3, "{said:?}");
    let report = markdown(&runs);
    for line in &said {
        let (method, rest) = line.split_once(": ").expect("a method");
        let (difference, verdict) = rest.split_once(" nats, ").expect("a difference");
        let row = report
            .lines()
            .find(|row| row.starts_with(&format!("| `{method}`")))
            .expect("a row of the first table");
        assert!(
            row.contains(difference) && row.contains(verdict),
            "{line}: {row}"
        );
    }
}

/// Of 100 logged steps, with losses that fall by 0.1 a step; `relora` is 0.05 above at each, and has done a part of them.
fn half_done(steps: u64) -> Suite {
    let losses = |above: f64, steps: u64| -> Vec<Value> {
        (1..=steps)
            .map(|at| step(at, 20.0 - 0.1 * at as f64 + above))
            .collect()
    };
    let suite = Suite::new();
    suite.complete_row(row("micro", "full", 0), 10.0, &losses(0.0, 100));
    suite.begun("micro", "relora", 0, &losses(0.05, steps));
    suite
}

/// Pieces are of two steps here. A run that has done 31 steps has 15 whole ones, and its difference from the other run is that
/// of the same steps: 0.05, however steeply both fall.
#[test]
fn a_run_under_way_is_compared_on_the_steps_that_it_has_done() {
    let suite = half_done(31);
    let said = said(&suite.read(), &suite, "curves-micro");
    let of_relora: Vec<&String> = said
        .iter()
        .filter(|line| line.starts_with("relora: "))
        .collect();
    let (gaps, losses): (Vec<&String>, Vec<&String>) = of_relora
        .into_iter()
        .partition(|line| line.starts_with("relora: 0.0"));
    assert_eq!((gaps.len(), losses.len()), (15, 15), "{said:?}");
    assert!(
        gaps.iter()
            .all(|line| line.starts_with("relora: 0.0500 (one seed)")),
        "{gaps:?}"
    );
    // Steps 1 and 2: the mean of 19.95 and 19.85.
    assert!(
        losses[0].starts_with("relora: 19.90 (one seed)"),
        "{losses:?}"
    );
}

#[test]
fn a_diverged_seed_is_not_averaged_and_is_drawn_with_its_step() {
    let suite = Suite::new();
    for seed in [0, 1] {
        suite.complete("micro", "full", seed, 5.4);
        suite.complete("micro", "relora", seed, 5.6);
    }
    // Its one step has a loss of 6.0, between those of the others.
    suite.diverged("micro", "relora", 2, 17);
    let said = said(&suite.read(), &suite, "curves-micro");
    let evaluated: Vec<&String> = said
        .iter()
        .filter(|line| line.starts_with("relora: 5.6"))
        .collect();
    assert!(
        !evaluated.is_empty()
            && evaluated
                .iter()
                .all(|line| line.contains("(2 seeds, 5.600 to 5.600)")),
        "{said:?}"
    );
    assert!(
        said.iter()
            .any(|line| line == "relora, seed 2: diverged at update 17"),
        "{said:?}"
    );
}

#[test]
fn names_are_text_in_the_page_and_sizes_do_not_clash_with_its_parts() {
    let suite = Suite::new();
    suite.complete("tip", "full", 0, 4.5);
    suite.complete_as("tip", "<b>&\"bold\"", "relora", 0, 4.6);
    let about = About {
        name: "<script>alert(1)</script>".into(),
        directory: "it's here".into(),
        profile: "[a](javascript:alert(1))".into(),
        plan: "</pre>".into(),
    };
    let page = html(&suite.read(), &about).expect("a page");
    assert_eq!(page.matches("<script>").count(), 1, "only the page's own");
    assert!(
        !page.contains("<b>") && !page.contains("href=\"javascript"),
        "a name is markup"
    );
    assert_eq!(page.matches("id=\"tip\"").count(), 1);
    assert!(
        page.contains("cp 'it'\\''s here/plan.toml' again/"),
        "a path as a shell takes it"
    );
    assert!(page.contains("&lt;/pre&gt;"));
}

#[test]
fn a_gap_against_size_needs_two_sizes_with_a_difference() {
    let suite = Suite::new();
    suite.complete("micro", "full", 0, 4.5);
    suite.complete("micro", "relora", 0, 4.6);
    suite.complete("mini", "full", 0, 4.0);
    suite.begun("mini", "relora", 0, &[step(10, 6.0), evaluation(10, 5.0)]);
    let tables = suite.path().join("tables");
    let figures = |suite: &Suite| {
        let written = write_all(&suite.read(), &About::default(), &tables).expect("written");
        written
            .iter()
            .filter(|path| path.ends_with("figures/gaps.svg"))
            .count()
    };
    assert_eq!(figures(&suite), 0);
    suite.complete("mini", "relora", 0, 4.05);
    assert_eq!(figures(&suite), 1);
    assert_eq!(
        said(&suite.read(), &suite, "gaps"),
        [
            "relora at micro: +0.1000 nats",
            "relora at mini: +0.0500 nats"
        ]
    );
}
