//! Where a PostgreSQL is, how to log in, and how the way there is protected: the text of `--database-url`, read once.
//!
//! The driver reads most of a database URL, but of TLS only whether to use it. What managed providers hand out says
//! more (`sslmode=verify-full`, `sslrootcert`, client certificates), so those options are taken out of the text first
//! ([`options`]) and given their meaning here ([`tls`]), which is libpq's. Configuration and store both use this file:
//! what a daemon's flags are checked for is what its connections are made of.
//!
//! No error quotes the text, nor a message of the driver's that could: a password with an unescaped `@` or `?` ends up
//! in the most surprising places of a parser's message.

mod error;
mod options;
mod source;
mod tls;
mod url;

pub use error::UrlError;
pub use source::Source;
pub use tls::{ClientIdentity, Roots, SslMode, TlsOptions, Verification};
pub use url::{DatabaseUrl, places};
