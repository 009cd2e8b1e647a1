//! Line plots as hand-written SVG: few shapes, no dependency, and readable in
//! a browser, a README and a diff.

use std::fmt::Write;

/// One line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Drawn in dashes.
    pub dashed: bool,
}

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero.
    Linear,
    /// By their logarithm.
    Logarithmic,
    /// Percentiles, each nine as wide as the one before: 0, 90, 99, 99.9 ...
    Percentile,
}

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above the plot.
    pub title: String,
    /// Below the title, smaller.
    pub subtitle: String,
    /// Under the horizontal axis.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// Along the horizontal axis.
    pub x_scale: Scale,
    /// Along the vertical axis.
    pub y_scale: Scale,
    /// The lines.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 64.0;
/// Told apart also by those who do not see all colours (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"];

/// One axis: where values lie and where its marks are.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

/// Percentiles above this are drawn at the edge.
const PERCENTILE_MAX: f64 = 99.999_99;

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            let placed = Axis::place(scale, value);
            low = low.min(placed);
            high = high.max(placed);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        match scale {
            Scale::Linear => (low, high) = (0.0, if high > 0.0 { high * 1.05 } else { 1.0 }),
            Scale::Logarithmic => (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0)),
            Scale::Percentile => (low, high) = (0.0, high.ceil().max(1.0)),
        }
        Axis { scale, low, high }
    }

    fn place(scale: Scale, value: f64) -> f64 {
        match scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(1e-3).log10(),
            Scale::Percentile => -(1.0 - value.clamp(0.0, PERCENTILE_MAX) / 100.0).log10(),
        }
    }

    /// 0 at the low end, 1 at the high end.
    fn fraction(&self, value: f64) -> f64 {
        ((Axis::place(self.scale, value) - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn marks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let rough = self.high / 6.0;
                let unit = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 2.5, 5.0, 10.0]
                    .iter()
                    .map(|step| step * unit)
                    .find(|step| *step >= rough)
                    .unwrap_or(unit * 10.0);
                let count = (self.high / step) as usize;
                (0..=count).map(|k| (k as f64 * step, short(k as f64 * step))).collect()
            }
            Scale::Logarithmic => (self.low as i32..=self.high as i32)
                .map(|power| (10f64.powi(power), short(10f64.powi(power))))
                .collect(),
            Scale::Percentile => (0..=self.high as usize)
                .map(|nines| match nines {
                    0 => (0.0, "0%".into()),
                    1 => (90.0, "90%".into()),
                    2 => (99.0, "99%".into()),
                    _ => {
                        let text = format!("99.{}", "9".repeat(nines - 2));
                        (text.parse().unwrap_or(100.0), text + "%")
                    }
                })
                .collect(),
        }
    }
}

/// `1500` as `1.5k`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let digits = format!("{value:.3}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Plot {
    /// The plot as an SVG document.
    pub fn to_svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x_axis = Axis::new(self.x_scale, points().map(|point| point.0));
        let y_axis = Axis::new(self.y_scale, points().map(|point| point.1));
        let x_at = |value: f64| LEFT + x_axis.fraction(value) * (WIDTH - LEFT - RIGHT);
        let y_at = |value: f64| HEIGHT - BOTTOM - y_axis.fraction(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"17\" font-weight=\"600\">{}</text>\n\
             <text x=\"{LEFT}\" y=\"46\" fill=\"#666\">{}</text>\n",
            escape(&self.title),
            escape(&self.subtitle)
        );
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        // Writing to a string can't fail.
        for (value, label) in x_axis.marks() {
            let x = x_at(value);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 20.0
            );
        }
        for (value, label) in y_axis.marks() {
            let y = y_at(value);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(20 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 18.0,
            escape(&self.x_label),
            (TOP + bottom) / 2.0,
            escape(&self.y_label)
        );
        // A name and its dashed variant share a colour.
        let mut names: Vec<&str> = Vec::new();
        for (at, series) in self.series.iter().enumerate() {
            let base = series.name.split(' ').next().unwrap_or("");
            let colour = names.iter().position(|name| *name == base).unwrap_or_else(|| {
                names.push(base);
                names.len() - 1
            });
            let colour = COLOURS[colour % COLOURS.len()];
            let dash = if series.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let mut path = String::new();
            for (index, point) in series.points.iter().enumerate() {
                let verb = if index == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{verb}{:.1} {:.1}", x_at(point.0), y_at(point.1));
            }
            let y = TOP + 14.0 + 20.0 * at as f64;
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\n\
                 <path d=\"M{:.1} {:.1}h24\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\
                 <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                LEFT + 14.0,
                y - 4.0,
                LEFT + 44.0,
                escape(&series.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers() {
        let axis = Axis::new(Scale::Linear, [0.0, 87_000.0].into_iter());
        let labels: Vec<_> = axis.marks().into_iter().map(|mark| mark.1).collect();
        assert_eq!(labels, ["0", "20k", "40k", "60k", "80k"]);
        let axis = Axis::new(Scale::Logarithmic, [30.0, 4000.0].into_iter());
        let labels: Vec<_> = axis.marks().into_iter().map(|mark| mark.1).collect();
        assert_eq!(labels, ["10", "100", "1k", "10k"]);
        let axis = Axis::new(Scale::Percentile, [0.0, 99.95].into_iter());
        let labels: Vec<_> = axis.marks().into_iter().map(|mark| mark.1).collect();
        assert_eq!(labels, ["0%", "90%", "99%", "99.9%", "99.99%"]);
    }

    #[test]
    fn a_plot_is_one_document_whatever_the_points() {
        for points in [vec![], vec![(0.0, 0.0)], vec![(0.0, 5.0), (100.0, f64::NAN)]] {
            let plot = Plot {
                title: "a < b".into(),
                subtitle: String::new(),
                x_label: "x".into(),
                y_label: "y".into(),
                x_scale: Scale::Percentile,
                y_scale: Scale::Logarithmic,
                series: vec![Series { name: "s".into(), points, dashed: true }],
            };
            let svg = plot.to_svg();
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            assert!(svg.contains("a &lt; b"));
        }
    }
}
