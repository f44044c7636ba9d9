//! What comes out: a table, JSON, a chart.
//!
//! All three are made from one [`json::Document`], so they cannot disagree, and a table or chart can be
//! made again from a JSON file. Nothing here measures anything.

pub mod json;
pub mod progress;
pub mod published;
pub mod ratios;
pub mod svg;
pub mod table;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use crate::error::BenchError;
use crate::plan::Plan;

/// Checks before a run that its files can be written after it. Creates those that do not exist.
///
/// # Errors
/// A file cannot be opened for writing.
pub fn check_writable(plan: &Plan) -> Result<(), BenchError> {
    for file in [&plan.json, &plan.svg].into_iter().flatten() {
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        opened.map_err(|error| unwritable(file, error))?;
    }
    Ok(())
}

/// Writes the files that a plan asks for.
///
/// # Errors
/// A file cannot be written.
pub fn write_files(plan: &Plan, document: &json::Document) -> Result<(), BenchError> {
    if let Some(file) = &plan.json {
        let text = document.to_json().map_err(|error| unwritable(file, error))?;
        fs::write(file, text).map_err(|error| unwritable(file, error))?;
    }
    if let Some(file) = &plan.svg {
        let picture = svg::draw(document).map_err(|reason| unwritable(file, reason))?;
        fs::write(file, picture).map_err(|error| unwritable(file, error))?;
    }
    Ok(())
}

pub(crate) fn unwritable(file: &Path, reason: impl ToString) -> BenchError {
    BenchError::Report { file: file.to_owned(), reason: reason.to_string() }
}
