//! A system that does not let a process pin memory.

use crate::devices::Devices;
use std::process::Command;
use std::time::Duration;
use underlay::rpc::{Client, ClientConfig};

/// Set for the process that has the limit: where the other one listens.
const CHILD: &str = "UNDERLAY_TEST_MEMLOCK";

const TEST: &str = "memlock::a_limit_of_locked_memory_is_named_with_the_way_out";

/// In a process of its own, without the capability that makes root free of the limit.
#[test]
fn a_limit_of_locked_memory_is_named_with_the_way_out() {
    let Some(devices) = Devices::find(TEST) else { return };
    if std::env::var_os(CHILD).is_some() {
        return connect_under_the_limit(&devices);
    }
    let output = Command::new("setpriv")
        .args(["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit", "--memlock=65536"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("REFUSED: "), "{}: {said} {log}", output.status);
}

fn connect_under_the_limit(devices: &Devices) {
    let mut config = ClientConfig { connect_timeout: Duration::from_secs(3), ..ClientConfig::default() };
    config.driver = crate::config(devices);
    // Nobody need listen: what cannot be pinned is found out about before the peer is asked.
    let nobody = underlay::driver::Address::rdma(format!("{}:1023", devices.listening));
    let refused = Client::connect(&nobody, config).unwrap_err().to_string();
    println!("REFUSED: {refused}");
    assert!(refused.contains("RLIMIT_MEMLOCK") && refused.contains("65536 bytes"), "{refused}");
    assert!(refused.contains("ulimit -l") && refused.contains("LimitMEMLOCK="), "{refused}");
}
