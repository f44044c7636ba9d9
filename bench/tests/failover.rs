//! `underlay-bench failover` as a program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use underlay_bench::failover::report::Document;

const PROGRAM: &str = env!("CARGO_BIN_EXE_underlay-bench");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).arg("failover").args(arguments).output().unwrap()
}

#[test]
fn everything_breaks_as_often_as_was_asked_for_and_is_reported() {
    if !Path::new(PROGRAM).with_file_name("underlay-broker").exists() {
        println!("SKIPPED failover with real brokers: underlay-broker was not built with the tests");
        return;
    }
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("failover.json");
    let output = run(&["--count", "3", "--size", "20k", "--json", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let document: Document = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(document.size, 20 << 10);
    let cases: Vec<(&str, &str)> =
        document.cases.iter().map(|case| (case.fault.as_str(), case.variant.as_str())).collect();
    let expected = [
        ("death", "standby session"),
        ("death", "no session elsewhere"),
        ("cut", "first try within 0 ms"),
        ("cut", "first try within 100 ms"),
        ("move", "tcp to tcp"),
        ("move", "tcp to inproc"),
        ("move", "inproc to tcp"),
    ];
    assert_eq!(cases, expected);
    for case in &document.cases {
        let step = case.noticed_us.or(case.switched_us).unwrap();
        assert_eq!(case.count, 3);
        assert!(step.p50 > 0.0 && step.p50 <= case.first_answer_us.p50, "{case:?}");
    }
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("standby session") && table.contains("tcp to inproc"), "{table}");
}

#[test]
fn options_beyond_their_limits_are_refused_with_the_way_out() {
    for (arguments, text) in [
        (["--count", "0"], "--count 0: it may be 1 to 10000; leave it out for 50"),
        (["--size", "17MiB"], "--size 17825792: it may be 1 byte to 16777216; leave it out for 1KiB"),
        (["--json", "/nowhere/at-all.json"], "cannot write /nowhere/at-all.json"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(text), "{error}");
    }
}
