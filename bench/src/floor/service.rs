//! The floor's service: sends every message back as it is.

use std::io;
use std::net::{SocketAddr, TcpStream};

use clap::Args;

use super::framing::{HEADER_BYTES, Inbox};
use super::waiting::{Connection, Waiting, is_end};
use crate::child::exit_when_orphaned;
use crate::error::BenchError;

/// Options of `floor-service`.
#[derive(Debug, Clone, Args)]
pub struct ServiceOptions {
    /// Address to listen at; port 0 takes any free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// How to wait for messages.
    #[arg(long, value_enum, default_value = "blocking")]
    pub waiting: Waiting,
    /// Damages the last byte of the body of this message, to show that clients notice.
    #[arg(long, value_name = "NUMBER")]
    pub corrupt: Option<u64>,
}

/// Serves one connection after the other, until the process's standard input ends.
///
/// # Errors
/// The address cannot be listened at. What goes wrong on a connection is said on standard error and
/// ends that connection.
pub fn run(options: &ServiceOptions) -> Result<(), BenchError> {
    exit_when_orphaned()?;
    let listener = super::listen(options.listen)?;
    loop {
        let (stream, _) = listener.accept().map_err(BenchError::io("accept a connection"))?;
        match serve(stream, options) {
            Err(error) if !is_end(&error) => eprintln!("floor-service: {error}"),
            Ok(()) | Err(_) => {}
        }
    }
}

fn serve(stream: TcpStream, options: &ServiceOptions) -> io::Result<()> {
    let mut connection = Connection::new(stream, options.waiting, None)?;
    let mut inbox = Inbox::default();
    while connection.receive(&mut inbox)? {
        let Some((header, message)) = inbox.message_mut().map_err(io::Error::other)? else { continue };
        if options.corrupt == Some(header.number) && header.body_bytes > 0 {
            message[header.message_bytes() - 1] ^= 0xff;
        }
        connection.send(&message[..HEADER_BYTES], &message[HEADER_BYTES..])?;
        inbox.consume(header.message_bytes());
    }
    Ok(())
}
