//! Figures as pixels and paths: the one place that knows the drawing library.
//!
//! An SVG is put together from parts, each drawn by itself on a sheet of the same size: the axes, each entry of the legend, each
//! layer. So every series is a group with a name, which a page can hide, and every point says what it is where one points at it.

use super::ruler::Ruler;
use super::style::{GRID, INK, Marker, PAPER, Style, style};
use super::{Figure, Layer, Mark, Panel, Point, Rectangle as Box};
use crate::render::text::escaped;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::prelude::{BitMapBackend, Cartesian2d, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, ShapeStyle, TextStyle, register_font};
use std::error::Error;
use std::fmt::Write;
use std::sync::Once;

/// Dots to a point: a bitmap is fine enough for print.
const DENSITY: u32 = 2;
/// Sizes of letters, points.
const TITLE: u32 = 13;
const LABEL: u32 = 11;
/// Room around a panel, points: for its title, for the numbers below it and beside it.
const ABOVE: u32 = 24;
const BELOW: u32 = 34;
const BESIDE: u32 = 52;
const MARGIN: u32 = 10;
/// Height of an entry of the legend, points, and the length of the line in it.
const ENTRY: u32 = 18;
const SAMPLE: u32 = 34;
/// Width of a letter of a label, points, by and large: room is made by it.
const LETTER: u32 = 7;
/// How near one must point, points.
const NEAR: u32 = 6;

/// Why a figure could not be drawn.
type Failed = std::boxed::Box<dyn Error + Send + Sync>;
type Area<DB> = DrawingArea<DB, Shift>;
type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<Ruler, Ruler>>;

/// The figure as SVG: `<svg ..>..</svg>`, which stands alone or in a page.
///
/// # Errors
/// What the drawing library says.
pub(in crate::render) fn svg(figure: &Figure) -> Result<String, Failed> {
    let (width, height) = size(figure);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" aria-label=\"{}\">\n<style>.hit{{fill:transparent}}</style>\n<rect class=\"paper\" width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n",
        escaped(&figure.title)
    );
    text += &part(figure, |area| {
        panels(figure, area)
            .iter()
            .try_for_each(|(area, panel)| furniture(area, panel))
    })?;
    for (place, name) in figure.series.iter().enumerate() {
        let entry = part(figure, |area| entry(figure, area, place))?;
        let (x, y) = entry_at(figure, place);
        let _ = write!(
            text,
            "<g class=\"key\" data-series=\"{}\">\n<rect class=\"hit\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"/>\n{entry}</g>\n",
            escaped(name),
            legend_width(figure) * DENSITY,
            ENTRY * DENSITY,
        );
    }
    for (number, panel) in figure.panels.iter().enumerate() {
        for layer in &panel.layers {
            let drawn = part(figure, |area| {
                let (area, panel) = &panels(figure, area)[number];
                draw(area, panel, layer)
            })?;
            let name = layer.series.and_then(|place| figure.series.get(place));
            let name = name.map_or(String::new(), |name| {
                format!(" data-series=\"{}\"", escaped(name))
            });
            let _ = write!(
                text,
                "<g class=\"series\"{name}>\n{drawn}{}</g>\n",
                said(figure, number, layer)?
            );
        }
    }
    text += "</svg>\n";
    Ok(text)
}

/// The figure as PNG.
///
/// # Errors
/// What the drawing library or the encoder says.
pub(in crate::render) fn png(figure: &Figure) -> Result<Vec<u8>, Failed> {
    let (width, height) = size(figure);
    let mut dots = vec![0; (width * height * 3) as usize];
    with_font();
    {
        let area = BitMapBackend::with_buffer(&mut dots, (width, height)).into_drawing_area();
        area.fill(&PAPER).map_err(failed)?;
        for (area, panel) in panels(figure, &area) {
            furniture(&area, panel)?;
            for layer in &panel.layers {
                draw(&area, panel, layer)?;
            }
        }
        for place in 0..figure.series.len() {
            entry(figure, &area, place)?;
        }
        area.present().map_err(failed)?;
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&dots)?;
    Ok(file)
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
    Ok(inner.unwrap_or_default().to_owned())
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
    let letters = figure.series.iter().map(|name| name.chars().count()).max();
    letters.map_or(0, |letters| letters as u32 * LETTER + SAMPLE + 2 * MARGIN)
}

/// Where an entry of the legend begins, dots.
fn entry_at(figure: &Figure, place: usize) -> (u32, u32) {
    let across = grid(figure).0;
    (
        (figure.panel.0 * across + MARGIN) * DENSITY,
        (ABOVE + place as u32 * ENTRY) * DENSITY,
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

fn chart<'a, DB: DrawingBackend>(
    area: &'a Area<DB>,
    panel: &Panel,
) -> Result<Chart<'a, DB>, Failed> {
    let (x, y) = Ruler::of(panel);
    let beside = match &panel.y.scale {
        super::Scale::Rows(names) => {
            let longest = names.iter().map(|name| name.chars().count()).max();
            longest.unwrap_or(0) as u32 * LETTER * 6 / 7 + MARGIN
        }
        _ => BESIDE,
    };
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
fn furniture<DB: DrawingBackend>(area: &Area<DB>, panel: &Panel) -> Result<(), Failed> {
    let middle = area.dim_in_pixel().0 as i32 / 2;
    let title = letters(TITLE).pos(Pos::new(HPos::Center, VPos::Top));
    let at = (middle, (MARGIN / 2 * DENSITY) as i32);
    area.draw(&Text::new(panel.title.clone(), at, title))
        .map_err(failed)?;
    chart(area, panel)?
        .configure_mesh()
        .bold_line_style(ShapeStyle::from(&GRID).stroke_width(DENSITY))
        .light_line_style(PAPER.mix(0.0))
        .axis_style(ShapeStyle::from(&INK).stroke_width(DENSITY))
        .label_style(letters(LABEL))
        .axis_desc_style(letters(LABEL))
        .x_desc(panel.x.label.as_str())
        .y_desc(panel.y.label.as_str())
        .x_labels((area.dim_in_pixel().0 / DENSITY / 80) as usize)
        .y_labels((area.dim_in_pixel().1 / DENSITY / 40) as usize)
        .draw()
        .map_err(failed)
}

/// An entry of the legend: a line with a marker on it, and the name.
fn entry<DB: DrawingBackend>(figure: &Figure, area: &Area<DB>, place: usize) -> Result<(), Failed> {
    let (x, y) = entry_at(figure, place);
    let (left, middle) = (x as i32, (y + ENTRY * DENSITY / 2) as i32);
    let right = left + (SAMPLE * DENSITY) as i32;
    let style = style(place);
    for (from, to) in strokes(&[(left, middle), (right, middle)], style.dash) {
        area.draw(&PathElement::new([from, to], line(style)))
            .map_err(failed)?;
    }
    marker(area, ((left + right) / 2, middle), style)?;
    let name = figure.series.get(place).cloned().unwrap_or_default();
    let at = (right + (MARGIN / 2 * DENSITY) as i32, middle);
    let beside = letters(LABEL).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(name, at, beside)).map_err(failed)
}

/// One layer in its panel.
fn draw<DB: DrawingBackend>(area: &Area<DB>, panel: &Panel, layer: &Layer) -> Result<(), Failed> {
    let (x, y) = Ruler::of(panel);
    let chart = chart(area, panel)?;
    let style = layer.series.map_or(plain(), style);
    // Places of the sheet, not of the panel.
    let sheet = area.use_screen_coord();
    let at = |point: (f64, f64)| chart.backend_coord(&point);
    let paint = |path: Vec<(i32, i32)>, style: ShapeStyle| {
        sheet.draw(&PathElement::new(path, style)).map_err(failed)
    };
    let shown = |point: &&Point| x.holds(point.x) && y.holds(point.y);
    match &layer.mark {
        Mark::Line(points) => {
            let path: Vec<(i32, i32)> = points
                .iter()
                .filter(shown)
                .map(|point| at((point.x, point.y)))
                .collect();
            match style.dash {
                None => paint(path.clone(), line(style))?,
                Some(_) => strokes(&path, style.dash)
                    .into_iter()
                    .try_for_each(|(from, to)| paint(vec![from, to], line(style)))?,
            }
            let marked = layer.series.map_or(Vec::new(), |place| some(&path, place));
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
                paint(vec![at(from), at(to)], line(style))?;
            }
            marker(&sheet, at((point.x, point.y)), style)
        }),
        Mark::Boxes(boxes) => boxes.iter().try_for_each(|it| {
            let corners = [at((it.x.0, it.y.0)), at((it.x.1, it.y.1))];
            sheet
                .draw(&Rectangle::new(corners, style.colour.filled()))
                .and_then(|()| {
                    sheet.draw(&Rectangle::new(corners, PAPER.stroke_width(DENSITY / 2)))
                })
                .map_err(failed)
        }),
        Mark::Vertical(value) => {
            let (low, high) = y.ends();
            paint(vec![at((*value, low)), at((*value, high))], thin())
        }
        Mark::Horizontal(value) => {
            let (low, high) = x.ends();
            paint(vec![at((low, *value)), at((high, *value))], thin())
        }
    }
}

/// Of a layer that is no series.
fn plain() -> Style {
    Style {
        dash: None,
        ..style(0)
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
    let colour: RGBColor = style.colour;
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

/// Some points of a line, to tell it from others by its marker: other ones for each series, so that markers do not cover one
/// another where lines do.
fn some(path: &[(i32, i32)], place: usize) -> Vec<(i32, i32)> {
    /// How many markers a line has, by and large.
    const MARKERS: usize = 5;
    let stride = path.len().div_ceil(MARKERS).max(1);
    // Three has no factor in common with most strides, so neighbours in the legend stand apart.
    path.iter()
        .copied()
        .skip(3 * place % stride)
        .step_by(stride)
        .collect()
}

/// A path cut into dashes; whole where there are none.
fn strokes(path: &[(i32, i32)], dash: Option<(i32, i32)>) -> Vec<((i32, i32), (i32, i32))> {
    let pieces = path.windows(2).map(|ends| (ends[0], ends[1]));
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
    for (from, to) in pieces {
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
                strokes.push((at(done), at(next)));
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

/// What the points of a layer say, as circles and boxes that nobody sees.
fn said(figure: &Figure, number: usize, layer: &Layer) -> Result<String, Failed> {
    let mut text = String::new();
    // Where a point comes to stand does not depend on what it is drawn on.
    let mut ignored = String::new();
    let area = SVGBackend::with_string(&mut ignored, size(figure)).into_drawing_area();
    let panels = panels(figure, &area);
    let (area, panel) = &panels[number];
    let (x, y) = Ruler::of(panel);
    let chart = chart(area, panel)?;
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
            for Box { x, y, says } in boxes {
                let one = chart.backend_coord(&(x.0, y.0));
                let other = chart.backend_coord(&(x.1, y.1));
                let _ = writeln!(
                    text,
                    "<rect class=\"hit\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
                    one.0.min(other.0),
                    one.1.min(other.1),
                    one.0.abs_diff(other.0),
                    one.1.abs_diff(other.1),
                    escaped(says)
                );
            }
        }
        Mark::Band(_) | Mark::Vertical(_) | Mark::Horizontal(_) => {}
    }
    Ok(text)
}
