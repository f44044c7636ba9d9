//! A connection is cut, and its session goes on over another one.

use std::time::{Duration, Instant};

use super::client::WatchedClient;
use super::deaths::{Broker, start_service};
use super::relay::Relay;
use super::report::Case;
use super::{Setting, outage_case, say};
use crate::error::BenchError;
use crate::underlay::broker::ANY_PORT;

/// Before each cut the connection has lasted for longer than this, so that it does not count as a short one, after
/// which the next try waits.
const LASTS: Duration = Duration::from_millis(100);

/// Cuts the client's connection so often as was asked for. It connects again within `spread`, at a time that is drawn at
/// random.
pub(super) fn measure(setting: &Setting<'_>, spread: Duration) -> Result<Case, BenchError> {
    let variant = format!("first try within {} ms", spread.as_millis());
    let broker = Broker::start(setting, ANY_PORT)?;
    let _service = start_service(setting, &[&broker.place])?;
    let relay = Relay::start(&broker.place)?;
    let mut client = WatchedClient::connect(setting, &[&relay.place], |config| {
        config.driver.session.reconnect_spread = spread;
        config.driver.session.reconnect_max = LASTS;
    })?;
    let mut outages = Vec::new();
    for cut in 1..=setting.options.count {
        let whole = Instant::now();
        while whole.elapsed() <= LASTS {
            client.round_trip()?;
        }
        let before = client.heard();
        let strike = || {
            relay.cut();
            Ok(())
        };
        outages.push(client.time_to_answer(strike, |heard| heard.resumed > before.resumed)?);
        say(&format!("connection cut, {variant}"), cut, setting.options.count);
    }
    Ok(outage_case("cut", &variant, &outages))
}
