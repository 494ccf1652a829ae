//! The private PostgreSQL of a daemon: its start, and its place among the tasks.

use super::error::Error;
use crate::{
    config::ServeConfig,
    lifecycle::{Lifecycle, Stage},
    local::{Durability, LocalServer, Options},
};

/// Starts the private PostgreSQL; returns false if told to stop before it runs.
pub(super) async fn begin(
    config: &ServeConfig,
    lifecycle: &Lifecycle,
    local: &mut Option<LocalServer>,
) -> Result<bool, Error> {
    // Its recovery after a crash may take minutes, in which the daemon can be told to stop. Dropping the start stops it.
    let Some(started) = lifecycle.stopping().run_until_cancelled(Box::pin(start(config))).await else {
        return Ok(false);
    };
    let server = local.insert(started?);
    lifecycle.on_watchdog_exit(server.emergency_stop());
    let (stop, supervision) = (lifecycle.token(Stage::Store), server.supervision_ended());
    lifecycle.spawn_essential(Stage::Store, "private postgresql", async move {
        let _ = stop.run_until_cancelled(supervision).await;
    });
    Ok(true)
}

async fn start(config: &ServeConfig) -> Result<LocalServer, Error> {
    let options = Options {
        data_dir: config.data_dir.clone(),
        bin_dir: config.postgres_bin_dir.clone(),
        run_as: None,
        durability: Durability::Full,
    };
    let local = LocalServer::start(options).await?;
    tracing::info!(version = local.server_version(), data_dir = %config.data_dir.display(), "private postgresql is running");
    Ok(local)
}
