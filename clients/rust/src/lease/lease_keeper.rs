//! Keeps all registrations of a client, in one loop: makes the calls that are due, takes over what became of them, and
//! watches over the leases by the client's own clock.

use std::{cell::RefCell, collections::HashMap, sync::Arc, time::Duration};

use futures_util::{
    StreamExt as _,
    future::{AbortHandle, Aborted, abortable},
    stream::FuturesUnordered,
};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    calls::{Call, Outcome},
    clock::Moment,
    commands::{Command, Commands},
    table::Table,
};
use crate::daemons::Daemons;

/// How many registrations are under way at most, and how many calls of other kinds. A call takes kilobytes, a registration
/// that waits does not.
const CALLS_MAX: usize = 64;
/// How long the thread sleeps at most: its timer stands still while the machine sleeps, the clock of leases does not.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Keeps the registrations until the application has gone and has no registration left. `leases_changed` is notified when
/// there is a lease that was not there before, or none is left.
pub(super) async fn run(
    commands: &Commands,
    table: &RefCell<Table>,
    leases_changed: &Notify,
    daemons: &Arc<Daemons>,
    gone: &CancellationToken,
) {
    let mut calls = FuturesUnordered::new();
    let mut registering = HashMap::<u64, AbortHandle>::new();
    loop {
        take_commands(commands, table, leases_changed);
        let now = Moment::now();
        table.borrow_mut().look(now);
        while calls.len() < 2 * CALLS_MAX
            && let Some(call) = next_call(table, now, registering.len() < CALLS_MAX)
        {
            let (key, registers) = (call.key(), matches!(call, Call::Register(..)));
            // A registration that is under way is given up: its answer would come too late.
            if let Some(former) = registering.remove(&key) {
                former.abort();
            }
            let (call, abort) = abortable(call.make(Arc::clone(daemons)));
            if registers {
                registering.insert(key, abort);
            }
            calls.push(call);
        }
        if gone.is_cancelled() && table.borrow().is_empty() {
            return;
        }
        let pause = pause(&table.borrow(), now, registering.len() < CALLS_MAX);
        tokio::select! {
            () = commands.arrived() => {}
            Some(outcome) = calls.next() => take(table, leases_changed, &mut registering, outcome),
            () = sleep(pause) => {}
            () = gone.cancelled(), if !gone.is_cancelled() => {}
        }
    }
}

fn next_call(table: &RefCell<Table>, now: Moment, may_register: bool) -> Option<Call> {
    table.borrow_mut().next_call(now, may_register)
}

/// For how long nothing is due.
fn pause(table: &Table, now: Moment, may_register: bool) -> Duration {
    let opens = table.opens_at().filter(|_| may_register);
    let next = table.next_look().into_iter().chain(opens).min();
    next.map_or(SLEEP_MAX, |next| next.since(now).min(SLEEP_MAX))
}

fn take_commands(commands: &Commands, table: &RefCell<Table>, leases_changed: &Notify) {
    let mut table = table.borrow_mut();
    for command in commands.take() {
        match command {
            Command::Add(key, entry) => table.add(key, *entry),
            Command::Leave(key, reply) => table.leave(key, reply),
            Command::Update(key, reply) => table.update(key, reply),
        }
    }
    if table.holds_none() {
        leases_changed.notify_one();
    }
}

fn take(
    table: &RefCell<Table>,
    leases_changed: &Notify,
    registering: &mut HashMap<u64, AbortHandle>,
    outcome: Result<Outcome, Aborted>,
) {
    let Ok(outcome) = outcome else { return };
    let mut table = table.borrow_mut();
    let is_new = match outcome {
        Outcome::Registered(key, outcome) => {
            registering.remove(&key);
            table.take_registered(key, outcome)
        }
        Outcome::Updated(key, outcome) => table.take_updated(key, outcome),
        Outcome::Deregistered(key, outcome) => {
            table.take_deregistered(key, outcome);
            false
        }
    };
    if is_new {
        leases_changed.notify_one();
    }
}
