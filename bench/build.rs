//! Tells the binary which commit it was built from, so that a report can say so. Built outside a git
//! checkout, or without git, it says nothing.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for sources in ["src", "Cargo.toml", "../transport/src", "../broker-plugin/src"] {
        println!("cargo:rerun-if-changed={sources}");
    }
    // The log of HEAD grows with every commit and checkout, in a linked worktree as well.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
        let mark = if changed { "+changes" } else { "" };
        println!("cargo:rustc-env=UNDERLAY_BENCH_COMMIT={commit}{mark}");
    }
}

/// The trimmed output of a git command; `None` if it fails or prints nothing.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
