//! Figures as pixels and paths: the one place that knows the drawing library.
//!
//! An SVG is put together from parts, each drawn by itself on a sheet of the same size: the axes, each entry of the legend, each
//! layer. So every series is a group with a name, which a page can hide, and every point says what it is where one points at it.

use super::ruler::Ruler;
use super::style::{BROKEN, Dash, GRID, INK, Marker, PAPER, Style, style};
use super::{Figure, Layer, Manner, Mark, Panel, Point};
use crate::render::text::escaped;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::{BitMapBackend, Cartesian2d, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, ShapeStyle, TextStyle, register_font};
use std::error::Error;
use std::fmt::Write;
use std::sync::Once;

/// Dots to a point: a bitmap is fine enough for print.
const DENSITY: u32 = 2;
/// Sizes of letters, points.
const TITLE: u32 = 13;
const LABEL: u32 = 11;
/// Room around a panel, points: for its title, and for the numbers and the name of the axis below it and beside it.
const ABOVE: u32 = 24;
const BELOW: u32 = 34;
const NAME: u32 = 22;
const MARGIN: u32 = 10;
/// Height of an entry of the legend, points, and the length of the line in it.
const ENTRY: u32 = 18;
const SAMPLE: u32 = 34;
/// Width of a letter of a label, points, by and large: room is made by it.
const LETTER: u32 = 7;
/// How near one must point, points.
const NEAR: u32 = 6;
/// Room for a mark of an axis across and along, points.
const MARK: (u32, u32) = (80, 40);
/// Most dots of a bitmap, three bytes each: beyond it a figure is drawn as SVG only.
const MOST_DOTS: usize = 100_000_000;

/// Why a figure could not be drawn.
type Failed = Box<dyn Error + Send + Sync>;
type Area<DB> = DrawingArea<DB, Shift>;
type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<Ruler, Ruler>>;

/// The figure as SVG: `<svg ..>..</svg>`, which stands alone or in a page. In each panel what is drawn comes first and what can be
/// pointed at comes last, so that nothing drawn is in the way.
///
/// # Errors
/// What the drawing library says.
pub(in crate::render) fn svg(figure: &Figure) -> Result<String, Failed> {
    let (width, height) = size(figure);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"group\" aria-label=\"{}\">\n<rect class=\"paper\" width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n",
        escaped(&figure.title)
    );
    text += &part(figure, |area| {
        panels(figure, area)
            .iter()
            .try_for_each(|(area, panel)| furniture(area, figure, panel))
    })?;
    for (number, it) in figure.series.iter().enumerate() {
        let (x, y) = entry_at(figure, number);
        let _ = write!(
            text,
            "<g class=\"key\" data-series=\"{}\">\n<rect class=\"hit\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" \
             fill=\"none\" pointer-events=\"all\"/>\n{}</g>\n",
            escaped(&it.name),
            legend_width(figure) * DENSITY,
            ENTRY * DENSITY,
            part(figure, |area| entry(figure, area, number))?
        );
    }
    for (number, panel) in figure.panels.iter().enumerate() {
        let mut pointed_at = String::new();
        for layer in &panel.layers {
            let entry = layer.series.and_then(|series| figure.series.get(series));
            let name = entry.map_or(String::new(), |entry| {
                format!(" data-series=\"{}\"", escaped(&entry.name))
            });
            let class = match layer.mark {
                Mark::Vertical { .. } | Mark::Horizontal(_) => "rule",
                _ => "series",
            };
            let drawn = |what: Part| {
                part(figure, |area| {
                    let (area, panel) = &panels(figure, area)[number];
                    draw(area, figure, panel, layer, what)
                })
            };
            let _ = writeln!(text, "<g class=\"{class}\"{name}>");
            // Of dashes an SVG says how long they are; in a bitmap they are drawn one by one.
            let dashes = dash(layer, style(entry)).map(|(length, gap)| {
                let (length, gap) = (length * DENSITY, gap * DENSITY);
                format!("<g stroke-dasharray=\"{length} {gap}\">\n")
            });
            let lines = drawn(Part::Lines { dashed: false })?;
            match dashes {
                Some(dashes) if !lines.trim().is_empty() => {
                    text += &format!("{dashes}{lines}</g>\n");
                }
                _ => text += &lines,
            }
            text += &drawn(Part::Rest)?;
            text += "</g>\n";
            let said = said(figure, number, layer)?;
            if !said.is_empty() {
                let _ = write!(
                    pointed_at,
                    "<g class=\"hits\"{name} fill=\"none\" pointer-events=\"all\">\n{said}</g>\n"
                );
            }
        }
        text += &pointed_at;
    }
    text += "</svg>\n";
    Ok(text)
}

/// The figure as PNG; none of one that is too large for a bitmap.
///
/// # Errors
/// What the drawing library or the encoder says.
pub(in crate::render) fn png(figure: &Figure) -> Result<Option<Vec<u8>>, Failed> {
    let (width, height) = size(figure);
    let count = width as usize * height as usize;
    if count > MOST_DOTS {
        return Ok(None);
    }
    let mut dots = vec![0; count * 3];
    with_font();
    {
        let area = BitMapBackend::with_buffer(&mut dots, (width, height)).into_drawing_area();
        area.fill(&PAPER).map_err(failed)?;
        for (area, panel) in panels(figure, &area) {
            furniture(&area, figure, panel)?;
            for layer in &panel.layers {
                draw(&area, figure, panel, layer, Part::Lines { dashed: true })?;
                draw(&area, figure, panel, layer, Part::Rest)?;
            }
        }
        for number in 0..figure.series.len() {
            entry(figure, &area, number)?;
        }
        area.present().map_err(failed)?;
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&dots)?;
    Ok(Some(file))
}

/// Text is measured, and in a bitmap drawn, with a font that comes with the program: no two machines have the same ones.
fn with_font() {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // A font that could not be read would show as an error of the first text that is drawn.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
}

/// What drawing on a sheet leaves of an SVG: all between its outer tags.
fn part(
    figure: &Figure,
    draw: impl FnOnce(&Area<SVGBackend<'_>>) -> Result<(), Failed>,
) -> Result<String, Failed> {
    with_font();
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size(figure)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    let inner = text
        .split_once('\n')
        .and_then(|(_, rest)| rest.trim_end().strip_suffix("</svg>"));
    Ok(inner
        .ok_or("the drawing library writes SVG in another form")?
        .to_owned())
}

fn failed(error: impl std::fmt::Display) -> Failed {
    error.to_string().into()
}

/// Of the whole drawing, dots.
fn size(figure: &Figure) -> (u32, u32) {
    let (across, down) = grid(figure);
    let legend = figure.series.len() as u32 * ENTRY + ABOVE + MARGIN;
    let width = figure.panel.0 * across + legend_width(figure) + MARGIN;
    let height = (figure.panel.1 * down).max(legend);
    (width * DENSITY, height * DENSITY)
}

/// Width of the whole drawing, points.
pub(in crate::render) fn width(figure: &Figure) -> u32 {
    size(figure).0 / DENSITY
}

fn grid(figure: &Figure) -> (u32, u32) {
    let across = figure.across.max(1);
    let down = figure.panels.len().div_ceil(across).max(1);
    (across as u32, down as u32)
}

fn legend_width(figure: &Figure) -> u32 {
    let names = figure.series.iter().map(|entry| entry.name.chars().count());
    names
        .max()
        .map_or(0, |letters| letters as u32 * LETTER + SAMPLE + 2 * MARGIN)
}

/// Where an entry of the legend begins, dots.
fn entry_at(figure: &Figure, number: usize) -> (u32, u32) {
    let across = grid(figure).0;
    (
        (figure.panel.0 * across + MARGIN) * DENSITY,
        (ABOVE + number as u32 * ENTRY) * DENSITY,
    )
}

/// The panels with their places on the sheet.
fn panels<'a, DB: DrawingBackend>(
    figure: &'a Figure,
    area: &Area<DB>,
) -> Vec<(Area<DB>, &'a Panel)> {
    let (across, down) = grid(figure);
    let (width, height) = (figure.panel.0 * across, figure.panel.1 * down);
    let plane = area
        .clone()
        .shrink((0_u32, 0_u32), (width * DENSITY, height * DENSITY));
    let places = plane.split_evenly((down as usize, across as usize));
    places.into_iter().zip(&figure.panels).collect()
}

fn letters(points: u32) -> TextStyle<'static> {
    ("sans-serif", points * DENSITY).into_font().color(&INK)
}

fn rulers(figure: &Figure, panel: &Panel) -> (Ruler, Ruler) {
    let (width, height) = figure.panel;
    let room = (width / MARK.0, height / MARK.1);
    Ruler::of(panel, (room.0 as usize, room.1 as usize))
}

fn chart<'a, DB: DrawingBackend>(
    area: &'a Area<DB>,
    figure: &Figure,
    panel: &Panel,
) -> Result<Chart<'a, DB>, Failed> {
    let (x, y) = rulers(figure, panel);
    let name = if panel.y.label.is_empty() { 0 } else { NAME };
    // Names may be as long as they like, the plane keeps half of the panel.
    let beside = (y.letters() as u32 * LETTER + MARGIN / 2 + name).min(figure.panel.0 / 2);
    ChartBuilder::on(area)
        .margin_top(ABOVE * DENSITY)
        .margin_right(MARGIN * DENSITY)
        .margin_left(MARGIN * DENSITY)
        .x_label_area_size(BELOW * DENSITY)
        .y_label_area_size(beside * DENSITY)
        .build_cartesian_2d(x, y)
        .map_err(failed)
}

/// Title, axes and grid of a panel.
fn furniture<DB: DrawingBackend>(
    area: &Area<DB>,
    figure: &Figure,
    panel: &Panel,
) -> Result<(), Failed> {
    let (x, y) = rulers(figure, panel);
    let middle = area.dim_in_pixel().0 as i32 / 2;
    let title = letters(TITLE).pos(Pos::new(HPos::Center, VPos::Top));
    let at = (middle, (MARGIN / 2 * DENSITY) as i32);
    area.draw(&Text::new(panel.title.clone(), at, title))
        .map_err(failed)?;
    chart(area, figure, panel)?
        .configure_mesh()
        .bold_line_style(ShapeStyle::from(&GRID).stroke_width(DENSITY))
        .light_line_style(PAPER.mix(0.0))
        .axis_style(ShapeStyle::from(&INK).stroke_width(DENSITY))
        .label_style(letters(LABEL))
        .axis_desc_style(letters(LABEL))
        .x_desc(panel.x.label.as_str())
        .y_desc(panel.y.label.as_str())
        .x_labels(x.count())
        .y_labels(y.count())
        .draw()
        .map_err(failed)
}

/// An entry of the legend: a line with a marker on it, or a box, and the name.
fn entry<DB: DrawingBackend>(
    figure: &Figure,
    area: &Area<DB>,
    number: usize,
) -> Result<(), Failed> {
    let Some(it) = figure.series.get(number) else {
        return Ok(());
    };
    let (x, y) = entry_at(figure, number);
    let (left, middle) = (x as i32, (y + ENTRY * DENSITY / 2) as i32);
    let right = left + (SAMPLE * DENSITY) as i32;
    let half = (ENTRY * DENSITY / 4) as i32;
    let style = style(Some(it));
    match it.manner {
        Manner::Fill => area
            .draw(&Rectangle::new(
                [(left, middle - half), (right, middle + half)],
                style.colour.filled(),
            ))
            .map_err(failed)?,
        Manner::Curve => {
            for stroke in strokes(&[(left, middle), (right, middle)], style.dash) {
                area.draw(&PathElement::new(stroke, line(style)))
                    .map_err(failed)?;
            }
            marker(area, ((left + right) / 2, middle), style)?;
        }
    }
    let at = (right + (MARGIN / 2 * DENSITY) as i32, middle);
    let beside = letters(LABEL).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(it.name.clone(), at, beside))
        .map_err(failed)
}

/// What of a layer is drawn.
#[derive(Clone, Copy)]
enum Part {
    /// What may be dashed, and whether that is to be seen.
    Lines { dashed: bool },
    /// All else.
    Rest,
}

/// The dashes of what of a layer may have some.
fn dash(layer: &Layer, style: Style) -> Dash {
    match layer.mark {
        Mark::Line(_) => style.dash,
        Mark::Vertical { broken: true, .. } => BROKEN,
        _ => None,
    }
}

/// One layer in its panel.
fn draw<DB: DrawingBackend>(
    area: &Area<DB>,
    figure: &Figure,
    panel: &Panel,
    layer: &Layer,
    part: Part,
) -> Result<(), Failed> {
    let (x, y) = rulers(figure, panel);
    let chart = chart(area, figure, panel)?;
    let style = style(layer.series.and_then(|series| figure.series.get(series)));
    // Places of the sheet, not of the panel.
    let sheet = area.use_screen_coord();
    let at = |point: (f64, f64)| chart.backend_coord(&point);
    let paint = |path: &[(i32, i32)], style: ShapeStyle| {
        sheet.draw(&PathElement::new(path, style)).map_err(failed)
    };
    let shown = |point: &&Point| x.holds(point.x) && y.holds(point.y);
    let path_of = |points: &[Point]| -> Vec<(i32, i32)> {
        let shown = points.iter().filter(shown);
        shown.map(|point| at((point.x, point.y))).collect()
    };
    if let Part::Lines { dashed } = part {
        let (path, stroke) = match &layer.mark {
            Mark::Line(points) => (path_of(points), line(style)),
            Mark::Vertical { at: value, .. } => {
                let (low, high) = y.ends();
                (vec![at((*value, low)), at((*value, high))], thin())
            }
            Mark::Horizontal(value) => {
                let (low, high) = x.ends();
                (vec![at((low, *value)), at((high, *value))], thin())
            }
            Mark::Band(_) | Mark::Points(_) | Mark::Boxes(_) => return Ok(()),
        };
        return match dash(layer, style).filter(|_| dashed) {
            None if path.len() < 2 => Ok(()),
            None => paint(&path, stroke),
            dash => strokes(&path, dash)
                .iter()
                .try_for_each(|ends| paint(ends, stroke)),
        };
    }
    match &layer.mark {
        Mark::Line(points) => {
            let path = path_of(points);
            let marked = some(&path, layer.series.unwrap_or(0), figure.series.len());
            marked
                .into_iter()
                .try_for_each(|at| marker(&sheet, at, style))
        }
        Mark::Band(band) => {
            let shown: Vec<&(f64, f64, f64)> = band
                .iter()
                .filter(|(at, low, high)| x.holds(*at) && y.holds(*low) && y.holds(*high))
                .collect();
            let upper = shown.iter().map(|(x, _, high)| at((*x, *high)));
            let lower = shown.iter().rev().map(|(x, low, _)| at((*x, *low)));
            let outline: Vec<(i32, i32)> = upper.chain(lower).collect();
            sheet
                .draw(&Polygon::new(outline, style.colour.mix(0.1).filled()))
                .map_err(failed)
        }
        Mark::Points(points) => points.iter().filter(shown).try_for_each(|point| {
            for (from, to) in whiskers(point, &x, &y) {
                paint(&[at(from), at(to)], line(style))?;
            }
            marker(&sheet, at((point.x, point.y)), style)
        }),
        Mark::Boxes(boxes) => boxes.iter().try_for_each(|it| {
            let corners = [at((it.x.0, it.y.0)), at((it.x.1, it.y.1))];
            sheet
                .draw(&Rectangle::new(corners, style.colour.filled()))
                .map_err(failed)
        }),
        Mark::Vertical { .. } | Mark::Horizontal(_) => Ok(()),
    }
}

fn line(style: Style) -> ShapeStyle {
    ShapeStyle::from(&style.colour).stroke_width(DENSITY * 3 / 2)
}

fn thin() -> ShapeStyle {
    ShapeStyle::from(&INK).stroke_width(DENSITY / 2)
}

/// The intervals of a point, as far as the axes reach.
fn whiskers(point: &Point, x: &Ruler, y: &Ruler) -> Vec<((f64, f64), (f64, f64))> {
    let within = |ruler: &Ruler, value: f64| {
        let (one, other) = ruler.ends();
        value.clamp(one.min(other), one.max(other))
    };
    let across = point
        .x_interval
        .map(|(low, high)| ((within(x, low), point.y), (within(x, high), point.y)));
    let along = point
        .y_interval
        .map(|(low, high)| ((point.x, within(y, low)), (point.x, within(y, high))));
    across.into_iter().chain(along).collect()
}

fn marker<DB: DrawingBackend>(
    area: &Area<DB>,
    (x, y): (i32, i32),
    style: Style,
) -> Result<(), Failed> {
    let half = 4 * DENSITY as i32;
    let colour = style.colour;
    match style.marker {
        Marker::Circle => area.draw(&Circle::new((x, y), half, colour.filled())),
        Marker::Ring => area
            .draw(&Circle::new((x, y), half, PAPER.filled()))
            .and_then(|()| area.draw(&Circle::new((x, y), half, line(style)))),
        Marker::Square => area.draw(&Rectangle::new(
            [(x - half, y - half), (x + half, y + half)],
            colour.filled(),
        )),
        Marker::Triangle => area.draw(&Polygon::new(
            vec![(x, y - half), (x + half, y + half), (x - half, y + half)],
            colour.filled(),
        )),
        Marker::Cross => area
            .draw(&PathElement::new(
                [(x - half, y - half), (x + half, y + half)],
                line(style),
            ))
            .and_then(|()| {
                area.draw(&PathElement::new(
                    [(x - half, y + half), (x + half, y - half)],
                    line(style),
                ))
            }),
    }
    .map_err(failed)
}

/// Some points of a line, to tell it from others by its marker: other ones for each of so many series, so that markers do not
/// cover one another where lines do.
fn some(path: &[(i32, i32)], series: usize, all: usize) -> Vec<(i32, i32)> {
    /// How many markers a line has, by and large.
    const MARKERS: usize = 5;
    let stride = path.len().div_ceil(MARKERS).max(1);
    let first = series % all.max(1) * stride / all.max(1);
    path.iter().copied().skip(first).step_by(stride).collect()
}

/// A path cut into dashes; whole where there are none.
fn strokes(path: &[(i32, i32)], dash: Dash) -> Vec<[(i32, i32); 2]> {
    let pieces = path.windows(2).map(|ends| [ends[0], ends[1]]);
    let Some((length, gap)) = dash else {
        return pieces.collect();
    };
    let density = f64::from(DENSITY);
    let (length, period) = (
        f64::from(length) * density,
        f64::from(length + gap) * density,
    );
    let mut strokes = Vec::new();
    // How far into a dash and the gap behind it the path has come.
    let mut phase = 0.0;
    for [from, to] in pieces {
        let (width, height) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let whole = width.hypot(height);
        let at = |distance: f64| {
            let share = distance / whole;
            (
                (f64::from(from.0) + width * share).round() as i32,
                (f64::from(from.1) + height * share).round() as i32,
            )
        };
        let mut done = 0.0;
        while done < whole {
            let in_dash = phase < length;
            let end = if in_dash { length } else { period };
            let next = (done + end - phase).min(whole);
            if in_dash {
                strokes.push([at(done), at(next)]);
            }
            phase = (phase + next - done) % period;
            done = next;
            // Rounding must not leave a rest that takes no step.
            if period - phase < 1e-6 {
                phase = 0.0;
            }
        }
    }
    strokes
}

/// What the points and boxes of a layer say, as shapes that nobody sees.
fn said(figure: &Figure, number: usize, layer: &Layer) -> Result<String, Failed> {
    let mut text = String::new();
    // Where a point comes to stand does not depend on what it is drawn on.
    let mut ignored = String::new();
    let area = SVGBackend::with_string(&mut ignored, size(figure)).into_drawing_area();
    let panels = panels(figure, &area);
    let (area, panel) = &panels[number];
    let (x, y) = rulers(figure, panel);
    let chart = chart(area, figure, panel)?;
    match &layer.mark {
        Mark::Line(points) | Mark::Points(points) => {
            for point in points.iter().filter(|point| !point.says.is_empty()) {
                if x.holds(point.x) && y.holds(point.y) {
                    let (x, y) = chart.backend_coord(&(point.x, point.y));
                    let _ = writeln!(
                        text,
                        "<circle class=\"hit\" cx=\"{x}\" cy=\"{y}\" r=\"{}\"><title>{}</title></circle>",
                        NEAR * DENSITY,
                        escaped(&point.says)
                    );
                }
            }
        }
        Mark::Boxes(boxes) => {
            for it in boxes {
                let one = chart.backend_coord(&(it.x.0, it.y.0));
                let other = chart.backend_coord(&(it.x.1, it.y.1));
                let _ = writeln!(
                    text,
                    "<rect class=\"hit\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
                    one.0.min(other.0),
                    one.1.min(other.1),
                    one.0.abs_diff(other.0),
                    one.1.abs_diff(other.1),
                    escaped(&it.says)
                );
            }
        }
        Mark::Band(_) | Mark::Vertical { .. } | Mark::Horizontal(_) => {}
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: dashes of 6 dots and gaps of 4, going on around the corner at 8.
    #[test]
    fn dashes_go_on_around_corners() {
        assert_eq!(DENSITY, 2);
        assert_eq!(
            strokes(&[(0, 0), (8, 0), (8, 12)], Some((3, 2))),
            [[(0, 0), (6, 0)], [(8, 2), (8, 8)]]
        );
        assert_eq!(
            strokes(&[(0, 0), (8, 0), (8, 12)], None),
            [[(0, 0), (8, 0)], [(8, 0), (8, 12)]]
        );
    }
}
