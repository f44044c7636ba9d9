//! What the raw programs print, read.
//!
//! Each prints a heading and one line of figures. Lines that are none are passed over, so that warnings above or
//! between do no harm; output without figures is an error that shows its last line, which is where the programs say
//! what is wrong.

/// What one run of a program, or of ours, has found.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Median time one way in microseconds, if it is told.
    pub p50_us: Option<f64>,
    /// Mean time one way in microseconds.
    pub mean_us: Option<f64>,
    /// Bytes a second, in MiB.
    pub mib_per_s: Option<f64>,
}

/// How to read a program's output.
pub(super) type Parser = fn(&str) -> Option<Figures>;

/// `ib_send_lat` and the like: bytes, iterations, least, most, *typical* (the median) and mean, all one way.
pub(super) fn perftest_latency(output: &str) -> Option<Figures> {
    let row = rows(output).rfind(|row| row.len() >= 9 && all_numbers(row))?;
    Some(Figures { p50_us: number(row[4]), mean_us: number(row[5]), mib_per_s: None })
}

/// `ib_send_bw` and `ib_read_bw`: bytes, iterations, peak, average, messages. Their MB is 2^20 bytes.
pub(super) fn perftest_bandwidth(output: &str) -> Option<Figures> {
    let row = rows(output).rfind(|row| row.len() == 5 && all_numbers(row))?;
    Some(Figures { mib_per_s: number(row[3]), ..Figures::default() })
}

/// `ucx_perftest`: `Final:`, iterations, median, mean. One way.
pub(super) fn ucx(output: &str) -> Option<Figures> {
    let row = rows(output).rfind(|row| row.first() == Some(&"Final:") && row.len() >= 4)?;
    Some(Figures { p50_us: number(row[2]), mean_us: number(row[3]), mib_per_s: None })
}

/// `fi_pingpong`: the seventh column is the mean one way.
pub(super) fn libfabric(output: &str) -> Option<Figures> {
    let row = rows(output).rfind(|row| row.len() == 8 && row[2].starts_with('='))?;
    Some(Figures { mean_us: Some(number(row[6])?), ..Figures::default() })
}

/// `rstream`: the last column is the mean one way.
pub(super) fn rsockets(output: &str) -> Option<Figures> {
    let row = rows(output).rfind(|row| row.len() == 8 && row[0] == "custom")?;
    Some(Figures { mean_us: Some(number(row[7])?), ..Figures::default() })
}

/// What a program without figures said last.
pub(super) fn last_words(output: &str) -> String {
    let is_said = |line: &&str| line.chars().any(char::is_alphanumeric);
    output.lines().rfind(is_said).map_or_else(|| "it said nothing".to_owned(), |line| line.trim().to_owned())
}

fn rows(output: &str) -> impl DoubleEndedIterator<Item = Vec<&str>> {
    output.lines().map(|line| line.split_whitespace().collect())
}

fn all_numbers(row: &[&str]) -> bool {
    row.iter().all(|field| number(field).is_some())
}

fn number(field: &str) -> Option<f64> {
    field.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND_LATENCY: &str = include_str!("samples/ib_send_lat.txt");
    const READ_BANDWIDTH: &str = include_str!("samples/ib_read_bw.txt");
    const UCX: &str = include_str!("samples/ucx_am_lat.txt");
    const UCX_TOO_LONG: &str = include_str!("samples/ucx_too_long.txt");
    const LIBFABRIC: &str = include_str!("samples/fi_pingpong.txt");
    const RSOCKETS: &str = include_str!("samples/rstream.txt");

    fn latency(p50_us: Option<f64>, mean_us: f64) -> Option<Figures> {
        Some(Figures { p50_us, mean_us: Some(mean_us), mib_per_s: None })
    }

    #[test]
    fn real_outputs_are_read() {
        assert_eq!(perftest_latency(SEND_LATENCY), latency(Some(31.40), 159.01));
        let bandwidth = Figures { mib_per_s: Some(24.86), ..Figures::default() };
        assert_eq!(perftest_bandwidth(READ_BANDWIDTH), Some(bandwidth));
        assert_eq!(ucx(UCX), latency(Some(12.0), 38.419));
        assert_eq!(libfabric(LIBFABRIC), latency(None, 2070.96));
        assert_eq!(rsockets(RSOCKETS), latency(None, 1679.48));
    }

    #[test]
    fn headings_alone_are_no_figures() {
        let parsers: [(Parser, &str); 5] = [
            (perftest_latency, SEND_LATENCY),
            (perftest_bandwidth, READ_BANDWIDTH),
            (ucx, UCX),
            (libfabric, LIBFABRIC),
            (rsockets, RSOCKETS),
        ];
        for (index, (parser, own)) in parsers.into_iter().enumerate() {
            let cut: Vec<&str> = own.lines().filter(|line| !is_result(line)).collect();
            assert_eq!(parser(&cut.join("\n")), None, "parser {index} without its line");
            for (other, (_, output)) in parsers.iter().enumerate().filter(|(other, _)| *other != index) {
                assert_eq!(parser(output), None, "parser {index} on the output of {other}");
            }
        }
    }

    fn is_result(line: &str) -> bool {
        let first = line.split_whitespace().next().unwrap_or_default();
        ["64", "64k", "1048576", "custom", "Final:"].contains(&first)
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        assert_eq!(ucx(UCX_TOO_LONG), None);
        assert!(last_words(UCX_TOO_LONG).ends_with("Failed to run test: Unsupported operation"));
        assert_eq!(last_words("\n----\n"), "it said nothing");
    }
}
