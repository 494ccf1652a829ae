//! An actor on the client crate: the crate registers it, beats for it on its own thread, fails over, and decides by its own
//! clock when the lease is lost.
//!
//! What the crate tells is the actor's truth: each beat with its outcome, each lease that is granted, and when one is lost.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use musterd_client::{LossReason, OnLost, Register, Registration, State};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Kept, Role};
use crate::faults::{
    history::{Answer, History, Op, Outcome},
    proxy::{Link, Mode},
};

/// What it does when its lease is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// The crate registers it again, under the same instance id. It gives its lease up by its own clock.
    Rejoins,
    /// It registers as another actor, or under another instance id. It keeps its lease until the registry ends it.
    StartsOver,
}

/// How it falls silent without a word: the links that are its own stop to carry anything.
#[derive(Debug)]
pub(crate) struct Quit {
    pub(crate) after: Duration,
    pub(crate) links: Vec<Link>,
}

/// An actor.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) role: Role,
    /// The client of its process, which others may share.
    pub(crate) client: musterd_client::Client,
    pub(crate) name: String,
    pub(crate) style: Style,
    pub(crate) begins_after: Duration,
    pub(crate) quit: Option<Quit>,
    pub(crate) lives: u32,
}

impl Actor {
    /// Lives until it is told to stop.
    pub(crate) async fn live(mut self) {
        if !self.role.pause(self.begins_after).await {
            return;
        }
        let begun = Instant::now();
        // Each actor has a phase of its own.
        if !self.role.pause_between(0, 900).await {
            return;
        }
        let (mut instance, mut is_lease_over) = (self.role.dice.id(), true);
        while !self.role.stop.is_cancelled() {
            let life = Arc::new(self.begin(instance, is_lease_over));
            let Some(registration) = self.register(&life).await else {
                // The crate takes an attempt back that it could not finish: another instance id stays clear of that.
                (instance, is_lease_over) = (self.role.dice.id(), true);
                continue;
            };
            if !self.keep(&registration, &life, begun).await {
                return;
            }
            is_lease_over = true;
            if self.role.dice.once_in(2) {
                instance = self.role.dice.id();
            }
        }
    }

    fn begin(&mut self, instance: Uuid, is_lease_over: bool) -> Life {
        self.lives += 1;
        Life {
            history: self.role.client.history.clone(),
            kept: self.role.kept.clone(),
            id: self.role.client.id,
            instance,
            content: format!("actor-{}-{}", self.role.client.id, self.lives),
            style: self.style,
            attempts: AtomicU32::new(u32::from(!is_lease_over)),
            asked: Mutex::default(),
            given_back: Mutex::default(),
        }
    }

    /// Registers; `None` if that is not acknowledged in time, or it is time to stop.
    async fn register(&self, life: &Arc<Life>) -> Option<Registration> {
        let observer = Arc::clone(life);
        let register = Register::new(&self.name)
            .instance_id(life.instance)
            .actor_name(&life.content)
            .node("node")
            .ttl(self.role.ttl)
            .observer(move |state| observer.take(state));
        let register = match self.style {
            Style::Rejoins => register.on_lost(OnLost::Rejoin),
            Style::StartsOver => register.on_lost(OnLost::Stop).until_told(),
        };
        life.ask();
        let registration = self.role.stop.run_until_cancelled(self.client.register(register)).await;
        match registration {
            Some(Ok(registration)) => Some(registration),
            _ => {
                life.history.invoke(life.id, 0, 1, Op::Leave { instance: life.instance });
                self.role.pause(Duration::from_millis(50)).await;
                None
            }
        }
    }

    /// Lives with a registration until it has ended (true), or until it is time to stop (false).
    async fn keep(&mut self, registration: &Registration, life: &Life, begun: Instant) -> bool {
        if let Some(quit) = self.quit.take() {
            self.role.pause(quit.after.saturating_sub(begun.elapsed())).await;
            self.fall_silent(registration, life, &quit.links).await;
            self.role.stop.cancelled().await;
            return false;
        }
        let mut states = registration.states();
        let ended = async { drop(states.wait_for(|state| *state == State::Ended).await) };
        if self.role.stop.run_until_cancelled(ended).await.is_some() {
            return true;
        }
        life.leave(registration).await;
        false
    }

    /// Right after a beat was acknowledged, so that none is on its way.
    async fn fall_silent(&self, registration: &Registration, life: &Life, links: &[Link]) {
        let mut remaining = registration.remaining();
        while !self.role.stop.is_cancelled() {
            sleep(Duration::from_millis(2)).await;
            let before = std::mem::replace(&mut remaining, registration.remaining());
            if remaining > before {
                break;
            }
        }
        links.iter().for_each(|link| link.set(Mode::BlackHole { from_client: true, from_server: true }));
        if let Some(lease) = registration.lease() {
            life.kept.is_silent(lease.lease_id, life.history.now());
        }
    }
}

/// One registration, as far as it is on record.
#[derive(Debug)]
struct Life {
    history: History,
    kept: Kept,
    id: u32,
    instance: Uuid,
    content: String,
    style: Style,
    /// Registrations that were asked for, and those that may still have an effect.
    attempts: AtomicU32,
    /// The call that asks for a lease, while it is open.
    asked: Mutex<Option<usize>>,
    given_back: Mutex<Option<u64>>,
}

fn put<T>(place: &Mutex<Option<T>>, value: Option<T>) -> Option<T> {
    std::mem::replace(&mut *place.lock().unwrap_or_else(PoisonError::into_inner), value)
}

impl Life {
    /// A registration is asked for. All daemons are: whichever answers.
    fn ask(&self) {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let op = Op::Register { instance: self.instance, content: self.content.clone(), epoch: None };
        put(&self.asked, Some(self.history.invoke(self.id, 0, attempt, op)));
    }

    /// The crate has told a state, on the thread that beats.
    fn take(&self, state: &State) {
        match *state {
            State::Held(lease) => {
                self.kept.beats(lease.lease_id);
                let (lease, epoch) = (lease.lease_id, lease.epoch_number);
                // Of a lease that was granted, its id is the revision.
                let answer = Answer::Registered { lease, revision: lease, epoch };
                if let Some(call) = put(&self.asked, None) {
                    self.history.complete(call, Outcome::Ok(answer));
                }
            }
            State::Lost(lost) => {
                self.kept.is_silent(lost.lease_id, self.history.now());
                if lost.reason == LossReason::Closed {
                    put(&self.given_back, Some(lost.lease_id));
                } else if self.style == Style::Rejoins {
                    self.ask();
                }
            }
            _ => {}
        }
    }

    async fn leave(&self, registration: &Registration) {
        let call = self.history.invoke(self.id, 0, 1, Op::Leave { instance: self.instance });
        let outcome = match registration.leave(Duration::ZERO).await {
            Ok(()) => Outcome::Ok(Answer::Left { lease: put(&self.given_back, None) }),
            Err(error) => Outcome::Unknown(error.to_string()),
        };
        self.history.complete(call, outcome);
    }
}
