//! A service and a client that calls it, over TCP: `cargo run -p underlay --example request_reply`.

use std::time::Duration;
use underlay::driver::Address;
use underlay::rpc::{BackgroundClient, BackgroundService, CallError, Client, ServiceError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A service in a thread of its own; port 0 lets the system choose one.
    let service =
        BackgroundService::listen(&Address::tcp("127.0.0.1:0"), "shout", Default::default(), |request| {
            match request.body().to_vec().to_ascii_uppercase() {
                nothing if nothing.is_empty() => {
                    Err(ServiceError { code: 1, text: "say something".to_owned() })
                }
                loud => request.reply(&loud),
            }
        })?;
    let timeout = Duration::from_secs(1);

    // A client on this thread: its calls block, and drive the connection meanwhile.
    let mut client = Client::connect(service.address(), Default::default())?;
    let reply = client.call("shout", b"hello", timeout)?;
    println!("{}", String::from_utf8_lossy(&reply.to_bytes()));

    // What the service has against a call comes back as its own error.
    match client.call("shout", b"", timeout) {
        Err(CallError::Service(error)) => println!("refused with code {}: {}", error.code, error.text),
        other => println!("unexpected: {other:?}"),
    }

    // A client in the background: any thread starts calls, and any executor awaits them.
    let background = BackgroundClient::connect(service.address(), Default::default())?;
    let handle = background.handle();
    let calls = ["one", "two", "three"].map(|word| handle.call("shout", word.as_bytes(), timeout));
    for mut call in calls {
        if let Some(outcome) = call.wait(None) {
            println!("{}", String::from_utf8_lossy(&outcome?.to_bytes()));
        }
    }

    println!("the service handled {} requests", service.stop()?.requests);
    Ok(())
}
