//! Tables for people, in the languages that people write in.

/// A table for people.
#[derive(Clone, Debug)]
pub(super) struct Table {
    headings: Vec<(String, Side)>,
    pub(super) rows: Vec<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Left,
    Right,
}

impl Table {
    /// Columns of text, then columns of numbers.
    pub(super) fn new(left: &[&str], right: &[&str]) -> Table {
        let mut table = Table {
            headings: Vec::new(),
            rows: Vec::new(),
        };
        left.iter().for_each(|heading| table.left(heading));
        right.iter().for_each(|heading| table.right(heading));
        table
    }

    pub(super) fn left(&mut self, heading: &str) {
        self.headings.push((heading.to_owned(), Side::Left));
    }

    pub(super) fn right(&mut self, heading: &str) {
        self.headings.push((heading.to_owned(), Side::Right));
    }

    /// As Markdown whose source is aligned too.
    pub(super) fn markdown(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| cell.replace('|', "\\|")).collect())
            .collect();
        let width = |column: usize, heading: &str| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(String::as_str);
            cells
                .chain([heading])
                .map(|text| text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = self
            .headings
            .iter()
            .enumerate()
            .map(|(column, (heading, _))| width(column, heading))
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.zip(&self.headings).zip(&widths).map(
                |((cell, (_, side)), &width)| match side {
                    Side::Left => format!("{cell:<width$}"),
                    Side::Right => format!("{cell:>width$}"),
                },
            );
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut text = line(&mut self.headings.iter().map(|(heading, _)| heading.as_str()));
        let rule = self
            .headings
            .iter()
            .zip(&widths)
            .map(|((_, side), &width)| match side {
                Side::Left => format!("|{}", "-".repeat(width + 2)),
                Side::Right => format!("|{}:", "-".repeat(width + 1)),
            });
        text += &rule.collect::<String>();
        text += "|\n";
        for row in &rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text
    }

    /// As LaTeX of the package booktabs.
    pub(super) fn latex(&self) -> String {
        let sides = self.headings.iter().map(|(_, side)| match side {
            Side::Left => 'l',
            Side::Right => 'r',
        });
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let cells: Vec<String> = cells.map(escaped).collect();
            format!("{} \\\\\n", cells.join(" & "))
        };
        let mut text = format!(
            "\\begin{{tabular}}{{{}}}\n\\toprule\n",
            sides.collect::<String>()
        );
        text += &line(&mut self.headings.iter().map(|(heading, _)| heading.as_str()));
        text += "\\midrule\n";
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text + "\\bottomrule\n\\end{tabular}\n"
    }
}

/// Text as LaTeX: what stands between backticks is set as code.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    let mut code = false;
    let mut before = ' ';
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let behind = letters.peek().copied().unwrap_or(' ');
        match letter {
            '`' => {
                escaped += if code { "}" } else { "\\texttt{" };
                code = !code;
            }
            '%' | '&' | '_' | '#' | '$' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            '<' => escaped += "$<$",
            '>' => escaped += "$>$",
            '|' => escaped += "$|$",
            '\\' => escaped += "\\textbackslash{}",
            '^' => escaped += "\\textasciicircum{}",
            '~' => escaped += "\\textasciitilde{}",
            '±' => escaped += "$\\pm$",
            // A row that begins with a bracket would be taken for the space after the row before.
            '[' => escaped += "{[}",
            ']' => escaped += "{]}",
            // Two of them would become a dash, and one before a digit is a minus.
            '-' if code || before == '-' || behind == '-' => escaped += "-{}",
            '-' if behind.is_ascii_digit() && !before.is_alphanumeric() => escaped += "$-$",
            _ => escaped.push(letter),
        }
        before = letter;
    }
    if code {
        escaped.push('}');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_cell_is_text_in_latex() {
        assert_eq!(
            escaped("a\\b^c~d 5% > 3 | `x-y"),
            "a\\textbackslash{}b\\textasciicircum{}c\\textasciitilde{}d 5\\% $>$ 3 $|$ \\texttt{x-{}y}"
        );
        assert_eq!(escaped("-0.1 RO--W 1e-3 a-b"), "$-$0.1 RO-{}-{}W 1e-3 a-b");
    }
}
