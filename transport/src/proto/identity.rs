//! The names that records and hellos carry: small values that must not be mistaken for one another.

use std::fmt;
use std::num::NonZeroU32;

use sha2::{Digest, Sha256};

/// One producer or one consumer at one queue, within a session. Never zero: on the wire, zero says
/// "no link", which only a reply may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(NonZeroU32);

impl LinkId {
    /// The first link of a connecting end.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The link of this number, or `None` for zero.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number, never zero.
    pub const fn value(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What matches a reply to its request. The requesting process alone gives it a meaning (shard, slot
/// and generation); everybody else returns it as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CorrelationId(pub u64);

/// Where a message was first sent from. Together with the [`MessageNumber`] it tells copies of one
/// message apart from different messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

/// The number that its origin gave to a message, from 1 on. 0 is none: such a message cannot be told apart from others
/// of its origin, and so is handled as often as it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageNumber(pub u64);

/// Which life of a process speaks: a process that starts again has another one, so a late reply to
/// its former life is recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u32);

/// A process, by 16 random bytes that it draws once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId(pub [u8; 16]);

/// A session, by 16 bytes that its server draws. Zeros are no session: `Option::None` in the types.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// The session of this name, or `None` for zeros, which mean a new session on the wire.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Its bytes, not all zero.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// By which a session is resumed: 32 bytes that its server draws, good for one use. `Debug` hides them.
///
/// Nobody sends it back. Each end shows that it has it by a digest of its own ([`SessionToken::client_proof`],
/// [`SessionToken::server_proof`]), so whoever is shown a proof learns nothing by which it could resume anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionToken(pub [u8; 32]);

impl SessionToken {
    /// What a client shows: the SHA-256 digest of the token and `client`.
    pub fn client_proof(&self) -> SessionProof {
        self.proof(b"client")
    }

    /// What a server shows: the SHA-256 digest of the token and `server`.
    pub fn server_proof(&self) -> SessionProof {
        self.proof(b"server")
    }

    fn proof(&self, end: &[u8]) -> SessionProof {
        SessionProof(Sha256::new().chain_update(self.0).chain_update(end).finalize().into())
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(hidden)")
    }
}

/// That an end knows a session's token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionProof(pub [u8; 32]);

/// Where replies go: the first 16 bytes of the SHA-256 digest of a [`ReplySecret`].
///
/// It travels in every request, so anybody may know it; only who knows the secret can attach to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplyAddress(pub [u8; 16]);

impl ReplyAddress {
    /// The address that this secret may claim.
    pub fn of(secret: &ReplySecret) -> Self {
        let digest: [u8; 32] = Sha256::digest(secret.0).into();
        let mut address = [0; 16];
        address.copy_from_slice(&digest[..16]);
        Self(address)
    }
}

/// The proof that a reply address is one's own, shown to a broker on attaching. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplySecret(pub [u8; 32]);

impl fmt::Debug for ReplySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplySecret(hidden)")
    }
}

macro_rules! debug_as_hex {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    )+};
}

debug_as_hex!(ProcessId, SessionId, SessionProof, ReplyAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_beginning_of_the_digest_of_its_secret() {
        // `head -c 32 /dev/zero | sha256sum`
        let expected = "66687aadf862bd776c8fc18b8e9f8e20";
        assert_eq!(ReplyAddress::of(&ReplySecret([0; 32])).to_string(), expected);
        assert_ne!(ReplyAddress::of(&ReplySecret([1; 32])).to_string(), expected);
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", ReplySecret([0xab; 32])), "ReplySecret(hidden)");
    }

    #[test]
    fn zero_is_neither_a_link_nor_a_session() {
        assert_eq!(LinkId::new(0), None);
        assert_eq!(LinkId::new(7).map(LinkId::value), Some(7));
        assert_eq!(SessionId::new([0; 16]), None);
        assert_eq!(SessionId::new([3; 16]).map(|id| *id.as_bytes()), Some([3; 16]));
    }
}
