//! The schema of the registry, compared while daemons run.
//!
//! A deployment of SeedCore runs its own files at any time, and its functions then take the place of ours, until the next
//! start of a daemon or the next `musterd migrate up`. A running daemon therefore compares functions, views and indexes every
//! few seconds, and puts them back ([`super::restore_in`]). It also learns that a newer musterd has migrated the database.

use tokio::time::Instant;

use crate::{
    postgres::{
        Error as DatabaseError,
        pool::{Client, Pool, PoolRole},
    },
    runner::{
        error::Error,
        history::{self, Standing},
        repair,
    },
};

/// How the schema relates to this binary.
#[derive(Debug)]
pub enum Drift {
    /// The objects that differ from those of this binary and that [`super::restore_in`] puts back, by name.
    Objects(Vec<String>),
    /// A newer binary has migrated the database up to this version and admits this one. Nothing is compared.
    Ahead(i32),
    /// A newer binary has migrated the database, and this one must not work with it any more.
    Refused(Error),
}

/// Whether a newer binary has migrated the database: cheap enough to be asked every two seconds. `None`: none has.
///
/// # Errors
/// As [`Pool::run`].
#[tracing::instrument(level = "debug", name = "db.read_migrations", skip_all)]
pub async fn newer(pool: &Pool, deadline: Instant) -> Result<Option<Drift>, DatabaseError> {
    let ask = async |client: &Client| {
        Ok(match history::standing(&**client).await? {
            Ok(Standing::Known) => None,
            Ok(Standing::Ahead(version)) => Some(Drift::Ahead(version)),
            Err(error) => Some(Drift::Refused(error)),
        })
    };
    pool.run(PoolRole::Operator, deadline, ask).await
}

/// Compares the schema.
///
/// # Errors
/// As [`Pool::run`].
#[tracing::instrument(level = "debug", name = "db.compare_schema", skip_all)]
pub async fn drift(pool: &Pool, deadline: Instant) -> Result<Drift, DatabaseError> {
    let compare = async |client: &Client| {
        // Sessions of the pool work in the schema of the registry alone.
        match history::standing(&**client).await? {
            Ok(Standing::Known) => {
                let differences = repair::differences(&**client).await?;
                Ok(Drift::Objects(differences.iter().map(|difference| difference.object.to_string()).collect()))
            }
            Ok(Standing::Ahead(version)) => Ok(Drift::Ahead(version)),
            Err(error) => Ok(Drift::Refused(error)),
        }
    };
    pool.run(PoolRole::Operator, deadline, compare).await
}
