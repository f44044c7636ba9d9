//! A connection is cut, and its session goes on over another one.

use std::time::Duration;

use super::client::WatchedClient;
use super::deaths::{Broker, start_service};
use super::relay::Relay;
use super::report::Case;
use super::{Setting, case, say};
use crate::error::BenchError;
use crate::underlay::broker::ANY_PORT;

/// Round trips before each cut.
const ROUND_TRIPS: u32 = 200;

/// Cuts the client's connection so often as was asked for. It connects again within `spread`, at a time that is drawn at
/// random.
pub(super) fn measure(setting: &Setting<'_>, spread: Duration) -> Result<Case, BenchError> {
    let variant = format!("first try within {} ms", spread.as_millis());
    let broker = Broker::start(setting, ANY_PORT)?;
    let _service = start_service(setting, &[&broker.place])?;
    let relay = Relay::start(&broker.place)?;
    let configure =
        |config: &mut underlay::rpc::ClientConfig| config.driver.session.reconnect_spread = spread;
    let mut client = WatchedClient::connect(setting, &[&relay.place], configure)?;
    let mut times = Vec::new();
    for cut in 1..=setting.options.count {
        for _ in 0..ROUND_TRIPS {
            client.round_trip()?;
        }
        let before = client.heard();
        let strike = || {
            relay.cut();
            Ok(())
        };
        times.push(client.time_to_answer(strike, |heard| heard.resumed > before.resumed)?);
        say(&format!("connection cut, {variant}"), cut, setting.options.count);
    }
    Ok(case("cut", &variant, &times, &[]))
}
