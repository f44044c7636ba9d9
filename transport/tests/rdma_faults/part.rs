//! Processes that take part in a test: this test binary, started again.

use crate::ends::Arrival;
use crate::ends::{config, driver};
use crate::machine::command;
use crate::pair::{PATIENCE, Pair, THERE};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;
use underlay::driver::Address;

/// What a process is to do, and the folder where it says what it did.
const PART: &str = "UNDERLAY_RDMA_FAULTS_PART";

/// Not a test: what a process does that another test has started. Without a part to play there is nothing to do.
#[test]
fn part_of_another_test() {
    let Ok(part) = std::env::var(PART) else { return };
    let (role, folder) = part.split_once(';').expect("a role and a folder");
    match role {
        "receiver" => receive(Path::new(folder), u64::MAX),
        "forking receiver" => receive(Path::new(folder), 100),
        "poor sender" => send_without_memory(Path::new(folder)),
        _ => panic!("there is no part '{role}'"),
    }
}

/// A process, which is killed with this.
pub(crate) struct Part {
    process: Child,
    folder: PathBuf,
}

impl Part {
    /// Starts it, by way of a command that has the rest of its line for another one.
    pub(crate) fn start(role: &str, test: &str, by_way_of: &str, files: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("underlay-rdma-faults-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        for (name, content) in files {
            fs::write(folder.join(name), content).expect("a file");
        }
        let program = std::env::current_exe().expect("it has a name");
        let line = [by_way_of, program.to_str().expect("its name is text")].join(" ");
        let process = command(line.trim_start())
            .args(["--exact", "part::part_of_another_test", "--nocapture"])
            .env(PART, format!("{role};{}", folder.display()))
            .spawn()
            .expect("it starts");
        Self { process, folder }
    }

    /// What it has written, once it has.
    pub(crate) fn said(&self, name: &str) -> String {
        let began = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(self.folder.join(name)) {
                return text;
            }
            assert!(began.elapsed() < PATIENCE, "it does not say its {name}");
            std::thread::yield_now();
        }
    }

    /// The messages that have arrived there, in the order in which they did.
    pub(crate) fn arrived(&self) -> Vec<u64> {
        self.said("arrived").lines().map(|line| line.parse().expect("a whole number")).collect()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status =
            command(&format!("kill -{signal} {}", self.process.id())).status().expect("there is a kill");
        assert!(status.success());
    }

    /// At once.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it is there");
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.process.try_wait().expect("it can be asked").is_some()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Takes what is sent, and writes down each message, with a system call of its own so that no death loses one. Every
/// so many messages it has another process started, by a real fork: for that, the user is set.
fn receive(folder: &Path, fork_every: u64) {
    let mut driver = driver(2, config());
    let (core, end) = driver.parts();
    let (_, address) = core.listen(&Address::rdma(THERE)).expect("it listens");
    let mut log = File::create(folder.join("arrived")).expect("a file");
    let mut children = Vec::new();
    end.on_arrival = Some(Arrival(Box::new(move |number| {
        log.write_all(format!("{number}\n").as_bytes()).expect("it can be written");
        if number % fork_every == fork_every - 1 {
            children.push(Command::new("sleep").arg("1").uid(0).spawn().expect("it forks"));
        }
    })));
    say(folder, "address", &address.to_string());
    let never = driver.run_until(Some(PATIENCE * 2), |_, end| {
        let wrong = (end.ledger.repeated, end.ledger.out_of_order, end.ledger.damaged);
        assert_eq!(wrong, (0, 0, 0), "repeated, out of order, damaged");
        false
    });
    never.expect("its wires work");
}

/// Connects by RDMA, which it has no memory for, and then by TCP.
fn send_without_memory(folder: &Path) {
    let mut pair = Pair::alone("a process that may pin 64 KiB", config());
    let address = |name: &str| fs::read_to_string(folder.join(name)).expect("it was told").parse::<Address>();
    let (core, end) = pair.sender.parts();
    let refused = core.connect(&address("rdma").expect("an address"));
    end.connection = Some(refused.expect("it can be begun"));
    pair.until("it is refused", |pair| !pair.sender.parts().1.closed.is_empty());
    say(folder, "refused", &pair.sender.parts().1.closed[0].to_string());
    pair.connect(&[address("tcp").expect("an address")]);
    pair.send_up_to(300);
    pair.until_all_arrived();
    say(folder, "sent", &pair.sent().to_string());
    pair.close();
}

/// At once, so that nobody reads half of it.
fn say(folder: &Path, name: &str, text: &str) {
    let aside = folder.join(format!("{name}.aside"));
    fs::write(&aside, text).expect("it can be written");
    fs::rename(&aside, folder.join(name)).expect("it can be renamed");
}
