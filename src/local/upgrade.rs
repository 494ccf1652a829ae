//! Takes a private PostgreSQL to another major version, whose programs cannot read the files of the former one.
//!
//! Both versions run side by side, each on a directory of its own and reachable by this process alone: the former one on
//! `postgres/`, the new one on `postgres.new-*`. The caller copies the registry over. The new directory gets the final name
//! only when the copy is complete and both servers have stopped:
//!
//! ```text
//!   postgres.new-* -> postgres.upgraded      from here on complete
//!   postgres       -> postgres.old-15        kept
//!   postgres.upgraded -> postgres
//! ```
//!
//! Before the second rename the data directory is what it was, and the upgrade begins again when it is repeated. After it
//! there is one complete cluster, which the next start of a daemon, or the repeated upgrade, gives its name.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    account::{self, Account},
    binaries::{self, Binaries, Version},
    cluster::{self, Unfinished},
    error::{Context, Error},
    layout::{self, Layout, Lock},
    options::{NAME, Options},
    postmaster::{self, Postmaster, Recipe},
    server,
};

/// The directory of the new server's socket, until it has the final name.
const NEW_RUN: &str = "run.new";

/// A server of either version.
#[derive(Debug)]
struct Running {
    server: Postmaster,
    url: String,
    socket_dir: PathBuf,
    version: Version,
}

/// An upgrade under way: both servers run.
#[derive(Debug)]
pub struct Upgrade {
    // In the order in which they end if the upgrade is given up.
    new: Running,
    old: Running,
    unfinished: Unfinished,
    layout: Layout,
    _lock: Lock,
}

/// What an upgrade came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The version of the server before, such as `15.18`.
    pub from: String,
    /// The version of the server from now on.
    pub to: String,
    /// The former cluster.
    pub kept: PathBuf,
}

impl Upgrade {
    /// Starts both servers. `None` if the cluster is of the major version of the newest programs already. `old_bin_dir` is
    /// the directory of the programs that made the cluster; they are searched for without it.
    ///
    /// # Errors
    ///
    /// Each [`Error`] says what was found and what to do about it. The cluster stays as it was.
    pub async fn begin(options: &Options, old_bin_dir: Option<&Path>) -> Result<Option<Self>, Error> {
        let data_dir = options.data_dir.as_path();
        let place = cluster::present(data_dir);
        let Some(from) = cluster::made_by(&place)? else { return Err(Error::NoCluster { path: place }) };
        let account = account::choose(options.run_as.as_deref(), &place)?;
        let new_programs = binaries::find(options.bin_dir.as_deref(), None, &place).await?;
        if new_programs.version.major < from {
            return Err(Error::Older { path: place, cluster: from, found: new_programs.version.major });
        }
        let layout = Layout::create(data_dir)?;
        let lock = Lock::acquire(&layout)?;
        cluster::complete_upgrade(&layout)?;
        if new_programs.version.major == from {
            return Ok(None);
        }
        let old_programs = binaries::find(old_bin_dir, Some(from), &place).await;
        let old_programs = old_programs.map_err(|_| Error::NoOldBinaries { path: place.clone(), cluster: from })?;

        layout.open_to(account.as_ref()).await?;
        for left in cluster::unfinished(&layout) {
            postmaster::stop_orphan(&left).await?;
        }
        cluster::sweep(&layout);
        remove(&layout.upgraded())?;
        let crashed = postmaster::stop_orphan(&layout.cluster()).await?;
        let account = account.as_ref();
        let old_recipe = recipe(&layout, layout.cluster(), layout::RUN, old_programs, account, options)?;
        let old = start(&old_recipe, crashed).await?;
        let unfinished = cluster::make(&layout, &new_programs, account, options.durability).await?;
        let new = unfinished.path().to_path_buf();
        let new = start(&recipe(&layout, new, NEW_RUN, new_programs, account, options)?, false).await?;
        Ok(Some(Self { new, old, unfinished, layout, _lock: lock }))
    }

    /// The address of the registry in the former cluster.
    #[must_use]
    pub fn old_url(&self) -> &str {
        &self.old.url
    }

    /// The address of the empty database in the new cluster.
    #[must_use]
    pub fn new_url(&self) -> &str {
        &self.new.url
    }

    /// Stops both servers and removes the new cluster; the former one stays as it was.
    pub async fn give_up(self) {
        let Self { new, old, unfinished, layout: _, _lock } = self;
        for running in [new, old] {
            end(running).await;
        }
        drop(unfinished);
    }

    /// Stops both servers and puts the new cluster in the place of the former one, which is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a directory cannot be renamed. One of the two clusters is then in place, or the next start puts it
    /// there.
    pub async fn finish(self) -> Result<Finished, Error> {
        let Self { new, old, unfinished, layout, _lock } = self;
        let (from, to) = (old.version, new.version);
        for running in [new, old] {
            end(running).await;
        }
        let (cluster, upgraded, kept) = (layout.cluster(), layout.upgraded(), kept(&layout, from.major));
        for (from, to) in [(unfinished.path(), &upgraded), (&cluster, &kept), (&upgraded, &cluster)] {
            fs::rename(from, to).context("rename a cluster to", to)?;
            cluster::sync(&layout)?;
        }
        Ok(Finished { from: from.to_string(), to: to.to_string(), kept })
    }
}

async fn end(running: Running) {
    running.server.stop().await;
    // Of the new one; that of the former one is the daemon's.
    if running.socket_dir.ends_with(NEW_RUN) {
        let _ = fs::remove_dir_all(&running.socket_dir);
    }
}

/// The first name for the former cluster that is free.
fn kept(layout: &Layout, major: u32) -> PathBuf {
    let name = |number: u32| match number {
        1 => format!("postgres.old-{major}"),
        _ => format!("postgres.old-{major}-{number}"),
    };
    let mut paths = (1..).map(|number| layout.root().join(name(number)));
    paths.find(|path| !path.exists()).unwrap_or_else(|| layout.root().join(name(1)))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { action: "remove", path: path.to_path_buf(), source: error })
        }
        _ => Ok(()),
    }
}

fn recipe(
    layout: &Layout,
    cluster: PathBuf,
    run: &str,
    binaries: Binaries,
    account: Option<&Account>,
    options: &Options,
) -> Result<Recipe, Error> {
    let socket_dir = layout.socket_dir(run, account)?;
    let (account, log, durability) = (account.cloned(), layout.log(), options.durability);
    Ok(Recipe { binaries, account, cluster, socket_dir, log, durability, running: Arc::default() })
}

async fn start(recipe: &Recipe, crashed: bool) -> Result<Running, Error> {
    let server = server::first_start(recipe, crashed).await?;
    let socket_dir = recipe.socket_dir.clone();
    Ok(Running { server, url: layout::url(&socket_dir, NAME), socket_dir, version: recipe.binaries.version })
}
