//! The real binary as a child process.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_underlay-broker");

/// A configuration in a file of its own.
pub(crate) fn config_file(text: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("broker-{}-{}.toml", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A broker that runs until it is told to stop, or is dropped.
pub(crate) struct Process {
    child: Child,
    /// `host:port` of its first listener.
    pub(crate) address: String,
    /// Of each listener, with its wire: `tcp://host:port`.
    pub(crate) addresses: Vec<String>,
    /// The line that it printed first.
    pub(crate) line: String,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(config: &str, arguments: &[&str]) -> Self {
        Self::try_start(config, arguments).unwrap_or_else(|log| panic!("no listener: {log}"))
    }

    /// As [`Process::start`]; what it has written to stderr if it does not come up.
    pub(crate) fn try_start(config: &str, arguments: &[&str]) -> Result<Self, String> {
        let mut child = Command::new(BINARY)
            .arg("--config")
            .arg(config_file(config))
            .args(arguments)
            .env("RUST_LOG", "info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let reader = collect(child.stderr.take().unwrap(), stderr.clone());
        // A line for each listener.
        let listeners = config.matches("[[listener]]").count();
        let stdout = BufReader::new(child.stdout.as_mut().unwrap());
        let lines: Vec<String> = stdout.lines().take(listeners).map(Result::unwrap).collect();
        let place =
            |line: &String| line.split_whitespace().find(|word| word.contains("://")).map(str::to_owned);
        let addresses: Vec<String> = lines.iter().filter_map(place).collect();
        let (Some(line), Some(first)) = (lines.first(), addresses.first()) else {
            child.wait().unwrap();
            reader.join().unwrap();
            return Err(stderr.lock().unwrap().clone());
        };
        let address = first.split_once("://").unwrap().1.to_owned();
        Ok(Self { child, address, line: line.clone(), addresses, stderr, reader: Some(reader) })
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end; its whole log and report.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        (status, self.log())
    }

    pub(crate) fn stop(self) -> (ExitStatus, String) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait()
    }

    /// What it has written to stderr so far.
    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until its log has this.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < end, "no '{text}' in {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            to.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..bytes]));
        }
    })
}

/// Runs the binary to its end.
pub(crate) fn run(config: &str, arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("--config").arg(config_file(config)).args(arguments).output().unwrap()
}

/// Runs it under a shell's limit of file descriptors.
pub(crate) fn run_with_descriptors(config: &str, limit: u32) -> Output {
    let script = format!("ulimit -n {limit} && exec {BINARY} --config {}", config_file(config).display());
    Command::new("sh").args(["-c", &script]).output().unwrap()
}

/// The figure of this name in a report.
pub(crate) fn figure(report: &str, name: &str) -> u64 {
    let line = report.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |figure| figure.parse().unwrap())
}

/// Only so that a test may write where it expects to be refused.
pub(crate) fn write_or_closed(stream: &mut impl Write, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}
