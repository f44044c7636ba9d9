//! Sessions that change wires under load, as the link between two devices is cut and comes back: from `rdma` to `tcp`
//! and back again, and nobody who sends or takes has lost anything by it.

use crate::cast::{Actor, Cast, figures, wait_for_figure};
use crate::devices::INTERFACES;
use crate::one_way::Ledger;
use crate::part::{Calls, Role, Times};
use crate::process::Process;
use crate::stage::{ANY_TCP, Stage, Way, broker_config};

/// No session expires in the test, and nobody else is taken for dead.
const TIMES: Times = Times { idle_timeout_ms: 6_000, session_expiry_ms: 60_000, failover_after_ms: 1_000 };

const PRODUCERS: u32 = 2;
const ROUNDS: u32 = 2;
/// Of each producer, before the link is cut, and again before it comes back.
const MESSAGES: u32 = 300;

pub(crate) fn sessions_move_to_tcp_and_back_under_load(stage: &Stage) {
    let broker = Process::start(&broker_config(&[&stage.any_port(), ANY_TCP], TIMES), &[]);
    let Some(Way::Linked(link, _)) = stage.way(&broker) else { return };
    let addresses: Vec<&str> = broker.addresses.iter().map(String::as_str).collect();
    let cast = Cast::new("sessions that change wires", stage, &addresses, TIMES, Calls::Once);
    let mut actors = vec![Actor::start(cast.part(Role::Taker, 1))];
    actors.extend((1..=PRODUCERS).map(|number| Actor::start(cast.part(Role::Producer, number))));
    let (mut told, mut wires) = (0, Vec::new());
    for _ in 0..ROUNDS {
        under_load(&mut actors, &mut told);
        INTERFACES.iter().for_each(|interface| link.cut(interface));
        wires.push("tcp");
        actors.iter_mut().for_each(|actor| actor.wait_for_moves(&wires));
        under_load(&mut actors, &mut told);
        INTERFACES.iter().for_each(|interface| link.restore(interface));
        wires.push("rdma");
        actors.iter_mut().for_each(|actor| actor.wait_for_moves(&wires));
    }
    under_load(&mut actors, &mut told);
    let produced = u64::from(PRODUCERS * told);
    wait_for_figure(&broker, "queue.work.settled", produced);
    let mut ledger = Ledger::default();
    ledger.add(1, actors[0].log());
    let interrupted: Vec<usize> = actors.iter_mut().map(|actor| interruptions(actor.log())).collect();
    println!("ledger of sessions that change wires\n  produced      {produced}\n{ledger}");
    println!("  each resumed  over {}", wires.join(", "));
    println!("  interrupted   {interrupted:?} times\n  took          {}", cast.took());
    drop(actors);
    let names = ["messages_in", "delivered", "settled", "depth"].map(|name| format!("queue.work.{name}"));
    let [messages_in, delivered, settled, depth] = &names;
    let [redelivered, resumed, moved] = ["broker.redelivered", "sessions.resumed", "sessions.moved"];
    let names = [messages_in, delivered, settled, depth, redelivered, resumed, moved];
    let [messages_in, delivered, settled, depth, redelivered, resumed, moved] = figures(broker, names);
    assert_eq!([messages_in, delivered, settled, depth, redelivered], [produced, produced, produced, 0, 0]);
    // A broker that had not noticed yet that a connection was lost saw a move.
    assert_eq!(resumed + moved, wires.len() as u64 * u64::from(PRODUCERS + 1));
    ledger.is_each_once_and_in_order(produced);
    // The way back interrupts nothing.
    assert!(interrupted.iter().all(|&times| times == ROUNDS as usize), "{interrupted:?}");
}

/// Has each producer send more, and comes back in the midst of it.
fn under_load(actors: &mut [Actor], told: &mut u32) {
    let (takers, producers) = actors.split_at_mut(1);
    producers.iter_mut().for_each(|producer| producer.tell(MESSAGES));
    let goal = PRODUCERS * *told + MESSAGES / 4;
    takers[0].wait_until("a part of the load", |log| {
        log.lines().filter(|line| line.starts_with("handled ")).count() as u32 >= goal
    });
    *told += MESSAGES;
}

fn interruptions(log: &str) -> usize {
    log.lines().filter(|line| line.starts_with("event interrupted: ")).count()
}
