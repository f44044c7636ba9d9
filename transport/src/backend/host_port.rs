//! From what people write to socket addresses, and from what the system says of them to errors.

use super::{ConnectError, ListenError, WireKind};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// The form of an address, for errors.
const EXPECTED: &str = "host:port, as in 10.0.0.5:7400, [fe80::1]:7400 or broker.example.org:7400";

/// The addresses that `text` names; at least one.
///
/// Blocks on the system's resolver if the host is a name.
pub(in crate::backend) fn resolve(text: &str) -> Result<Vec<SocketAddr>, BadAddress> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| BadAddress("it has no port".into()))?;
    let port: u16 = port.parse().map_err(|_| BadAddress(format!("'{port}' is no port (0 to 65535)")))?;
    if host.is_empty() {
        return Err(BadAddress("it has no host".into()));
    }
    if host.starts_with('[') || host.ends_with(']') {
        return Err(BadAddress(format!("'{host}' is no IPv6 address in brackets")));
    }
    if host.contains(':') {
        return Err(BadAddress("an IPv6 address needs brackets".into()));
    }
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|error| BadAddress(format!("the host cannot be resolved: {error}")))?;
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err(BadAddress("the host has no address".into()));
    }
    Ok(found)
}

/// As [`resolve`], for a peer to connect to: port 0 is none.
pub(in crate::backend) fn resolve_peer(text: &str) -> Result<Vec<SocketAddr>, BadAddress> {
    let addresses = resolve(text)?;
    if addresses.iter().any(|address| address.port() == 0) {
        return Err(BadAddress("nobody can listen at port 0".into()));
    }
    Ok(addresses)
}

/// What is wrong with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) struct BadAddress(String);

impl BadAddress {
    pub(in crate::backend) fn into_listen(self, wire: WireKind, address: &str) -> ListenError {
        ListenError::Address { address: address.into(), wire, reason: self.0, expected: EXPECTED }
    }

    pub(in crate::backend) fn into_connect(self, wire: WireKind, address: &str) -> ConnectError {
        ConnectError::Address { address: address.into(), wire, reason: self.0, expected: EXPECTED }
    }
}

/// The error for a listener that did not come up.
pub(in crate::backend) fn listen_error(address: &str, error: io::Error) -> ListenError {
    let address = address.to_owned();
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => ListenError::InUse { address },
        Some(libc::EADDRNOTAVAIL | libc::EACCES | libc::EAFNOSUPPORT) => {
            ListenError::Unavailable { address, error }
        }
        Some(libc::EMFILE | libc::ENFILE) => ListenError::DescriptorLimit { address },
        _ => ListenError::System { address, error },
    }
}

/// The error for a connection that could not even be tried.
pub(in crate::backend) fn connect_error(address: &str, error: io::Error) -> ConnectError {
    let address = address.to_owned();
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => ConnectError::DescriptorLimit { address },
        _ => ConnectError::System { address, error },
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_they_are_written() {
        assert_eq!(resolve("127.0.0.1:7").unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        assert_eq!(resolve("[::1]:70").unwrap(), ["[::1]:70".parse().unwrap()]);
        assert!(resolve("localhost:80").unwrap().iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "no port"),
            ("localhost", "no port"),
            (":80", "no host"),
            ("localhost:", "'' is no port"),
            ("localhost:65536", "'65536' is no port"),
            ("localhost:-1", "'-1' is no port"),
            ("::1:80", "needs brackets"),
            ("[::1:80", "in brackets"),
            ("[nonsense]:80", "in brackets"),
            ("no host:80", "cannot be resolved"),
        ] {
            let BadAddress(said) = resolve(text).unwrap_err();
            assert!(said.contains(reason), "{text}: {said}");
        }
        let BadAddress(said) = resolve_peer("127.0.0.1:0").unwrap_err();
        assert!(said.contains("port 0"), "{said}");
    }
}
