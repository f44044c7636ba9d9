//! What a configuration may be, and what is said about one that cannot work.

use std::path::Path;
use std::time::Duration;
use underlay::backend::rdma::RdmaConfig;
use underlay::connection::ConnectionConfig;
use underlay::session::SessionConfig;
use underlay_broker::Config;
use underlay_broker::config::{
    Allowed, BindingSettings, ExchangeSettings, ExchangeType, LimitSettings, ListenerSettings, OPTIONS,
    PoolBudget, QueueSettings, RdmaSettings, Settings,
};

const LEAST: &str = "[[listener]]\ntransport = \"tcp\"\naddress = \"127.0.0.1:0\"\n[[queue]]\nname = \"q\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("broker.toml")).map_err(|error| error.to_string())
}

fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("broker.example.toml")).unwrap()
}

#[test]
fn the_least_configuration_has_a_listener_and_a_queue() {
    let config = parse(LEAST).unwrap();
    let expected = Settings {
        listener: vec![ListenerSettings::tcp("127.0.0.1:0")],
        queue: vec![QueueSettings::named("q")],
        ..Settings::default()
    };
    assert_eq!(*config.settings(), expected);
    assert_eq!(config.addresses()[0].to_string(), "tcp://127.0.0.1:0");
}

#[test]
fn the_example_is_right_and_names_every_option() {
    let example = example();
    parse(&example).unwrap();
    let table: toml::Table = example.parse().unwrap();
    for rule in OPTIONS {
        let mut at = Some(toml::Value::Table(table.clone()));
        for key in rule.section.split('.').chain([rule.key]) {
            at = at.and_then(|value| match value {
                toml::Value::Array(list) => list.iter().find_map(|entry| entry.get(key)).cloned(),
                value => value.get(key).cloned(),
            });
        }
        assert!(at.is_some(), "the example lacks {}.{}", rule.section, rule.key);
    }
}

#[test]
fn the_example_shows_the_defaults() {
    let config = parse(&example()).unwrap();
    let settings = config.settings();
    assert_eq!(settings.limits, LimitSettings::default());
    let mut broker = settings.broker.clone();
    broker.pool_bytes_max = None;
    assert_eq!(broker, Settings::default().broker);
    let mut rdma = settings.rdma.clone();
    rdma.device = None;
    assert_eq!(rdma, RdmaSettings::default());
    assert_eq!(settings.queue[0], QueueSettings::named("orders"));
}

#[test]
fn what_is_printed_is_read_as_the_same() {
    let config = parse(&example()).unwrap();
    assert_eq!(parse(&config.to_toml().unwrap()).unwrap(), config);
}

#[test]
fn every_number_is_checked_against_its_bounds() {
    let mut checked = 0;
    for rule in OPTIONS {
        let Allowed::Number { min, max, .. } = rule.allowed else { continue };
        for value in [min.checked_sub(1), Some(max + 1)].into_iter().flatten() {
            checked += 1;
            let line = format!("{} = {value}\n", rule.key);
            let text = match rule.section {
                "queue" => format!("{LEAST}{line}"),
                section => format!("[{section}]\n{line}{LEAST}"),
            };
            let error = parse(&text).expect_err(&text);
            let line_number = if rule.section == "queue" { 6 } else { 2 };
            let column = rule.key.len() + 4;
            assert!(error.starts_with(&format!("broker.toml:{line_number}:{column}: ")), "{error}");
            assert!(error.contains(&format!("{} = {value}: ", rule.key)), "{error}");
            assert!(error.ends_with(&format!("allowed: {}", rule.allowed)), "{error}");
        }
    }
    assert!(checked > 50, "{checked}");
}

/// Each text is put before, or behind if it begins with a table, the least configuration; the error must be this.
#[test]
fn every_fault_names_its_place_its_value_and_what_is_allowed() {
    let cases = [
        // Not TOML at all.
        ("[broker\n", "broker.toml:1:8: not TOML: "),
        ("[broker]\nname = \"a\"\nname = \"b\"\n", "broker.toml:3:1: not TOML: duplicate key"),
        // Keys that do not exist.
        ("[brokr]\n", "broker.toml:1:2: brokr = brokr: there is no such option"),
        (
            "[limits]\nframe_byte_max = 1\n",
            "broker.toml:2:1: limits.frame_byte_max = frame_byte_max: there is no such option; did you mean \
             'frame_bytes_max'",
        ),
        (
            "[broker]\nport = 1\n",
            "broker.toml:2:1: broker.port = port: there is no such option; allowed: name, wait,",
        ),
        // Types.
        (
            "[broker]\nspin_us_max = \"3\"\n",
            "broker.toml:2:15: broker.spin_us_max = \"3\": invalid type: string \"3\"; allowed: a number of \
             microseconds from 0 to 1000000",
        ),
        (
            "[limits]\nlinks_max = -1\n",
            "broker.toml:2:13: limits.links_max = -1: invalid value: integer `-1`; allowed: ",
        ),
        (
            "[broker]\nwait = \"fast\"\n",
            "broker.toml:2:8: broker.wait = \"fast\": unknown variant `fast`; allowed: one of [\"adaptive\", \
             \"spin\", \"sleep\"]",
        ),
        // Values of one option.
        (
            "[broker]\nreceive_buffer_bytes = 5000\n",
            "broker.toml:2:24: broker.receive_buffer_bytes = 5000: it is none of the sizes there are; allowed: one \
             of [256, 1024, 4096, 16384, 65536]",
        ),
        (
            "[broker]\nname = \"a\\tb\"\n",
            "broker.toml:2:8: broker.name = \"a\\tb\": no name for a process; allowed: ",
        ),
        // Values that do not fit each other.
        (
            "[limits]\nframe_bytes_max = 16384\n",
            "broker.toml:1:1: limits.packet_bytes = 65536 (default): peers could not agree on it; allowed: at most \
             16384 beside the other limits",
        ),
        (
            "[limits]\nidle_timeout_ms = 9000\nkeep_alive_ms = 4501\n",
            "broker.toml:3:17: limits.keep_alive_ms = 4501: peers could not agree on it; allowed: at most 4500",
        ),
        (
            "[limits]\nframe_bytes_max = 65500\n",
            "broker.toml:2:19: limits.frame_bytes_max = 65500: peers could not agree on it; allowed: a multiple of 64",
        ),
        (
            "[limits]\nsend_queue_bytes_max = 1000\n",
            "broker.toml:1:1: limits.congestion_bytes = 1048576 (default): it is above send_queue_bytes_max = 1000; \
             allowed: 2 to 1000",
        ),
        // Listeners.
        (
            "[[listener]]\ntransport = \"tcp\"\naddress = \"127.0.0.1\"\n",
            "broker.toml:3:11: listener[0].address = \"127.0.0.1\": the port is missing; allowed: host:port",
        ),
        (
            "[[listener]]\ntransport = \"tcp\"\naddress = \"::1:80\"\n",
            "broker.toml:3:11: listener[0].address = \"::1:80\": an IPv6 address needs brackets",
        ),
        (
            "[[listener]]\ntransport = \"tcp\"\naddress = \"localhost:70000\"\n",
            "broker.toml:3:11: listener[0].address = \"localhost:70000\": the port is no number from 0 to 65535",
        ),
        (
            "[[listener]]\ntransport = \"tcp\"\n",
            "broker.toml:1:1: listener[0].address = (nothing): it is missing; allowed: host:port",
        ),
        (
            "[[listener]]\ntransport = \"udp\"\naddress = \"x\"\n",
            "broker.toml:2:13: listener[0].transport = \"udp\": unknown variant `udp`; allowed: one of [\"tcp\", \
             \"rdma\", \"inproc\"]",
        ),
        (
            "[[listener]]\ntransport = \"rdma\"\naddress = \"10.0.0.5\"\n",
            "broker.toml:3:11: listener[0].address = \"10.0.0.5\": the port is missing; allowed: host:port",
        ),
        (
            "[[listener]]\ntransport = \"rdma\"\naddress = \"10.0.0.5:1\"\nfallback = \"shm\"\n",
            "broker.toml:4:12: listener[0].fallback = \"shm\": unknown variant `shm`; allowed: one of [\"tcp\"]",
        ),
        (
            "[[listener]]\ntransport = \"inproc\"\naddress = \"b\"\nfallback = \"tcp\"\n",
            "broker.toml:4:12: listener[0].fallback = Tcp: a listener on inproc needs none; allowed: it with transport \
             = \"rdma\" only",
        ),
        (
            "[[listener]]\ntransport = \"rdma\"\naddress = \"a:1\"\n[[listener]]\ntransport = \"rdma\"\naddress = \
             \"a:1\"\n",
            "broker.toml:6:11: listener[1].address = \"a:1\": another listener has it already; allowed: an address",
        ),
        (
            "[[listener]]\ntransport = \"rdma\"\naddress = \"a:1\"\nfallback = \"tcp\"\nengine = \"epoll\"\n",
            "broker.toml:6:1: listener[1].engine = Auto (default): the listener at 'a:1' asks for Epoll; both",
        ),
        // The rdma wire.
        (
            "[rdma]\ndevice = \"\"\n",
            "broker.toml:2:10: rdma.device = \"\": no name for a device; allowed: the name of a device, as ibv_devices",
        ),
        (
            "[rdma]\nwindow_max = 64\nreceive_slots_max = 63\n",
            "broker.toml:3:21: rdma.receive_slots_max = 63: one connection's window_max = 64 would not fit; allowed: 64 \
             or more, or a smaller window_max",
        ),
        (
            "[[listener]]\ntransport = \"inproc\"\naddress = \"x\"\n[[listener]]\ntransport = \"inproc\"\naddress = \
             \"x\"\n",
            "broker.toml:6:11: listener[1].address = \"x\": another listener has it already; allowed: an address",
        ),
        (
            "[[listener]]\ntransport = \"tcp\"\naddress = \"[::1]:0\"\nengine = \"epoll\"\n",
            "broker.toml:5:1: listener[1].engine = Auto (default): the listener at '[::1]:0' asks for Epoll; both",
        ),
        // Queues.
        (
            "[[queue]]\nname = \"a/b\"\n",
            "broker.toml:2:8: queue[0].name = \"a/b\": no name for a destination; allowed: ",
        ),
        (
            "[[queue]]\nname = \"q\"\n",
            "broker.toml:7:8: queue[1].name = \"q\": another [[queue]] has it already",
        ),
        (
            "[[queue]]\nname = \"p\"\nmessages_max = 10\n",
            "broker.toml:3:16: queue[0].messages_max = 10: producers_max = 256 producers could not have one each",
        ),
        // Exchanges.
        (
            "[[exchange]]\nname = \"e\"\nbindings = []\n",
            "broker.toml:3:12: exchange[0].bindings = \"[]\": an exchange without bindings leads nowhere; allowed: ",
        ),
        (
            "[[exchange]]\nname = \"e\"\nbindings = [{ key = \"k\", queue = \"r\" }]\n",
            "broker.toml:3:34: exchange[0].bindings[0].queue = \"r\": there is no such queue; allowed: the name of a \
             [[queue]]",
        ),
        (
            "[[exchange]]\nname = \"e\"\nbindings = [\n  { key = \"k\", queue = \"q\" },\n  { key = \"k\", queue = \
             \"q\" },\n]\n",
            "broker.toml:5:11: exchange[0].bindings[1].key = \"k\": it is bound to this queue already; allowed: each",
        ),
        (
            "[[exchange]]\nname = \"e\"\nbindings = [{ key = \"\", queue = \"q\" }]\n",
            "broker.toml:3:21: exchange[0].bindings[0].key = \"\": no routing key; allowed: ",
        ),
        (
            "[[exchange]]\nname = \"e\"\ntype = \"topic\"\nbindings = [{ key = \"k\", queue = \"q\" }]\n",
            "broker.toml:3:8: exchange[0].type = \"topic\": unknown variant `topic`; allowed: one of [\"direct\"]",
        ),
    ];
    let mut wrong = String::new();
    for (fault, expected) in cases {
        let text = format!("{fault}{LEAST}");
        let error = parse(&text).expect_err(&text);
        if !error.starts_with(expected) || error.lines().count() != 1 {
            wrong.push_str(&format!("\n{text}\n  is:       {error}\n  expected: {expected}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_broker_needs_a_listener_and_a_queue() {
    let error = parse("[[queue]]\nname = \"q\"\n").unwrap_err();
    assert_eq!(
        error,
        "broker.toml:1:1: listener = \"\" (default): nobody could connect; allowed: one [[listener]] or more"
    );
    let error = parse("[[listener]]\ntransport = \"tcp\"\naddress = \"localhost:1\"\n").unwrap_err();
    assert!(
        error.contains("queue = \"\" (default): nothing could be sent anywhere; allowed: one [[queue]]"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::read(Path::new("/nowhere/broker.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/broker.toml: cannot be read: No such file"), "{error}");
}

#[test]
fn the_builder_makes_the_same_checks() {
    let builder =
        || Config::builder().listener(ListenerSettings::inproc("b")).queue(QueueSettings::named("q"));
    builder().build().unwrap();
    let exchange = |queue: &str| ExchangeSettings {
        name: "e".to_owned(),
        kind: ExchangeType::Direct,
        bindings: vec![BindingSettings::new("k", queue)],
    };
    builder().exchange(exchange("q")).build().unwrap();
    let fault = builder().exchange(exchange("p")).build().unwrap_err();
    assert_eq!(fault.key.to_string(), "exchange[0].bindings[0].queue");
    let limits = LimitSettings { frame_bytes_max: u64::MAX, ..LimitSettings::default() };
    let fault = builder().limits(limits).build().unwrap_err();
    assert_eq!(
        (fault.key.to_string().as_str(), fault.value),
        ("limits.frame_bytes_max", u64::MAX.to_string())
    );
}

#[test]
fn the_pools_budget_is_the_sum_of_its_terms_unless_it_is_given() {
    let config = parse(LEAST).unwrap();
    let budget = PoolBudget::of(&config);
    let sum: u64 = budget.terms().iter().map(|term| term.bytes).sum();
    assert_eq!(budget.derived_bytes(), sum);
    assert!(budget.bytes_max() as u64 >= sum);
    assert_eq!(config.driver_config().pool.bytes_max, budget.bytes_max());
    let queue = budget.terms().iter().find(|term| term.name == "queue 'q'").unwrap();
    assert_eq!(queue.bytes, (64 << 20) * 4 + 10_000 * (256 + 4096));
    let more = parse(&format!("{LEAST}messages_max = 20000\n")).unwrap();
    assert_eq!(PoolBudget::of(&more).derived_bytes() - sum, 10_000 * (256 + 4096));
    let held = |config: &Config| {
        PoolBudget::of(config).terms().iter().find(|term| term.name == "held replies").unwrap().bytes
    };
    let longer = parse(&format!("{LEAST}[limits]\nheld_reply_bytes_max = 1049576\n")).unwrap();
    assert_eq!(held(&longer) - held(&config), 1000 * 4 * 1000);
    let given = parse(&format!("[broker]\npool_bytes_max = 8388608\n{LEAST}")).unwrap();
    assert_eq!(PoolBudget::of(&given).bytes_max(), 8 << 20);
    assert_eq!(PoolBudget::of(&given).shortfall(), Some(8 << 20));
    assert!(PoolBudget::of(&given).to_string().contains("8.0 MiB  is what pool_bytes_max allows"));
}

#[test]
fn what_is_said_of_the_rdma_wire_is_what_its_driver_does() {
    let rdma = "[rdma]\ndevice = \"rxe0\"\npinned_bytes_max = 2097152\nreceive_slots_max = 128\nwindow_max = 32\n\
                sends_max = 64\ninline_bytes = 128\nretry_count = 3\n\
                acknowledgement_timeout_ms = 16\nreceiver_not_ready_retry_count = 0\n";
    let listener = "[[listener]]\ntransport = \"rdma\"\naddress = \"10.0.0.5:5700\"\nfallback = \"tcp\"\n";
    let config = parse(&format!("[broker]\nbacklog = 7\n{rdma}{listener}{LEAST}")).unwrap();
    let expected = RdmaConfig {
        device: Some("rxe0".to_owned()),
        pinned_bytes_max: 2 << 20,
        receive_slots_max: 128,
        window_max: 32,
        sends_max: 64,
        inline_bytes: 128,
        retry_count: 3,
        acknowledgement_timeout: Some(Duration::from_millis(16)),
        receiver_not_ready_retry_count: 0,
        backlog: 7,
        ..RdmaConfig::default()
    };
    assert_eq!(config.driver_config().rdma, expected);
    expected.validate().unwrap();
    assert_eq!(config.addresses()[0].to_string(), "rdma://10.0.0.5:5700");
    assert_eq!(parse(&config.to_toml().unwrap()).unwrap(), config);
    let unset = parse(&format!("[rdma]\nacknowledgement_timeout_ms = 0\n{LEAST}")).unwrap();
    assert_eq!(unset, parse(LEAST).unwrap(), "that is the default");
    assert_eq!(unset.driver_config().rdma.acknowledgement_timeout, None);
    let terms = PoolBudget::of(&config);
    let receives = terms.terms().iter().find(|term| term.name == "rdma receive requests").unwrap();
    assert_eq!(receives.bytes, 128 * 17 * 1024);
    assert!(PoolBudget::of(&parse(LEAST).unwrap()).terms().iter().all(|term| !term.name.contains("rdma")));
}

/// What the options allow, the wire allows.
#[test]
fn every_bound_of_an_rdma_option_is_one_that_the_wire_takes() {
    let mut checked = 0;
    for rule in OPTIONS.iter().filter(|rule| rule.section == "rdma") {
        let Allowed::Number { min, max, .. } = rule.allowed else { continue };
        for value in [min, max] {
            let window = if rule.key == "receive_slots_max" { "window_max = 8\n" } else { "" };
            let slots = if rule.key == "window_max" { "receive_slots_max = 2048\n" } else { "" };
            let config = parse(&format!("[rdma]\n{} = {value}\n{window}{slots}{LEAST}", rule.key)).unwrap();
            config.driver_config().rdma.validate().unwrap();
            checked += 1;
        }
    }
    assert_eq!(checked, 16);
}

#[test]
fn what_is_said_of_sessions_is_what_its_driver_does() {
    let text = "session_expiry_max_ms = 700\nsession_resumes_max = 3\nacknowledgement_delay_ms = 9";
    let config = parse(&format!("{LEAST}[limits]\n{text}\n")).unwrap().driver_config();
    assert_eq!(config.session.expiry.as_millis(), 700);
    assert_eq!(config.session.resumes_max, 3);
    assert_eq!(config.connection.acknowledgement_delay.as_millis(), 9);
    let default = parse(LEAST).unwrap().driver_config();
    assert_eq!(default.session.expiry.as_millis(), 60_000, "the client's own wish holds below it");
    assert_eq!(default.connection.acknowledgement_delay, ConnectionConfig::default().acknowledgement_delay);
    assert_eq!(default.session.resumes_max, SessionConfig::default().resumes_max);
}
