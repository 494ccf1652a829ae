//! The first session of a process, and the sessions that the start leaves for later.
//!
//! The first session finds the schema of the registry, and all sessions are then held to it. A second one beside it
//! tells whether a pooler stands in between, before anything is changed. Neither is closed when that is done: with a
//! database far away each session costs several round trips, so the session of the migrations becomes the first one of
//! the pool, and the second one that of the feed. So does the session that finds a newer primary ([`super::search`]).

use std::{
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{timeout, timeout_at},
};

use super::{
    connect::ConnectError,
    database::{Database, quote_identifier},
    kept::{Driven, Kept},
    lineage::Fit,
    server::Want,
    session::{AskIdentity, Opened, Preparation},
};
use crate::telemetry::chain;

/// How long the second session may take after the first one.
const SECOND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a session is kept that is not used. Its identity was asked at its beginning.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// How long the end of a connection is awaited.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl Database {
    /// Opens the first session, finds the schema of the registry, and keeps the session to it, whatever the search path of
    /// role and database becomes.
    pub(super) async fn open_first(&self, want: Want, limit: Duration) -> Result<Opened, ConnectError> {
        let (chosen, is_chosen) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let first = async {
            let mut opened = self.try_open(want, limit, 0).await?;
            let _ = chosen.send(opened.target.clone());
            let located = std::mem::replace(&mut opened.located, Ok(Default::default()))?;
            let identity = if located.is_migrated { AskIdentity::IfKnown } else { AskIdentity::No };
            let preparation = Preparation { schema: located.schema.as_deref().map(quote_identifier), identity };
            match opened.settle(&preparation).await {
                Ok(true) => {}
                Ok(false) => return Err(ConnectError::Pooled { target: opened.target }),
                Err(error) => {
                    return Err(ConnectError::Unreachable { target: opened.target, reason: chain(&error) });
                }
            }
            let _ = ready.send(preparation);
            Ok((opened, located.schema, tokio::time::Instant::now() + SECOND_TIMEOUT))
        };
        let (server, _) = self.server();
        let second = server.second(async { is_chosen.await.ok() }, async { is_ready.await.ok() });
        let mut second = std::pin::pin!(second);
        let mut first = std::pin::pin!(first);
        // The greeting of the second one goes on beside the first one.
        let mut early = None;
        let (opened, schema, until) = loop {
            tokio::select! {
                biased;
                first = &mut first => break first?,
                second = &mut second, if early.is_none() => early = Some(second),
            }
        };
        let second = match early {
            Some(second) => Ok(second),
            None => timeout_at(until, second).await,
        };
        match second {
            Ok(Err(error @ ConnectError::Pooled { .. })) => return Err(error),
            Ok(Ok(Some(second))) if want == Want::Primary => self.leave(second),
            // The server may admit no second one.
            _ => {}
        }
        if let Some(schema) = schema {
            let _ = self.shared.schema.set(schema);
        }
        Ok(opened)
    }

    /// Leaves a session that is not driven yet to the next that needs one.
    pub(super) fn leave(&self, opened: Opened) {
        self.kept().second = Some((opened, Instant::now()));
    }

    /// Leaves a session to the next that needs one.
    pub(crate) fn keep(&self, session: Driven) {
        self.kept().driven = Some((session, Instant::now()));
    }

    /// Ends a session, and those that are kept, and lets the connection say goodbye: a database cannot be dropped while
    /// a session is in it.
    pub(crate) async fn close(&self, session: Driven) {
        drop(std::mem::take(&mut *self.kept()));
        let Driven { client, driver, .. } = session;
        drop(client);
        if timeout(CLOSE_TIMEOUT, driver).await.is_err() {
            tracing::debug!("the connection did not close in time");
        }
    }

    /// The second session of the start, if it belongs to the database that is followed.
    pub(super) async fn take_second(&self, want: Want) -> Option<Opened> {
        let (Some(_), Want::Primary) = (self.lineage(), want) else { return None };
        let (mut opened, since) = self.kept().second.take()?;
        if since.elapsed() > KEPT_FOR || opened.is_standby {
            return None;
        }
        if opened.identity.is_none() {
            // It was opened before there was a registry.
            timeout(SECOND_TIMEOUT, opened.ask_identity()).await.ok()?.ok()?;
            opened.identity.as_ref()?;
        }
        self.admit(&mut opened, 0).await.ok()?;
        self.used(&opened.target);
        Some(opened)
    }

    /// The session of the migrations, if it belongs to the database that is followed.
    pub(super) fn take_driven(&self, want: Want) -> Option<Driven> {
        let (lineage, Want::Primary) = (self.lineage()?, want) else { return None };
        let (mut session, since) = self.kept().driven.take()?;
        if since.elapsed() > KEPT_FOR || session.client.is_closed() {
            return None;
        }
        let (fit, generation) = match &session.identity {
            Some(identity) => lineage.fit(identity, 0),
            // There was no epoch when it was opened, and there is no other session to compare it with.
            None if !lineage.is_known() => (Fit::Same, lineage.generation()),
            None => return None,
        };
        session.generation = generation;
        (fit == Fit::Same).then_some(session)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while the lock is held.
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
