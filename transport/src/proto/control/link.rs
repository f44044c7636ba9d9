//! The control records that are about one link.

use super::codes::DetachCode;
use super::{expect_at_least, expect_exactly, put_trailing, trailing};
use crate::proto::bytes::{check_reserved, put, u16_at, u32_at, u64_at};
use crate::proto::text::{Name, ReasonText};
use crate::proto::{LinkId, PeerMisbehaved, ReplySecret};

/// Who sends on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LinkRole {
    /// The end that attaches sends.
    Producer = 0,
    /// The end that attaches receives.
    Consumer = 1,
    /// The end that attaches receives, and settles what it was given ([`super::Settle`]). Only where
    /// [`crate::proto::hello::Capabilities::SETTLEMENT`] was negotiated.
    SettlingConsumer = 2,
}

impl LinkRole {
    /// Whether the end that attaches receives.
    pub const fn consumes(self) -> bool {
        !matches!(self, Self::Producer)
    }
}

/// How far the sender of a link may go: absolute positions, which count from its attaching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCredit {
    /// Messages below this position may be sent.
    pub message_limit: u64,
    /// Bytes of bodies below this position may be sent.
    pub byte_limit: u64,
}

impl LinkCredit {
    fn at(record: &[u8], at: usize) -> Self {
        Self { message_limit: u64_at(record, at), byte_limit: u64_at(record, at + 8) }
    }

    fn write(&self, out: &mut [u8], at: usize) {
        put(out, at, self.message_limit.to_le_bytes());
        put(out, at + 8, self.byte_limit.to_le_bytes());
    }
}

/// What a link attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// A destination by its name.
    Named(Name<'a>),
    /// The reply address of this secret, which proves that it is one's own. Only for consumers.
    Reply(ReplySecret),
}

/// Asks for a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach<'a> {
    /// The number that the asking end gives it.
    pub link: LinkId,
    /// Whether the asking end sends or receives on it.
    pub role: LinkRole,
    /// What it attaches to.
    pub address: Address<'a>,
    /// A consumer's first grant; zeros for a producer.
    pub credit: LinkCredit,
}

impl<'a> Attach<'a> {
    const ADDRESS_AT: usize = 32;

    pub(super) fn parse(record: &'a [u8]) -> Result<Self, PeerMisbehaved> {
        expect_at_least(record, Self::ADDRESS_AT)?;
        let attach = Self {
            link: link_at_8(record)?,
            role: role(record[12])?,
            address: address(record[13], trailing(record, Self::ADDRESS_AT, u16_at(record, 14))?)?,
            credit: LinkCredit::at(record, 16),
        };
        attach.check()?;
        Ok(attach)
    }

    fn check(&self) -> Result<(), PeerMisbehaved> {
        if self.role.consumes() {
            return Ok(());
        }
        if matches!(self.address, Address::Reply(_)) {
            return Err(PeerMisbehaved::ReplyAddressProducer);
        }
        let LinkCredit { message_limit: messages, byte_limit: bytes } = self.credit;
        if messages != 0 || bytes != 0 {
            return Err(PeerMisbehaved::ProducerGrants { messages, bytes });
        }
        Ok(())
    }

    const fn address_bytes(&self) -> &[u8] {
        match &self.address {
            Address::Named(name) => name.as_str().as_bytes(),
            Address::Reply(secret) => &secret.0,
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        Self::ADDRESS_AT + self.address_bytes().len()
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        let kind = match self.address {
            Address::Named(_) => 0,
            Address::Reply(_) => 1,
        };
        put(out, 8, self.link.value().to_le_bytes());
        put(out, 12, [self.role as u8, kind]);
        put(out, 14, (self.address_bytes().len() as u16).to_le_bytes());
        self.credit.write(out, 16);
        put_trailing(out, Self::ADDRESS_AT, self.address_bytes());
    }
}

/// Grants a link that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Which one.
    pub link: LinkId,
    /// A producer's first credit; zeros for a consumer.
    pub credit: LinkCredit,
}

/// Grants credit of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Which one.
    pub link: LinkId,
    /// How far its sender may go.
    pub credit: LinkCredit,
}

/// Attached and flow have one layout.
fn parse_credit(record: &[u8]) -> Result<(LinkId, LinkCredit), PeerMisbehaved> {
    expect_exactly(record, 32)?;
    check_reserved(record, 12, 4)?;
    Ok((link_at_8(record)?, LinkCredit::at(record, 16)))
}

fn write_credit(out: &mut [u8], link: LinkId, credit: &LinkCredit) {
    put(out, 8, link.value().to_le_bytes());
    credit.write(out, 16);
}

impl Attached {
    pub(super) fn parse(record: &[u8]) -> Result<Self, PeerMisbehaved> {
        parse_credit(record).map(|(link, credit)| Self { link, credit })
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        write_credit(out, self.link, &self.credit);
    }
}

impl Flow {
    pub(super) fn parse(record: &[u8]) -> Result<Self, PeerMisbehaved> {
        parse_credit(record).map(|(link, credit)| Self { link, credit })
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        write_credit(out, self.link, &self.credit);
    }
}

/// Refuses a link that was asked for, or ends it, from either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detach<'a> {
    /// Which one.
    pub link: LinkId,
    /// Why.
    pub code: DetachCode,
    /// For people.
    pub text: ReasonText<'a>,
}

impl<'a> Detach<'a> {
    const TEXT_AT: usize = 16;

    pub(super) fn parse(record: &'a [u8]) -> Result<Self, PeerMisbehaved> {
        expect_at_least(record, Self::TEXT_AT)?;
        let text = trailing(record, Self::TEXT_AT, u16_at(record, 14))?;
        Ok(Self {
            link: link_at_8(record)?,
            code: DetachCode::of(u16_at(record, 12)),
            text: ReasonText::parse(text)?,
        })
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        put(out, 8, self.link.value().to_le_bytes());
        put(out, 12, self.code.value().to_le_bytes());
        put(out, 14, (self.text.as_str().len() as u16).to_le_bytes());
        put_trailing(out, Self::TEXT_AT, self.text.as_str().as_bytes());
    }
}

pub(super) fn link_at_8(record: &[u8]) -> Result<LinkId, PeerMisbehaved> {
    LinkId::new(u32_at(record, 8)).ok_or(PeerMisbehaved::LinkMissing { kind: record[0] })
}

fn role(role: u8) -> Result<LinkRole, PeerMisbehaved> {
    match role {
        0 => Ok(LinkRole::Producer),
        1 => Ok(LinkRole::Consumer),
        2 => Ok(LinkRole::SettlingConsumer),
        _ => Err(PeerMisbehaved::RoleUnknown { role }),
    }
}

fn address(kind: u8, bytes: &[u8]) -> Result<Address<'_>, PeerMisbehaved> {
    match kind {
        0 => Name::parse(bytes).map(Address::Named),
        1 => match bytes.try_into() {
            Ok(secret) => Ok(Address::Reply(ReplySecret(secret))),
            Err(_) => Err(PeerMisbehaved::SecretBytes { bytes: bytes.len() as u16 }),
        },
        _ => Err(PeerMisbehaved::AddressKindUnknown { kind }),
    }
}
