//! Reads the annotated hexadecimal files in `tests/vectors`.
//!
//! A line is an offset, the bytes there, and what they mean, which begins two spaces behind the last
//! byte at the earliest. Lines that begin with `#` are titles.

use std::path::{Path, PathBuf};

/// Where the vectors are.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// The names of all vectors, in order.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory())
        .expect("the vectors' directory is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no vectors in {}", directory().display());
    names
}

/// The text of a vector.
pub(crate) fn text(name: &str) -> String {
    let path = directory().join(name).with_extension("hex");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The bytes of a vector.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text(name).lines().filter(|line| !line.starts_with('#')) {
        let (offset, rest) = line.trim_start().split_once("  ").unwrap_or_else(|| panic!("{name}: {line}"));
        assert_eq!(offset.parse(), Ok(bytes.len()), "{name}: the offset of {line}");
        let hex = rest.split("  ").next().expect("split yields something");
        bytes.extend(hex.split(' ').map(|byte| {
            u8::from_str_radix(byte, 16).unwrap_or_else(|error| panic!("{name}: {byte} in {line}: {error}"))
        }));
    }
    bytes
}
