//! What is wrong with a value, and where it stands.

use super::options;
use std::fmt;
use thiserror::Error;

/// Where an option stands, written `queue[1].bytes_max`; entries of lists count from 0, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPath(pub(super) Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl KeyPath {
    pub(super) fn new(section: &str) -> Self {
        Self::default().key(section)
    }

    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// The table that it stands in and its name there, as [`options::OPTIONS`] names them.
    pub(super) fn option(&self) -> (String, &str) {
        let keys = |step: &Step| match step {
            Step::Key(key) => Some(key.clone()),
            Step::Index(_) => None,
        };
        match self.0.split_last() {
            Some((Step::Key(key), section)) => {
                (section.iter().filter_map(keys).collect::<Vec<_>>().join("."), key)
            }
            _ => (self.0.iter().filter_map(keys).collect::<Vec<_>>().join("."), ""),
        }
    }

    /// What the option may be, in words.
    pub(super) fn allowed(&self) -> Option<String> {
        let (section, key) = self.option();
        options::rule(&section, key).map(|rule| rule.allowed.to_string())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, step)| match step {
            Step::Key(key) if at == 0 => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
            Step::Index(index) => write!(f, "[{index}]"),
        })
    }
}

/// A value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key} = {value}: {problem}; allowed: {allowed}")]
pub struct ConfigFault {
    /// The option.
    pub key: KeyPath,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub allowed: String,
}

impl ConfigFault {
    /// A fault of an option, with what the table of options allows for it.
    pub(super) fn new(key: KeyPath, value: impl fmt::Debug, problem: impl Into<String>) -> Self {
        let allowed = key.allowed().unwrap_or_default();
        Self { key, value: format!("{value:?}"), problem: problem.into(), allowed }
    }

    pub(super) fn allowing(self, allowed: impl Into<String>) -> Self {
        Self { allowed: allowed.into(), ..self }
    }
}
