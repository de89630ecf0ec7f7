//! Bars, a program each, with what was least and most.

use super::canvas::{Area, Canvas, INK, PALE, width_of};

pub(super) struct Bars {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) bars: Vec<Bar>,
    pub(super) decimals: usize,
}

pub(super) struct Bar {
    pub(super) label: String,
    /// Median, least, most.
    pub(super) spread: [f64; 3],
    pub(super) fill: &'static str,
    pub(super) ours: bool,
}

/// For the figure behind the longest bar.
const VALUE: f64 = 44.0;
const SIZE: f64 = 11.5;

impl Bars {
    pub(super) fn draw(&self, canvas: &mut Canvas, area: Area) {
        let Self { title, unit, bars, decimals } = self;
        let inner = canvas.heading(area, title, unit);
        let labels = bars.iter().map(|bar| width_of(&bar.label, SIZE)).fold(60.0, f64::max) + 8.0;
        let most = bars.iter().map(|bar| bar.spread[2]).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (inner.width - labels - VALUE) / most;
        let step = (inner.height / bars.len() as f64).min(30.0);
        let left = inner.left + labels;
        for (index, bar) in bars.iter().enumerate() {
            let [median, least, most] = bar.spread;
            let top = inner.top + index as f64 * step;
            let middle = top + step / 2.0;
            let ink = if bar.ours { bar.fill } else { INK };
            canvas.text((left - 8.0, middle + 4.0), "end", SIZE, ink, &bar.label);
            let block =
                Area { left, top: top + step * 0.15, width: median * scale, height: step * 0.7 };
            canvas.block(block, bar.fill);
            let (from, to) = (left + least * scale, left + most * scale);
            if to - from > 1.0 {
                canvas.line((from, middle), (to, middle), INK, 1.0);
                for x in [from, to] {
                    canvas.line((x, middle - 3.0), (x, middle + 3.0), INK, 1.0);
                }
            }
            let value = format!("{median:.decimals$}");
            canvas.text((to + 6.0, middle + 4.0), "start", SIZE, ink, &value);
        }
        canvas.line((left, inner.top), (left, inner.top + step * bars.len() as f64), PALE, 1.0);
    }
}
