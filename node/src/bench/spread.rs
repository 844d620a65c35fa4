//! Repeated measurements in one figure: the median, with the lowest and the highest.
//! On a machine that does other work the spread says how far a figure can be trusted.
//! Not statistics: there are few rounds, and no assumption about what disturbs them.

use std::fmt;

/// The median of some measurements and their extremes.
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], lowest: sorted[0], highest: sorted[sorted.len() - 1] }
    }
}

impl fmt::Display for Spread {
    /// Width and precision are the median's; the extremes follow in brackets with the same precision.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, precision) = (formatter.width().unwrap_or(0), formatter.precision().unwrap_or(2));
        let Self { median, lowest, highest } = self;
        write!(formatter, "{median:>width$.precision$} ({lowest:.precision$} to {highest:.precision$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_extremes_are_told() {
        let table: [(&[f64], &str); 3] = [
            (&[2.0], "  2.0 (2.0 to 2.0)"),
            (&[3.0, 1.0, 2.0], "  2.0 (1.0 to 3.0)"),
            (&[1.0, 4.0], "  4.0 (1.0 to 4.0)"),
        ];
        for (figures, expected) in table {
            assert_eq!(format!("{:>5.1}", Spread::of(figures)), expected, "{figures:?}");
        }
    }
}
