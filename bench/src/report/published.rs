//! Published figures, to be printed beside a run's own.
//!
//! Another machine, another network, another decade: they give readers their bearings and are never
//! divided by.

/// The file, with its source in its first lines.
const FILE: &str = include_str!("../../data/qpid-roundtrip.csv");

/// Mean round-trip times as they were published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where they come from, a line each.
    pub source: Vec<&'static str>,
    /// Message sizes in bytes, as published.
    pub sizes: Vec<&'static str>,
    /// A configuration each, with its means in milliseconds as published.
    pub rows: Vec<(&'static str, Vec<&'static str>)>,
}

impl Published {
    /// The round trips through a Qpid broker that PayPal published in 2013.
    #[must_use]
    pub fn qpid() -> Self {
        let source = FILE.lines().filter_map(|line| line.strip_prefix("# ")).collect();
        let mut lines = FILE.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(','));
        let sizes = lines.next().map(|head| head.skip(1).collect()).unwrap_or_default();
        let rows = lines.filter_map(|mut cells| Some((cells.next()?, cells.collect()))).collect();
        Self { source, sizes, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_configurations_of_ten_sizes() {
        let published = Published::qpid();
        assert_eq!(published.sizes.len(), 10);
        assert_eq!(published.rows.len(), 3);
        for (configuration, means) in &published.rows {
            assert_eq!(means.len(), 10, "{configuration}");
            assert!(means.iter().all(|mean| mean.parse::<f64>().is_ok()), "{configuration}");
        }
        assert_eq!(published.rows[0].0, "Single Node TCP over 1GbE");
        assert!(published.source.concat().contains("ApacheCon NA 2013"));
    }
}
