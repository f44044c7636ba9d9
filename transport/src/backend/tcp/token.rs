//! The 64 bits by which the kernel names what it reports on.

use super::super::Channel;

/// How many bits name the place of a channel. So many places would take terabytes for their send lists alone.
const SLOT_BITS: u32 = 28;

/// What a report of the kernel is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) operation: Operation,
    /// The channel; of a listener or a watch, its number as the generation.
    pub(super) channel: Channel,
}

/// What was asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    Accept,
    CancelAccept,
    Connect,
    /// Receiving on io_uring; any readiness of a channel's socket on epoll.
    Receive,
    Send,
    Cancel,
    Watch,
}

impl Token {
    pub(super) fn of_channel(operation: Operation, channel: Channel) -> Self {
        Self { operation, channel }
    }

    pub(super) fn numbered(operation: Operation, number: u32) -> Self {
        Self { operation, channel: Channel { slot: 0, generation: number } }
    }

    #[inline]
    pub(super) fn to_bits(self) -> u64 {
        let slot = u64::from(self.channel.slot & ((1 << SLOT_BITS) - 1));
        u64::from(self.channel.generation) << 32 | slot << 4 | u64::from(self.operation as u8)
    }

    /// `None` for bits that no token has.
    #[inline]
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        let operation = match bits & 0xf {
            0 => Operation::Accept,
            1 => Operation::CancelAccept,
            2 => Operation::Connect,
            3 => Operation::Receive,
            4 => Operation::Send,
            5 => Operation::Cancel,
            6 => Operation::Watch,
            _ => return None,
        };
        let slot = (bits as u32) >> 4;
        Some(Self { operation, channel: Channel { slot, generation: (bits >> 32) as u32 } })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_through_the_kernel() {
        use Operation::{Accept, Cancel, CancelAccept, Connect, Receive, Send, Watch};
        for operation in [Accept, CancelAccept, Connect, Receive, Send, Cancel, Watch] {
            for (slot, generation) in [(0, 0), (1, u32::MAX), ((1 << SLOT_BITS) - 1, 7)] {
                let token = Token::of_channel(operation, Channel { slot, generation });
                assert_eq!(Token::from_bits(token.to_bits()), Some(token));
            }
        }
        assert_eq!(Token::from_bits(0xf), None);
    }
}
