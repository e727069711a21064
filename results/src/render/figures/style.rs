//! How series are told apart: by colour for those who see it, by dashes and markers for those who do not, and in print.

use plotters::style::RGBColor;

/// Text, axes and the first series. The report's style sheet turns it light on a dark page.
pub(super) const INK: RGBColor = RGBColor(26, 26, 26);
/// Lines behind the values.
pub(super) const GRID: RGBColor = RGBColor(224, 224, 224);
/// What the drawing stands on.
pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);

/// The colours of Okabe and Ito (Color Universal Design, 2008) without the yellow, which is too faint on white. The first is
/// [`INK`]: it goes to the first series, which is full rank in the tables of a suite.
const COLOURS: [RGBColor; 7] = [
    INK,
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

/// Shapes of markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Cross,
    Ring,
}

/// Lengths of a dash and of the gap behind it, in points of the drawing; none for a solid line.
const DASHES: [Option<(i32, i32)>; 4] = [None, Some((10, 6)), Some((3, 4)), Some((18, 4))];
const MARKERS: [Marker; 5] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Cross,
    Marker::Ring,
];

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Style {
    pub(super) colour: RGBColor,
    pub(super) dash: Option<(i32, i32)>,
    pub(super) marker: Marker,
}

/// Of the series at a place of the legend. No two of the first 140 are alike, for 7, 4 and 5 have no factor in common.
pub(super) fn style(place: usize) -> Style {
    Style {
        colour: COLOURS[place % COLOURS.len()],
        dash: DASHES[place % DASHES.len()],
        marker: MARKERS[place % MARKERS.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_differ_without_colour_too() {
        let styles: Vec<Style> = (0..20).map(style).collect();
        for (place, left) in styles.iter().enumerate() {
            for right in &styles[..place] {
                assert!(left.dash != right.dash || left.marker != right.marker);
            }
        }
    }
}
