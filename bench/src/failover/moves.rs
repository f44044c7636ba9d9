//! A session changes wires while it is in use.
//!
//! All ends are in this process, on threads of their own, because `inproc` reaches no further: the broker with two
//! listeners for TCP and one for `inproc`, the service, and the caller on this thread.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use underlay::driver::{Address, Driver};
use underlay::rpc::{BackgroundService, ReplyDestination, ServiceConfig};
use underlay_broker::config::{ListenerSettings, QueueSettings};
use underlay_broker::{Config, Control, Server};

use super::caller::Caller;
use super::report::{Case, Times};
use super::{Setting, say};
use crate::error::BenchError;
use crate::payload::Payload;
use crate::plan::REPLY_TIMEOUT;
use crate::underlay::broker::ANY_PORT;
use crate::underlay::{DESTINATION, driver_config, failed};

/// Round trips before each move.
const ROUND_TRIPS: u64 = 200;

/// Moves between two TCP listeners, and from TCP to `inproc` and back.
pub(super) fn measure(setting: &Setting<'_>) -> Result<Vec<Case>, BenchError> {
    let options = setting.options;
    let broker = EmbeddedBroker::start(setting)?;
    let [tcp, other_tcp, inproc] = &broker.addresses;
    let config =
        ServiceConfig { driver: driver_config(options.engine, options.wait), ..ServiceConfig::default() };
    let echo = |request: &mut underlay::rpc::Request<'_>| Ok(request.take_body());
    let _service = BackgroundService::connect(tcp, DESTINATION, config, echo)
        .map_err(|error| failed("service")(error.into()))?;
    let mut mover = Mover::connect(setting, tcp)?;
    let mut kinds =
        [("tcp to tcp", Vec::new()), ("tcp to inproc", Vec::new()), ("inproc to tcp", Vec::new())];
    for round in 1..=options.count {
        for ((_, times), address) in kinds.iter_mut().zip([other_tcp, inproc, tcp]) {
            times.push(mover.move_to(address)?);
        }
        say("changes of wire", round, options.count);
    }
    let cases = kinds.iter().map(|(kind, times)| {
        let (first_answers, switches): (Vec<_>, Vec<_>) = times.iter().copied().unzip();
        Case {
            fault: "move".to_owned(),
            variant: (*kind).to_owned(),
            count: times.len(),
            first_answer_us: Times::of(&first_answers),
            noticed_us: None,
            switched_us: Some(Times::of(&switches)),
        }
    });
    Ok(cases.collect())
}

/// A caller's driver, with a session.
struct Mover {
    driver: Driver<Caller>,
}

impl Mover {
    fn connect(setting: &Setting<'_>, address: &Address) -> Result<Self, BenchError> {
        let options = setting.options;
        let mut config = driver_config(options.engine, options.wait);
        // Where it is moved to it stays.
        config.session.return_after = Duration::from_secs(3600);
        let identity = ReplyDestination::new(1).identity("caller");
        let caller = Caller::new(Payload::new(options.size));
        let driver = Driver::new(config, identity, caller).map_err(|error| failed("caller")(error.into()))?;
        let mut mover = Self { driver };
        let connected = mover.driver.parts().0.connect(address);
        connected.map_err(|error| failed("caller")(error.into()))?;
        Ok(mover)
    }

    /// Moves, and says how long it took to the first answer by the new wire, and until that was in use.
    fn move_to(&mut self, address: &Address) -> Result<(Duration, Duration), BenchError> {
        let goal = self.driver.parts().1.answered + ROUND_TRIPS;
        self.run_until(|caller| caller.answered >= goal)?;
        let (core, caller) = self.driver.parts();
        let moves = caller.moves;
        let since = Instant::now();
        let connection = caller.connection.ok_or_else(|| failed("caller")("there is no session".into()))?;
        let begun = core.move_to(connection, address).map_err(|error| failed("caller")(error.into()))?;
        if !begun {
            return Err(failed("caller")("the session cannot be moved now".into()));
        }
        self.run_until(|caller| caller.moves > moves)?;
        let switched = since.elapsed();
        self.run_until(Caller::is_answered_by_the_new_way)?;
        Ok((since.elapsed(), switched))
    }

    fn run_until(&mut self, is_done: impl Fn(&Caller) -> bool) -> Result<(), BenchError> {
        let turned = self
            .driver
            .run_until(Some(REPLY_TIMEOUT), |_, caller| caller.fault.is_some() || is_done(caller))
            .map_err(BenchError::io("turn the caller's driver"))?;
        let caller = self.driver.parts().1;
        match caller.fault.take() {
            Some(fault) => Err(failed("caller")(fault.into())),
            None if turned => Ok(()),
            None => Err(BenchError::NoReply { number: caller.sent, waited: REPLY_TIMEOUT }),
        }
    }
}

/// A broker on a thread of this process.
struct EmbeddedBroker {
    addresses: [Address; 3],
    control: Control,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    fn start(setting: &Setting<'_>) -> Result<Self, BenchError> {
        let broker_failed = |error: Box<dyn std::error::Error + Send + Sync>| failed("broker")(error);
        let tcp =
            || ListenerSettings { engine: setting.options.engine.into(), ..ListenerSettings::tcp(ANY_PORT) };
        let config = Config::builder()
            .listener(tcp())
            .listener(tcp())
            .listener(ListenerSettings::inproc(format!("failover-{}", std::process::id())))
            .queue(QueueSettings::named(DESTINATION))
            .build()
            .map_err(|fault| broker_failed(fault.into()))?;
        let (sender, receiver) = mpsc::channel();
        // A driver stays on the thread that made it.
        let serve = move || match Server::start(&config) {
            Ok(mut server) => {
                let started = (server.addresses().to_vec(), server.control());
                if sender.send(Ok(started)).is_ok()
                    && let Err(error) = server.run()
                {
                    eprintln!("underlay-bench: the broker of this process has failed: {error}");
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let thread = thread::Builder::new().name("broker".to_owned()).spawn(serve);
        let thread = thread.map_err(BenchError::io("start the broker's thread"))?;
        let (addresses, control) = receiver
            .recv()
            .map_err(|error| broker_failed(error.into()))?
            .map_err(|error| broker_failed(error.into()))?;
        let addresses =
            addresses.try_into().map_err(|_| broker_failed("it does not listen everywhere".into()))?;
        Ok(Self { addresses, control, thread: Some(thread) })
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        // Once to stop, once not to wait for what is under way.
        self.control.shut_down();
        self.control.shut_down();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}
