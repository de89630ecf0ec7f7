//! Points, a program each: throughput against delay, delays by powers of ten.

use super::canvas::{Area, Canvas, INK, PALE, number, ticks, width_of};

pub(super) struct Scatter {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) x: String,
    pub(super) points: Vec<Point>,
}

pub(super) struct Point {
    pub(super) label: String,
    pub(super) x: f64,
    /// Median, least, most, in µs.
    pub(super) y: [f64; 3],
    pub(super) fill: &'static str,
    pub(super) ours: bool,
}

const LEFT: f64 = 44.0;
const BELOW: f64 = 34.0;
const SIZE: f64 = 11.5;

impl Scatter {
    pub(super) fn draw(&self, canvas: &mut Canvas, area: Area) {
        let inner = canvas.heading(area, &self.title, &self.unit);
        let plot = Area {
            left: inner.left + LEFT,
            width: inner.width - LEFT - 8.0,
            height: inner.height - BELOW,
            ..inner
        };
        let along = ticks(self.points.iter().map(|point| point.x).fold(0.0, f64::max));
        let widest = along.last().copied().unwrap_or(1.0);
        let least = self.points.iter().map(|point| point.y[1]).fold(f64::INFINITY, f64::min);
        let most = self.points.iter().map(|point| point.y[2]).fold(1.0, f64::max);
        let (low, high) = (least.max(1.0).log10().floor(), most.log10().ceil());
        let x_of = |x: f64| plot.left + x / widest * plot.width;
        let y_of = |y: f64| plot.bottom() - (y.max(1.0).log10() - low) / (high - low) * plot.height;
        for power in low as i32..=high as i32 {
            let y = y_of(10_f64.powi(power));
            canvas.rule((plot.left, y), (plot.right(), y));
            canvas.text((plot.left - 6.0, y + 4.0), "end", 10.5, PALE, &delay(power));
        }
        for x in along {
            canvas.rule((x_of(x), plot.top), (x_of(x), plot.bottom()));
            canvas.text((x_of(x), plot.bottom() + 15.0), "middle", 10.5, PALE, &number(x));
        }
        let below = (plot.right(), plot.bottom() + 30.0);
        canvas.text(below, "end", 10.5, PALE, &format!("{} →  better: right and down", self.x));
        let mut taken: Vec<Area> = Vec::new();
        for point in &self.points {
            let (x, y) = (x_of(point.x), y_of(point.y[0]));
            canvas.line((x, y_of(point.y[1])), (x, y_of(point.y[2])), point.fill, 1.5);
            canvas.dot((x, y), if point.ours { 6.0 } else { 5.0 }, point.fill);
            taken.push(Area { left: x - 5.0, top: y - 5.0, width: 10.0, height: 10.0 });
        }
        for point in &self.points {
            let at = (x_of(point.x), y_of(point.y[0]));
            let place = free_place(at, width_of(&point.label, SIZE), plot, &taken);
            let ink = if point.ours { point.fill } else { INK };
            canvas.text((place.left, place.bottom() - 3.0), "start", SIZE, ink, &point.label);
            taken.push(place);
        }
    }
}

/// Beside, above or below the point, where nothing else is.
fn free_place((x, y): (f64, f64), width: f64, plot: Area, taken: &[Area]) -> Area {
    let place = |left: f64, top: f64| Area { left, top, width, height: SIZE + 2.0 };
    let places = [
        place(x + 9.0, y - 7.0),
        place(x - 9.0 - width, y - 7.0),
        place(x - width / 2.0, y - 23.0),
        place(x - width / 2.0, y + 9.0),
        place(x + 7.0, y - 22.0),
        place(x + 7.0, y + 8.0),
        place(x - 7.0 - width, y - 22.0),
        place(x - 7.0 - width, y + 8.0),
    ];
    let fits = |place: &Area| {
        let inside = place.left >= plot.left && place.right() <= plot.right() + 8.0;
        inside && !taken.iter().any(|other| overlap(*place, *other))
    };
    places.into_iter().find(fits).unwrap_or(places[0])
}

fn overlap(one: Area, other: Area) -> bool {
    let across = one.left < other.right() && other.left < one.right();
    across && one.top < other.bottom() && other.top < one.bottom()
}

fn delay(power: i32) -> String {
    match power {
        0..=2 => format!("{} µs", 10_u32.pow(power as u32)),
        3..=5 => format!("{} ms", 10_u32.pow(power as u32 - 3)),
        _ => format!("{} s", 10_u64.pow(power.unsigned_abs().saturating_sub(6))),
    }
}
