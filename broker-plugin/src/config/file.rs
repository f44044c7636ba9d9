//! Reading `broker.toml`, and saying where in it something is wrong.

use super::fault::{ConfigFault, KeyPath};
use super::{Config, Settings, locate, options};
use crate::nearest::suggestion;
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::de::DeTable;

/// Why a file is no configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {error}", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// It is not TOML.
    #[error("{file}:{line}:{column}: not TOML: {problem}", file = .file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the parser met.
        problem: String,
    },
    /// An option has a value that cannot work, or is none.
    #[error("{file}:{line}:{column}: {fault}", file = .file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The line, from 1; for a default, that of its table.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The option, its value, what is wrong, what is allowed.
        fault: Box<ConfigFault>,
    },
}

impl Config {
    /// Reads a configuration from a file.
    ///
    /// # Errors
    /// [`ConfigError`], in one line: file, line, column, option, value, what is wrong, what is allowed.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError::Read { file: file.to_owned(), error })?;
        Self::parse(&text, file)
    }

    /// Reads a configuration from a text; `file` is what errors call it.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let source = Source { text, file };
        let table = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
        let table = table.get_ref();
        let settings: Settings = toml::from_str(text).map_err(|error| source.type_error(table, &error))?;
        Self::from_settings(settings).map_err(|fault| {
            let found = locate::find(table, &fault.key);
            let value =
                if found.is_exact { fault.value.clone() } else { format!("{} (default)", fault.value) };
            source.value(found.span.start, ConfigFault { value, ..fault })
        })
    }
}

struct Source<'a> {
    text: &'a str,
    file: &'a Path,
}

impl Source<'_> {
    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let (line, column) = locate::line_and_column(self.text, error.span().map_or(0, |span| span.start));
        ConfigError::Syntax { file: self.file.to_owned(), line, column, problem: one_line(error.message()) }
    }

    fn value(&self, offset: usize, fault: ConfigFault) -> ConfigError {
        let (line, column) = locate::line_and_column(self.text, offset);
        ConfigError::Value { file: self.file.to_owned(), line, column, fault: Box::new(fault) }
    }

    /// A value of the wrong type, a key that is none, or one that is missing.
    fn type_error(&self, table: &DeTable<'_>, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        let key = locate::option_at(table, span.start).unwrap_or_default();
        let value = one_line(self.text.get(span.clone()).unwrap_or_default());
        let problem = one_line(error.message());
        let fault = match missing_field(&problem) {
            Some(missing) => ConfigFault::new(key.key(missing), "", "it is missing").without_value(),
            None if key.allowed().is_some() => {
                ConfigFault { value, ..ConfigFault::new(key, "", short(&problem)) }
            }
            None => unknown(key, value),
        };
        self.value(span.start, fault)
    }
}

/// An option that does not exist.
fn unknown(key: KeyPath, value: String) -> ConfigFault {
    let (section, name) = key.option();
    let known: Vec<&str> = if section.is_empty() {
        vec!["[broker]", "[limits]", "[rdma]", "[[listener]]", "[[queue]]", "[[exchange]]"]
    } else {
        options::keys(&section).collect()
    };
    let problem = format!("there is no such option{}", suggestion(name, known.iter().copied()));
    ConfigFault { value, ..ConfigFault::new(key, "", problem) }.allowing(known.join(", "))
}

impl ConfigFault {
    fn without_value(self) -> Self {
        Self { value: "(nothing)".to_owned(), ..self }
    }
}

/// The parser says so in words only.
fn missing_field(problem: &str) -> Option<&str> {
    problem.strip_prefix("missing field `")?.split('`').next()
}

/// Without what it expected in Rust's terms; what is allowed is said in ours.
fn short(problem: &str) -> &str {
    problem.split(", expected").next().unwrap_or(problem)
}

fn one_line(text: &str) -> String {
    const CHARACTERS_MAX: usize = 120;
    text.lines().next().unwrap_or_default().chars().take(CHARACTERS_MAX).collect()
}
