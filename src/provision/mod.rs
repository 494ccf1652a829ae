//! The files that secure a daemon, made without another tool: a CA and what it signs, tokens, and a first policy.
//!
//! A directory holds all of them, under fixed names, so that `musterd serve --security-dir DIR` needs no other flag. [`init`]
//! never replaces a file: a CA that is replaced invalidates every certificate in use. Everything else replaces what it is told
//! to renew, each file whole and by a rename, a key before its certificate; a daemon that reads in between sees a pair that
//! does not match, keeps the previous one, and takes the new one at its next look.
//!
//! Commands give the values and print the result; what is made and where it is written is decided here.

mod directory;
mod init;
mod tokens;

pub use directory::{Directory, Error, file_name};
pub use init::{LEAF_LIFETIME, init, issue};
pub use tokens::{Listed, create, list, revoke};
