//! How series are told apart: by colour for those who see it, by dashes and markers for those who do not, and in print.

use super::{Entry, Manner};
use plotters::style::RGBColor;

/// Text, axes and the first series. The report's style sheet turns it light on a dark page.
pub(super) const INK: RGBColor = RGBColor(26, 26, 26);
/// Lines behind the values.
pub(super) const GRID: RGBColor = RGBColor(224, 224, 224);
/// What the drawing stands on.
pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);

/// Of lines: those of Okabe and Ito (Color Universal Design, 2008) that stand out on white and on black by 3 to 1, the orange
/// darkened for it, and a grey. The first is [`INK`]: it goes to the first method of a suite, which is full rank as a rule.
const LINES: [RGBColor; 7] = [
    INK,
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(128, 128, 128),
    RGBColor(184, 119, 0),
];

/// Of boxes beside one another: those of Okabe and Ito, ordered so that neighbours differ in lightness too.
const FILLS: [RGBColor; 7] = [
    INK,
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
    RGBColor(240, 228, 66),
    RGBColor(0, 158, 115),
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
pub(super) type Dash = Option<(u32, u32)>;

const DASHES: [Dash; 4] = [None, Some((10, 6)), Some((3, 4)), Some((18, 4))];
const MARKERS: [Marker; 5] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Cross,
    Marker::Ring,
];

/// Of a line that is no series and no axis.
pub(super) const BROKEN: Dash = Some((5, 5));

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Style {
    pub(super) colour: RGBColor,
    pub(super) dash: Dash,
    pub(super) marker: Marker,
}

/// Of an entry of the legend, or of what has none. No two lines of the first 140 places are alike, for 7, 4 and 5 have no factor in
/// common.
pub(super) fn style(entry: Option<&Entry>) -> Style {
    let (place, manner) = entry.map_or((0, Manner::Curve), |entry| (entry.place, entry.manner));
    let colours = match manner {
        Manner::Curve => LINES,
        Manner::Fill => FILLS,
    };
    Style {
        colour: colours[place % colours.len()],
        dash: DASHES[place % DASHES.len()],
        marker: MARKERS[place % MARKERS.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(place: usize, manner: Manner) -> Entry {
        let name = String::new();
        Entry {
            name,
            place,
            manner,
        }
    }

    #[test]
    fn lines_differ_without_colour_too() {
        let styles: Vec<Style> = (0..20)
            .map(|place| style(Some(&entry(place, Manner::Curve))))
            .collect();
        for (place, left) in styles.iter().enumerate() {
            for right in &styles[..place] {
                assert!(left.dash != right.dash || left.marker != right.marker);
            }
        }
    }

    /// Relative luminance and contrast by the definition of WCAG 2.2.
    fn luminance(RGBColor(red, green, blue): RGBColor) -> f64 {
        let linear = |value: u8| {
            let value = f64::from(value) / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    }

    fn contrast(left: RGBColor, right: RGBColor) -> f64 {
        let (left, right) = (luminance(left) + 0.05, luminance(right) + 0.05);
        left.max(right) / left.min(right)
    }

    #[test]
    fn lines_stand_out_on_paper_and_boxes_from_their_neighbours() {
        for colour in LINES {
            assert!(contrast(colour, PAPER) > 2.95, "{colour:?}");
        }
        for pair in FILLS.windows(2) {
            assert!(contrast(pair[0], pair[1]) > 1.5, "{pair:?}");
        }
    }
}
