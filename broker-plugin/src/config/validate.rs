//! Whether settings can work.

use super::fault::{ConfigFault, KeyPath};
use super::options::{Allowed, DESTINATION_BYTES_MAX, rule};
use super::{
    BrokerSettings, ExchangeSettings, LimitSettings, ListenerSettings, QueueSettings, RdmaSettings, Settings,
    Transport,
};
use crate::nearest::suggestion;
use underlay::proto::ParameterFault;
use underlay::proto::text::PROCESS_NAME_BYTES_MAX;

/// Finds the first fault, if there is one.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigFault> {
    check_broker(&settings.broker)?;
    check_limits(&settings.limits)?;
    check_rdma(&settings.rdma)?;
    check_listeners(&settings.listener)?;
    check_queues(&settings.queue)?;
    check_exchanges(&settings.exchange, &settings.queue)
}

fn check_broker(broker: &BrokerSettings) -> Result<(), ConfigFault> {
    let section = KeyPath::new("broker");
    if broker.name.len() > PROCESS_NAME_BYTES_MAX || broker.name.chars().any(char::is_control) {
        return Err(ConfigFault::new(section.key("name"), &broker.name, "no name for a process"));
    }
    let numbers = [
        ("spin_us_max", broker.spin_us_max),
        ("yield_us_max", broker.yield_us_max),
        ("connections_max", broker.connections_max),
        ("drain_timeout_ms", broker.drain_timeout_ms),
        ("receive_buffer_bytes", broker.receive_buffer_bytes),
        ("receive_buffers", broker.receive_buffers),
        ("backlog", broker.backlog),
    ];
    check_numbers(&section, numbers)?;
    check_numbers(&section, broker.pool_bytes_max.map(|bytes| ("pool_bytes_max", bytes)))
}

fn check_limits(limits: &LimitSettings) -> Result<(), ConfigFault> {
    let section = KeyPath::new("limits");
    let numbers = [
        ("packet_bytes", limits.packet_bytes),
        ("frame_bytes_max", limits.frame_bytes_max),
        ("eager_bytes_max", limits.eager_bytes_max),
        ("chunk_bytes_max", limits.chunk_bytes_max),
        ("message_bytes_max", limits.message_bytes_max),
        ("frame_slots", limits.frame_slots),
        ("control_slots", limits.control_slots),
        ("keep_alive_ms", limits.keep_alive_ms),
        ("idle_timeout_ms", limits.idle_timeout_ms),
        ("links_max", limits.links_max),
        ("head_bytes_max", limits.head_bytes_max),
        ("handshake_timeout_ms", limits.handshake_timeout_ms),
        ("frame_timeout_ms", limits.frame_timeout_ms),
        ("bulk_timeout_ms", limits.bulk_timeout_ms),
        ("send_timeout_ms", limits.send_timeout_ms),
        ("close_timeout_ms", limits.close_timeout_ms),
        ("acknowledgement_delay_ms", limits.acknowledgement_delay_ms),
        ("session_expiry_max_ms", limits.session_expiry_max_ms),
        ("session_resumes_max", limits.session_resumes_max),
        ("send_queue_messages_max", limits.send_queue_messages_max),
        ("send_queue_bytes_max", limits.send_queue_bytes_max),
        ("congestion_messages", limits.congestion_messages),
        ("congestion_bytes", limits.congestion_bytes),
        ("link_messages_max", limits.link_messages_max),
        ("link_bytes_max", limits.link_bytes_max),
        ("held_replies_max", limits.held_replies_max),
        ("held_reply_bytes_max", limits.held_reply_bytes_max),
        ("hops_max", limits.hops_max),
        ("long_messages_expected", limits.long_messages_expected),
    ];
    check_numbers(&section, numbers)?;
    limits.parameters().check().map_err(|fault| parameter_fault(&section, fault))?;
    let below = [
        (
            "congestion_messages",
            limits.congestion_messages,
            "send_queue_messages_max",
            limits.send_queue_messages_max,
        ),
        ("congestion_bytes", limits.congestion_bytes, "send_queue_bytes_max", limits.send_queue_bytes_max),
    ];
    for (key, value, bound, limit) in below {
        if value > limit {
            let problem = format!("it is above {bound} = {limit}");
            return Err(ConfigFault::new(section.key(key), value, problem).allowing(format!("2 to {limit}")));
        }
    }
    Ok(())
}

/// What the protocol itself says about sizes that must fit each other.
fn parameter_fault(section: &KeyPath, fault: ParameterFault) -> ConfigFault {
    let (parameter, value, allowed) = match fault {
        ParameterFault::OutOfRange { parameter, value, min, max } => {
            (parameter, value, format!("{min} to {max}"))
        }
        ParameterFault::NotAMultiple { parameter, value, multiple } => {
            (parameter, value, format!("a multiple of {multiple}"))
        }
        ParameterFault::DoesNotFit { parameter, value, limit } => {
            (parameter, value, format!("at most {limit} beside the other limits"))
        }
        other => return ConfigFault::new(section.clone(), "", other.to_string()),
    };
    ConfigFault::new(section.key(&parameter.to_string()), value, "peers could not agree on it")
        .allowing(allowed)
}

fn check_rdma(rdma: &RdmaSettings) -> Result<(), ConfigFault> {
    let section = KeyPath::new("rdma");
    if let Some(device) = rdma.device.as_ref().filter(|name| name.is_empty() || name.contains('/')) {
        return Err(ConfigFault::new(section.key("device"), device, "no name for a device"));
    }
    let numbers = [
        ("pinned_bytes_max", rdma.pinned_bytes_max),
        ("receive_slots_max", rdma.receive_slots_max),
        ("window_max", rdma.window_max),
        ("sends_max", rdma.sends_max),
        ("inline_bytes", rdma.inline_bytes),
        ("retry_count", rdma.retry_count),
        ("acknowledgement_timeout_ms", rdma.acknowledgement_timeout_ms),
        ("receiver_not_ready_retry_count", rdma.receiver_not_ready_retry_count),
    ];
    check_numbers(&section, numbers)?;
    if rdma.window_max > rdma.receive_slots_max {
        let problem = format!("one connection's window_max = {} would not fit", rdma.window_max);
        let fault = ConfigFault::new(section.key("receive_slots_max"), rdma.receive_slots_max, problem);
        return Err(fault.allowing(format!("{} or more, or a smaller window_max", rdma.window_max)));
    }
    Ok(())
}

fn check_listeners(listeners: &[ListenerSettings]) -> Result<(), ConfigFault> {
    let section = KeyPath::new("listener");
    if listeners.is_empty() {
        let fault = ConfigFault::new(section, "", "nobody could connect");
        return Err(fault.allowing("one [[listener]] or more"));
    }
    for (index, listener) in listeners.iter().enumerate() {
        let at = section.index(index);
        let problem = match listener.transport {
            Transport::Tcp | Transport::Rdma => host_port_problem(&listener.address),
            Transport::Inproc => listener.address.is_empty().then_some("the name is empty"),
        };
        if let Some(problem) = problem {
            return Err(ConfigFault::new(at.key("address"), &listener.address, problem));
        }
        if let Some(fallback) = listener.fallback.filter(|_| listener.transport != Transport::Rdma) {
            let problem = format!("a listener on {:?} needs none", listener.transport).to_lowercase();
            let fault = ConfigFault::new(at.key("fallback"), fallback, problem);
            return Err(fault.allowing("it with transport = \"rdma\" only"));
        }
        let earlier = &listeners[..index];
        let any_port = listener.transport != Transport::Inproc && listener.address.ends_with(":0");
        let is_twin = |other: &ListenerSettings| {
            (other.transport, &other.address) == (listener.transport, &listener.address)
        };
        if !any_port && earlier.iter().any(is_twin) {
            let fault =
                ConfigFault::new(at.key("address"), &listener.address, "another listener has it already");
            return Err(fault.allowing("an address that no other [[listener]] has"));
        }
        let first_tcp = earlier.iter().find(|other| other.may_use_tcp());
        if let Some(first) = first_tcp.filter(|_| listener.may_use_tcp())
            && first.engine != listener.engine
        {
            let problem = format!(
                "the listener at '{}' asks for {:?}; both run on one where they are on tcp",
                first.address, first.engine
            );
            return Err(ConfigFault::new(at.key("engine"), listener.engine, problem));
        }
    }
    Ok(())
}

fn host_port_problem(address: &str) -> Option<&'static str> {
    let Some((host, port)) = address.rsplit_once(':') else { return Some("the port is missing") };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() {
        Some("the host is missing (0.0.0.0 or [::] for all interfaces)")
    } else if host.contains(':') && !is_bracketed {
        Some("an IPv6 address needs brackets")
    } else if port.parse::<u16>().is_err() {
        Some("the port is no number from 0 to 65535")
    } else {
        None
    }
}

fn check_queues(queues: &[QueueSettings]) -> Result<(), ConfigFault> {
    let section = KeyPath::new("queue");
    if queues.is_empty() {
        let fault = ConfigFault::new(section, "", "nothing could be sent anywhere");
        return Err(fault.allowing("one [[queue]] or more"));
    }
    for (index, queue) in queues.iter().enumerate() {
        let at = section.index(index);
        check_name(&at, &queue.name)?;
        if queues[..index].iter().any(|other| other.name == queue.name) {
            return Err(taken(&at, &queue.name, "[[queue]]"));
        }
        let numbers = [
            ("messages_max", queue.messages_max),
            ("bytes_max", queue.bytes_max),
            ("producers_max", queue.producers_max),
            ("consumers_max", queue.consumers_max),
            ("unsettled_max", queue.unsettled_max),
            ("redeliveries_max", queue.redeliveries_max),
        ];
        check_numbers(&at, numbers)?;
        for (key, room) in [("messages_max", queue.messages_max), ("bytes_max", queue.bytes_max)] {
            if room < queue.producers_max {
                let problem =
                    format!("producers_max = {} producers could not have one each", queue.producers_max);
                let fault = ConfigFault::new(at.key(key), room, problem);
                return Err(fault.allowing(format!("{} or more, or fewer producers", queue.producers_max)));
            }
        }
    }
    Ok(())
}

fn check_exchanges(exchanges: &[ExchangeSettings], queues: &[QueueSettings]) -> Result<(), ConfigFault> {
    let section = KeyPath::new("exchange");
    for (index, exchange) in exchanges.iter().enumerate() {
        let at = section.index(index);
        check_name(&at, &exchange.name)?;
        if exchanges[..index].iter().any(|other| other.name == exchange.name) {
            return Err(taken(&at, &exchange.name, "[[exchange]]"));
        }
        if exchange.bindings.is_empty() {
            return Err(ConfigFault::new(
                at.key("bindings"),
                "[]",
                "an exchange without bindings leads nowhere",
            ));
        }
        check_bindings(&at.key("bindings"), exchange, queues)?;
    }
    Ok(())
}

fn check_bindings(
    section: &KeyPath,
    exchange: &ExchangeSettings,
    queues: &[QueueSettings],
) -> Result<(), ConfigFault> {
    for (index, binding) in exchange.bindings.iter().enumerate() {
        let at = section.index(index);
        let bytes = exchange.name.len() + 1 + binding.key.len();
        if binding.key.is_empty()
            || bytes > DESTINATION_BYTES_MAX
            || binding.key.chars().any(char::is_control)
        {
            return Err(ConfigFault::new(at.key("key"), &binding.key, "no routing key"));
        }
        if !queues.iter().any(|queue| queue.name == binding.queue) {
            let names = queues.iter().map(|queue| queue.name.as_str());
            let problem = format!("there is no such queue{}", suggestion(&binding.queue, names));
            return Err(ConfigFault::new(at.key("queue"), &binding.queue, problem));
        }
        if exchange.bindings[..index].contains(binding) {
            let fault = ConfigFault::new(at.key("key"), &binding.key, "it is bound to this queue already");
            return Err(fault.allowing("each pair of key and queue once"));
        }
    }
    Ok(())
}

fn check_name(section: &KeyPath, name: &str) -> Result<(), ConfigFault> {
    let fits = (1..=DESTINATION_BYTES_MAX).contains(&name.len());
    if !fits || name.contains('/') || name.chars().any(char::is_control) {
        return Err(ConfigFault::new(section.key("name"), name, "no name for a destination"));
    }
    Ok(())
}

fn taken(section: &KeyPath, name: &str, table: &str) -> ConfigFault {
    let fault = ConfigFault::new(section.key("name"), name, format!("another {table} has it already"));
    fault.allowing(format!("a name that no other {table} has"))
}

/// Checks numbers against the table of options.
fn check_numbers(
    section: &KeyPath,
    numbers: impl IntoIterator<Item = (&'static str, u64)>,
) -> Result<(), ConfigFault> {
    for (key, value) in numbers {
        let path = section.key(key);
        let (table, _) = path.option();
        let problem = match rule(&table, key).map(|rule| rule.allowed) {
            Some(Allowed::Number { min, .. }) if value < min => "it is too small",
            Some(Allowed::Number { max, .. }) if value > max => "it is too large",
            Some(Allowed::OneOfNumbers(numbers)) if !numbers.contains(&value) => {
                "it is none of the sizes there are"
            }
            _ => continue,
        };
        return Err(ConfigFault::new(path, value, problem));
    }
    Ok(())
}
