//! The figures of a run, as data, as JSON and as a table.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::report::table;
use crate::statistics::{percentile, rounded};

/// Everything that a run found out. Keys are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The machine.
    pub host: Host,
    /// Bytes of each body.
    pub size: usize,
    /// One for each thing that was done.
    pub cases: Vec<Case>,
}

/// One thing that was done many times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// `death` of a broker, `cut` of a connection, or `move` to another wire.
    pub fault: String,
    /// Of which kind.
    pub variant: String,
    /// How often.
    pub count: usize,
    /// From the fault to the first answer by the new way, in microseconds.
    pub first_answer_us: Times,
    /// Of a death or a cut: from it to the client knowing of it, in microseconds.
    pub noticed_us: Option<Times>,
    /// Of a move: from the wish for it to the new connection being in use, in microseconds.
    pub switched_us: Option<Times>,
}

/// How times are spread, in microseconds: nearest ranks, so that of 50 times the last is the 99th percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Times {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
    pub mean: f64,
}

impl Times {
    /// Of these; zeros of none.
    #[must_use]
    pub fn of(times: &[Duration]) -> Self {
        let mut sample: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        sample.sort_unstable_by(f64::total_cmp);
        let at = |quantile| percentile(&sample, quantile).map_or(0.0, rounded);
        let mean = sample.iter().sum::<f64>() / sample.len().max(1) as f64;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0), mean: rounded(mean) }
    }
}

impl Document {
    /// As JSON, indented, with a newline at the end.
    ///
    /// # Errors
    /// Never for documents made by a run: JSON has a form for all that they hold.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// The report for a person at a terminal.
#[must_use]
pub fn render(document: &Document) -> String {
    let mut text = String::new();
    table::host(&mut text, &document.host);
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        text,
        "\nFrom the fault to the first answer by the new way, bodies of {} bytes, one call at a time, in ms\n\n\
         {:<8}{:<34}{:>6}{:>10}{:>10}{:>10}{:>10}",
        document.size, "what", "how", "times", "p50", "p90", "p99", "max"
    );
    for case in &document.cases {
        line(&mut text, &case.fault, &case.variant, case.count, &case.first_answer_us);
        if let Some(noticed) = &case.noticed_us {
            line(&mut text, "", "  the client knows of it", case.count, noticed);
        }
        if let Some(switched) = &case.switched_us {
            line(&mut text, "", "  the new wire is in use", case.count, switched);
        }
    }
    text
}

fn line(text: &mut String, fault: &str, variant: &str, count: usize, times: &Times) {
    let [p50, p90, p99, max] = [times.p50, times.p90, times.p99, times.max].map(|us| us / 1e3);
    let _ = writeln!(text, "{fault:<8}{variant:<34}{count:>6}{p50:>10.3}{p90:>10.3}{p99:>10.3}{max:>10.3}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_nearest_ranks() {
        let times: Vec<Duration> = (1..=50).rev().map(Duration::from_millis).collect();
        let times = Times::of(&times);
        assert_eq!((times.p50, times.p90, times.p99, times.max), (25e3, 45e3, 50e3, 50e3));
        assert_eq!(times.mean, 25_500.0);
        assert_eq!(Times::of(&[]), Times::default());
    }

    #[test]
    fn a_document_is_the_same_when_it_was_written_and_read() {
        let times = Times::of(&[Duration::from_micros(1500)]);
        let case = |fault: &str, noticed_us, switched_us| Case {
            fault: fault.to_owned(),
            variant: "standby session".to_owned(),
            count: 1,
            first_answer_us: times,
            noticed_us,
            switched_us,
        };
        let cases = vec![case("death", Some(times), None), case("move", None, Some(times))];
        let document = Document { host: Host::inspect(), size: 1024, cases };
        let read: Document = serde_json::from_str(&document.to_json().unwrap()).unwrap();
        assert_eq!(read, document);
        let table = render(&document);
        let line = table.lines().find(|line| line.starts_with("death")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>()[3..],
            ["1", "1.500", "1.500", "1.500", "1.500"]
        );
        assert!(table.contains("the new wire is in use"), "{table}");
    }
}
