//! The floor's client: sends requests at a pace, checks replies, takes times.
//!
//! One message at a time is a plain write and a plain read. More of them, or a rate, is one loop over
//! one socket that writes when a message is due and reads when something has come, so that it cannot
//! block in a write while the replies that would unblock it pile up.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags};

use super::framing::{HEADER_BYTES, Header, Inbox, write_once};
use super::waiting::{Connection, Waiting, is_end};
use crate::aligned::AlignedBytes;
use crate::error::BenchError;
use crate::payload::Payload;
use crate::plan::{Pace, REPLY_TIMEOUT, RoundPlan, record};
use crate::subject::RoundOutcome;

/// A client of a floor relay, or of a floor service where there is no relay.
#[derive(Debug)]
pub struct FloorClient {
    connection: Connection,
    waiting: Waiting,
    inbox: Inbox,
    header: AlignedBytes,
    payload: Payload,
}

impl FloorClient {
    /// Connects. `one_at_a_time` says that every round will have a closed loop with one message in
    /// flight.
    ///
    /// # Errors
    /// Nothing listens there.
    pub fn connect(address: SocketAddr, waiting: Waiting, one_at_a_time: bool) -> Result<Self, BenchError> {
        let refused = |source| BenchError::Connect { address: address.to_string(), source };
        let stream = TcpStream::connect(address).map_err(refused)?;
        let connection = Connection::new(stream, waiting, Some(REPLY_TIMEOUT)).map_err(refused)?;
        if !one_at_a_time {
            connection.stream.set_nonblocking(true).map_err(refused)?;
        }
        let header = AlignedBytes::zeroed(HEADER_BYTES);
        Ok(Self { connection, waiting, inbox: Inbox::default(), header, payload: Payload::new(1) })
    }

    /// Prepares bodies of `size` bytes.
    pub fn prepare(&mut self, size: usize) {
        self.payload = Payload::new(size);
    }

    /// Does one round; see [`crate::subject::Subject::round`].
    ///
    /// # Errors
    /// As there.
    pub fn round(
        &mut self,
        plan: &RoundPlan,
        histogram: &mut Histogram<u64>,
    ) -> Result<RoundOutcome, BenchError> {
        let start = Instant::now();
        match plan.pace {
            Pace::Closed { in_flight: 1 } => self.one_at_a_time(plan, histogram)?,
            _ => Pump::new(self, plan, start).run(histogram)?,
        }
        Ok(RoundOutcome { messages: plan.messages, elapsed: start.elapsed() })
    }

    fn one_at_a_time(&mut self, plan: &RoundPlan, histogram: &mut Histogram<u64>) -> Result<(), BenchError> {
        for received in 0..plan.messages {
            let number = plan.first_number + received;
            let failed = |error| failed(error, plan, received);
            Header { body_bytes: self.payload.size(), number }.encode(&mut self.header);
            let begun = Instant::now();
            self.connection.send(&self.header, self.payload.body(number)).map_err(failed)?;
            if !self.connection.receive(&mut self.inbox).map_err(failed)? {
                return Err(BenchError::Closed { received, expected: plan.messages });
            }
            record(histogram, begun.elapsed());
            take_reply(&mut self.inbox, &self.payload, number)?;
        }
        Ok(())
    }
}

/// Checks the reply at the front of the inbox, if there is a whole one, and forgets it. False if not.
fn take_reply(inbox: &mut Inbox, payload: &Payload, expected: u64) -> Result<bool, BenchError> {
    let Some((header, message)) = inbox.message()? else { return Ok(false) };
    if header.number != expected {
        return Err(BenchError::OutOfOrder { expected, got: header.number });
    }
    payload.check(expected, &message[HEADER_BYTES..])?;
    inbox.consume(header.message_bytes());
    Ok(true)
}

/// Names an error by what it means to the round.
fn failed(error: io::Error, plan: &RoundPlan, received: u64) -> BenchError {
    if error.kind() == ErrorKind::TimedOut {
        BenchError::NoReply { number: plan.first_number + received, waited: REPLY_TIMEOUT }
    } else if is_end(&error) {
        BenchError::Closed { received, expected: plan.messages }
    } else {
        BenchError::Io { doing: "exchange messages with the floor", source: error }
    }
}

/// A round with several messages on their way, or with a rate.
struct Pump<'a> {
    client: &'a mut FloorClient,
    plan: &'a RoundPlan,
    start: Instant,
    /// Messages whose sending has begun.
    begun: u64,
    /// How much of the last of them has been written; `None` if all of it.
    sent: Option<usize>,
    received: u64,
    /// In a closed loop, when each message in flight was begun; replies come in order, so message
    /// `n` is at `n` modulo the messages in flight.
    begun_at: Vec<Instant>,
    /// When the last reply came, or the first message was sent for want of one.
    last_reply: Instant,
    /// Whether the last sleep ended because there is something to read.
    readable: bool,
}

impl<'a> Pump<'a> {
    fn new(client: &'a mut FloorClient, plan: &'a RoundPlan, start: Instant) -> Self {
        let slots = match plan.pace {
            Pace::Closed { in_flight } => in_flight as usize,
            Pace::Open(_) => 0,
        };
        let begun_at = vec![start; slots];
        Self {
            client,
            plan,
            start,
            begun: 0,
            sent: None,
            received: 0,
            begun_at,
            last_reply: start,
            readable: false,
        }
    }

    fn run(mut self, histogram: &mut Histogram<u64>) -> Result<(), BenchError> {
        while self.received < self.plan.messages {
            let wrote = self.write().map_err(|error| failed(error, self.plan, self.received))?;
            let read = self.read(histogram)?;
            if wrote || read {
                self.client.connection.patience.traffic();
            } else {
                self.pause().map_err(|error| failed(error, self.plan, self.received))?;
            }
        }
        Ok(())
    }

    /// Writes what can be written of the message that is under way or due. True if anything went.
    fn write(&mut self) -> io::Result<bool> {
        if self.sent.is_none() && self.is_due() {
            let number = self.plan.first_number + self.begun;
            Header { body_bytes: self.client.payload.size(), number }.encode(&mut self.client.header);
            if let Some(slots) = std::num::NonZeroUsize::new(self.begun_at.len()) {
                self.begun_at[self.begun as usize % slots] = Instant::now();
            }
            if self.begun == self.received {
                self.last_reply = Instant::now();
            }
            self.begun += 1;
            self.sent = Some(0);
        }
        let Some(sent) = self.sent else { return Ok(false) };
        let body = self.client.payload.body(self.plan.first_number + self.begun - 1);
        match write_once(&mut self.client.connection.stream, &self.client.header, body, sent) {
            Ok(count) => {
                let sent = sent + count;
                self.sent = (sent < HEADER_BYTES + body.len()).then_some(sent);
                Ok(true)
            }
            Err(error) if is_not_now(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_due(&self) -> bool {
        self.begun < self.plan.messages
            && match &self.plan.pace {
                Pace::Closed { in_flight } => self.begun - self.received < u64::from(*in_flight),
                Pace::Open(schedule) => self.start.elapsed() >= schedule.intended(self.begun),
            }
    }

    /// Reads once if that may bring something, and takes the replies that are whole. True if anything
    /// came.
    fn read(&mut self, histogram: &mut Histogram<u64>) -> Result<bool, BenchError> {
        if self.client.waiting == Waiting::Blocking && !self.readable {
            return Ok(false);
        }
        self.readable = false;
        match self.client.inbox.read_once(&mut self.client.connection.stream) {
            Ok(0) => {
                return Err(BenchError::Closed { received: self.received, expected: self.plan.messages });
            }
            Ok(_) => {}
            Err(error) if is_not_now(&error) => return Ok(false),
            Err(error) => return Err(failed(error, self.plan, self.received)),
        }
        let now = Instant::now();
        let mut number = self.plan.first_number + self.received;
        while self.received < self.begun && take_reply(&mut self.client.inbox, &self.client.payload, number)?
        {
            record(histogram, self.latency(now));
            self.last_reply = now;
            self.received += 1;
            number += 1;
        }
        Ok(true)
    }

    /// The latency of the reply whose turn it is, had it come at `now`.
    fn latency(&self, now: Instant) -> Duration {
        match &self.plan.pace {
            Pace::Closed { in_flight } => now - self.begun_at[self.received as usize % *in_flight as usize],
            Pace::Open(schedule) => (now - self.start).saturating_sub(schedule.intended(self.received)),
        }
    }

    fn pause(&mut self) -> io::Result<()> {
        let is_awaiting = self.begun > self.received;
        if is_awaiting && self.last_reply.elapsed() >= REPLY_TIMEOUT {
            return Err(ErrorKind::TimedOut.into());
        }
        let output = if self.sent.is_some() { PollFlags::POLLOUT } else { PollFlags::empty() };
        let until = self.next_due().unwrap_or_else(|| Instant::now() + REPLY_TIMEOUT);
        let connection = &mut self.client.connection;
        let mut interest = [PollFd::new(connection.stream.as_fd(), PollFlags::POLLIN | output)];
        connection.patience.pause(&mut interest, Some(until))?;
        let events = interest[0].revents().unwrap_or(PollFlags::empty());
        self.readable = events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR);
        Ok(())
    }

    /// When the next message is to be begun, if that is a matter of time.
    fn next_due(&self) -> Option<Instant> {
        match &self.plan.pace {
            Pace::Open(schedule) if self.sent.is_none() && self.begun < self.plan.messages => {
                Some(self.start + schedule.intended(self.begun))
            }
            _ => None,
        }
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::plan::{Schedule, new_histogram};

    /// Echoes bytes on a thread, and before the first byte of message `stall_at` does nothing for a
    /// while.
    fn echo_with_stall(message_bytes: usize, stall_at: usize, stall: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut message = vec![0; message_bytes];
            for number in 0.. {
                if stream.read_exact(&mut message).is_err() {
                    return;
                }
                if number == stall_at {
                    std::thread::sleep(stall);
                }
                stream.write_all(&message).unwrap();
            }
        });
        address
    }

    fn stalled_round(waiting: Waiting, pace: Pace) -> Histogram<u64> {
        let address = echo_with_stall(HEADER_BYTES + 100, 20, Duration::from_millis(200));
        let one_at_a_time = matches!(pace, Pace::Closed { in_flight: 1 });
        let mut client = FloorClient::connect(address, waiting, one_at_a_time).unwrap();
        client.prepare(100);
        let mut histogram = new_histogram();
        let plan = RoundPlan { size: 100, first_number: 0, messages: 300, pace };
        let outcome = client.round(&plan, &mut histogram).unwrap();
        assert_eq!((outcome.messages, histogram.len()), (300, 300));
        histogram
    }

    /// During a stall of 200 ms at 1000 a second, the 100 messages that were due in its first half had
    /// to wait at least 100 ms each: they count, although the client could not have sent them earlier.
    /// (Only lower bounds are asserted; a slow machine makes them larger.)
    #[test]
    fn an_open_loop_counts_what_a_stall_kept_waiting() {
        for waiting in [Waiting::Blocking, Waiting::Yield] {
            let histogram = stalled_round(waiting, Pace::Open(Schedule::per_second(1000.0)));
            let slow = histogram.count_between(99_000_000, u64::MAX / 2);
            assert!(slow >= 100, "{waiting:?}: only {slow} messages saw the stall");
        }
    }

    /// A closed loop with one in flight stops asking during the stall, so only one message sees it: the
    /// omission that the open loop is there to avoid.
    #[test]
    fn a_closed_loop_omits_what_it_did_not_send() {
        let histogram = stalled_round(Waiting::Blocking, Pace::Closed { in_flight: 1 });
        assert!(histogram.max() >= 200_000_000);
        assert!(histogram.value_at_quantile(0.99) < histogram.max());
    }

    #[test]
    fn several_in_flight_keep_their_order_and_large_ones_do_not_block_each_other() {
        for waiting in [Waiting::Blocking, Waiting::Yield] {
            let size = 1 << 20;
            let address = echo_with_stall(HEADER_BYTES + size, usize::MAX, Duration::ZERO);
            let mut client = FloorClient::connect(address, waiting, false).unwrap();
            client.prepare(size);
            let pace = Pace::Closed { in_flight: 16 };
            let plan = RoundPlan { size, first_number: 5, messages: 40, pace };
            let mut histogram = new_histogram();
            client.round(&plan, &mut histogram).unwrap();
            assert_eq!(histogram.len(), 40);
        }
    }

    #[test]
    fn a_service_that_hangs_up_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = FloorClient::connect(address, Waiting::Blocking, true).unwrap();
        drop(listener.accept().unwrap());
        let plan = RoundPlan { size: 1, first_number: 0, messages: 3, pace: Pace::Closed { in_flight: 1 } };
        let error = client.round(&plan, &mut new_histogram()).unwrap_err();
        assert!(matches!(error, BenchError::Closed { received: 0, expected: 3 }), "{error}");
    }
}
