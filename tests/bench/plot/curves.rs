//! Curves over a number that grows by powers of ten.

use super::canvas::{Area, Canvas, PALE, number, ticks, width_of};

pub(super) struct Curves {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) curves: Vec<Curve>,
}

pub(super) struct Curve {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) stroke: &'static str,
    pub(super) dashed: bool,
}

const LEFT: f64 = 32.0;
const BELOW: f64 = 34.0;
const ABOVE: f64 = 22.0;
const SIZE: f64 = 11.5;

impl Curves {
    pub(super) fn draw(&self, canvas: &mut Canvas, area: Area) {
        let inner = canvas.heading(area, &self.title, &self.unit);
        let plot = Area {
            left: inner.left + LEFT,
            top: inner.top + ABOVE,
            width: inner.width - LEFT - 14.0,
            height: inner.height - BELOW - ABOVE,
        };
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let up = ticks(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let top = up.last().copied().unwrap_or(1.0);
        let few = points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min).max(1.0);
        let many = points().map(|(x, _)| *x).fold(few + 1.0, f64::max);
        let x_of = |x: f64| plot.left + (x / few).ln() / (many / few).ln() * plot.width;
        let y_of = |y: f64| plot.bottom() - y / top * plot.height;
        for y in up {
            canvas.rule((plot.left, y_of(y)), (plot.right(), y_of(y)));
            canvas.text((plot.left - 6.0, y_of(y) + 4.0), "end", 10.5, PALE, &number(y));
        }
        let mut along: Vec<_> = points().map(|(x, _)| *x).collect();
        along.sort_by(f64::total_cmp);
        along.dedup();
        for x in along {
            canvas.rule((x_of(x), plot.top), (x_of(x), plot.bottom()));
            canvas.text((x_of(x), plot.bottom() + 15.0), "middle", 10.5, PALE, &number(x));
        }
        canvas.text((plot.right(), plot.bottom() + 30.0), "end", 10.5, PALE, "relays at once →");
        let mut left = plot.left;
        for Curve { label, points, stroke, dashed } in &self.curves {
            let places: Vec<_> = points.iter().map(|(x, y)| (x_of(*x), y_of(*y))).collect();
            canvas.path(&places, stroke, *dashed);
            places.iter().for_each(|place| canvas.dot(*place, 4.0, stroke));
            let key = inner.top + 6.0;
            canvas.path(&[(left, key), (left + 22.0, key)], stroke, *dashed);
            canvas.text((left + 28.0, key + 4.0), "start", SIZE, stroke, label);
            left += 28.0 + width_of(label, SIZE) + 16.0;
        }
    }
}
