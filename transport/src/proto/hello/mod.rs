//! The hello: what each end says before the first frame.
//!
//! A client sends a [`ClientHello`], a server answers with a [`ServerHello`] or a [`Refusal`]. The
//! first 16 bytes ([`Prefix`]) and the whole refusal keep their layout in every version, so that ends
//! that share none can still say so; the rest belongs to the version. Nothing here decides anything:
//! that is [`super::handshake`]'s.

mod extensions;
mod refusal;

pub use extensions::{HelloExtensions, SecurityKind};
pub use refusal::Refusal;

use super::bytes::{array_at, check_reserved, put, u16_at, u32_at, u64_at};
use super::{
    Incarnation, LANES, LINE_BYTES, Origin, Parameters, PeerMisbehaved, ProcessId, STREAMS, SessionId,
    SessionProof, SessionToken, VERSION, whole_lines,
};

/// The first bytes of every hello.
pub const MAGIC: [u8; 8] = *b"underlay";

/// The bytes of a hello that are the same in every version.
pub const PREFIX_BYTES: usize = 16;

/// The longest hello.
pub const HELLO_BYTES_MAX: usize = 4096;

/// The fixed fields of a client's or server's hello; extensions follow.
const FIXED_BYTES: usize = 160;

/// Where the resume positions stand, by stream.
const RESUME_AT: [usize; STREAMS] = [72, 80, 88, 152];

/// Who sends a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HelloRole {
    /// The end that connected.
    Client = 1,
    /// The end that was connected to, and accepts.
    Server = 2,
    /// The end that was connected to, and refuses.
    Refusal = 3,
}

/// Versions from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    min: u16,
    max: u16,
}

impl VersionRange {
    /// What this module speaks.
    pub const SUPPORTED: Self = Self::only(VERSION);

    /// One version; zero is none and becomes 1.
    pub const fn only(version: u16) -> Self {
        let version = if version == 0 { 1 } else { version };
        Self { min: version, max: version }
    }

    /// A range of versions.
    ///
    /// # Errors
    /// [`PeerMisbehaved::VersionRange`] if it is empty or begins with zero.
    pub const fn new(min: u16, max: u16) -> Result<Self, PeerMisbehaved> {
        if min == 0 || max < min {
            return Err(PeerMisbehaved::VersionRange { min, max });
        }
        Ok(Self { min, max })
    }

    /// The oldest.
    pub const fn min(self) -> u16 {
        self.min
    }

    /// The newest.
    pub const fn max(self) -> u16 {
        self.max
    }

    /// The newest that both have.
    pub fn newest_common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

impl std::fmt::Display for VersionRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// What an end can do beyond the least. A client offers, a server takes of it what it can do as well;
/// bits that an end does not know it does not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Deliveries are settled by [`super::control::Settle`].
    pub const SETTLEMENT: Self = Self(1 << 0);
    /// Bodies are offered for one-sided reads. Of each connection, not of its session: offered only where the wire
    /// beneath it can.
    pub const ONE_SIDED_READS: Self = Self(1 << 1);

    /// What both have.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What both these and the others have.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is left without the others.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is there.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Which process speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// The process, for as long as it keeps its identity, restarts included.
    pub process: ProcessId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// The origin of the messages that it sends first.
    pub origin: Origin,
}

/// The relation of the two processes beyond this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionTerms {
    /// The session to be resumed; from a server, the one that holds. None asks for a new one, or says
    /// that nothing outlives the connection.
    pub session: Option<SessionId>,
    /// Which attempt of the client to connect to it this is, so that of two connections the later one holds.
    pub epoch: u32,
    /// Milliseconds for which it outlives a connection.
    pub expiry_ms: u32,
    /// By stream, the sequence number of the next record that the speaker expects to receive. It counts
    /// only where the server's hello names the session that the client's named.
    pub resume: [u64; STREAMS],
    /// That the speaker knows the token of the session that is resumed.
    pub proof: Option<SessionProof>,
    /// From a server: by what the session is resumed next time.
    pub token: Option<SessionToken>,
}

/// What client and server say alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloBody {
    /// Offered by the client, taken by the server.
    pub capabilities: Capabilities,
    /// Who speaks.
    pub process: ProcessIdentity,
    /// The session.
    pub session: SessionTerms,
    /// Proposed by the client, settled by the server.
    pub parameters: Parameters,
    /// Securities, wires, the name of the process, and what a later end adds.
    pub extensions: HelloExtensions,
}

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The versions that it speaks.
    pub versions: VersionRange,
    /// All else.
    pub body: HelloBody,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The version that it chose.
    pub version: u16,
    /// All else.
    pub body: HelloBody,
}

/// The first 16 bytes of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Who speaks.
    pub role: HelloRole,
    /// Bytes of the whole hello.
    pub hello_bytes: u16,
    /// The versions that it names.
    pub versions: VersionRange,
}

impl Prefix {
    /// Looks at what has arrived of a hello, however little: `None` if it may yet become one.
    ///
    /// # Errors
    /// What is wrong as soon as it shows: at the first byte, if that is not the magic's.
    pub fn check(received: &[u8]) -> Result<Option<Self>, PeerMisbehaved> {
        let differs = received.iter().zip(&MAGIC).position(|(found, expected)| found != expected);
        if let Some(offset) = differs {
            return Err(PeerMisbehaved::NotUnderlay { offset: offset as u8, found: received[offset] });
        }
        received.first_chunk().map(Self::parse).transpose()
    }

    fn parse(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, PeerMisbehaved> {
        let (role, min) = match bytes[12] {
            1 => (HelloRole::Client, whole_lines(FIXED_BYTES)),
            2 => (HelloRole::Server, whole_lines(FIXED_BYTES)),
            3 => (HelloRole::Refusal, LINE_BYTES),
            role => return Err(PeerMisbehaved::HelloRole { role }),
        };
        check_reserved(bytes, 13, 1)?;
        let hello_bytes = u16_at(bytes, 14);
        let length = usize::from(hello_bytes);
        if !(min..=HELLO_BYTES_MAX).contains(&length) || !length.is_multiple_of(LINE_BYTES) {
            return Err(PeerMisbehaved::HelloBytes { hello_bytes, min: min as u16 });
        }
        let versions = VersionRange::new(u16_at(bytes, 8), u16_at(bytes, 10))?;
        Ok(Self { role, hello_bytes, versions })
    }

    /// The prefix of a hello that is all there.
    fn of_whole(hello: &[u8], role: HelloRole) -> Result<Self, PeerMisbehaved> {
        let found = hello.len() as u32;
        let prefix = Self::check(hello)?.ok_or(PeerMisbehaved::HelloLength { hello_bytes: 16, found })?;
        if prefix.role != role {
            return Err(PeerMisbehaved::HelloRole { role: prefix.role as u8 });
        }
        if hello.len() != usize::from(prefix.hello_bytes) {
            return Err(PeerMisbehaved::HelloLength { hello_bytes: prefix.hello_bytes, found });
        }
        Ok(prefix)
    }

    fn write(&self, out: &mut [u8]) {
        put(out, 0, MAGIC);
        put(out, 8, self.versions.min.to_le_bytes());
        put(out, 10, self.versions.max.to_le_bytes());
        out[12] = self.role as u8;
        put(out, 14, self.hello_bytes.to_le_bytes());
    }
}

impl ClientHello {
    /// Parses a whole client's hello.
    ///
    /// # Errors
    /// Whatever it breaks, impossible parameters included.
    pub fn parse(hello: &[u8]) -> Result<Self, PeerMisbehaved> {
        let prefix = Prefix::of_whole(hello, HelloRole::Client)?;
        Ok(Self { versions: prefix.versions, body: HelloBody::parse(hello)? })
    }

    /// The hello as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        self.body.encode(HelloRole::Client, self.versions)
    }
}

impl ServerHello {
    /// Parses a whole server's hello.
    ///
    /// # Errors
    /// Whatever it breaks in itself; whether it keeps to the client's proposal is not checked here.
    pub fn parse(hello: &[u8]) -> Result<Self, PeerMisbehaved> {
        let prefix = Prefix::of_whole(hello, HelloRole::Server)?;
        let VersionRange { min, max } = prefix.versions;
        if min != max {
            return Err(PeerMisbehaved::VersionRange { min, max });
        }
        Ok(Self { version: min, body: HelloBody::parse(hello)? })
    }

    /// The hello as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        self.body.encode(HelloRole::Server, VersionRange::only(self.version))
    }
}

impl HelloBody {
    /// Parses what follows the prefix of a hello whose length has been checked.
    fn parse(hello: &[u8]) -> Result<Self, PeerMisbehaved> {
        for (at, count) in [(44, 4), (142, 2)] {
            check_reserved(hello, at, count)?;
        }
        let lanes = u16_at(hello, 126);
        if usize::from(lanes) != LANES {
            return Err(PeerMisbehaved::LaneCount { lanes });
        }
        let parameters = read_parameters(hello);
        parameters.check()?;
        let extensions = HelloExtensions::parse(&hello[FIXED_BYTES..], FIXED_BYTES)?;
        let needed = whole_lines(FIXED_BYTES + extensions.as_bytes().len());
        if needed != hello.len() {
            let (hello_bytes, needed) = (hello.len() as u16, needed as u16);
            return Err(PeerMisbehaved::HelloLinesSpare { hello_bytes, needed });
        }
        Ok(Self {
            capabilities: Capabilities(u64_at(hello, 16)),
            process: ProcessIdentity {
                process: ProcessId(array_at(hello, 24)),
                incarnation: Incarnation(u32_at(hello, 40)),
                origin: Origin(u64_at(hello, 144)),
            },
            session: SessionTerms {
                session: SessionId::new(array_at(hello, 48)),
                epoch: u32_at(hello, 64),
                expiry_ms: u32_at(hello, 68),
                resume: RESUME_AT.map(|at| u64_at(hello, at)),
                proof: extensions.session_proof(),
                token: extensions.session_token(),
            },
            parameters,
            extensions,
        })
    }

    fn encode(&self, role: HelloRole, versions: VersionRange) -> Vec<u8> {
        let extensions = self.extensions.as_bytes();
        // Extensions are bounded where they are made, so this is at most HELLO_BYTES_MAX.
        let mut out = vec![0; whole_lines(FIXED_BYTES + extensions.len())];
        Prefix { role, hello_bytes: out.len() as u16, versions }.write(&mut out);
        put(&mut out, 16, self.capabilities.0.to_le_bytes());
        put(&mut out, 24, self.process.process.0);
        put(&mut out, 40, self.process.incarnation.0.to_le_bytes());
        put(&mut out, 48, self.session.session.map_or([0; 16], |session| *session.as_bytes()));
        put(&mut out, 64, self.session.epoch.to_le_bytes());
        put(&mut out, 68, self.session.expiry_ms.to_le_bytes());
        for (at, position) in RESUME_AT.into_iter().zip(self.session.resume) {
            put(&mut out, at, position.to_le_bytes());
        }
        write_parameters(&self.parameters, &mut out);
        put(&mut out, 126, (LANES as u16).to_le_bytes());
        put(&mut out, 144, self.process.origin.0.to_le_bytes());
        out[FIXED_BYTES..FIXED_BYTES + extensions.len()].copy_from_slice(extensions);
        out
    }
}

fn read_parameters(hello: &[u8]) -> Parameters {
    Parameters {
        packet_bytes: u32_at(hello, 96),
        frame_bytes_max: u32_at(hello, 100),
        eager_bytes_max: u32_at(hello, 104),
        chunk_bytes_max: u32_at(hello, 108),
        message_bytes_max: u64_at(hello, 112),
        frame_slots: u32_at(hello, 120),
        control_slots: u16_at(hello, 124),
        keep_alive_ms: u32_at(hello, 128),
        idle_timeout_ms: u32_at(hello, 132),
        links_max: u32_at(hello, 136),
        head_bytes_max: u16_at(hello, 140),
    }
}

fn write_parameters(parameters: &Parameters, out: &mut [u8]) {
    put(out, 96, parameters.packet_bytes.to_le_bytes());
    put(out, 100, parameters.frame_bytes_max.to_le_bytes());
    put(out, 104, parameters.eager_bytes_max.to_le_bytes());
    put(out, 108, parameters.chunk_bytes_max.to_le_bytes());
    put(out, 112, parameters.message_bytes_max.to_le_bytes());
    put(out, 120, parameters.frame_slots.to_le_bytes());
    put(out, 124, parameters.control_slots.to_le_bytes());
    put(out, 128, parameters.keep_alive_ms.to_le_bytes());
    put(out, 132, parameters.idle_timeout_ms.to_le_bytes());
    put(out, 136, parameters.links_max.to_le_bytes());
    put(out, 140, parameters.head_bytes_max.to_le_bytes());
}
