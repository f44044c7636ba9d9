//! Where to listen or connect: a wire and a place on it.

use crate::backend::WireKind;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A wire and a place on it, written `tcp://host:port`, `rdma://host:port` or `inproc://name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    wire: WireKind,
    place: String,
}

/// A text that names no wire.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("'{0}' names no wire; expected tcp://host:port, rdma://host:port or inproc://name")]
pub struct AddressError(String);

impl Address {
    /// The place `place` of the TCP wire, `host:port`.
    pub fn tcp(place: impl Into<String>) -> Self {
        Self { wire: WireKind::Tcp, place: place.into() }
    }

    /// The place `place` of the RDMA wire, `host:port`.
    pub fn rdma(place: impl Into<String>) -> Self {
        Self { wire: WireKind::Rdma, place: place.into() }
    }

    /// The place of this name within the process.
    pub fn inproc(name: impl Into<String>) -> Self {
        Self { wire: WireKind::Inproc, place: name.into() }
    }

    /// The same wire, another place.
    pub(super) fn at(&self, place: String) -> Self {
        Self { wire: self.wire, place }
    }

    /// Which wire.
    pub fn wire(&self) -> WireKind {
        self.wire
    }

    /// The place, in the wire's own form.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once("://") {
            Some(("tcp", place)) if !place.is_empty() => Ok(Self::tcp(place)),
            Some(("rdma", place)) if !place.is_empty() => Ok(Self::rdma(place)),
            Some(("inproc", name)) if !name.is_empty() => Ok(Self::inproc(name)),
            _ => Err(AddressError(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.wire, self.place)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["tcp://127.0.0.1:5700", "tcp://[::1]:0", "rdma://10.0.0.5:7400", "inproc://orders"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "127.0.0.1:5700", "udp://127.0.0.1:5700", "tcp://", "rdma://", "tcp:/x"] {
            let refused = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                refused.contains(&format!("'{text}'")) && refused.contains("tcp://host:port"),
                "{refused}"
            );
        }
    }
}
