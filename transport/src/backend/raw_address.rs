//! Socket addresses in the kernel's form, which TCP and the RDMA connection manager share.

use std::mem;
use std::net::SocketAddr;
#[cfg(feature = "rdma")]
use std::net::{Ipv4Addr, SocketAddrV4, SocketAddrV6};

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub(super) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl From<&SocketAddr> for RawAddress {
    fn from(address: &SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self {
                v4: libc::sockaddr_in {
                    sin_family: libc::AF_INET as _,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                },
            },
            SocketAddr::V6(address) => Self {
                v6: libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as _,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                },
            },
        }
    }
}

impl RawAddress {
    /// What a system call or a library wrote; `None` if it is no Internet address.
    ///
    /// # Safety
    /// The source is valid for as many bytes as an address of the family that it begins with has.
    #[cfg(feature = "rdma")]
    pub(super) unsafe fn read(source: *const libc::sockaddr) -> Option<SocketAddr> {
        // SAFETY: every form starts with the family.
        let family = unsafe { (*source).sa_family };
        match libc::c_int::from(family) {
            libc::AF_INET => {
                // SAFETY: the family says so, and the caller that the source has all of it.
                let address = unsafe { source.cast::<libc::sockaddr_in>().read_unaligned() };
                let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let address = unsafe { source.cast::<libc::sockaddr_in6>().read_unaligned() };
                let ip = address.sin6_addr.s6_addr.into();
                let port = u16::from_be(address.sin6_port);
                Some(SocketAddrV6::new(ip, port, address.sin6_flowinfo, address.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const *self).cast()
    }

    pub(super) fn bytes(&self) -> libc::socklen_t {
        // SAFETY: every form starts with the family.
        let family = unsafe { self.family };
        let bytes = if family == libc::AF_INET as libc::sa_family_t {
            mem::size_of::<libc::sockaddr_in>()
        } else {
            mem::size_of::<libc::sockaddr_in6>()
        };
        bytes as libc::socklen_t
    }
}

impl std::fmt::Debug for RawAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawAddress")
    }
}

#[cfg(all(test, feature = "rdma", not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was() {
        for text in ["127.0.0.1:4000", "[fd77::1]:65535", "[fe80::1%3]:7"] {
            let address: SocketAddr = text.parse().expect("an address");
            // SAFETY: the raw address is valid and says its family.
            let read = unsafe { RawAddress::read(RawAddress::from(&address).as_ptr()) };
            assert_eq!(read, Some(address));
        }
    }

    #[test]
    fn what_was_never_filled_in_is_no_address() {
        let nothing = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
        // SAFETY: the source has the family, and no more is read.
        assert_eq!(unsafe { RawAddress::read(&raw const nothing) }, None);
    }
}
