//! The floor's relay: stands where a broker would stand and passes messages on.
//!
//! For one message at a time it alternates: a request up, its reply down. For more it carries both
//! directions at once, so that neither waits for the other: two threads where it blocks, one loop over
//! both sockets where it polls.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;

use clap::Args;
use nix::poll::{PollFd, PollFlags};

use super::framing::{HEADER_BYTES, Inbox, write_once};
use super::waiting::{Connection, Patience, Waiting, is_end};
use crate::child::exit_when_orphaned;
use crate::error::BenchError;

/// Options of `floor-relay`.
#[derive(Debug, Clone, Args)]
pub struct RelayOptions {
    /// Address to listen at; port 0 takes any free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Address of the service.
    #[arg(long, value_name = "HOST:PORT")]
    pub service: SocketAddr,
    /// How to wait for messages.
    #[arg(long, value_enum, default_value = "blocking")]
    pub waiting: Waiting,
    /// Carry one message at a time, for clients that have only one in flight.
    #[arg(long)]
    pub alternate: bool,
}

/// Relays one client after the other, each over a connection of its own to the service, until the
/// process's standard input ends.
///
/// # Errors
/// The address cannot be listened at. What goes wrong on a connection is said on standard error and
/// ends that connection.
pub fn run(options: &RelayOptions) -> Result<(), BenchError> {
    exit_when_orphaned()?;
    let listener = super::listen(options.listen)?;
    loop {
        let (client, _) = listener.accept().map_err(BenchError::io("accept a connection"))?;
        match relay(client, options) {
            Err(error) if !is_end(&error) => eprintln!("floor-relay: {error}"),
            Ok(()) | Err(_) => {}
        }
    }
}

fn relay(client: TcpStream, options: &RelayOptions) -> io::Result<()> {
    let service = TcpStream::connect(options.service)?;
    let client = Connection::new(client, options.waiting, None)?;
    let service = Connection::new(service, options.waiting, None)?;
    match (options.alternate, options.waiting) {
        (true, _) => alternate(client, service),
        (false, Waiting::Blocking) => two_threads(client, service),
        (false, Waiting::Yield) => one_loop(&client.stream, &service.stream),
    }
}

fn alternate(mut client: Connection, mut service: Connection) -> io::Result<()> {
    let (mut requests, mut replies) = (Inbox::default(), Inbox::default());
    while client.receive(&mut requests)? {
        pass_on(&mut requests, &mut service)?;
        if !service.receive(&mut replies)? {
            break;
        }
        pass_on(&mut replies, &mut client)?;
    }
    Ok(())
}

fn two_threads(client: Connection, service: Connection) -> io::Result<()> {
    let requests = (client.stream.try_clone()?, service.stream.try_clone()?);
    let replies = (service.stream.try_clone()?, client.stream.try_clone()?);
    // Whichever direction ends first ends the other one: both then read the end of their stream.
    let carry = |(from, to): (TcpStream, TcpStream)| {
        let outcome = one_direction(from, to);
        let _ = client.stream.shutdown(Shutdown::Both);
        let _ = service.stream.shutdown(Shutdown::Both);
        outcome
    };
    std::thread::scope(|scope| {
        let requests = std::thread::Builder::new().spawn_scoped(scope, || carry(requests))?;
        let replies = carry(replies);
        let requests =
            requests.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the relay panicked")));
        requests.and(replies)
    })
}

fn one_direction(from: TcpStream, to: TcpStream) -> io::Result<()> {
    let mut from = Connection::new(from, Waiting::Blocking, None)?;
    let mut to = Connection::new(to, Waiting::Blocking, None)?;
    let mut inbox = Inbox::default();
    while from.receive(&mut inbox)? {
        pass_on(&mut inbox, &mut to)?;
    }
    Ok(())
}

/// Sends the message at the front of `inbox`, which has one, and forgets it.
fn pass_on(inbox: &mut Inbox, to: &mut Connection) -> io::Result<()> {
    if let Some((header, message)) = inbox.message().map_err(io::Error::other)? {
        to.send(&message[..HEADER_BYTES], &message[HEADER_BYTES..])?;
        inbox.consume(header.message_bytes());
    }
    Ok(())
}

fn one_loop(client: &TcpStream, service: &TcpStream) -> io::Result<()> {
    let mut patience = Patience::new(Waiting::Yield);
    let mut requests = Direction::default();
    let mut replies = Direction::default();
    loop {
        let up = requests.step(client, service)?;
        let down = replies.step(service, client)?;
        match (up, down) {
            (Step::Ended, _) | (_, Step::Ended) => return Ok(()),
            (Step::Idle, Step::Idle) => {
                let at_client = requests.wants_input() | replies.wants_output();
                let at_service = replies.wants_input() | requests.wants_output();
                let mut interest =
                    [PollFd::new(client.as_fd(), at_client), PollFd::new(service.as_fd(), at_service)];
                patience.pause(&mut interest, None)?;
            }
            _ => patience.traffic(),
        }
    }
}

/// One direction of a relay that polls: reads a message, then writes it.
#[derive(Debug, Default)]
struct Direction {
    inbox: Inbox,
    /// How much of the message at the front has been written; `None` while it is being read.
    sent: Option<usize>,
}

/// What a try to make progress came to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Progress,
    Idle,
    Ended,
}

impl Direction {
    fn step(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<Step> {
        if self.sent.is_none() {
            if self.inbox.message().map_err(io::Error::other)?.is_none() {
                match self.inbox.read_once(&mut from) {
                    Ok(0) => return Ok(Step::Ended),
                    Ok(_) => {}
                    Err(error) => return idle_or(error),
                }
            }
            if self.inbox.message().map_err(io::Error::other)?.is_none() {
                return Ok(Step::Progress);
            }
            self.sent = Some(0);
        }
        let (Some((header, message)), Some(sent)) =
            (self.inbox.message().map_err(io::Error::other)?, self.sent)
        else {
            return Ok(Step::Progress);
        };
        let sent = match write_once(&mut to, &message[..HEADER_BYTES], &message[HEADER_BYTES..], sent) {
            Ok(count) => sent + count,
            Err(error) => return idle_or(error),
        };
        let is_whole = sent == header.message_bytes();
        self.sent = (!is_whole).then_some(sent);
        if is_whole {
            self.inbox.consume(header.message_bytes());
        }
        Ok(Step::Progress)
    }

    fn wants_input(&self) -> PollFlags {
        if self.sent.is_none() { PollFlags::POLLIN } else { PollFlags::empty() }
    }

    fn wants_output(&self) -> PollFlags {
        if self.sent.is_some() { PollFlags::POLLOUT } else { PollFlags::empty() }
    }
}

/// An error that means "not now", or the error.
fn idle_or(error: io::Error) -> io::Result<Step> {
    match error.kind() {
        ErrorKind::WouldBlock => Ok(Step::Idle),
        ErrorKind::Interrupted => Ok(Step::Progress),
        _ => Err(error),
    }
}
