//! Why a connection or a link ends, as numbers that go with a text.

macro_rules! codes {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)+
            /// A code that this version does not know; its text says what there is to say.
            Unknown(u16),
        }

        impl $name {
            /// Every code that has a name.
            pub const KNOWN: &[Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            pub const fn value(self) -> u16 {
                match self {
                    $(Self::$variant => $value,)+
                    Self::Unknown(value) => value,
                }
            }

            /// The code of this number.
            pub const fn of(value: u16) -> Self {
                match value {
                    $($value => Self::$variant,)+
                    _ => Self::Unknown(value),
                }
            }
        }
    };
}

codes! {
    /// Why a connection is closed.
    CloseCode {
        /// Nothing more is to be said.
        Normal = 0,
        /// The process or the listener is going away; another one may be there soon.
        ShuttingDown = 1,
        /// The peer broke the protocol; the text names how.
        ProtocolViolation = 2,
        /// The hello did not arrive in time.
        HandshakeTimeout = 3,
        /// Nothing arrived for the idle timeout.
        PeerSilent = 4,
        /// The peer took nothing for too long while something was waiting for it.
        PeerNotReading = 5,
        /// A configured bound would be exceeded; the text names it.
        ResourceLimit = 6,
        /// This process may not connect, or no longer.
        NotAllowed = 7,
        /// Another connection has taken over the session.
        SessionTaken = 8,
        /// The sender met a fault of its own.
        InternalError = 9,
        /// A body that was offered for a one-sided read could not be read, or was not in time.
        ReadFailed = 10,
    }
}

codes! {
    /// Why a link ends, or was refused.
    DetachCode {
        /// Its user is done with it.
        Normal = 0,
        /// There is no such destination.
        NoSuchDestination = 1,
        /// This process may not use it so.
        NotAllowed = 2,
        /// There are as many links as were negotiated, or as the configuration allows.
        LinkLimit = 3,
        /// Another process has attached to the address.
        AddressInUse = 4,
        /// The destination was deleted.
        DestinationDeleted = 5,
        /// A configured bound would be exceeded; the text names it.
        ResourceLimit = 6,
        /// The destination takes only one such link.
        Exclusive = 7,
        /// The other end went past its credit or broke the link's rules otherwise.
        LinkViolation = 8,
        /// A link of this number is attached already.
        LinkInUse = 9,
        /// The broker is going away.
        ShuttingDown = 10,
        /// The sender met a fault of its own.
        InternalError = 11,
    }
}

codes! {
    /// Why a server refuses a hello.
    RefusalCode {
        /// No version that both ends speak.
        UnsupportedVersion = 1,
        /// The hello broke the protocol; the text names how.
        MalformedHello = 2,
        /// Sizes or times that cannot work; the text names which.
        ImpossibleParameters = 3,
        /// No security that both ends offer.
        NoCommonSecurity = 4,
        /// A configured bound would be exceeded; the text names it.
        ResourceLimit = 5,
        /// This process may not connect.
        NotAllowed = 6,
        /// The process is going away; another one may be there soon.
        ShuttingDown = 7,
        /// The session cannot be resumed: it expired, or was never here.
        SessionUnknown = 8,
        /// The sender met a fault of its own.
        InternalError = 9,
        /// The same client has gone on meanwhile, by a later attempt or by what it has acknowledged since.
        Overtaken = 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_code() {
        for value in 0..=u16::MAX {
            assert_eq!(CloseCode::of(value).value(), value);
            assert_eq!(DetachCode::of(value).value(), value);
            assert_eq!(RefusalCode::of(value).value(), value);
        }
        for &code in CloseCode::KNOWN {
            assert_eq!(CloseCode::of(code.value()), code);
        }
        for &code in DetachCode::KNOWN {
            assert_eq!(DetachCode::of(code.value()), code);
        }
        for &code in RefusalCode::KNOWN {
            assert_eq!(RefusalCode::of(code.value()), code);
        }
    }
}
