//! Which RDMA devices this machine has, by what its kernel says. Nothing is opened for that.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// Where the kernel lists them.
const FOLDER: &str = "/sys/class/infiniband";

/// An RDMA device of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RdmaDevice {
    /// Its name, as in `ibv_devices(1)`.
    pub name: String,
    /// The IP addresses that it can be reached at, IPv4 first, as far as the device itself knows them. On RoCE and
    /// soft-RoCE these are all but the link-local ones; on InfiniBand there are none here, since those of IPoIB are not
    /// the device's.
    pub addresses: Vec<IpAddr>,
}

impl RdmaDevice {
    /// The devices of this machine, by name. Reads a thousand small files of the kernel's for each port of a
    /// device that is on Ethernet.
    ///
    /// # Errors
    /// `/sys/class/infiniband` cannot be read; without RDMA in the kernel it does not exist.
    pub fn all() -> io::Result<Vec<Self>> {
        Self::all_in(Path::new(FOLDER))
    }

    /// Why this machine has no RDMA device, and what to do. `None` if it has one, or if its kernel's list cannot be seen.
    pub fn none_because() -> Option<String> {
        Self::none_in(Path::new(FOLDER))
    }

    fn none_in(folder: &Path) -> Option<String> {
        match names_in(folder) {
            Ok(names) if names.is_empty() => Some(
                "there is no RDMA device (ibv_devices lists none): load its driver, or make a soft-RoCE one with \
                 `modprobe rdma_rxe` and `rdma link add rxe0 type rxe netdev INTERFACE`"
                    .to_owned(),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder.parent().is_some_and(Path::exists) => {
                Some(format!(
                    "there is no RDMA device, and no RDMA in the kernel (there is no {}): load the device's driver, and \
                     the modules that go with it by `modprobe -a rdma_cm rdma_ucm ib_uverbs`",
                    folder.display()
                ))
            }
            _ => None,
        }
    }

    fn all_in(folder: &Path) -> io::Result<Vec<Self>> {
        let names = names_in(folder)?;
        let device = |name: String| Self { addresses: addresses(&folder.join(&name)), name };
        Ok(names.into_iter().map(device).collect())
    }
}

/// Only the folder itself is read: a device's addresses take a thousand files more.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let name = |entry: io::Result<std::fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let mut names: Vec<String> = std::fs::read_dir(folder)?.map(name).collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

/// On Ethernet the identifiers of a port (GIDs) are its IP addresses, those of version 4 mapped. What cannot be read is
/// not there: the table has many places, and most are empty.
fn addresses(device: &Path) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for port in entries(&device.join("ports")) {
        if std::fs::read_to_string(port.join("link_layer")).is_ok_and(|layer| layer.trim() == "Ethernet") {
            found.extend(entries(&port.join("gids")).iter().filter_map(|gid| address(gid)));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn address(gid: &Path) -> Option<IpAddr> {
    let text = std::fs::read_to_string(gid).ok()?;
    let address: Ipv6Addr = text.trim().parse().ok()?;
    let is_usable = !address.is_unspecified() && !address.is_unicast_link_local();
    is_usable.then(|| address.to_canonical())
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A folder such as the kernel has, which is removed with this.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("underlay-devices-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn port(&self, device: &str, layer: &str, gids: &[&str]) {
            let port = self.0.join(device).join("ports/1");
            std::fs::create_dir_all(port.join("gids")).unwrap();
            std::fs::write(port.join("link_layer"), format!("{layer}\n")).unwrap();
            for (index, gid) in gids.iter().enumerate() {
                std::fs::write(port.join("gids").join(index.to_string()), format!("{gid}\n")).unwrap();
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_addresses_of_a_device_are_those_of_its_ethernet_ports() {
        let folder = Folder::new("ethernet");
        let gids = [
            "fe80:0000:0000:0000:0000:00ff:fe00:0001",
            "fd77:0000:0000:0000:0000:0000:0000:0001",
            "0000:0000:0000:0000:0000:ffff:0a4d:0001",
            "0000:0000:0000:0000:0000:ffff:0a4d:0001",
            "0000:0000:0000:0000:0000:0000:0000:0000",
            "no address",
        ];
        folder.port("rxe1", "Ethernet", &gids);
        folder.port("mlx4_0", "InfiniBand", &["fec0:0000:0000:0000:0002:c903:0010:0001"]);
        let devices = RdmaDevice::all_in(&folder.0).unwrap();
        let addresses = vec!["10.77.0.1".parse().unwrap(), "fd77::1".parse().unwrap()];
        assert_eq!(
            devices,
            [
                RdmaDevice { name: "mlx4_0".to_owned(), addresses: Vec::new() },
                RdmaDevice { name: "rxe1".to_owned(), addresses },
            ]
        );
    }

    #[test]
    fn a_kernel_without_rdma_has_no_such_folder() {
        let folder = Folder::new("none");
        let missing = folder.0.join("infiniband");
        assert_eq!(RdmaDevice::all_in(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        let reason = RdmaDevice::none_in(&missing).unwrap();
        assert!(
            reason.contains("no RDMA in the kernel") && reason.contains("modprobe -a rdma_cm"),
            "{reason}"
        );
        assert_eq!(RdmaDevice::none_in(&missing.join("deeper")), None, "what cannot be seen is not judged");
        assert_eq!(RdmaDevice::all_in(&folder.0).unwrap(), []);
        let reason = RdmaDevice::none_in(&folder.0).unwrap();
        assert!(reason.contains("ibv_devices lists none") && reason.contains("rdma link add"), "{reason}");
        folder.port("rxe0", "Ethernet", &[]);
        assert_eq!(RdmaDevice::none_in(&folder.0), None);
    }
}
