//! A router: resolves through the client crate and lists, at one daemon after the other, and never accepts to see less than it
//! has seen; and picks from the cache that the crate keeps.

use musterd_client::{Choice, NoTarget};

use super::Role;
use crate::faults::{
    client::{failed_read, place, row_of},
    history::{Answer, Op, Outcome},
};

/// How old the knowledge may be from which a router picks.
pub(crate) const MAX_STALE: std::time::Duration = std::time::Duration::from_secs(10);

/// A router.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) role: Role,
    /// Its own, with the addresses of all daemons in order.
    pub(crate) client: musterd_client::Client,
    pub(crate) cache: musterd_client::Router,
    pub(crate) addrs: Vec<String>,
    pub(crate) names: Vec<String>,
    /// The highest revision that an answer was of.
    pub(crate) seen: u64,
}

impl Router {
    /// Reads until it is told to stop.
    pub(crate) async fn run(mut self) {
        while self.role.pause_between(20, 60).await {
            let name = self.names[self.role.dice.below(self.names.len())].clone();
            match self.role.dice.below(4) {
                0 => self.list().await,
                1 => self.ask(&name).await,
                2 => self.resolve(&name).await,
                _ => self.pick(&name),
            }
        }
    }

    /// Without a least revision now and then, so that what has fallen behind answers as well.
    fn least(&mut self) -> u64 {
        if self.role.dice.once_in(4) { 0 } else { self.seen }
    }

    async fn list(&mut self) {
        let (daemon, least) = (self.role.dice.below(self.role.client.daemons()), self.least());
        let outcome = self.role.client.list(daemon, least).await;
        self.note(&outcome);
    }

    /// Of one daemon.
    async fn ask(&mut self, name: &str) {
        let (daemon, least) = (self.role.dice.below(self.role.client.daemons()), self.least());
        let outcome = self.role.client.resolve(daemon, name, least).await;
        self.note(&outcome);
    }

    /// Through the crate, which goes from daemon to daemon and asks for what it has seen.
    async fn resolve(&mut self, name: &str) {
        let (id, history) = (self.role.client.id, self.role.client.history.clone());
        self.client.require_revision(self.seen);
        let op = Op::Resolve { logical_id: name.to_owned(), min_revision: self.seen };
        let call = history.invoke(id, place(&self.addrs, self.client.daemon()), 1, op);
        let Some(answer) = self.role.stop.run_until_cancelled(self.client.resolve(name, &Choice::best())).await else {
            return;
        };
        let outcome = match answer {
            Ok(found) => Outcome::Ok(Answer::Resolved {
                revision: found.revision,
                epoch: found.epoch_number,
                row: row_of(&found.instance),
            }),
            Err(error) => failed_read(&error),
        };
        history.complete(call, outcome.clone());
        self.note(&outcome);
    }

    fn pick(&self, name: &str) {
        let (id, history) = (self.role.client.id, &self.role.client.history);
        let call = history.invoke(id, 0, 1, Op::Pick { logical_id: name.to_owned() });
        let outcome = match self.cache.pick(name, &Choice::best()) {
            Ok(target) => Outcome::Ok(Answer::Picked { row: row_of(target.instance()) }),
            Err(reason @ (NoTarget::NotReady(_) | NoTarget::NoLiveInstance(_) | NoTarget::Stale { .. })) => {
                Outcome::Fail(reason.to_string())
            }
            Err(refused) => Outcome::Unknown(refused.to_string()),
        };
        history.complete(call, outcome);
    }

    fn note(&mut self, outcome: &Outcome) {
        if let Outcome::Ok(Answer::Resolved { revision, .. } | Answer::Listed { revision, .. }) = outcome {
            self.seen = self.seen.max(*revision);
        }
    }
}
