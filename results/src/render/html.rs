//! The report of a suite as one HTML file: the tables of the Markdown report with the figures beside them, which needs no network,
//! opens from a disk and prints.

use super::RenderError;
use super::figures::{Figure, changeable, svg, width, with_scales};
use super::markdown::{reading, standing};
use super::number_of;
use super::sections::Chapter;
use super::table::Table;
use super::text::escaped;
use crate::frame::{Run, Runs};
use crate::record::Session;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::fmt::Write;

/// What a report says of its suite beyond its runs.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Name of the suite.
    pub name: String,
    /// Its directory, as a reader on the same machine would name it.
    pub directory: String,
    /// Name of the profile that it was made from.
    pub profile: String,
    /// The plan, as it stands in its file.
    pub plan: String,
}

/// The whole page. `chapters` are those of the Markdown report, `figures` are those of [`figures`](super::figures::figures).
///
/// # Errors
/// A figure that cannot be drawn.
pub(super) fn html(
    runs: &Runs,
    about: &About,
    chapters: &[Chapter],
    figures: &[Figure],
) -> Result<String, RenderError> {
    let mut body = format!(
        "<header>\n<button id=\"theme\" type=\"button\" aria-pressed=\"false\">dark</button>\n<h1>{}</h1>\n{}</header>\n",
        escaped(&about.name),
        from_markdown(&standing(runs))
    );
    body += &contents(chapters, figures);
    for chapter in chapters {
        let _ = write!(
            body,
            "<section>\n<h2 id=\"size-{0}\">{0}</h2>\n{1}",
            escaped(&chapter.size),
            from_markdown(&chapter.conditions)
        );
        body += &of_size(chapter, figures)?;
        body += "</section>\n";
    }
    for figure in figures.iter().filter(|figure| figure.size.is_none()) {
        let _ = write!(
            body,
            "<section>\n<h2 id=\"{}\">Across sizes</h2>\n",
            figure.name
        );
        body += &drawn(figure)?;
        body += "</section>\n";
    }
    body += &from_markdown(&reading());
    body += &again(runs, about);
    body += &environment(runs, about);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n{body}<div id=\"tip\" role=\"status\" hidden></div>\n\
         <script>\n{}</script>\n</body>\n</html>\n",
        escaped(&about.name),
        include_str!("html/report.css"),
        include_str!("html/report.js"),
    ))
}

/// Markdown of ours as HTML. What looks like HTML in it, in a name or an error, is text, and nothing in it is a link.
fn from_markdown(text: &str) -> String {
    let events = Parser::new_ext(text, Options::ENABLE_TABLES).filter_map(|event| match event {
        Event::Html(text) | Event::InlineHtml(text) => Some(Event::Text(text)),
        Event::Start(Tag::Link { .. } | Tag::Image { .. })
        | Event::End(TagEnd::Link | TagEnd::Image) => None,
        event => Some(event),
    });
    let mut html = String::new();
    pulldown_cmark::html::push_html(&mut html, events);
    // A table may be wider than a page.
    html.replace("<table>", "<div class=\"scroll\" tabindex=\"0\"><table>")
        .replace("</table>", "</table></div>")
}

fn contents(chapters: &[Chapter], figures: &[Figure]) -> String {
    let mut entries: Vec<(String, &str)> = chapters
        .iter()
        .map(|chapter| (format!("size-{}", chapter.size), chapter.size.as_str()))
        .collect();
    let overall = figures.iter().filter(|figure| figure.size.is_none());
    entries.extend(overall.map(|figure| (figure.name.clone(), "across sizes")));
    let last = [("again", "run it again"), ("environment", "environment")];
    entries.extend(last.map(|(target, name)| (target.to_owned(), name)));
    let entries = entries.iter().map(|(target, name)| {
        format!(
            "<li><a href=\"#{}\">{}</a></li>\n",
            escaped(target),
            escaped(name)
        )
    });
    format!("<nav><ul>\n{}</ul></nav>\n", entries.collect::<String>())
}

/// The tables of a size, each with the figures that are drawn from it, then the figures of tables that are not shown.
fn of_size(chapter: &Chapter, figures: &[Figure]) -> Result<String, RenderError> {
    let mut left: Vec<&Figure> = figures
        .iter()
        .filter(|figure| figure.size.as_ref() == Some(&chapter.size))
        .collect();
    let mut text = String::new();
    for (number, section) in chapter.sections.iter().enumerate() {
        let _ = write!(
            text,
            "<h3>{}</h3>\n{}<div class=\"notes\">{}</div>\n",
            inline(&section.title),
            from_markdown(&section.table.markdown()),
            from_markdown(&section.notes)
        );
        // How the losses came about belongs to the first table.
        let belongs = |figure: &Figure| {
            figure.tables.first() == Some(&section.from)
                || number == 0 && figure.tables == ["curves"]
        };
        let (here, rest): (Vec<&Figure>, Vec<&Figure>) =
            left.into_iter().partition(|figure| belongs(figure));
        left = rest;
        for figure in here {
            text += &drawn(figure)?;
        }
    }
    for figure in left {
        text += &drawn(figure)?;
    }
    Ok(text)
}

/// Markdown of a line without the paragraph around it.
fn inline(text: &str) -> String {
    let html = from_markdown(text);
    let html = html.trim().trim_start_matches("<p>");
    html.trim_end_matches("</p>").to_owned()
}

/// A figure with what a reader may do with it and what it shows.
fn drawn(figure: &Figure) -> Result<String, RenderError> {
    let (x, y) = changeable(figure);
    let mut text = String::from("<figure>\n<div class=\"controls\">\n");
    if figure.series.len() > 1 {
        for (shown, name) in [("all", "show all"), ("none", "hide all")] {
            let _ = writeln!(
                text,
                "<button type=\"button\" data-shown=\"{shown}\">{name}</button>"
            );
        }
    }
    for (axis, _) in [("x", x), ("y", y)]
        .iter()
        .filter(|(_, may_change)| *may_change)
    {
        let _ = writeln!(
            text,
            "<button type=\"button\" data-axis=\"{axis}\" aria-pressed=\"false\">log {axis}</button>"
        );
    }
    text += "</div>\n";
    let scales = |may_change: bool| {
        if may_change {
            &[false, true][..]
        } else {
            &[false]
        }
    };
    for &log_x in scales(x) {
        for &log_y in scales(y) {
            let logarithmic = format!(
                "{}{}",
                if log_x { "x" } else { "" },
                if log_y { "y" } else { "" }
            );
            let hidden = if logarithmic.is_empty() {
                ""
            } else {
                " hidden"
            };
            let drawing = svg(&with_scales(figure, log_x, log_y))
                .map_err(|source| RenderError::of(figure, source))?;
            let _ = write!(
                text,
                "<div class=\"drawing scroll\" tabindex=\"0\" style=\"--points:{}\" data-logarithmic=\"{logarithmic}\"{hidden}>\n{drawing}</div>\n",
                width(figure)
            );
        }
    }
    let tables: Vec<String> = figure
        .tables
        .iter()
        .map(|table| format!("`{table}.csv`"))
        .collect();
    let hint = if figure.series.len() > 1 {
        " Click a name in the legend to hide or show it."
    } else {
        ""
    };
    let _ = write!(
        text,
        "<figcaption>{}</figcaption>\n</figure>\n",
        from_markdown(&format!(
            "{}{hint} Numbers: {}; the drawing alone: `figures/{name}.svg`, `figures/{name}.png`, all in the suite's `tables`.",
            figure.caption,
            tables.join(", "),
            name = figure.name,
        ))
    );
    Ok(text)
}

/// How to make each row again.
fn again(runs: &Runs, about: &About) -> String {
    let mut table = Table::new(&["size", "method", "seeds", "the first of them again"], &[]);
    let all: Vec<_> = runs.iter().collect();
    let same = |left: &&Run, right: &&Run| {
        left.row.size == right.row.size && left.row.method == right.row.method
    };
    for runs in all.chunk_by(same) {
        let seeds: Vec<String> = runs.iter().map(|run| run.row.seed.to_string()).collect();
        let row = &runs[0].row;
        table.rows.push(vec![
            row.size.clone(),
            format!("`{}`", row.method),
            seeds.join(", "),
            format!("`relora worker again/{}`", row.directory()),
        ]);
    }
    let text = format!(
        "The plan of a suite holds every setting of every run. In a folder with a copy of it a run is made again, on a CPU of the \
         same kind with the same bits (`--store` where the prepared text lies elsewhere, `--device` for another one):\n\n\
         ```\nmkdir again && cp {} again/\n```\n\n{}\n\
         The suite came from the profile `{}`; on another machine `relora bench-all` with that profile and the same options \
         prepares the text and trains all of it.\n",
        quoted(&format!("{}/plan.toml", about.directory)),
        table.markdown(),
        about.profile
    );
    format!(
        "<section>\n<h2 id=\"again\">Run it again</h2>\n{}</section>\n",
        from_markdown(&text)
    )
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    if path.chars().all(is_plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

/// Where it ran, and the plan.
fn environment(runs: &Runs, about: &About) -> String {
    let mut table = Table::new(&["what", "value"], &[]);
    let mut add = |what: &str, values: &mut dyn Iterator<Item = String>| {
        let mut different: Vec<String> = Vec::new();
        for value in values {
            if !different.contains(&value) {
                different.push(value);
            }
        }
        if !different.is_empty() {
            table.rows.push(vec![what.to_owned(), different.join("; ")]);
        }
    };
    let sessions = || runs.iter().flat_map(|run| &run.sessions);
    add(
        "version of relora",
        &mut sessions().map(|it| it.version.clone()),
    );
    add("processor or device", &mut sessions().map(Session::machine));
    add(
        "compute threads of a run",
        &mut sessions().map(|it| it.threads.to_string()),
    );
    add(
        "kind of device, precision",
        &mut runs
            .iter()
            .map(|run| format!("{}, {}", run.row.device, run.row.precision)),
    );
    add(
        "tokens and tokenizer (hash)",
        &mut runs
            .iter()
            .filter_map(|run| run.row.data_hash.as_ref().map(|hash| format!("`{hash}`"))),
    );
    add(
        "processes that worked on it",
        &mut std::iter::once(sessions().count().to_string()),
    );
    format!(
        "<section>\n<h2 id=\"environment\">Environment and manifest</h2>\n{}<details>\n<summary>plan.toml ({})</summary>\n\
         <pre>{}</pre>\n</details>\n</section>\n",
        from_markdown(&table.markdown()),
        number_of(about.plan.lines().count(), "line"),
        escaped(&about.plan)
    )
}
