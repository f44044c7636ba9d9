//! Which existing names somebody may have meant.

/// How many names are suggested.
const SUGGESTED_MAX: usize = 3;

/// How many names are looked at, and how many bytes of each: what a hostile peer can make this cost is bounded.
const LOOKED_AT_MAX: usize = 256;
const BYTES_MAX: usize = 64;

/// The candidates most like `name`, the nearest first. Those that share hardly anything with it are left out.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<(usize, &str)> = candidates
        .take(LOOKED_AT_MAX)
        .map(|candidate| (distance(name.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()) / 2)
        .collect();
    found.sort();
    found.into_iter().take(SUGGESTED_MAX).map(|(_, candidate)| candidate).collect()
}

/// The same as a sentence to be appended to an error; empty without a suggestion.
pub(crate) fn suggestion<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = nearest(name, candidates).iter().map(|name| format!("'{name}'")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

/// How many bytes must be put in, taken out or changed to make one of the other (Levenshtein, with one row).
fn distance(from: &[u8], to: &[u8]) -> usize {
    let (from, to) = (&from[..from.len().min(BYTES_MAX)], &to[..to.len().min(BYTES_MAX)]);
    let mut row = [0; BYTES_MAX + 1];
    for (at, cost) in row.iter_mut().enumerate() {
        *cost = at;
    }
    for (at, from_byte) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, to_byte) in to.iter().enumerate() {
            let changed = diagonal + usize::from(from_byte != to_byte);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (from, to, expected) in
            [("", "abc", 3), ("kitten", "sitting", 3), ("order", "orders", 1), ("a", "a", 0)]
        {
            assert_eq!(distance(from.as_bytes(), to.as_bytes()), expected, "{from} {to}");
            assert_eq!(distance(to.as_bytes(), from.as_bytes()), expected, "{to} {from}");
        }
        let long = "x".repeat(300);
        assert_eq!(distance(long.as_bytes(), b""), BYTES_MAX);
    }

    #[test]
    fn the_nearest_names_are_suggested_and_far_ones_are_not() {
        let names = ["orders", "order-replies", "invoices", "audit"];
        assert_eq!(nearest("oders", names.into_iter()), ["orders"]);
        assert_eq!(suggestion("zzzzzzzz", names.into_iter()), "");
        assert_eq!(suggestion("invoice", names.into_iter()), "; did you mean 'invoices'?");
    }
}
