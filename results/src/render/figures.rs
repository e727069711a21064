//! The figures of a suite, as data and as files.
//!
//! ```text
//! frames --suite--> Figure --draw--> SVG (alone, or inside the HTML report) and PNG
//! ```
//!
//! A [`Figure`] says what is to be seen in the units of the tables; [`draw`] is the only place that knows pixels. So the figure in
//! the report, the one that goes into a paper and the bitmap for a slide are the same drawing.

mod curves;
mod draw;
mod ruler;
mod spectra;
mod style;
mod suite;

pub(super) use draw::{png, svg, width};
pub(super) use suite::figures;

/// A drawing of one or more panels with one legend.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figure {
    /// Name of its files.
    pub(super) name: String,
    /// The size whose chapter it belongs to; none for one over all sizes.
    pub(super) size: Option<String>,
    pub(super) title: String,
    /// What is to be seen, as Markdown.
    pub(super) caption: String,
    /// Names of the tables that hold its numbers, or what they are the means of; the first is the one that it belongs to.
    pub(super) tables: &'static [&'static str],
    /// The legend, in order. No legend where there are none.
    pub(super) series: Vec<Entry>,
    pub(super) panels: Vec<Panel>,
    /// Panels side by side; 0 as 1.
    pub(super) across: usize,
    /// Width and height of a panel, in points of the drawing.
    pub(super) panel: (u32, u32),
}

/// An entry of the legend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Decides how it is drawn: a method has one place in all figures of a suite.
    pub(super) place: usize,
    pub(super) manner: Manner,
}

/// What a series is shown as in the legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// A line with a marker on it.
    Curve,
    /// A box.
    Fill,
}

/// A plane with what stands in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) layers: Vec<Layer>,
}

/// One direction of a plane.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) scale: Scale,
    /// Whether a reader may change between a linear and a logarithmic scale.
    pub(super) may_change: bool,
    /// What the axis reaches from and to; none for as far as its values do.
    pub(super) limits: Option<(f64, f64)>,
}

/// How values become places.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scale {
    Linear,
    Logarithmic,
    /// Rows with names, from the top: the first at 0, the next at 1.
    Rows(Vec<String>),
}

impl Axis {
    pub(super) fn linear(label: impl Into<String>) -> Axis {
        Axis {
            label: label.into(),
            scale: Scale::Linear,
            may_change: false,
            limits: None,
        }
    }

    pub(super) fn rows(names: Vec<String>) -> Axis {
        Axis {
            scale: Scale::Rows(names),
            ..Axis::linear("")
        }
    }

    /// A reader may make it logarithmic.
    pub(super) fn changeable(self) -> Axis {
        Axis {
            may_change: true,
            ..self
        }
    }
}

/// What stands in a plane in the manner of one series.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer {
    /// Number of its entry in the legend; without one it always shows.
    pub(super) series: Option<usize>,
    pub(super) mark: Mark,
    /// Whether the axes need not reach it.
    pub(super) is_beyond: bool,
}

impl Layer {
    pub(super) fn of(mark: Mark) -> Layer {
        Layer {
            series: None,
            mark,
            is_beyond: false,
        }
    }

    pub(super) fn in_series(number: usize, mark: Mark) -> Layer {
        Layer {
            series: Some(number),
            ..Layer::of(mark)
        }
    }
}

/// What is drawn of values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mark {
    /// Joined points.
    Line(Vec<Point>),
    /// From a low value to a high one, along x.
    Band(Vec<(f64, f64, f64)>),
    /// Points with their intervals.
    Points(Vec<Point>),
    /// Boxes.
    Boxes(Vec<Rectangle>),
    /// A line through the whole plane at a value of x.
    Vertical { at: f64, broken: bool },
    /// A line through the whole plane at a value of y.
    Horizontal(f64),
}

/// A value with what is said of it where a reader points at it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) x_interval: Option<(f64, f64)>,
    pub(super) y_interval: Option<(f64, f64)>,
    pub(super) says: String,
}

impl Point {
    pub(super) fn new(x: f64, y: f64, says: String) -> Point {
        Point {
            x,
            y,
            x_interval: None,
            y_interval: None,
            says,
        }
    }
}

/// A box from one corner to the other.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rectangle {
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
    pub(super) says: String,
}

/// Axes that a reader may change in a figure: those of x, those of y.
pub(super) fn changeable(figure: &Figure) -> (bool, bool) {
    (
        figure.panels.iter().any(|panel| panel.x.may_change),
        figure.panels.iter().any(|panel| panel.y.may_change),
    )
}

/// The figure with its changeable axes as asked for.
pub(super) fn with_scales(figure: &Figure, x: bool, y: bool) -> Figure {
    let mut figure = figure.clone();
    for panel in &mut figure.panels {
        for (axis, logarithmic) in [(&mut panel.x, x), (&mut panel.y, y)] {
            if axis.may_change && logarithmic {
                axis.scale = Scale::Logarithmic;
            }
        }
    }
    figure
}
