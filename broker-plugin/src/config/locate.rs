//! Where an option stands in a file.

use super::fault::{KeyPath, Step};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The place of an option, or of the innermost table above it that the file has.
pub(super) struct Found {
    pub(super) span: Range<usize>,
    /// The option itself is there.
    pub(super) is_exact: bool,
}

/// Where `path` stands; a default that the file does not mention is found at its table, or at the file's beginning.
pub(super) fn find(table: &DeTable<'_>, path: &KeyPath) -> Found {
    let mut found = Found { span: 0..0, is_exact: false };
    let mut at: Option<&Spanned<DeValue<'_>>> = None;
    for step in &path.0 {
        let next = match (at.map(Spanned::get_ref), step) {
            (None, Step::Key(key)) => table.get(key.as_str()),
            (Some(DeValue::Table(inner)), Step::Key(key)) => inner.get(key.as_str()),
            (Some(DeValue::Array(inner)), Step::Index(index)) => inner.get(*index),
            _ => None,
        };
        let Some(next) = next else { return found };
        found.span = next.span();
        at = Some(next);
    }
    found.is_exact = true;
    found
}

/// Which option stands at this byte: the innermost one whose name or value covers it.
pub(super) fn option_at(table: &DeTable<'_>, offset: usize) -> Option<KeyPath> {
    in_table(table, offset, &KeyPath::default())
}

fn in_table(table: &DeTable<'_>, offset: usize, above: &KeyPath) -> Option<KeyPath> {
    // A table's own span may be no more than its header, so every value is looked into.
    table.iter().find_map(|(key, value)| {
        let path = above.key(key.get_ref());
        in_value(value, offset, &path).or_else(|| key.span().contains(&offset).then_some(path))
    })
}

fn in_value(value: &Spanned<DeValue<'_>>, offset: usize, path: &KeyPath) -> Option<KeyPath> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => in_table(table, offset, path),
        DeValue::Array(array) => {
            array.iter().enumerate().find_map(|(index, value)| in_value(value, offset, &path.index(index)))
        }
        _ => None,
    };
    inner.or_else(|| value.span().contains(&offset).then(|| path.clone()))
}

/// The line and the column of a byte, both counted from 1, the column in characters.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
