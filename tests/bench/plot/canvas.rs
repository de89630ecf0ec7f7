//! SVG, written by hand: text, lines and boxes, and the axes that figures share.

use std::fmt::Write as _;

pub(super) const INK: &str = "#495057";
pub(super) const PALE: &str = "#868e96";
const DARK: &str = "#212529";
const RULE: &str = "#e9ecef";

const FONT: &str = "-apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif";

pub(super) struct Canvas {
    text: String,
}

/// A part of the picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    pub(super) const fn right(self) -> f64 {
        self.left + self.width
    }

    pub(super) const fn bottom(self) -> f64 {
        self.top + self.height
    }
}

impl Canvas {
    /// With a ground of its own: readers' pages are light or dark.
    pub(super) fn new(width: f64, height: f64) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" font-family=\"{FONT}\">\n\
             <rect width=\"{width}\" height=\"{height}\" rx=\"10\" fill=\"#ffffff\"/>\n"
        );
        Self { text }
    }

    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    pub(super) fn text(
        &mut self,
        (x, y): (f64, f64),
        anchor: &str,
        size: f64,
        fill: &str,
        text: &str,
    ) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
             fill=\"{fill}\">{text}</text>"
        ));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
             stroke=\"{stroke}\" stroke-width=\"{width}\"/>"
        ));
    }

    pub(super) fn block(&mut self, area: Area, fill: &str) {
        let Area { left, top, width, height } = area;
        self.add(format_args!(
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             rx=\"2\" fill=\"{fill}\"/>"
        ));
    }

    pub(super) fn dot(&mut self, (x, y): (f64, f64), radius: f64, fill: &str) {
        self.add(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{fill}\" \
             stroke=\"#ffffff\" stroke-width=\"1\"/>"
        ));
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], stroke: &str, dashed: bool) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dashes = if dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        self.add(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\"{dashes}/>",
            points.join(" ")
        ));
    }

    /// A figure's title and what it is measured in; returns what is left below.
    pub(super) fn heading(&mut self, area: Area, title: &str, unit: &str) -> Area {
        self.add(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"15\" font-weight=\"600\" \
             fill=\"{DARK}\">{title}</text>",
            area.left,
            area.top + 20.0
        ));
        self.text((area.left, area.top + 37.0), "start", 10.5, PALE, unit);
        Area { top: area.top + 50.0, height: area.height - 50.0, ..area }
    }

    pub(super) fn rule(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.line(from, to, RULE, 1.0);
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = writeln!(self.text, "{element}");
    }
}

/// Round numbers from zero to at least `most`.
pub(super) fn ticks(most: f64) -> Vec<f64> {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|times| times * power);
    let step = step.into_iter().find(|step| most / step <= 5.0).unwrap_or(most);
    (0..=(most / step).ceil() as usize).map(|index| index as f64 * step).collect()
}

/// As short as it is exact.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// About how wide a text is.
pub(super) fn width_of(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.58
}
